//! Plain lists of hostnames: a hostname or pattern a line, or the form of a hosts file.

use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use crate::dns::name::MAX_NAME;
use crate::document::{Diagnostic, Findings, Place, Severity, Source, line_ends, quoted};

use super::hash::content_hash;
use super::name_set::{Builder, Kind, Match, NameSet, Origin};
use super::pattern::Pattern;
use super::plain::{self, Plain};
use super::shared_suffix::{self, Shared};

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
    /// Reads a list; `#` begins a comment. A large one is read on several threads.
    ///
    /// # Errors
    /// All lines that are wrong; or a list without any hostname, which is more likely half written than meant.
    pub(super) fn read(path: &Arc<Path>, text: &str, hasher: &RandomState) -> Result<Self, Vec<Diagnostic>> {
        if text.len() > Source::MAX_LEN {
            let message = format!("the list is larger than {} MiB", Source::MAX_LEN >> 20);
            return Err(vec![Diagnostic::about_file(path, message).help("split it into several list files")]);
        }
        let (mut builders, mut findings, mut shared) = (Vec::new(), Findings::default(), Findings::default());
        for part in read_parts(path, text, hasher) {
            builders.push(part.builder);
            findings.append(part.findings);
            shared.append(part.shared);
        }
        let origin = Origin { path: Arc::clone(path), via: Arc::new([]), is_list: true };
        let (set, duplicates) = Builder::finish(builders, hasher, origin);
        let mut lines = Lines::new(path, text);
        for duplicate in duplicates {
            let (entry, first) = set.duplicate(duplicate);
            findings.add(Severity::Warning, || {
                let diagnostic = lines.warning(entry, format!("`{entry}` is listed twice"));
                let diagnostic = diagnostic.unquoted("the entry is listed twice", Some("remove one of them"));
                diagnostic.help("remove one of them").related(first.place(), "first listed here")
            });
        }
        if !findings.is_clean() {
            return Err(findings.into_diagnostics(path));
        }
        if set.is_empty() {
            let error = Diagnostic::about_file(path, "the list holds no hostname, as if half written");
            return Err(vec![error.help("write one a line, or take the list out of the policy")]);
        }
        let mut lines = Lines::new(path, text);
        for entry in set.has_wider().then(|| set.iter()).into_iter().flatten() {
            if let Some(wider) = set.wider(entry.wire()) {
                findings.add(Severity::Warning, || {
                    let diagnostic = lines.warning(entry, format!("`{entry}` is covered by `{wider}`"));
                    let diagnostic = diagnostic.unquoted("the entry is covered by another one", Some("remove it"));
                    diagnostic.help("remove it").related(wider.place(), format!("`{wider}` is here"))
                });
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            set: Arc::new(set),
            warnings: findings.into_diagnostics(path),
            shared: shared.into_diagnostics(path),
            hash: content_hash(text.as_bytes()),
            length: text.len(),
        })
    }
}

/// What was read of a part of a list.
struct Part {
    /// Its patterns.
    builder: Builder,
    /// Its errors.
    findings: Findings,
    /// As [`ListFile::shared`].
    shared: Findings,
}

/// Reads a list in as many parts as there are threads and it is worth it.
fn read_parts(path: &Arc<Path>, text: &str, hasher: &RandomState) -> Vec<Part> {
    /// Octets for which a thread is worth starting.
    const WORTH: usize = 1 << 18;
    let threads = available_parallelism().map_or(1, NonZero::get).min(text.len() / WORTH).max(1);
    let (mut rest, mut number, mut pieces) = (text, 1, Vec::new());
    for left in (1..=threads).rev() {
        let middle = rest.len() / left;
        let end =
            rest.as_bytes()[middle..].iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| middle + at + 1);
        let (piece, behind) = rest.split_at(end);
        let lines = line_ends(piece.as_bytes());
        pieces.push((piece, number, lines + 1));
        number += u32::try_from(lines).unwrap_or(u32::MAX);
        rest = behind;
    }
    std::thread::scope(|scope| {
        let mut pieces = pieces.into_iter();
        let own = pieces.next();
        let others: Vec<_> = pieces
            .map(|(piece, number, lines)| scope.spawn(move || read_part(path, piece, number, lines, hasher)))
            .collect();
        let own = own.map(|(piece, number, lines)| read_part(path, piece, number, lines, hasher));
        let others = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        own.into_iter().chain(others).collect()
    })
}

