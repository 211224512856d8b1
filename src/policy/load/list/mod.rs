//! List files: one hostname or pattern per line, or the lines of a hosts file.
//!
//! A list may have a million lines, so its parts are read on several threads, and a usual line takes the fast path of
//! [`fast_line`]. Errors and warnings that occur in many lines are reported once with a count.

pub(crate) mod fast_line;

use std::cell::OnceCell;
use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use crate::dns::name::{DisplayWire, MAX_NAME};
use crate::document::{Accepts, At, Code, Diagnostic, Findings, Language, Place, Severity, Source, line_ends, quoted};
use crate::list_format::{self, Guess};

use self::fast_line::FastLine;
use crate::policy::matching::name_set::{Builder, Duplicate, Match, NameSet, Origin};
use crate::policy::matching::pattern::{Pattern, PatternError, Purpose};
use crate::policy::matching::pattern_kind::PatternKind;
use crate::policy::matching::shared_suffix::{self, Registry, Shared};
use crate::policy::model::spec::{Covers, ListUse};
use crate::util::content_hash::content_hash;

/// The contents of a list file.
#[derive(Debug)]
pub(crate) struct ListFile {
    /// The path of the list, its purpose, and the names that each entry covers.
    pub(crate) named: ListUse,
    pub(crate) set: Arc<NameSet>,
    /// The warnings, and those that comments of the list accept.
    pub(crate) warnings: Vec<Diagnostic>,
    /// The comments that accept warnings.
    pub(crate) accepts: Option<Arc<Accepts>>,
    /// The hash of the text, which is the same in every process.
    pub(crate) hash: u64,
    /// The length of the text in octets.
    pub(crate) length: usize,
}

impl ListFile {
    /// Parses a list; `#` begins a comment. A large list is parsed on several threads.
    ///
    /// # Errors
    /// An error for each wrong line, or a single error that names the format if the list is in another system's.
    pub(crate) fn read(named: &ListUse, text: &str, hasher: &RandomState) -> Result<Self, Vec<Diagnostic>> {
        let path: &Arc<Path> = &named.path.as_path().into();
        if text.len() > Source::MAX_LEN {
            let message = format!("the list is larger than {} MiB", Source::MAX_LEN >> 20);
            return Err(vec![Diagnostic::about_file(path, message).help("split it into several list files")]);
        }
        // With an empty source, as the text of a list is not kept.
        let accepts = Accepts::find((path, false), text, Language::List);
        let (mut builders, mut findings) = (Vec::new(), Findings::of(accepts.as_ref()));
        for part in read_parts(&ListSettings { path, named, accepts: accepts.as_ref(), hasher }, text) {
            builders.push(part.builder);
            findings.append(part.findings);
        }
        let origin = Origin { path: Arc::clone(path), via: Arc::new([]), is_list: true };
        let (set, duplicates) = Builder::finish(builders, hasher, origin);
        // With `subdomains = true` each name covers the names below it. A list that was not written for that may have
        // some of these as entries, so copies and covered entries are not reported.
        let is_as_written = named.covers == Covers::AsWritten;
        if is_as_written {
            warn_of_copies(&set, &duplicates, &mut Lines::new(path, text), &mut findings);
        }
        if !findings.is_clean() {
            // The format is guessed only here: a list without errors is not searched a second time.
            return Err(foreign(path, text).map_or_else(|| findings.into_diagnostics(path), |error| vec![error]));
        }
        if is_as_written && named.purpose == Purpose::Deny {
            warn_of_lone_wildcards(&set, &mut Lines::new(path, text), &mut findings);
        }
        Ok(Self {
            named: named.clone(),
            set: Arc::new(set),
            warnings: findings.into_diagnostics(path),
            accepts,
            hash: content_hash(text.as_bytes()),
            length: text.len(),
        })
    }
}

/// Returns the error about a list in another system's format, which replaces the errors about its lines.
fn foreign(path: &Path, text: &str) -> Option<Diagnostic> {
    if list_format::is_policy(text) {
        let help = "name its policies under `include`, and a list of hostnames here";
        return Some(Diagnostic::about_file(path, "it is a policy file, not a list of hostnames").help(help));
    }
    let Guess { format, entries, of, .. } = list_format::foreign(text)?;
    let first =
        list_format::first_of(text, format).map_or_else(String::new, |line| format!(" (the first in line {line})"));
    let what = format.foreign_entries();
    let message = match entries {
        0 => format!("the file holds {what}, which are not a list of hostnames"),
        _ => format!("{entries} of {of} entries are {what}, which a list of hostnames cannot hold{first}"),
    };
    let help = format!("convert it: `hostgate import --as {format} {}`", path.display());
    Some(Diagnostic::about_file(path, message).help(help))
}

