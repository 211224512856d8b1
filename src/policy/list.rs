//! Plain lists of hostnames: a hostname or pattern a line, or the form of a hosts file.

use std::hash::RandomState;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::document::{Diagnostic, Findings, Severity, Source, Span, quoted};

use super::hash::content_hash;
use super::name_set::{NameSet, Origin};
use super::pattern::Pattern;
use super::read::{SHARED_HELP, shared_message};
use super::shared_suffix::{self, Registry};

/// What a list file says.
#[derive(Debug)]
pub(super) struct ListFile {
    /// The file.
    pub(super) path: PathBuf,
    /// Its patterns.
    pub(super) set: Arc<NameSet>,
    /// Warnings that hold wherever it is used: duplicates, and what wildcards of the list cover.
    pub(super) warnings: Vec<Diagnostic>,
    /// Warnings that hold where it allows: wildcards under which strangers can have names.
    pub(super) shared: Vec<Diagnostic>,
    /// The hash of the text, the same in every process.
    pub(super) hash: u64,
    /// The length of the text.
    pub(super) length: usize,
}

impl ListFile {
    /// Reads a list; `#` begins a comment.
    ///
    /// # Errors
    /// All lines that are wrong; or a list without any hostname, which is more likely half written than meant.
    pub(super) fn read(source: &Source, hasher: &RandomState) -> Result<Self, Vec<Diagnostic>> {
        let text = source.text();
        if text.len() > Source::MAX_LEN {
            let message = format!("the list is larger than {} MiB", Source::MAX_LEN >> 20);
            return Err(vec![Diagnostic::about_file(source.path(), message).help("split it into several list files")]);
        }
        let lines = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let mut set = NameSet::with_capacity(hasher, lines);
        set.add_origin(Origin { path: Arc::clone(source.path()), via: Arc::new([]) });
        let mut findings = Findings::default();
        let mut shared = Findings::default();
        let mut offset = 0;
        for (line, number) in text.split_inclusive('\n').zip(1..) {
            let content = line.split('#').next().unwrap_or(line);
            for word in hostnames(content) {
                let column = column(line, word);
                let span = span_of(offset, line, word);
                match Pattern::parse(word) {
                    Err(error) => findings.add(Severity::Error, || {
                        let diagnostic = source.error(span, error.to_string());
                        let help = if error.is_everything { "write the hostnames that are meant" } else { &error.help };
                        diagnostic.help(help)
                    }),
                    Ok(pattern) => {
                        if let Pattern::Below(name) = &pattern
                            && shared_suffix::registry(name) == Some(Registry::Provider)
                        {
                            shared.add(Severity::Warning, || {
                                source.warning(span, shared_message(&pattern)).help(SHARED_HELP)
                            });
                        }
                        if let Err(first) = set.insert(&pattern, number, column) {
                            findings.add(Severity::Warning, || {
                                let diagnostic = source.warning(span, format!("`{pattern}` is listed twice"));
                                diagnostic.help("remove one of them").related(first.place(), "first listed here")
                            });
                        }
                    }
                }
            }
            if let Some(word) = second_word(content) {
                findings.add(Severity::Error, || {
                    let message = format!("{} follows a hostname on the same line", quoted(word));
                    source.error(span_of(offset, line, word), message).help("write one hostname a line")
                });
            }
            offset += line.len();
        }
        if !findings.is_clean() {
            return Err(findings.into_diagnostics(source.path()));
        }
        if set.is_empty() {
            let error = Diagnostic::about_file(source.path(), "the list holds no hostname, as if half written");
            return Err(vec![error.help("write one a line, or take the list out of the policy")]);
        }
        set.shrink();
        for entry in set.iter() {
            if let Some(wider) = set.wider(entry.wire()) {
                findings.add(Severity::Warning, || {
                    let place = entry.place();
                    let message = format!("`{entry}` is covered by `{wider}`");
                    let diagnostic = source.diagnostic_at(Severity::Warning, place.line, place.column, message);
                    diagnostic.help("remove it").related(wider.place(), format!("`{wider}` is here"))
                });
            }
        }
        Ok(Self {
            path: source.path().to_path_buf(),
            set: Arc::new(set),
            warnings: findings.into_diagnostics(source.path()),
            shared: shared.into_diagnostics(source.path()),
            hash: content_hash(text.as_bytes()),
            length: text.len(),
        })
    }
}

