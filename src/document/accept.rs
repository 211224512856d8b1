//! Warnings that a comment accepts where they are, with a reason: `# hostgate: accept CODE: REASON`.
//!
//! Such a comment is about its own line, or, alone on a line, about the next one that is no comment. What it accepts is
//! kept as a diagnostic of [`Severity::Accepted`], so that it can be listed; what is wrong with the comment itself, and
//! one that silences nothing, is a warning.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Excerpt, Findings, Severity, quoted};
use super::place::{Place, Source, Span};
use super::suggest::closest;

/// Declares the codes.
macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $text:literal),+ $(,)?) => {
        /// The stable code of a kind of warning, which is printed with it and names it in comments that accept it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])+ $name),+ }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the text that stands for the code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

codes! {
    /// A comment that accepts something is wrong, or silences nothing. It cannot be accepted.
    Accept = "accept",
    /// What is allowed is denied as well.
    AllowedAndDenied = "allowed-and-denied",
    /// An entry is covered by another one.
    Covered = "covered",
    /// An entry is there twice.
    Duplicate = "duplicate",
    /// What is referred to went with its file.
    Gone = "gone",
    /// Of an included policy that allows all, only the lists count.
    IncludedAllowAll = "included-allow-all",
    /// Of an included policy that sets something else than lists, only the lists count.
    IncludedSetting = "included-setting",
    /// A message is too long for an answer.
    LongMessage = "long-message",
    /// A directory that is named is not there.
    NoDirectory = "no-directory",
    /// There is no policy file.
    NoPolicyFile = "no-policy-file",
    /// Too many entries to compare them all.
    NotCompared = "not-compared",
    /// A host whose owners differ by path.
    SharedHost = "shared-host",
    /// A wildcard that matches names of strangers.
    SharedSuffix = "shared-suffix",
    /// A client has the address from which programs of this machine use the API.
    ShutApi = "shut-api",
    /// A file below `presets/` that is not read.
    StrayPreset = "stray-preset",
    /// A test of what is gone.
    TestNotRun = "test-not-run",
    /// Nothing refers to a policy.
    Unused = "unused",
    /// A budget that limits nothing.
    UnusedBudget = "unused-budget",
    /// A denied wildcard leaves the name itself out.
    WildcardAlone = "wildcard-alone",
    /// Clients have no policy for their phase.
    WithoutPolicy = "without-policy",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the text of a code; the error is the help for one that is unknown.
impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let acceptable = || Self::ALL.iter().filter(|code| **code != Self::Accept).map(|code| code.as_str());
        match Self::ALL.iter().find(|code| code.as_str() == text && **code != Self::Accept) {
            Some(code) => Ok(*code),
            None => Err(match closest(text, acceptable()) {
                Some(code) => format!("did you mean `{code}`?"),
                None => format!(
                    "write the code that the warning shows, one of {}",
                    acceptable().collect::<Vec<_>>().join(", ")
                ),
            }),
        }
    }
}

/// The place of a warning, as its maker knows it.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// The line, from 1.
    Line(u32),
    /// The first byte.
    Offset(u32),
}

impl From<Span> for At {
    fn from(span: Span) -> Self {
        Self::Offset(span.start)
    }
}

/// The language a text is in, for where its comments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// TOML: a `#` in a string begins no comment.
    Toml,
    /// A list: any `#` begins one.
    List,
}

/// A comment that accepts one kind of warning.
#[derive(Debug)]
pub struct Accept {
    /// The kind.
    pub code: Code,
    /// The reason, as it is written.
    pub reason: Arc<str>,
    /// The line it is about.
    pub line: u32,
    /// The bytes of that line.
    span: Span,
    /// The place of the comment.
    comment: Comment,
}

/// The place of a comment.
#[derive(Clone, Debug)]
struct Comment {
    /// Its line, from 1.
    line: u32,
    /// Its column, from 1.
    column: u32,
    /// The line it is in.
    excerpt: Excerpt,
}