/// Adds a warning about entries that are listed twice, and one about entries that others cover.
fn warn_of_copies(set: &NameSet, duplicates: &[Duplicate], lines: &mut Lines<'_>, findings: &mut Findings) {
    if let Some(first) = duplicates.first() {
        let (entry, first) = set.duplicate(*first);
        let more = more(duplicates.len() - 1);
        findings.warn(Code::Duplicate, At::Line(entry.line_and_column().0), || {
            let diagnostic = lines.warning(entry, format!("`{entry}` is listed twice{more}"));
            let diagnostic = diagnostic.help("remove one of them").related(first.place(), "first listed here");
            diagnostic.unquoted(format!("the entry is listed twice{more}"), Some("remove one of them"))
        });
    }
    let entries = set.has_wider().then(|| set.iter()).into_iter().flatten();
    let mut covered = entries.filter_map(|entry| Some((entry, set.wider(entry.wire())?)));
    if let Some((entry, wider)) = covered.next() {
        let more = more(covered.count());
        // The entry can be above the last requested line.
        lines.restart();
        findings.warn(Code::Covered, At::Line(entry.line_and_column().0), || {
            let diagnostic = lines.warning(entry, format!("`{entry}` is covered by `{wider}`{more}"));
            let diagnostic = diagnostic.help("remove it").related(wider.place(), format!("`{wider}` is here"));
            diagnostic.unquoted(format!("the entry is covered by another one{more}"), Some("remove it"))
        });
    }
}

/// Adds a warning about denied wildcards `*.x` without `x` itself, one for the whole list.
fn warn_of_lone_wildcards(set: &NameSet, lines: &mut Lines<'_>, findings: &mut Findings) {
    if !set.has_wildcards() {
        return;
    }
    let is_alone = |entry: &Match<'_>| {
        let wire = entry.wire();
        entry.kind() == PatternKind::Below
            && set.find_match(PatternKind::Exact, wire, set.hash(wire)).is_none()
            && set.wider(wire).is_none()
            // No host has the name of a public suffix.
            && shared_suffix::registry_of_wire(wire) != Some(Registry::Icann)
    };
    let mut alone = set.iter().filter(is_alone);
    let Some(entry) = alone.next() else { return };
    let more = more(alone.count());
    findings.warn(Code::WildcardAlone, At::Line(entry.line_and_column().0), || {
        let name = DisplayWire(entry.wire());
        let diagnostic = lines.warning(entry, format!("`{entry}` does not deny `{name}` itself{more}"));
        diagnostic.help(ALONE_HELP).unquoted(format!("the entry does not deny the name itself{more}"), Some(ALONE_HELP))
    });
}

/// Returns the words that count further entries with the same warning.
pub(crate) fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (and 1 more entry)".to_owned(),
        _ => format!(" (and {count} more entries)"),
    }
}

/// The settings of a list that its parts share.
#[derive(Clone, Copy)]
struct ListSettings<'r> {
    path: &'r Arc<Path>,
    /// The use of the list.
    named: &'r ListUse,
    /// The comments that accept warnings.
    accepts: Option<&'r Arc<Accepts>>,
    /// The key of the set's hash.
    hasher: &'r RandomState,
}

/// The contents of one part of a list.
struct ListPart<'r> {
    /// The settings of the list.
    settings: ListSettings<'r>,
    /// The patterns of the part.
    builder: Builder,
    /// The errors and warnings of the part.
    findings: Findings,
}

/// Parses a list in parts, one for each thread; short lists in one part.
fn read_parts<'r>(settings: &ListSettings<'r>, text: &str) -> Vec<ListPart<'r>> {
    /// The size of a part in octets for which a thread is worth starting.
    const WORTH: usize = 1 << 18;
    let threads = available_parallelism().map_or(1, NonZero::get).min(text.len() / WORTH).max(1);
    let (mut rest, mut number, mut pieces) = (text, 1, Vec::new());
    for left in (1..=threads).rev() {
        let middle = rest.len() / left;
        let end =
            rest.as_bytes()[middle..].iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| middle + at + 1);
        // A part ends at a line end, and its first line number follows from the parts before it.
        let (piece, behind) = rest.split_at(end);
        let lines = line_ends(piece.as_bytes());
        pieces.push((piece, number, lines + 1));
        number += u32::try_from(lines).unwrap_or(u32::MAX);
        rest = behind;
    }
    thread::scope(|scope| {
        let mut pieces = pieces.into_iter();
        let own = pieces.next();
        let read = |(piece, number, lines)| read_part(*settings, piece, number, lines);
        // If a thread cannot be started, its part is parsed here.
        let others: Vec<_> = pieces
            .map(|piece| thread::Builder::new().spawn_scoped(scope, move || read(piece)).map_err(|_| piece))
            .collect();
        let own = own.map(read);
        let others = others.into_iter().map(|other| match other {
            Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(piece) => read(piece),
        });
        own.into_iter().chain(others).collect()
    })
}

