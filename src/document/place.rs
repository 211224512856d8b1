//! Positions in files: byte spans while reading, lines and columns in messages.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use toml::de::DeValue;

use super::accept::{Accepts, Language};
use super::diagnostic::{Diagnostic, Excerpt, Severity, Unquoted};

/// A position in a file: path, line and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The path of the file, as it is to be shown.
    pub path: Arc<Path>,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u32,
    /// The column in characters, from 1; 0 for the file as a whole.
    pub column: u32,
}

impl Place {
    /// Returns the place of a whole file, for errors without a position: it cannot be read, or something is missing.
    #[must_use]
    pub fn whole(path: impl Into<Arc<Path>>) -> Self {
        Self { path: path.into(), line: 0, column: 0 }
    }
}

/// Writes `path:line:column`, or only the path for a whole file.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.path.display()),
            line => write!(f, "{}:{line}:{}", self.path.display(), self.column),
        }
    }
}

/// A range of bytes in the text of a [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The offset of the first byte.
    pub start: u32,
    /// The offset after the last byte.
    pub end: u32,
}

impl Span {
    /// Returns the span as a range of `usize`, for slicing.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        to_usize(self.start)..to_usize(self.end)
    }
}

/// Converts a range; offsets beyond 4 GiB are clamped, but [`Source::MAX_LEN`] is well below.
impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        let clamp = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { start: clamp(range.start), end: clamp(range.end) }
    }
}

/// The text of a file with its path. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path of the file, as it is to be shown.
    path: Arc<Path>,
    text: Arc<str>,
    /// True if readers of logs, status and API may not see the text, so diagnostics must not quote it there.
    is_private: bool,
    /// The comments that accept warnings; `None` if there are none, or if the text has not been searched.
    accepts: Option<Arc<Accepts>>,
}

impl Source {
    /// The size limit of a text in bytes: spans are 32 bits, and a TOML tree takes many times its text.
    pub const MAX_LEN: usize = 256 << 20;

    /// Creates a source from a path and a text.
    #[must_use]
    pub fn new(path: impl Into<Arc<Path>>, text: impl Into<Arc<str>>) -> Self {
        Self { path: path.into(), text: text.into(), is_private: false, accepts: None }
    }

    /// Sets whether log, status and API answers must not quote the text.
    #[must_use]
    pub fn private(mut self, is_private: bool) -> Self {
        self.is_private = is_private;
        self
    }

    /// Searches the text, a TOML document, for comments that accept warnings.
    #[must_use]
    pub(super) fn with_accepts(mut self) -> Self {
        self.accepts = Accepts::find(&self, &self.text, Language::Toml);
        self
    }

    /// Returns the comments of the text that accept warnings.
    #[must_use]
    pub fn accepts(&self) -> Option<&Arc<Accepts>> {
        self.accepts.as_ref()
    }

    /// Returns the source with an empty text, to keep its path and privacy in diagnostics.
    pub(super) fn without_text(&self) -> Self {
        Self { text: Arc::default(), accepts: None, ..self.clone() }
    }

    /// Returns the replacement words for diagnostics of a private file; `None` for other files.
    pub(super) fn unquoted(&self, severity: Severity) -> Option<Box<Unquoted>> {
        let what = match severity {
            Severity::Error => "an error",
            Severity::Warning | Severity::Accepted => "a warning",
        };
        let message = format!("{what} that is not quoted, as the file lies outside of the policies directory");
        let help = Some("`hostgate check` shows it".to_owned());
        self.is_private.then(|| Box::new(Unquoted { message, help }))
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Returns the text of the file.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns the value of the TOML string at `span`; empty if there is none. Borrows from the text unless the string
    /// has escapes.
    #[must_use]
    pub fn string(&self, span: Span) -> Cow<'_, str> {
        let written = self.text.get(span.range()).unwrap_or_default();
        let plain =
            |quote| written.strip_prefix(quote)?.strip_suffix(quote).filter(|it: &&str| !it.contains([quote, '\\']));
        match plain('"').or_else(|| plain('\'')) {
            Some(text) => Cow::Borrowed(text),
            // Strings with escapes and multi-line strings (three quotes) take the parser.
            None => DeValue::parse(written)
                .ok()
                .and_then(|value| value.get_ref().as_str().map(str::to_owned))
                .unwrap_or_default()
                .into(),
        }
    }

