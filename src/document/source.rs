//! The text of a file with its path, from which diagnostics with places are made.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use toml::de::DeValue;

use super::accept::{Accepts, At};
use super::accept_comments::Language;
use super::block_index::BlockIndex;
use super::code::Code;
use super::diagnostic::{Diagnostic, Excerpt, Severity, Unquoted};
use super::place::{Place, Span, to_u32, to_usize};

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
    /// The index of the text, made on first use; `None` if the text is short.
    index: Option<Arc<OnceLock<BlockIndex>>>,
}

impl Source {
    /// The size limit of a text in bytes: spans are 32 bits, and a TOML tree takes many times the memory of its text.
    pub const MAX_LEN: usize = 256 << 20;

    /// Creates a source from a path and a text.
    #[must_use]
    pub fn new(path: impl Into<Arc<Path>>, text: impl Into<Arc<str>>) -> Self {
        let text: Arc<str> = text.into();
        let index = (text.len() > BlockIndex::BLOCK).then(Arc::default);
        Self { path: path.into(), text, is_private: false, accepts: None, index }
    }

    /// Sets whether log, status and API answers must not quote the text, as for a file that a symlink in the policies
    /// directory leads out to.
    #[must_use]
    pub fn private(mut self, is_private: bool) -> Self {
        self.is_private = is_private;
        self
    }

    /// Searches the text, a TOML document, for comments that accept warnings.
    #[must_use]
    pub(super) fn with_accepts(mut self) -> Self {
        self.accepts = Accepts::find((&self.path, self.is_private), &self.text, Language::Toml);
        self
    }

    /// Returns the comments of the text that accept warnings.
    #[must_use]
    pub fn accepts(&self) -> Option<&Arc<Accepts>> {
        self.accepts.as_ref()
    }

    /// Returns whether log, status and API answers must not quote the text.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        self.is_private
    }

    /// Returns the replacement words for diagnostics of a private file; `None` for other files.
    pub(super) fn unquoted(&self, severity: Severity) -> Option<Box<Unquoted>> {
        self.is_private.then(|| Box::new(Unquoted::of_private(severity)))
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

    /// Returns the place of the byte `offset`.
    #[must_use]
    pub fn place(&self, offset: u32) -> Place {
        let at = to_usize(offset).min(self.text.len());
        let (line, column) = self.indexed(|index| index.place(&self.text, at));
        self.at(to_u32(line), to_u32(column))
    }

    /// Calls `find` with the index of the text. That of a short text is made for each call.
    fn indexed<T>(&self, find: impl FnOnce(&BlockIndex) -> T) -> T {
        match &self.index {
            Some(index) => find(index.get_or_init(|| BlockIndex::new(&self.text))),
            None => find(&BlockIndex::new(&self.text)),
        }
    }

    /// Returns the place at `line` and `column` of this file.
    #[must_use]
    pub fn at(&self, line: u32, column: u32) -> Place {
        Place { path: Arc::clone(&self.path), line, column }
    }

    /// Creates a diagnostic about `span`, with an excerpt of its line.
    #[must_use]
    pub fn diagnostic(&self, severity: Severity, span: Span, message: impl Into<String>) -> Diagnostic {
        let (place, excerpt) = (self.place(span.start), Some(Excerpt::cut(&self.text, span.range())));
        let unquoted = self.unquoted(severity);
        Diagnostic { severity, place, excerpt, unquoted, ..Diagnostic::about_file(&self.path, message) }
    }

    /// Creates a diagnostic about the string or word at `line` and `column`, for callers that did not keep the span. It
    /// is underlined up to the closing quote, a space or a comment.
    #[must_use]
    pub fn diagnostic_at(&self, severity: Severity, line: u32, column: u32, message: impl Into<String>) -> Diagnostic {
        let start = self.indexed(|index| index.offset(&self.text, to_usize(line), to_usize(column)));
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

impl Diagnostic {
    /// Sets the code of a warning, and accepts it if a comment of the file does so at its place.
    #[must_use]
    pub fn unless_accepted(self, code: Code, source: &Source) -> Self {
        let accept = source.accepts().and_then(|accepts| accepts.at(code, At::Line(self.place.line)));
        let warning = self.code(code);
        match accept {
            Some(accept) => warning.accepted(&accept.reason),
            None => warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::place::Locator;
    use super::*;

    #[test]
    fn places_in_a_large_text_are_found_without_a_walk_from_its_start() {
        /// A generous deadline; the walks took minutes.
        const AMPLE: Duration = Duration::from_secs(20);
        const LINE: &str = "[policy.x] # ü\n";
        let lines = 1 << 18;
        for text in [LINE.repeat(lines), LINE.trim_end().repeat(lines)] {
            let source = Source::new(Path::new("p.toml"), text.as_str());
            let (length, is_long) = (text.len() / lines, !text.contains('\n'));
            let start = Instant::now();
            for number in (0..lines).rev().step_by(64) {
                let place = source.place(to_u32(number * length + 1));
                let expected = if is_long { (1, to_u32(number * (length - 1)) + 2) } else { (to_u32(number) + 1, 2) };
                assert_eq!((place.line, place.column), expected);
                let told = source.diagnostic_at(Severity::Warning, place.line, place.column, "m");
                assert_eq!(told.place, place);
            }
            assert!(start.elapsed() < AMPLE, "{:?}", start.elapsed());
        }
    }

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