/// Parses a part of a list; `first` is the number of its first line and `lines` an upper bound of its line count.
fn read_part<'r>(settings: ListSettings<'r>, text: &str, first: u32, lines: usize) -> ListPart<'r> {
    /// The octets that a name takes in a set beside its text and line end, including two for a wildcard of the same
    /// name.
    const BESIDE: usize = 10;
    let builder = Builder::new(settings.hasher, lines, text.len() + lines * BESIDE);
    let mut part = ListPart { settings, builder, findings: Findings::of(settings.accepts) };
    let (mut rest, mut number, mut wire) = (text, first, [0; MAX_NAME]);
    while !rest.is_empty() {
        let fast = fast_line::read_line(rest.as_bytes(), &mut wire);
        let end = match fast {
            Some(FastLine { kind, length, end }) if !part.needs_all_checks(kind, &wire[..length]) => {
                part.add(kind, &wire[..length], number, 1);
                end
            }
            _ => {
                let end = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
                part.read_line(&rest[..end], number);
                end
            }
        };
        rest = &rest[end..];
        number += 1;
    }
    part
}

impl ListPart<'_> {
    /// Returns whether a pattern may be warned about or refused, so that it needs all checks of the slow path.
    fn needs_all_checks(&self, kind: PatternKind, wire: &[u8]) -> bool {
        let ListUse { purpose, covers, .. } = self.settings.named;
        *purpose != Purpose::Deny
            && (shared_suffix::may_be_warned_about(kind, wire)
                || *covers == Covers::Subdomains && shared_suffix::may_be_warned_about(PatternKind::Below, wire))
    }

    /// Adds a pattern, or with `subdomains = true` the name and its wildcard.
    fn add(&mut self, kind: PatternKind, wire: &[u8], line: u32, column: u32) {
        match self.settings.named.covers {
            Covers::AsWritten => self.builder.add(kind, wire, line, column),
            Covers::Subdomains => {
                self.builder.add(PatternKind::Exact, wire, line, column);
                // The wildcard matches nothing if a label of one octet does not fit below the name.
                if wire.len() + 2 <= MAX_NAME {
                    self.builder.add(PatternKind::Below, wire, line, column);
                }
            }
        }
    }

    /// Parses a line of any form: the slow path, with all checks and messages.
    fn read_line(&mut self, line: &str, number: u32) {
        let ListSettings { path, named, .. } = self.settings;
        // One copy of a line that may be long, however many errors it has.
        let source = OnceCell::new();
        let diagnostic = |severity, word: &str, message: String| {
            let start = offset_in(line, word);
            let source = source.get_or_init(|| Source::new(Arc::clone(path), line));
            let found = source.diagnostic(severity, (start..start + word.len()).into(), message);
            on_line(number, found)
        };
        let content = line.split('#').next().unwrap_or(line);
        if let Some(mark) = list_format::other_comment(content.trim_start()) {
            self.findings.error(|| {
                let start = content.len() - content.trim_start().len();
                let message = format!("{} does not begin a comment here", quoted(mark));
                let error = diagnostic(Severity::Error, &content[start..start + mark.len()], message);
                error.help(COMMENT_HELP).unquoted("the line does not begin with a hostname", Some(COMMENT_HELP))
            });
            return;
        }
        let mut columns = Columns::new(line);
        for word in hostnames(content) {
            let pattern = match self.pattern(word) {
                Ok(pattern) => pattern,
                Err(error) => {
                    self.findings.error(|| {
                        let help = if error.is_everything { "write the hostnames that are meant" } else { &error.help };
                        let convert = list_format::of_entry(word).filter(|_| !help.contains("hostgate import"));
                        let convert = convert.map_or_else(String::new, |format| {
                            format!("; a list of {} is converted by `hostgate import --as {format}`", format.entries())
                        });
                        let unquoted = format!("the entry is not accepted: {}", error.why_unquoted());
                        diagnostic(Severity::Error, word, error.to_string())
                            .help(format!("{help}{convert}"))
                            .unquoted(unquoted, Some(CHECK_HELP))
                    });
                    continue;
                }
            };
            let wildcard = Pattern::Below(pattern.name().clone());
            let widest = if named.covers == Covers::Subdomains { &wildcard } else { &pattern };
            let shared = widest.shared().or_else(|| pattern.shared());
            if let Some(shared) = shared.filter(|_| named.purpose != Purpose::Deny) {
                self.findings.warn(shared.code(), At::Line(number), || {
                    let told = if shared == Shared::Names { widest } else { &pattern };
                    let warning =
                        diagnostic(Severity::Warning, word, shared.message(told, told.name())).help(shared.help());
                    warning.unquoted(shared.unquoted(), Some(shared.help()))
                });
            }
            let (kind, wire) = pattern.kind_and_wire();
            self.add(kind, wire, number, columns.of(word));
        }
        if let Some(word) = second_word(content) {
            self.findings.error(|| {
                let message = format!("{} follows a hostname on the same line", quoted(word));
                let error = diagnostic(Severity::Error, word, message).help("write one hostname a line");
                error.unquoted("something follows a hostname on the same line", Some("write one hostname a line"))
            });
        }
    }
}