    /// Returns the place of the byte `offset`. Walks the text up to there; use a [`Locator`] for many places.
    #[must_use]
    pub fn place(&self, offset: u32) -> Place {
        let at = to_usize(offset).min(self.text.len());
        let bytes = self.text.as_bytes();
        let start = last_line_end(&bytes[..at]).map_or(0, |newline| newline + 1);
        self.at(to_u32(line_ends(&bytes[..start]) + 1), to_u32(characters(&bytes[start..at]) + 1))
    }

    /// Returns the place at `line` and `column` of this file.
    #[must_use]
    pub fn at(&self, line: u32, column: u32) -> Place {
        Place { path: Arc::clone(&self.path), line, column }
    }

    /// Creates a diagnostic about `span`, with an excerpt of its line.
    #[must_use]
    pub fn diagnostic(&self, severity: Severity, span: Span, message: impl Into<String>) -> Diagnostic {
        let place = self.place(span.start);
        let excerpt = Excerpt::cut(&self.text, span.range());
        Diagnostic {
            severity,
            code: None,
            reason: None,
            place,
            message: message.into(),
            help: None,
            related: Vec::new(),
            excerpt: Some(excerpt),
            unquoted: self.unquoted(severity),
        }
    }

    /// Creates a diagnostic about the string or word at `line` and `column`, for callers that did not keep the span.
    #[must_use]
    pub fn diagnostic_at(&self, severity: Severity, line: u32, column: u32, message: impl Into<String>) -> Diagnostic {
        let mut start = 0;
        for _ in 1..line {
            start += self.text[start..].find('\n').map_or(self.text.len() - start, |newline| newline + 1);
        }
        let columns = self.text[start..].char_indices().map(|(at, _)| at);
        start += columns.chain([self.text.len() - start]).nth(to_usize(column.saturating_sub(1))).unwrap_or(0);
        let mut rest = self.text[start..].char_indices();
        let length = match rest.next() {
            Some((_, quote @ ('"' | '\''))) => rest.find(|&(_, other)| other == quote).map(|(at, _)| at + 1),
            _ => rest.find(|(_, character)| character.is_whitespace() || *character == '#').map(|(at, _)| at),
        };
        let end = start + length.unwrap_or(self.text.len() - start);
        Diagnostic { place: self.at(line, column), ..self.diagnostic(severity, (start..end).into(), message) }
    }

    /// Creates an error about `span` of this text.
    #[must_use]
    pub fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, span, message)
    }

    /// Creates a warning about `span` of this text.
    #[must_use]
    pub fn warning(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Warning, span, message)
    }
}

/// An index from byte offsets to lines and columns. Lookups are fast in any order, even on one long line, because
/// tables are read in the order of their keys and not of the text.
#[derive(Debug)]
pub struct Locator<'t> {
    text: &'t str,
    /// The offset of the first byte of each line.
    starts: Vec<u32>,
    /// The number of characters that start before each block of [`Locator::BLOCK`] bytes.
    before: Vec<u32>,
}

impl<'t> Locator<'t> {
    /// The block size in bytes; a lookup counts the characters of at most two blocks.
    const BLOCK: usize = 1024;

    /// Builds the index: line starts, and character counts per block.
    #[must_use]
    pub fn new(text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| to_u32(at + 1))).collect();
        let mut counted = 0;
        let mut before = vec![0];
        for block in text.as_bytes().chunks(Self::BLOCK) {
            counted += to_u32(characters(block));
            before.push(counted);
        }
        Self { text, starts, before }
    }

    /// Returns the line and the column of the byte `offset`, both from 1.
    #[must_use]
    pub fn locate(&self, offset: u32) -> (u32, u32) {
        let at = to_usize(offset).min(self.text.len());
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = to_usize(self.starts[line - 1]).min(at);
        // Most lines are short, so counting from their start is cheaper than two lookups.
        let column = if at - start < Self::BLOCK {
            to_u32(characters(&self.text.as_bytes()[start..at]))
        } else {
            self.characters_before(at) - self.characters_before(start)
        };
        (to_u32(line), column + 1)
    }

    /// Counts the characters that start before the byte `at`.
    fn characters_before(&self, at: usize) -> u32 {
        let block = at / Self::BLOCK;
        self.before[block] + to_u32(characters(&self.text.as_bytes()[block * Self::BLOCK..at]))
    }
}

/// Returns the offset of the last line feed. Tests whole blocks first, which the compiler vectorises, as lines may be
/// long.
fn last_line_end(bytes: &[u8]) -> Option<usize> {
    let mut end = bytes.len();
    for block in bytes.rchunks(usize::from(u8::MAX)) {
        let start = end - block.len();
        if line_ends(block) > 0 {
            return block.iter().rposition(|&byte| byte == b'\n').map(|at| start + at);
        }
        end = start;
    }
    None
}