/// The comments of a text that accept warnings, in the order of the text.
#[derive(Debug)]
pub struct Accepts {
    /// The text.
    source: Source,
    /// Those that are right.
    right: Vec<Accept>,
    /// What is wrong with others.
    wrong: Vec<Diagnostic>,
}

/// What begins a comment for hostgate.
const MARK: &str = "hostgate:";

impl Accepts {
    /// Finds the comments of a text; `None` where there are none. `source` names the file and need not hold the text.
    #[must_use]
    pub fn find(source: &Source, text: &str, language: Language) -> Option<Arc<Self>> {
        let (mut accepts, mut findings) = (Vec::new(), Findings::default());
        let (mut start, mut number, mut scanned, mut done) = (0, 1, 0, 0);
        let mut scanner = (language == Language::Toml).then_some(Scanner { text: text.as_bytes(), at: 0 });
        let mut block: Option<(u32, (u32, Span))> = None;
        for (at, _) in text.match_indices(MARK) {
            // What follows a comment on its line is part of it.
            if at < done {
                continue;
            }
            for (newline, _) in text[scanned..at].match_indices('\n') {
                (number, start) = (number + 1, scanned + newline + 1);
            }
            scanned = at;
            let before = text[start..at].trim_end_matches([' ', '\t']);
            let Some(line) = before.strip_suffix('#') else { continue };
            let hash = start + line.len();
            if scanner.as_mut().is_some_and(|scanner| !scanner.is_comment(hash)) {
                continue;
            }
            let end = line_end(text, at);
            done = end;
            let comment = Comment {
                line: number,
                column: u32::try_from(line.chars().count() + 1).unwrap_or(u32::MAX),
                excerpt: Excerpt::cut(text, hash..end),
            };
            let target = match block {
                // A byte order mark at the begin of a file is nothing that a comment could be about.
                _ if !line.trim_start_matches('\u{feff}').trim().is_empty() => (number, Span::from(start..end)),
                Some((last, target)) if number <= last => target,
                _ => {
                    let target = line_below(text, end, number);
                    block = Some((target.0.saturating_sub(1), target));
                    target
                }
            };
            let text = text[at + MARK.len()..end].trim();
            for read in read(text) {
                match read {
                    Ok((code, reason)) => {
                        let (line, span) = target;
                        accepts.push(Accept { code, reason: reason.into(), line, span, comment: comment.clone() });
                    }
                    Err((message, help)) => {
                        let warning = || comment.warning(source, message).help(help);
                        findings.add(Severity::Warning, Some(Code::Accept), warning);
                    }
                }
            }
        }
        let wrong = findings.into_diagnostics(source.path());
        let is_empty = accepts.is_empty() && wrong.is_empty();
        (!is_empty).then(|| Arc::new(Self { source: source.without_text(), right: accepts, wrong }))
    }

    /// Returns the path of the text.
    pub(crate) fn path(&self) -> &Path {
        self.source.path()
    }

    /// Returns the comment that accepts a kind of warning at a place.
    #[must_use]
    pub fn at(&self, code: Code, at: At) -> Option<&Accept> {
        let first = self.right.partition_point(|accept| match at {
            At::Line(line) => accept.line < line,
            At::Offset(offset) => accept.span.end < offset,
        });
        let here = self.right[first..].iter().take_while(|accept| match at {
            At::Line(line) => accept.line == line,
            At::Offset(offset) => accept.span.start <= offset,
        });
        here.into_iter().find(|accept| accept.code == code)
    }

