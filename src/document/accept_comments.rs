//! Reading of the comments `# hostgate: accept CODE: REASON`, which accept warnings. A malformed comment, and one that
//! accepts nothing, is itself a warning.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::accept::{Accept, Accepts, Comment};
use super::code::Code;
use super::diagnostic::{Diagnostic, Excerpt, Severity, quoted};
use super::findings::Findings;
use super::place::Span;
use super::suggest::closest;

/// The language of a text, which decides where comments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// TOML: a `#` in a string does not start a comment.
    Toml,
    /// A list of hostnames: every `#` starts a comment.
    List,
}

/// The start of a comment that is addressed to hostgate.
const MARK: &str = "hostgate:";

impl Accepts {
    /// Finds the accepting comments of a text; `None` if there are none. `file` is the path of the text, and `true` if
    /// logs, status and API answers must not quote it.
    #[must_use]
    pub fn find(file: (&Arc<Path>, bool), text: &str, language: Language) -> Option<Arc<Self>> {
        let (mut accepts, mut findings) = (Vec::new(), Findings::default());
        // The offset and the number of the current line; the offset up to which line feeds are counted; the end of the
        // last comment.
        let (mut start, mut number, mut scanned, mut done) = (0, 1, 0, 0);
        let mut scanner = (language == Language::Toml).then_some(Scanner { text: text.as_bytes(), at: 0 });
        // The last line of a block of comments, and the line below it, which all comments of the block apply to. It is
        // searched once for the block, so that a million comments take linear time.
        let mut block: Option<(u32, (u32, Span))> = None;
        for (at, _) in text.match_indices(MARK) {
            // Further marks on a comment's line are part of that comment.
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
                // A comment after an entry applies to its own line. A byte order mark is not an entry.
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
                        let warning = || comment.warning(file, message).help(help);
                        findings.add(Severity::Warning, Some(Code::Accept), warning);
                    }
                }
            }
        }
        let wrong = findings.into_diagnostics(file.0);
        let is_empty = accepts.is_empty() && wrong.is_empty();
        (!is_empty).then(|| Arc::new(Self { file: (Arc::clone(file.0), file.1), right: accepts, wrong }))
    }

    /// Returns the warnings about malformed comments and about those that accepted nothing; `is_used` returns whether a
    /// warning of a code was accepted on a line.
    pub fn complaints(&self, is_used: impl Fn(u32, Code) -> bool) -> Vec<Diagnostic> {
        let mut findings = Findings::default();
        for wrong in &self.wrong {
            findings.add(Severity::Warning, Some(Code::Accept), || wrong.clone());
        }
        let mut last = None;
        for accept in &self.right {
            // Comments are in order, so a second one for the same line and code mostly follows the first directly; with
            // another code between them it is not noticed.
            let is_repeated = last.replace((accept.line, accept.code)) == Some((accept.line, accept.code));
            // `ShutApi` depends on the configuration, which is checked after the policies, so a use of it is not known.
            let is_known = accept.code != Code::ShutApi;
            if is_repeated || is_known && !is_used(accept.line, accept.code) {
                findings.add(Severity::Warning, Some(Code::Accept), || {
                    let message = format!("the comment accepts no warning `{}`", accept.code);
                    accept.comment.warning((&self.file.0, self.file.1), message).help("remove the comment")
                });
            }
        }
        findings.into_diagnostics(&self.file.0)
    }
}

/// A code with the reason to accept it, or the message and help of a malformed comment.
type Read<'t> = Result<(Code, &'t str), (String, String)>;

/// Parses the text after the mark.
fn read(text: &str) -> Vec<Read<'_>> {
    const FORM: &str = "write `# hostgate: accept CODE: REASON`";
    let wrong = |message: &str| Err((message.to_owned(), FORM.to_owned()));
    let (word, rest) = text.split_at(text.find(|character: char| !character.is_alphanumeric()).unwrap_or(text.len()));
    if word != "accept" {
        // Another word may be a sentence about hostgate, so only near misses are reported.
        let is_slip = closest(word, ["accept"]).is_some();
        return is_slip
            .then(|| wrong(&format!("unknown word {} after `hostgate:`", quoted(word))))
            .into_iter()
            .collect();
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
        Err(help) => Err((format!("warning {} does not exist", quoted(text)), help)),
    };
    // With an unknown code and no reason, only the unknown code is reported.
    let is_told = |read: &Read<'_>| read.is_err() || !reason.is_empty();
    codes.into_iter().map(read).filter(is_told).collect()
}