/// Reads a part of a list, whose first line has this number and which has at most so many lines.
fn read_part(path: &Arc<Path>, text: &str, first: u32, lines: usize, hasher: &RandomState) -> Part {
    /// What a name takes in a set besides its text, the line end included.
    const BESIDE: usize = 8;
    let builder = Builder::new(hasher, lines, text.len() + lines * BESIDE);
    let mut part = Part { builder, findings: Findings::default(), shared: Findings::default() };
    let (mut rest, mut number, mut wire) = (text, first, [0; MAX_NAME]);
    while !rest.is_empty() {
        let plain = plain::read_line(rest.as_bytes(), &mut wire);
        let end = match plain {
            Some(Plain { kind, length, end }) if !shared_suffix::needs_a_look(kind, &wire[..length]) => {
                part.builder.add(kind, &wire[..length], number, 1);
                end
            }
            _ => {
                let end = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
                part.read_line(path, &rest[..end], number);
                end
            }
        };
        rest = &rest[end..];
        number += 1;
    }
    part
}

impl Part {
    /// Reads a line of any form.
    fn read_line(&mut self, path: &Arc<Path>, line: &str, number: u32) {
        let diagnostic = |severity, word: &str, message: String| {
            let start = offset_in(line, word);
            let source = Source::new(Arc::clone(path), line);
            let found = source.diagnostic(severity, (start..start + word.len()).into(), message);
            on_line(number, found)
        };
        let content = line.split('#').next().unwrap_or(line);
        let mut columns = Columns::new(line);
        for word in hostnames(content) {
            let pattern = match Pattern::parse(word) {
                Ok(pattern) => pattern,
                Err(error) => {
                    self.findings.add(Severity::Error, || {
                        let help = if error.is_everything { "write the hostnames that are meant" } else { &error.help };
                        let unquoted = format!("the entry is not accepted: {}", error.why_unquoted());
                        diagnostic(Severity::Error, word, error.to_string())
                            .help(help)
                            .unquoted(unquoted, Some(CHECK_HELP))
                    });
                    continue;
                }
            };
            if let Some(shared) = shared_suffix::of_pattern(&pattern).filter(|it| *it == Shared::Names) {
                self.shared.add(Severity::Warning, || {
                    let warning = diagnostic(Severity::Warning, word, shared.message(&pattern)).help(shared.help());
                    warning.unquoted(shared.unquoted(), Some(shared.help()))
                });
            }
            let (kind, wire) = Kind::of(&pattern);
            self.builder.add(kind, wire, number, columns.of(word));
        }
        if let Some(word) = second_word(content) {
            self.findings.add(Severity::Error, || {
                let message = format!("{} follows a hostname on the same line", quoted(word));
                let error = diagnostic(Severity::Error, word, message).help("write one hostname a line");
                error.unquoted("something follows a hostname on the same line", Some("write one hostname a line"))
            });
        }
    }
}

/// Finds lines by their number; cheap when asked in rising order.
struct Lines<'t> {
    /// The file.
    path: &'t Arc<Path>,
    /// The text from the line on that was asked for last.
    rest: &'t str,
    /// The number of that line.
    number: u32,
}

impl<'t> Lines<'t> {
    /// Starts at the first line.
    fn new(path: &'t Arc<Path>, text: &'t str) -> Self {
        Self { path, rest: text, number: 1 }
    }

    /// Returns a warning about a pattern on the line asked for last or one behind it.
    fn warning(&mut self, entry: Match<'_>, message: String) -> Diagnostic {
        let (line, column) = entry.line_and_column();
        while self.number < line {
            self.rest = self.rest.split_once('\n').map_or("", |(_, behind)| behind);
            self.number += 1;
        }
        let text = self.rest.split('\n').next().unwrap_or_default();
        let source = Source::new(Arc::clone(self.path), text);
        on_line(line, source.diagnostic_at(Severity::Warning, 1, column, message))
    }
}

/// Finds the columns of a line's words, asked in rising order: each counts on from the one before it, for a line of a
/// hosts file may hold half a million.
struct Columns<'t> {
    /// The line.
    line: &'t str,
    /// Up to which byte its characters were counted.
    counted: usize,
    /// The column of that byte, from 1.
    column: usize,
}