    /// Returns what is wrong with the comments, stale ones too; `is_used` says whether one accepted something.
    pub fn complaints(&self, is_used: impl Fn(u32, Code) -> bool) -> Vec<Diagnostic> {
        let mut findings = Findings::default();
        for wrong in &self.wrong {
            findings.add(Severity::Warning, Some(Code::Accept), || wrong.clone());
        }
        let mut last = None;
        for accept in &self.right {
            let is_repeated = last.replace((accept.line, accept.code)) == Some((accept.line, accept.code));
            // That depends on the configuration as well, which is looked at after the policies.
            let is_known = accept.code != Code::ShutApi;
            if is_repeated || is_known && !is_used(accept.line, accept.code) {
                findings.add(Severity::Warning, Some(Code::Accept), || {
                    let message = format!("nothing here is warned of as `{}`", accept.code);
                    accept.comment.warning(&self.source, message).help("remove the comment")
                });
            }
        }
        findings.into_diagnostics(self.source.path())
    }
}

impl Comment {
    /// Returns a warning about the comment.
    fn warning(&self, source: &Source, message: String) -> Diagnostic {
        let Self { line, column, excerpt } = self.clone();
        let place = Place { path: Arc::clone(source.path()), line, column };
        let unquoted = source.unquoted(Severity::Warning);
        let whole: &Path = source.path();
        let warning = Diagnostic { place, excerpt: Some(excerpt), unquoted, ..Diagnostic::about_file(whole, message) };
        Diagnostic { severity: Severity::Warning, ..warning }.code(Code::Accept)
    }
}

/// A code and the reason to accept it, or what is wrong and the help.
type Read<'t> = Result<(Code, &'t str), (String, String)>;

/// Reads what follows the mark.
fn read(text: &str) -> Vec<Read<'_>> {
    const FORM: &str = "write `# hostgate: accept CODE: REASON`";
    let wrong = |message: &str| Err((message.to_owned(), FORM.to_owned()));
    let (word, rest) = text.split_at(text.find(|character: char| !character.is_alphanumeric()).unwrap_or(text.len()));
    if word != "accept" {
        // Another word may be a sentence of a person's about hostgate.
        let is_slip = closest(word, ["accept"]).is_some();
        return is_slip.then(|| wrong(&format!("{} is no word for hostgate", quoted(word)))).into_iter().collect();
    }
    let (codes, reason) = rest.split_once(':').unwrap_or((rest, ""));
    let reason = reason.trim();
    let codes: Vec<_> =
        codes.split([',', ' ', '\t']).filter(|code| !code.is_empty()).map(|code| (code, code.parse())).collect();
    if codes.is_empty() {
        return vec![wrong("the comment accepts nothing")];
    }
    if reason.is_empty() && codes.iter().all(|(_, code)| code.is_ok()) {
        return vec![wrong("the comment gives no reason, so it accepts nothing")];
    }
    let read = |(text, code): (&str, Result<Code, String>)| match code {
        Ok(code) => Ok((code, reason)),
        Err(help) => Err((format!("there is no warning {}", quoted(text)), help)),
    };
    let is_told = |read: &Read<'_>| read.is_err() || !reason.is_empty();
    codes.into_iter().map(read).filter(is_told).collect()
}

/// Returns where the line of a byte ends, its line end not counted.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

/// Returns the number and the bytes of the first line below that is no comment; that of `end` has this number.
fn line_below(text: &str, end: usize, number: u32) -> (u32, Span) {
    let (mut start, mut number) = (end + 1, number + 1);
    while start < text.len() {
        let end = line_end(text, start);
        if !text[start..end].trim_start().starts_with('#') {
            return (number, (start..end).into());
        }
        (start, number) = (end + 1, number + 1);
    }
    (number, (text.len()..text.len()).into())
}

/// A walk over a TOML text that knows strings from comments.
struct Scanner<'t> {
    /// The text.
    text: &'t [u8],
    /// Where the walk is, outside of strings and comments.
    at: usize,
}