/// Returns the hostnames of a line without its comment: its first word, or in a hosts file what follows the address.
fn hostnames(content: &str) -> impl Iterator<Item = &str> {
    let content = content.trim_start_matches('\u{feff}');
    let is_hosts = is_hosts_line(content);
    let skip = usize::from(is_hosts);
    let take = if is_hosts { usize::MAX } else { 1 };
    content.split_ascii_whitespace().skip(skip).take(take).filter(move |word| !(is_hosts && OWN_NAMES.contains(word)))
}

/// Returns the second word of a line that is not of a hosts file.
fn second_word(content: &str) -> Option<&str> {
    let mut words = content.split_ascii_whitespace();
    words.next()?;
    words.next().filter(|_| !is_hosts_line(content))
}

/// Returns whether a line begins with an address and goes on behind it.
fn is_hosts_line(content: &str) -> bool {
    let mut words = content.trim_start_matches('\u{feff}').split_ascii_whitespace();
    let Some(first) = words.next() else { return false };
    // Most lines are hostnames; only what ends or begins like an address is worth parsing.
    let may_be = first.as_bytes()[0].is_ascii_digit() || first.contains(':');
    let address = first.split('%').next().unwrap_or(first);
    may_be && words.next().is_some() && address.parse::<IpAddr>().is_ok()
}

/// Returns the column of `word`, a part of `line`, in characters from 1.
fn column(line: &str, word: &str) -> u32 {
    let before = &line[..offset_in(line, word)];
    u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX)
}

/// Returns the span of `word`, a part of `line`, which starts at `offset`.
fn span_of(offset: usize, line: &str, word: &str) -> Span {
    let start = offset + offset_in(line, word);
    (start..start + word.len()).into()
}

/// Returns where `part` starts in `whole`, of which it is a slice.
fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// The names a hosts file gives to the machine it is on; they stand in block lists of that form too.
const OWN_NAMES: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "local",
    "broadcasthost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-allhosts",
    "0.0.0.0",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Reads a list and returns its patterns with their places, or the errors.
    fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
        let source = Source::new(Path::new("l.txt"), text);
        match ListFile::read(&source, &RandomState::new()) {
            Ok(list) => Ok(list.set.iter().map(|found| format!("{found} {}", found.place())).collect()),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn lists_hold_a_pattern_a_line_or_the_lines_of_a_hosts_file() {
        let text = "\u{feff}# a list\r\nA.test\r\n\n  *.b.test # why\n0.0.0.0 ads.test  more.test#x\n127.0.0.1 localhost\n::1 ip6-localhost\nfe80::1%lo0 localhost\n0.0.0.0 0.0.0.0\n1.test\nlast.test";
        let expected = [
            "a.test l.txt:2:1",
            "*.b.test l.txt:4:3",
            "ads.test l.txt:5:9",
            "more.test l.txt:5:19",
            "1.test l.txt:10:1",
            "last.test l.txt:11:1",
        ];
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn all_wrong_lines_are_told_with_their_places() {
        let errors =
            read("ok.test\nhttp://a.test/\n  *.com\nx.test y.test\n10.0.0.1\n0.0.0.0 b.test bad:1\n*\n").unwrap_err();
        let starts = ["l.txt:2:1: ", "l.txt:3:3: ", "l.txt:4:8: ", "l.txt:5:1: ", "l.txt:6:16: ", "l.txt:7:1: "];
        assert_eq!(errors.len(), starts.len(), "{errors:#?}");
        for (error, start) in errors.iter().zip(starts) {
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn a_list_without_hostnames_is_an_error() {
        for text in ["", "# nothing\n", "127.0.0.1 localhost\n", "\n\n"] {
            assert!(read(text).unwrap_err()[0].starts_with("l.txt: the list holds no hostname"), "{text:?}");
        }
    }

    #[test]
    fn duplicates_and_shared_wildcards_are_warned_of() {
        let source = Source::new(Path::new("l.txt"), "a.test\n*.github.io\nA.test\n");
        let list = ListFile::read(&source, &RandomState::new()).unwrap();
        assert_eq!(list.warnings.len(), 1);
        assert!(list.warnings[0].to_string().starts_with("l.txt:3:1: `a.test` is listed twice"));
        assert!(list.shared[0].to_string().starts_with("l.txt:2:1: `*.github.io` matches names that strangers"));
    }
}