/// Counts the line feeds in `bytes`.
pub(crate) fn line_ends(bytes: &[u8]) -> usize {
    count(bytes, |byte| byte == b'\n')
}

/// Counts the characters of UTF-8 bytes, which may start or end within a character.
fn characters(bytes: &[u8]) -> usize {
    count(bytes, |byte| byte & 0xc0 != 0x80)
}

/// Counts bytes in blocks of 255: a sum in `u8` is vectorised well, one in wider integers is slow.
fn count(bytes: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    let of_block = |block: &[u8]| block.iter().map(|&byte| u8::from(is_counted(byte))).sum::<u8>();
    bytes.chunks(usize::from(u8::MAX)).map(|block| usize::from(of_block(block))).sum()
}

/// Converts a count that [`Source::MAX_LEN`] keeps small.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Converts an offset to an index.
fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_1() {
        const TEXT: &str = "a = 1\r\nbü = 'x'\n\nlast";
        const CASES: &[(u32, u32, u32)] =
            &[(0, 1, 1), (4, 1, 5), (7, 2, 1), (8, 2, 2), (10, 2, 3), (13, 2, 6), (17, 3, 1), (18, 4, 1), (22, 4, 5)];
        let source = Source::new(Path::new("p.toml"), TEXT);
        let locator = Locator::new(TEXT);
        for &(offset, line, column) in CASES {
            assert_eq!(locator.locate(offset), (line, column), "offset {offset}");
            assert_eq!(source.place(offset), source.at(line, column), "offset {offset}");
        }
        for &(offset, line, column) in CASES.iter().rev() {
            assert_eq!(locator.locate(offset), (line, column), "backwards, offset {offset}");
        }
        assert_eq!(source.place(8).to_string(), "p.toml:2:2");
        assert_eq!(Place::whole(Path::new("p.toml")).to_string(), "p.toml");
    }

    #[test]
    fn places_on_one_long_line_are_found_in_any_order() {
        /// A generous deadline; counting each place from the start of the line took minutes.
        const AMPLE: Duration = Duration::from_secs(20);
        let text = format!("ab = 1\n{}", "ü\"x\", ".repeat(1 << 19));
        let locator = Locator::new(&text);
        let start = Instant::now();
        for number in (0..1 << 19).rev().step_by(8) {
            assert_eq!(locator.locate(7 + number * 7), (2, 1 + number * 6));
        }
        assert!(start.elapsed() < AMPLE, "{:?}", start.elapsed());
    }

    #[test]
    fn string_returns_the_value_toml_defines() {
        const CASES: &[(&str, &str)] = &[
            ("\"a b\"", "a b"),
            ("'a\\b'", "a\\b"),
            ("\"\\u00e4\\n\"", "ä\n"),
            ("''", ""),
            ("'\"'", "\""),
            ("\"\"\"\na\n\"\"\"", "a\n"),
            ("'''b'''", "b"),
            ("1", ""),
            ("", ""),
        ];
        for (written, expected) in CASES {
            let source = Source::new(Path::new("p.toml"), format!("k = {written}"));
            assert_eq!(source.string((4..4 + written.len()).into()), *expected, "{written}");
        }
        assert_eq!(Source::new(Path::new("p.toml"), "").string(Span { start: 7, end: 9 }), "");
    }

    #[test]
    fn diagnostic_without_a_span_underlines_to_the_end_of_the_word() {
        const CASES: &[(u32, u32, &str)] = &[(1, 5, "\"x y\""), (2, 1, "b.test"), (3, 1, "")];
        let source = Source::new(Path::new("p"), "a = \"x y\"\nb.test # why\n");
        for &(line, column, expected) in CASES {
            let rendered = source.diagnostic_at(Severity::Warning, line, column, "m").render(false);
            assert_eq!(rendered.matches('^').count(), expected.len().max(1), "{line}:{column}\n{rendered}");
        }
    }

    #[test]
    fn offset_after_the_end_is_clamped_to_the_end() {
        let source = Source::new(Path::new("p.toml"), "ab");
        assert_eq!(source.place(9), source.at(1, 3));
        assert_eq!(Locator::new("ab").locate(9), (1, 3));
        assert_eq!(Locator::new("").locate(0), (1, 1));
    }
}