impl Scanner<'_> {
    /// Returns whether the `#` at `hash` begins a comment or is in one; asked in rising order.
    fn is_comment(&mut self, hash: usize) -> bool {
        while self.at <= hash {
            let rest = &self.text[self.at..];
            let length = match rest {
                [b'#', ..] => {
                    let end = self.at + until(rest, b"\n", false);
                    if hash < end {
                        return true;
                    }
                    end - self.at
                }
                [b'"', b'"', b'"', ..] => 3 + until(&rest[3..], b"\"\"\"", true),
                [b'\'', b'\'', b'\'', ..] => 3 + until(&rest[3..], b"'''", false),
                [b'"', ..] => 1 + until(&rest[1..], b"\"", true),
                [b'\'', ..] => 1 + until(&rest[1..], b"'", false),
                _ => 1,
            };
            self.at += length;
        }
        false
    }
}

/// Returns the lines of a TOML text that are this comment alone, with their line ends.
pub(crate) fn comment_lines<'t>(text: &'t str, comment: &'t str) -> impl Iterator<Item = Range<usize>> + 't {
    let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
    text.match_indices(comment).filter_map(move |(at, _)| {
        let before = text[..at].trim_end_matches([' ', '\t']);
        let rest = text[at + comment.len()..].trim_start_matches([' ', '\t', '\r']);
        let is_line = (before.is_empty() || before.ends_with('\n')) && (rest.is_empty() || rest.starts_with('\n'));
        let end = text.len() - rest.strip_prefix('\n').unwrap_or(rest).len();
        (is_line && scanner.is_comment(at)).then_some(before.len()..end)
    })
}