/// Returns the offset of the line feed that ends the line of `at`, or of the end of the text.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

/// Returns the number and span of the first line after `end` that is not a comment; `number` is that of the line of
/// `end`.
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

/// A cursor over a TOML text that distinguishes strings from comments.
struct Scanner<'t> {
    text: &'t [u8],
    /// The offset of the cursor, always outside of strings and comments.
    at: usize,
}

impl Scanner<'_> {
    /// Returns whether the `#` at `hash` starts a comment or is within one. Offsets must be asked in rising order.
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

/// Returns the ranges of lines in a TOML text that consist of exactly this comment, line feeds included.
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

/// Returns the length up to and including `close`. A single-line string ends with its line at the latest, so that one
/// that is not closed (a syntax error) does not hide the comments below it.
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

    use super::super::accept::At;
    use super::*;

    /// Returns the accepts of a text as `line code reason`, and the warnings about malformed comments.
    fn found(text: &str, language: Language) -> (Vec<String>, Vec<String>) {
        let Some(accepts) = Accepts::find((&Path::new("f").into(), false), text, language) else {
            return Default::default();
        };
        let right = accepts.right.iter().map(|it| format!("{} {} {}", it.line, it.code, it.reason)).collect();
        (right, accepts.complaints(|_, _| true).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn comment_applies_to_its_line_or_the_next_line_without_a_comment() {
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
    fn comment_marks_in_toml_strings_are_ignored() {
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
    fn comments_without_a_reason_or_a_known_code_are_warnings() {
        const CASES: &[(&str, &str)] = &[
            ("a # hostgate: accept covered", "f:1:3: the comment gives no reason, so it accepts nothing: write"),
            ("# hostgate: accept covered:  ", "f:1:1: the comment gives no reason"),
            ("# hostgate: accept", "f:1:1: the comment accepts nothing"),
            ("# hostgate: accept: because", "f:1:1: the comment accepts nothing"),
            ("# hostgate: accept coverd: x", "f:1:1: warning `coverd` does not exist: did you mean `covered`?"),
            ("# hostgate: accept everything: x", "f:1:1: warning `everything` does not exist: write the code"),
            ("# hostgate: accept accept: x", "f:1:1: warning `accept` does not exist"),
            ("# hostgate: acept covered: x", "f:1:1: unknown word `acept` after `hostgate:`"),
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
    fn stale_and_repeated_comments_are_warnings() {
        let text = "a # hostgate: accept covered: x\n# hostgate: accept unused: y\n# hostgate: accept unused: z\nb\n";
        let accepts = Accepts::find((&Path::new("f").into(), false), text, Language::List).unwrap();
        let told: Vec<_> = accepts.complaints(|line, _| line == 4).iter().map(ToString::to_string).collect();
        let expected = [
            "f:1:3: the comment accepts no warning `covered`: remove the comment [accept]",
            "f:3:1: the comment accepts no warning `unused`: remove the comment [accept]",
        ];
        assert_eq!(told, expected);
        assert_eq!(&*accepts.at(Code::Covered, At::Line(1)).unwrap().reason, "x");
        assert_eq!(&*accepts.at(Code::Unused, At::Offset(91)).unwrap().reason, "y");
        assert!(accepts.at(Code::Covered, At::Line(4)).is_none() && accepts.at(Code::Unused, At::Line(2)).is_none());
    }

    #[test]
    fn a_million_comments_are_found_in_one_pass() {
        /// A generous deadline for one pass.
        const AMPLE: Duration = Duration::from_secs(20);
        for line in ["# hostgate: accept covered: x\n", "# hostgate: accept covered: x ", "x = '# hostgate:' "] {
            let text = line.repeat(300_000);
            let start = Instant::now();
            let found = Accepts::find((&Path::new("f").into(), false), &text, Language::Toml);
            assert_eq!(found.is_some(), line.starts_with('#'), "{line}");
            assert!(start.elapsed() < AMPLE, "{line}: {:?}", start.elapsed());
        }
    }
}