impl<'t> Columns<'t> {
    /// Starts at the first byte.
    fn new(line: &'t str) -> Self {
        Self { line, counted: 0, column: 1 }
    }

    /// Returns the column of `word`, a part of the line behind the one asked for last, in characters from 1.
    fn of(&mut self, word: &str) -> u32 {
        let at = offset_in(self.line, word);
        self.column += self.line[self.counted..at].chars().count();
        self.counted = at;
        u32::try_from(self.column).unwrap_or(u32::MAX)
    }
}

/// Returns a diagnostic about a line that was taken for itself as one about the line of that number.
fn on_line(number: u32, diagnostic: Diagnostic) -> Diagnostic {
    let place = Place { line: number, ..diagnostic.place };
    Diagnostic { place, ..diagnostic }
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

/// Returns where `part` starts in `whole`, of which it is a slice.
fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// What is told of a list's entry where it is not quoted.
const CHECK_HELP: &str = "`hostgate check` shows it";

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
    use std::time::{Duration, Instant};

    use super::*;

    /// Reads a list and returns its patterns with their places, or the errors.
    fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
        match ListFile::read(&Path::new("l.txt").into(), text, &RandomState::new()) {
            Ok(list) => Ok(list.set.iter().map(|found| format!("{found} {}", found.place())).collect()),
            Err(errors) => Err(errors.iter().map(Diagnostic::with_quotes).collect()),
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
    fn a_list_read_by_several_threads_has_the_places_of_its_lines() {
        let lines: Vec<_> = (1..=20_000).map(|line| format!("host{line}.some.example.test")).collect();
        let mut text = lines.join("\r\n");
        assert!(text.len() > 1 << 19, "{}", text.len());
        let expected: Vec<_> = lines.iter().zip(1..).map(|(name, line)| format!("{name} l.txt:{line}:1")).collect();
        assert_eq!(read(&text).unwrap(), expected);
        text += "\nhost7.some.example.test\n bad:1";
        let errors = read(&text).unwrap_err();
        assert!(errors[0].starts_with("l.txt:20001:1: `host7.some.example.test` is listed twice"), "{errors:?}");
        assert!(errors[0].ends_with("(l.txt:7:1: first listed here)"), "{errors:?}");
        assert!(errors[1].starts_with("l.txt:20002:2: "), "{errors:?}");
    }

    #[test]
    fn half_a_million_names_on_one_line_are_read_in_one_pass() {
        /// Many times what one pass takes; counting each column from the start of the line took minutes.
        const AMPLE: Duration = Duration::from_secs(20);
        for (word, expected) in [
            (&(|at: u32| format!("h{at}.test")) as &dyn Fn(u32) -> String, None),
            (&|_| "x".to_owned(), Some("l.txt:1:11: `x` is listed twice")),
            (&|at| format!("bad:{at}"), Some("l.txt:1:9: ")),
            (&|_| "*.github.io".to_owned(), Some("l.txt:1:21: `*.github.io` is listed twice")),
        ] {
            let words: Vec<_> = (0..500_000).map(word).collect();
            let text = format!("1.2.3.4 {}\n", words.join(" "));
            let start = Instant::now();
            let list = ListFile::read(&Path::new("l.txt").into(), &text, &RandomState::new());
            assert!(start.elapsed() < AMPLE, "{:?} for {}", start.elapsed(), words[0]);
            let told = match &list {
                Ok(list) => &list.warnings,
                Err(errors) => errors,
            };
            assert!(told.len() <= Findings::KEPT + 1, "{}", told.len());
            if let Some(start) = expected {
                assert!(told[0].with_quotes().starts_with(start), "{}", told[0].with_quotes());
            } else {
                let set = &list.unwrap().set;
                let last = set.iter().last().unwrap().place().column;
                assert_eq!((set.len(), last), (500_000, u32::try_from(text.len() - "h499999.test".len()).unwrap()));
            }
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
        let text = "a.test\n*.github.io\nA.test\n";
        let list = ListFile::read(&Path::new("l.txt").into(), text, &RandomState::new()).unwrap();
        assert_eq!(list.warnings.len(), 1);
        assert!(list.warnings[0].with_quotes().starts_with("l.txt:3:1: `a.test` is listed twice"));
        assert!(list.shared[0].with_quotes().starts_with("l.txt:2:1: `*.github.io` matches names that strangers"));
    }
}