impl ListPart<'_> {
    /// Parses an entry. With `subdomains = true` its wildcard must be acceptable as well.
    fn pattern(&self, word: &str) -> Result<Pattern, PatternError> {
        let ListUse { purpose, covers, .. } = self.settings.named;
        let pattern = Pattern::parse_for(word, *purpose)?;
        if *covers == Covers::Subdomains && shared_suffix::registry(pattern.name()) == Some(Registry::Icann) {
            Pattern::parse_for(&format!("*.{}", pattern.name()), *purpose)?;
        }
        Ok(pattern)
    }
}

/// Finds lines by number, in linear time for all requests together if they come in rising order.
struct Lines<'t> {
    path: &'t Arc<Path>,
    text: &'t str,
    /// The text from the last requested line on.
    rest: &'t str,
    /// The number of the last requested line.
    number: u32,
    /// The last line that a warning is about, with its number.
    last: Option<(u32, Source)>,
}

impl<'t> Lines<'t> {
    /// Returns a search that begins at the first line.
    fn new(path: &'t Arc<Path>, text: &'t str) -> Self {
        Self { path, text, rest: text, number: 1, last: None }
    }

    /// Goes back to the first line.
    fn restart(&mut self) {
        *self = Self::new(self.path, self.text);
    }

    /// Returns a warning about a pattern in the last requested line or a later one.
    fn warning(&mut self, entry: Match<'_>, message: String) -> Diagnostic {
        let (line, column) = entry.line_and_column();
        while self.number < line {
            self.rest = self.rest.split_once('\n').map_or("", |(_, behind)| behind);
            self.number += 1;
        }
        let (_, source) = match self.last.take() {
            Some(last) if last.0 == line => self.last.insert(last),
            _ => {
                let text = self.rest.split('\n').next().unwrap_or_default();
                self.last.insert((line, Source::new(Arc::clone(self.path), text)))
            }
        };
        on_line(line, source.diagnostic_at(Severity::Warning, 1, column, message))
    }
}

/// Finds the columns of a line's words, requested in rising order. Each continues from the previous one, as a line of a
/// hosts file may hold half a million names.
struct Columns<'t> {
    line: &'t str,
    /// The octet up to which characters were counted.
    counted: usize,
    /// The column of that octet, from 1.
    column: usize,
}

impl<'t> Columns<'t> {
    /// Returns a search that begins at the first octet.
    fn new(line: &'t str) -> Self {
        Self { line, counted: 0, column: 1 }
    }

    /// Returns the column of `word` in characters from 1; `word` is a slice of the line after the last requested one.
    fn of(&mut self, word: &str) -> u32 {
        let at = offset_in(self.line, word);
        self.column += self.line[self.counted..at].chars().count();
        self.counted = at;
        u32::try_from(self.column).unwrap_or(u32::MAX)
    }
}

/// Returns a diagnostic about a line, which was parsed as a text of its own, with the line's number in the list.
fn on_line(number: u32, diagnostic: Diagnostic) -> Diagnostic {
    let place = Place { line: number, ..diagnostic.place };
    Diagnostic { place, ..diagnostic }
}