/// Returns the octets up to and with `close`; a string of one line ends with its line at the latest.
fn until(text: &[u8], close: &[u8], has_escapes: bool) -> usize {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'\\' if has_escapes => at += 2,
            b'\n' if close.len() == 1 => return at + 1,
            _ if text[at..].starts_with(close) => return at + close.len(),
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Returns the accepts of a text as `line code reason`, and what is wrong with others.
    fn found(text: &str, language: Language) -> (Vec<String>, Vec<String>) {
        let Some(accepts) = Accepts::find(&Source::new(Path::new("f"), ""), text, language) else {
            return Default::default();
        };
        let right = accepts.right.iter().map(|it| format!("{} {} {}", it.line, it.code, it.reason)).collect();
        (right, accepts.complaints(|_, _| true).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn comment_accepts_on_its_line_or_on_the_next_one_that_is_no_comment() {
        const CASES: &[(&str, &[&str])] = &[
            ("a.test # hostgate: accept covered: why", &["1 covered why"]),
            ("a.test #hostgate:accept covered:why: so\n", &["1 covered why: so"]),
            ("# hostgate: accept covered: why\na.test", &["2 covered why"]),
            ("\u{feff}# hostgate: accept covered: why\r\na.test", &["2 covered why"]),
            (
                "# hostgate: accept covered: why\r\n  # more\r\n# hostgate: accept unused: x\na",
                &["4 covered why", "4 unused x"],
            ),
            ("# hostgate: accept covered, duplicate: both\na", &["2 covered both", "2 duplicate both"]),
            ("\n\na # note # hostgate: accept covered: why", &["3 covered why"]),
            (
                "# hostgate: accept covered: a # hostgate: accept unused: b\nx",
                &["2 covered a # hostgate: accept unused: b"],
            ),
            ("# hostgate: the policies of team x\n# hostgate: see the manual\n", &[]),
            ("hostgate: accept covered: why", &[]),
            ("# hostgate: accept covered: the end", &["2 covered the end"]),
        ];
        for (text, expected) in CASES {
            for language in [Language::List, Language::Toml] {
                assert_eq!(
                    found(text, language),
                    (expected.iter().map(ToString::to_string).collect(), vec![]),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn only_comments_of_toml_accept() {
        const CASES: &[(&str, usize)] = &[
            ("m = \"# hostgate: accept covered: x\"", 0),
            ("m = '# hostgate: accept covered: x'", 0),
            ("m = \"\"\"\n# hostgate: accept covered: x\n\"\"\"", 0),
            ("m = '''\n# hostgate: accept covered: x\n'''", 0),
            ("m = \"a\\\"# hostgate: accept covered: x\"", 0),
            ("m = \"a\" # hostgate: accept covered: x", 1),
            ("m = 'it' # it's \"\n# hostgate: accept covered: x\nn = 1", 1),
            ("m = \"\"\"a\"\"\" # hostgate: accept covered: x", 1),
            ("m = \"broken\n# hostgate: accept covered: x", 1),
        ];
        for (text, count) in CASES {
            assert_eq!(found(text, Language::Toml).0.len(), *count, "{text}");
        }
    }

    #[test]
    fn comments_without_a_reason_or_a_known_code_accept_nothing_and_say_so() {
        const CASES: &[(&str, &str)] = &[
            ("a # hostgate: accept covered", "f:1:3: the comment gives no reason, so it accepts nothing: write"),
            ("# hostgate: accept covered:  ", "f:1:1: the comment gives no reason"),
            ("# hostgate: accept", "f:1:1: the comment accepts nothing"),
            ("# hostgate: accept: because", "f:1:1: the comment accepts nothing"),
            ("# hostgate: accept coverd: x", "f:1:1: there is no warning `coverd`: did you mean `covered`?"),
            ("# hostgate: accept everything: x", "f:1:1: there is no warning `everything`: write the code"),
            ("# hostgate: accept accept: x", "f:1:1: there is no warning `accept`"),
            ("# hostgate: acept covered: x", "f:1:1: `acept` is no word for hostgate"),
        ];
        for (text, expected) in CASES {
            let (right, wrong) = found(text, Language::List);
            assert!(right.is_empty() && wrong.len() == 1 && wrong[0].starts_with(expected), "{text}: {wrong:?}");
            assert!(wrong[0].ends_with("[accept]"), "{wrong:?}");
        }
        let (right, wrong) = found("# hostgate: accept covered, x: y\na", Language::List);
        assert_eq!((right.len(), wrong.len()), (1, 1));
    }

    #[test]
    fn stale_and_repeated_comments_are_told() {
        let text = "a # hostgate: accept covered: x\n# hostgate: accept unused: y\n# hostgate: accept unused: z\nb\n";
        let accepts = Accepts::find(&Source::new(Path::new("f"), ""), text, Language::List).unwrap();
        let told: Vec<_> = accepts.complaints(|line, _| line == 4).iter().map(ToString::to_string).collect();
        let expected = [
            "f:1:3: nothing here is warned of as `covered`: remove the comment [accept]",
            "f:3:1: nothing here is warned of as `unused`: remove the comment [accept]",
        ];
        assert_eq!(told, expected);
        assert_eq!(&*accepts.at(Code::Covered, At::Line(1)).unwrap().reason, "x");
        assert_eq!(&*accepts.at(Code::Unused, At::Offset(91)).unwrap().reason, "y");
        assert!(accepts.at(Code::Covered, At::Line(4)).is_none() && accepts.at(Code::Unused, At::Line(2)).is_none());
    }

    #[test]
    fn a_million_comments_are_found_in_one_pass() {
        /// Many times what one pass takes.
        const AMPLE: Duration = Duration::from_secs(20);
        for line in ["# hostgate: accept covered: x\n", "# hostgate: accept covered: x ", "x = '# hostgate:' "] {
            let text = line.repeat(300_000);
            let start = Instant::now();
            let found = Accepts::find(&Source::new(Path::new("f"), ""), &text, Language::Toml);
            assert_eq!(found.is_some(), line.starts_with('#'), "{line}");
            assert!(start.elapsed() < AMPLE, "{line}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn codes_are_words_that_are_read_back() {
        for code in Code::ALL.iter().filter(|code| **code != Code::Accept) {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
        }
    }
}