/// Returns the hostnames of a line without its comment: the first word, or in a hosts file the words after the address.
fn hostnames(content: &str) -> impl Iterator<Item = &str> {
    // Some editors begin a file with a byte order mark.
    let content = content.trim_start_matches('\u{feff}');
    let is_hosts = is_hosts_line(content);
    let skip = usize::from(is_hosts);
    let take = if is_hosts { usize::MAX } else { 1 };
    content.split_ascii_whitespace().skip(skip).take(take).filter(move |word| !(is_hosts && is_own_name(word)))
}

/// Returns the second word of a line that is not one of a hosts file.
fn second_word(content: &str) -> Option<&str> {
    let mut words = content.split_ascii_whitespace();
    words.next()?;
    words.next().filter(|_| !is_hosts_line(content))
}

/// Returns whether a line begins with an address and has another word.
fn is_hosts_line(content: &str) -> bool {
    let mut words = content.trim_start_matches('\u{feff}').split_ascii_whitespace();
    let Some(first) = words.next() else { return false };
    // Most lines are hostnames: parsing them as addresses would cost more than this test.
    let may_be = first.as_bytes()[0].is_ascii_digit() || first.contains(':');
    let address = first.split('%').next().unwrap_or(first);
    may_be && words.next().is_some() && address.parse::<IpAddr>().is_ok()
}

/// Returns the offset of `part` in `whole`, of which it is a slice.
fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// The help about denied wildcards without the name itself.
const ALONE_HELP: &str = "list the name too, or name the list as `{ path = \"…\", subdomains = true }`";

/// The help about a comment in the syntax of another system's lists.
const COMMENT_HELP: &str = "write `#` before comments";

/// The help about an entry of a list where the entry must not be quoted.
const CHECK_HELP: &str = "`hostgate check` shows it";

/// Returns whether a name in a hosts file is one of the machine itself.
pub(crate) fn is_own_name(word: &str) -> bool {
    let word = word.strip_suffix('.').unwrap_or(word);
    // A list may have a million names, and few of them begin with one of these letters.
    let may_be = matches!(word.as_bytes().first(), Some(b'0' | b'B' | b'I' | b'L' | b'b' | b'i' | b'l'));
    may_be && OWN_NAMES.iter().any(|own| own.eq_ignore_ascii_case(word))
}

/// The names that a hosts file gives to the machine it is on. Block lists in that format contain them too.
const OWN_NAMES: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "localhost4.localdomain4",
    "localhost6.localdomain6",
    "localdomain",
    "local",
    "loopback",
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

    /// Returns the use of a list `l.txt`.
    fn named(purpose: Purpose, covers: Covers) -> ListUse {
        ListUse { path: "l.txt".into(), purpose, covers }
    }

    /// Parses a list and returns its patterns with their places, or the errors.
    fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
        match ListFile::read(&named(Purpose::Allow, Covers::AsWritten), text, &RandomState::new()) {
            Ok(list) => Ok(list.set.iter().map(|found| format!("{found} {}", found.place())).collect()),
            Err(errors) => Err(errors.iter().map(Diagnostic::with_quotes).collect()),
        }
    }

    #[test]
    fn lists_have_a_pattern_per_line_or_lines_of_a_hosts_file() {
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
    fn all_wrong_lines_are_reported_with_their_places() {
        let errors =
            read("ok.test\nhttp://a.test/\n  *.com\nx.test y.test\n10.0.0.1\n0.0.0.0 b.test bad:1\n*\n").unwrap_err();
        let starts = ["l.txt:2:1: ", "l.txt:3:3: ", "l.txt:4:8: ", "l.txt:5:1: ", "l.txt:6:16: ", "l.txt:7:1: "];
        assert_eq!(errors.len(), starts.len(), "{errors:#?}");
        for (error, start) in errors.iter().zip(starts) {
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn parallel_parsing_keeps_line_numbers() {
        let lines: Vec<_> = (1..=20_000).map(|line| format!("host{line}.some.example.test")).collect();
        let mut text = lines.join("\r\n");
        assert!(text.len() > 1 << 19, "{}", text.len());
        let expected: Vec<_> = lines.iter().zip(1..).map(|(name, line)| format!("{name} l.txt:{line}:1")).collect();
        assert_eq!(read(&text).unwrap(), expected);
        text += "\nhost7.some.example.test\n bad:1";
        let errors = read(&text).unwrap_err();
        assert!(errors[0].starts_with("l.txt:20001:1: `host7.some.example.test` is listed twice"), "{errors:?}");
        assert!(errors[0].ends_with("(l.txt:7:1: first listed here) [duplicate]"), "{errors:?}");
        assert!(errors[1].starts_with("l.txt:20002:2: "), "{errors:?}");
    }

    #[test]
    fn a_line_of_many_names_is_parsed_in_linear_time() {
        /// The highest ratio of the time for one line of many names to the time for one name per line. Counting each
        /// column from the start of the line took twenty times as long. A ratio, as seconds depend on the machine.
        const MOST: u32 = 8;
        let read = |text: &str| {
            let start = Instant::now();
            let list = ListFile::read(&named(Purpose::Allow, Covers::AsWritten), text, &RandomState::new());
            (list, start.elapsed())
        };
        for (word, expected) in [
            (&(|at: u32| format!("h{at}.test")) as &dyn Fn(u32) -> String, None),
            (&|_| "x".to_owned(), Some("l.txt:1:11: `x` is listed twice")),
            (&|at| format!("bad:{at}"), Some("l.txt:1:9: ")),
            (&|_| "*.github.io".to_owned(), Some("l.txt:1:21: `*.github.io` is listed twice")),
        ] {
            let words: Vec<_> = (0..200_000).map(word).collect();
            let text = format!("1.2.3.4 {}\n", words.join(" "));
            let (list, took) = read(&text);
            let (_, usual) = read(&words.join("\n"));
            let usual = usual.max(Duration::from_millis(500));
            assert!(took < MOST * usual, "{took:?} for {} on one line, {usual:?} on lines of their own", words[0]);
            let told = match &list {
                Ok(list) => &list.warnings,
                Err(errors) => errors,
            };
            assert!(told.len() <= Findings::KEPT + 2, "{}", told.len());
            if let Some(start) = expected {
                assert!(told.iter().any(|it| it.with_quotes().starts_with(start)), "{}", told[0].with_quotes());
            } else {
                let set = &list.unwrap().set;
                let last = set.iter().last().unwrap().place().column;
                assert_eq!((set.len(), last), (200_000, u32::try_from(text.len() - "h199999.test".len()).unwrap()));
            }
        }
    }

    #[test]
    fn a_list_without_hostnames_is_empty() {
        for text in [
            "",
            "# nothing\n",
            "127.0.0.1 localhost\n",
            "\n\n",
            "127.0.0.1 LOCALHOST Localhost4.localdomain4 loopback\n",
        ] {
            assert_eq!(read(text).unwrap(), [""; 0], "{text:?}");
        }
    }

    #[test]
    fn a_list_in_another_format_gets_one_error_that_names_it() {
        const CASES: &[(&str, &str)] = &[
            (
                "||ads.example^\n||b.example^$third-party\n! c\n@@||c.example^\n",
                "3 of 3 entries are adblock rules, which",
            ),
            ("address=/ads.example/0.0.0.0\naddress=/b.example/#\n", "2 of 2 entries are dnsmasq directives, which"),
            ("local-zone: \"ads.example\" always_nxdomain\n", "1 of 1 entries are unbound local-zone or local-data"),
            (
                "$TTL 60\n@ SOA a. b. 1 2 3 4 5\nads.example CNAME .\n*.ads.example CNAME .\n",
                "4 of 4 entries are records of a r",
            ),
            (".ads.example\n.b.example\n", "2 of 2 entries are Squid dstdomain entries, which"),
            (
                "full:api.github.com\ndomain:b.example\nc.example\n",
                "2 of 3 entries are v2fly domain-list entries, which",
            ),
            ("=ads.example\nads.*\n*tracker*\nb.example\n", "3 of 4 entries are dnscrypt-proxy name patterns"),
            ("a.example:443\n*.b.example:443\n", "2 of 2 entries are hosts with ports"),
            ("https://a.example/x\nhttp://b.example\n", "2 of 2 entries are URLs, which"),
            ("^ads\\.example$\n(^|\\.)b\\.example$\n", "2 of 2 entries are regular expressions"),
            ("DOMAIN-SUFFIX,ads.example\nDOMAIN,b.example\n", "2 of 2 entries are Surge rules, which"),
            ("payload:\n  - '+.ads.example'\n", "the file holds Clash rules, which are not a list"),
            ("\"*.github.com\",\n\"github.com\",\n", "2 of 2 entries are hostnames in another form (quotes, commas,"),
            ("[\"a.example\", \"b.example\"]\n", "1 of 1 entries are hostnames in another form"),
            ("- a.example\n- b.example\nc.example\n", "2 of 3 entries are hostnames in another form"),
            ("; one\na.example\n// two\nb.example\n! three\n", "3 of 5 entries are hostnames in another form"),
            ("a.example,b.example\nc.example, d.example\n", "2 of 2 entries are hostnames in another form"),
            (
                "a.example\nb.example\n.c.example\nd.example\ne.example\n.f.example\n",
                "2 of 6 entries are Squid dstdomain",
            ),
            ("server:\n  local-zone: \"ads.example\" refuse\n", "2 of 2 entries are unbound local-zone"),
            (
                "{\n  \"network\": {\n    \"allowedDomains\": [\"a.example\"]\n  }\n}\n",
                "the file holds sandbox-runtime settings",
            ),
        ];
        for (text, expected) in CASES {
            let errors = read(text).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:#?}");
            assert!(errors[0].starts_with(&format!("l.txt: {expected}")), "{text}: {errors:?}");
            assert!(errors[0].contains("`hostgate import --as ") && errors[0].ends_with(" l.txt`"), "{errors:?}");
        }
    }

    #[test]
    fn a_single_foreign_entry_is_reported_at_its_line() {
        let names: Vec<_> = (0..20).map(|at| format!("h{at}.example")).collect();
        let names = names.join("\n");
        for slip in ["a.example:443", "||a.example^", ".a.example", "https://a.example/"] {
            let errors = read(&format!("{names}\n{slip}\n")).unwrap_err();
            assert!(errors.len() == 1 && errors[0].starts_with("l.txt:21:1: "), "{errors:?}");
        }
    }

    #[test]
    fn many_foreign_entries_get_one_error_and_few_get_their_own() {
        let names: Vec<_> = (0..60).map(|at| format!("h{at}.example")).collect();
        let names = names.join("\n");
        for (format, entries) in [
            ("squid", [".a.example", ".b.example"]),
            ("adblock", ["||a.example^", "||b.example^$important"]),
            ("host-port", ["a.example:443", "b.example:80"]),
            ("url", ["https://a.example/x", "http://b.example"]),
            ("dnsmasq", ["address=/a.example/", "server=/b.example/"]),
            ("regex", ["^a\\.example$", "(^|\\.)b\\.example$"]),
        ] {
            let errors = read(&format!("{names}\n{}\n", entries.join("\n"))).unwrap_err();
            assert!(errors.len() == 1 && errors[0].starts_with("l.txt: 2 of 62 entries are "), "{errors:?}");
            assert!(errors[0].contains("cannot hold (the first in line 61): convert it"), "{errors:?}");
            assert!(errors[0].contains(&format!("`hostgate import --as {format} ")), "{errors:?}");
            // A list with another error as well gets an error for each line.
            let errors = read(&format!("{names}\n{}\n<x>\n", entries.join("\n"))).unwrap_err();
            assert!(errors.len() == 3 && errors[2].starts_with("l.txt:63:1: "), "{errors:?}");
        }
    }

    #[test]
    fn foreign_entries_name_their_format_and_a_policy_file_is_refused() {
        let slip = read("a.example\nb.example\n.c.example\n").unwrap_err();
        let help = "the name itself; a list of Squid dstdomain entries is converted by `hostgate import --as squid`";
        assert!(slip.len() == 1 && slip[0].ends_with(help), "{slip:?}");
        let policy = read("# x\n[policy.p]\nallowed_hostnames = [\n  \"a.example\",\n]\n").unwrap_err();
        assert!(policy.len() == 1 && policy[0].starts_with("l.txt: it is a policy file, not a list"), "{policy:?}");
    }

    #[test]
    fn foreign_comments_get_one_error_per_line() {
        let names: Vec<_> = (0..20).map(|at| format!("h{at}.example")).collect();
        for mark in ["; x y", "// x", "! Title: x"] {
            let errors = read(&format!("{}\n  {mark}\n", names.join("\n"))).unwrap_err();
            let start =
                format!("l.txt:21:3: `{}` does not begin a comment here: write `#`", mark.split(' ').next().unwrap());
            assert!(errors.len() == 1 && errors[0].starts_with(&start), "{errors:?}");
        }
    }

    /// Returns the warnings of a list.
    fn warnings(purpose: Purpose, covers: Covers, text: &str) -> Vec<String> {
        let list = ListFile::read(&named(purpose, covers), text, &RandomState::new());
        let list = list.unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        list.warnings.iter().map(|it| format!("{:?} {}", it.severity, it.with_quotes())).collect()
    }

    #[test]
    fn duplicates_and_shared_wildcards_are_warned_about() {
        const CASES: &[(Purpose, Covers, &str, &[&str])] = {
            use Covers::{AsWritten, Subdomains};
            use Purpose::{Allow, Deny};
            &[
                (
                    Allow,
                    AsWritten,
                    "a.test\n*.github.io\nA.test\na.test\n",
                    &[
                        "l.txt:2:1: `*.github.io` matches names that strangers",
                        "l.txt:3:1: `a.test` is listed twice (and 1 more entry)",
                    ],
                ),
                (
                    Allow,
                    AsWritten,
                    "storage.googleapis.com",
                    &["l.txt:1:1: `storage.googleapis.com` holds what strangers put there"],
                ),
                (
                    Allow,
                    AsWritten,
                    "x.a.test\n*.a.test\ny.a.test\nz.a.test",
                    &["l.txt:1:1: `x.a.test` is covered by `*.a.test` (and 2 more entries)"],
                ),
                (Allow, AsWritten, "*.a.test", &[]),
                (Allow, Subdomains, "github.io", &["l.txt:1:1: `*.github.io` matches names"]),
                (Allow, Subdomains, "*.a.test\na.test\nx.a.test", &[]),
                (Deny, AsWritten, "*.github.io\ngithub.io\nstorage.googleapis.com", &[]),
                (
                    Deny,
                    AsWritten,
                    "a.test\n*.b.test\n*.c.test\nc.test\n*.d.test\n*.x.d.test",
                    &[
                        "l.txt:2:1: `*.b.test` does not deny `b.test` itself (and 1 more entry)",
                        "l.txt:6:1: `*.x.d.test` is covered by `*.d.test`",
                    ],
                ),
                (Deny, AsWritten, "*.zip\n*.net.kg\n", &[]),
                (Deny, Subdomains, "*.b.test\nzip\n", &[]),
            ]
        };
        for (purpose, covers, text, expected) in CASES {
            let told = warnings(*purpose, *covers, text);
            assert_eq!(told.len(), expected.len(), "{text}: {told:#?}");
            for (told, start) in told.iter().zip(*expected) {
                assert!(told.starts_with(&format!("Warning {start}")), "{text}: {told}");
            }
        }
    }

    #[test]
    fn names_with_subdomains_match_names_below_them() {
        for text in ["a.test\n*.b.test\n", "0.0.0.0 a.test b.test\n", "A.TEST.\nb.test # why\n"] {
            let list = ListFile::read(&named(Purpose::Deny, Covers::Subdomains), text, &RandomState::new()).unwrap();
            let found: Vec<_> = list.set.iter().map(|found| found.to_string()).collect();
            assert_eq!(found, ["a.test", "*.a.test", "b.test", "*.b.test"], "{text:?}");
        }
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        let list = ListFile::read(&named(Purpose::Allow, Covers::Subdomains), &longest, &RandomState::new()).unwrap();
        assert_eq!(list.set.len(), 1);
        for text in ["com", "x.test\nco.uk\n"] {
            let errors =
                ListFile::read(&named(Purpose::Allow, Covers::Subdomains), text, &RandomState::new()).unwrap_err();
            assert!(errors[0].with_quotes().contains("is a public suffix"), "{errors:?}");
            assert!(ListFile::read(&named(Purpose::Allow, Covers::AsWritten), text, &RandomState::new()).is_ok());
        }
    }

    #[test]
    fn a_hostname_with_its_subdomains_takes_at_most_64_bytes() {
        let lines: Vec<_> = (0..20_000).map(|index| format!("h{index:07}-a1b2.some.test")).collect();
        let list = ListFile::read(&named(Purpose::Deny, Covers::Subdomains), &lines.join("\n"), &RandomState::new());
        let each = list.unwrap().set.memory() / lines.len();
        assert!(each <= 46, "{each} bytes");
    }

    #[test]
    fn comments_of_a_list_accept_its_warnings() {
        let text = "a.test\n# hostgate: accept shared-suffix: ours\n*.github.io\n\
                    *.gitlab.io\na.test # hostgate: accept duplicate: for show\nstorage.googleapis.com #hostgate: accept shared-host: x\n";
        let told = warnings(Purpose::Allow, Covers::AsWritten, text);
        let expected = ["Accepted l.txt:3:1: ", "Warning l.txt:4:1: ", "Accepted l.txt:5:1: ", "Accepted l.txt:6:1: "];
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        assert!(told.iter().zip(expected).all(|(told, start)| told.starts_with(start)), "{told:#?}");
    }
}
