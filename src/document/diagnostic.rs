//! Diagnostics of files: severity, code, place, message and fix; as one line, as JSON, or drawn as rustc does.
//!
//! Messages may quote files that only some readers may see. A diagnostic of such a file therefore has a second set of
//! words, [`Unquoted`], which logs, status and API answers use.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::code::Code;
use super::escape::{escaped, needs_escape};
use super::place::Place;

/// The severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is rejected.
    Error,
    /// The file is in force, but something in it is probably unintended.
    Warning,
    /// A warning that a comment in the file accepts, with a reason.
    Accepted,
}

/// One problem in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity; only an error keeps the file from being used.
    pub severity: Severity,
    /// The code of a warning; `None` for errors.
    pub code: Option<Code>,
    /// The reason in the comment that accepts the warning; `None` if none does.
    pub reason: Option<Arc<str>>,
    /// The position of the problem.
    pub place: Place,
    /// The message: lower case, no full stop, values in backticks.
    pub message: String,
    /// The fix, if one is known.
    pub help: Option<String>,
    /// Other places that matter for the problem.
    pub related: Vec<Related>,
    /// The line with the problem; `None` if the diagnostic is about a whole file.
    pub excerpt: Option<Excerpt>,
    /// The words for readers who may not see the file; `None` if `message` and `help` quote nothing of a private file.
    pub unquoted: Option<Box<Unquoted>>,
}

/// The words of a diagnostic without any text of its file: readers of log, status and API answers may not be allowed to
/// read that file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unquoted {
    /// The message, without text of the file.
    pub message: String,
    /// The fix, if one is known.
    pub help: Option<String>,
}

impl Unquoted {
    /// Returns the words for a diagnostic of a file that lies outside of the policies directory.
    pub(super) fn of_private(severity: Severity) -> Self {
        let what = match severity {
            Severity::Error => "an error",
            Severity::Warning | Severity::Accepted => "a warning",
        };
        let message = format!("{what} that is not quoted, as the file lies outside of the policies directory");
        Self { message, help: Some("`hostgate check` shows it".to_owned()) }
    }
}

/// Another place that matters for a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Related {
    /// The position, in any file.
    #[serde(flatten)]
    pub place: Place,
    /// The meaning of the place, such as "first defined here".
    pub message: String,
}

/// The line of a diagnostic (cut, if it is very long) with the span to underline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The text without its line feed.
    line: String,
    /// The bytes of `line` to underline.
    span: Range<usize>,
    /// True if `line` is only a part of the whole line.
    cut: bool,
}

impl Excerpt {
    /// The number of bytes of a long line that are kept before the start of the span; after it, twice as many, for the
    /// span and what follows.
    const REACH: usize = 160;

    /// Cuts the line in which `span` starts out of `text`. A span over several lines ends with its first line.
    pub(super) fn cut(text: &str, span: Range<usize>) -> Self {
        let at = floor_boundary(text, span.start);
        // Of a very long line only a part is kept, and looked at: a diagnostic must stay small whatever the file holds.
        let from = floor_boundary(text, at.saturating_sub(Self::REACH));
        let to = floor_boundary(text, at + 2 * Self::REACH);
        // One octet more on each side, and two for a carriage return, which belongs to the line end.
        let octets = text.as_bytes();
        let start = match octets[from.saturating_sub(1)..at].iter().rposition(|octet| *octet == b'\n') {
            Some(newline) => from.saturating_sub(1) + newline + 1,
            None => from.saturating_sub(1),
        };
        let most = (to + 2).min(text.len());
        let end = octets[at..most].iter().position(|octet| *octet == b'\n').map_or(most, |newline| at + newline);
        let end = if octets[start..end].ends_with(b"\r") { end - 1 } else { end }.max(at);
        let (from, to) = (from.max(start), to.min(end).max(at));
        let until = floor_boundary(text, span.end.clamp(at, to));
        Self { line: text[from..to].to_owned(), span: at - from..until - from, cut: from > start || to < end }
    }

    /// Returns the excerpt in a form that is safe for a terminal. Each character becomes one character, so that columns
    /// stay.
    fn shown(&self) -> Self {
        let shown = |text: &str| -> String {
            let replaced = |character| if needs_escape(character) { char::REPLACEMENT_CHARACTER } else { character };
            // The renderer expands tabs itself.
            text.chars().map(|character| if character == '\t' { character } else { replaced(character) }).collect()
        };
        let Range { start, end } = self.span;
        let parts = [&self.line[..start], &self.line[start..end], &self.line[end..]].map(shown);
        let start = parts[0].len();
        Self { span: start..start + parts[1].len(), line: parts.concat(), cut: self.cut }
    }
}

impl Diagnostic {
    /// Creates an error about a whole file.
    #[must_use]
    pub fn about_file(path: &Path, message: impl Into<String>) -> Self {
        let (severity, place) = (Severity::Error, Place::whole(path));
        Self {
            severity,
            code: None,
            reason: None,
            place,
            message: message.into(),
            help: None,
            related: Vec::new(),
            excerpt: None,
            unquoted: None,
        }
    }

    /// Sets the fix, which a rendered diagnostic shows as `help`.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the code of a warning.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    /// Turns a warning into an accepted one.
    #[must_use]
    pub fn accepted(mut self, reason: &Arc<str>) -> Self {
        (self.severity, self.reason) = (Severity::Accepted, Some(Arc::clone(reason)));
        self
    }

    /// Adds another place that matters for the problem.
    #[must_use]
    pub fn related(mut self, place: Place, message: impl Into<String>) -> Self {
        self.related.push(Related { place, message: message.into() });
        self
    }

    /// Sets the words for readers who may not see the file.
    #[must_use]
    pub fn unquoted(mut self, message: impl Into<String>, help: Option<&str>) -> Self {
        self.unquoted = Some(Box::new(Unquoted { message: message.into(), help: help.map(str::to_owned) }));
        self
    }

    /// Returns the diagnostic as one line with all quotes, for a person who may read the file.
    #[must_use]
    pub fn with_quotes(&self) -> String {
        Self { unquoted: None, ..self.clone() }.to_string()
    }

    /// Returns the diagnostic with the words for readers who may not see the file.
    #[must_use]
    pub fn without_quotes(&self) -> Self {
        let Some(unquoted) = &self.unquoted else { return self.clone() };
        let Unquoted { message, help } = (**unquoted).clone();
        // The messages of other places may quote the file as well.
        let related = self.related.iter().map(|related| Related { message: "see there".to_owned(), ..related.clone() });
        let (severity, code, place) = (self.severity, self.code, self.place.clone());
        Self {
            severity,
            code,
            reason: None,
            place,
            message,
            help,
            related: related.collect(),
            excerpt: None,
            unquoted: None,
        }
    }

    /// Returns whether the diagnostic only counts others that were omitted: it is about a whole file or directory, and
    /// its message begins with "and ".
    #[must_use]
    pub fn is_count(&self) -> bool {
        self.place.line == 0 && self.message.starts_with("and ")
    }

    /// Returns whether the diagnostic keeps the file from being used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Returns whether the diagnostic is a warning that no comment accepts.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }

    /// Draws the diagnostic as rustc does: place, line, caret, help. Several lines, without a line feed at the end.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Accepted => Level::NOTE,
        };
        let path = self.place.path.to_string_lossy();
        let path = escaped(&path);
        let origin = match (self.place.line, self.place.column) {
            (0, _) => Origin::path(path.as_ref()),
            (line, column) => Origin::path(path.as_ref()).line(index(line)).char_column(index(column)),
        };
        let message = escaped(&self.message);
        let mut title = level.primary_title(message.as_ref());
        if let Some(code) = self.code {
            title = title.id(code.as_str());
        }
        let mut group = Group::with_title(title);
        let excerpt = self.excerpt.as_ref().map(Excerpt::shown);
        group = match &excerpt {
            Some(Excerpt { line, span, cut: false }) => group.element(
                Snippet::source(line.as_str())
                    .path(path.as_ref())
                    .line_start(index(self.place.line))
                    .annotation(AnnotationKind::Primary.span(span.clone())),
            ),
            // The renderer would count columns from the start of the cut line, so the place is given as text.
            Some(Excerpt { line, span, cut: true }) => group.element(origin).element(
                Snippet::source(line.as_str())
                    .line_start(index(self.place.line))
                    .annotation(AnnotationKind::Primary.span(span.clone())),
            ),
            None => group.element(origin),
        };
        for Related { place, message } in &self.related {
            group =
                group.element(Level::NOTE.message(format!("{}: {}", escaped(&place.to_string()), escaped(message))));
        }
        let reason = self.reason.as_deref().map(escaped);
        // An accepted warning needs no fix, so its reason takes the place of the help.
        let help = self.help.as_deref().filter(|_| reason.is_none()).map(escaped);
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help.as_ref()));
        }
        if let Some(reason) = &reason {
            group = group.element(Level::NOTE.message(format!("accepted: {reason}")));
        }
        if color { Renderer::styled() } else { Renderer::plain() }.render(&[group])
    }
}

/// Writes the diagnostic as one escaped line for log, status and API answers: `path:line:column: message: help (other
/// place: its message)`. Private files are not quoted; [`Diagnostic::render`] quotes them for a person at a terminal.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, help) = match &self.unquoted {
            Some(unquoted) => (&unquoted.message, &unquoted.help),
            None => (&self.message, &self.help),
        };
        write!(f, "{}: {}", escaped(&self.place.to_string()), escaped(message))?;
        if let Some(help) = help {
            write!(f, ": {}", escaped(help))?;
        }
        for Related { place, message } in &self.related {
            let place = place.to_string();
            let place = escaped(&place);
            match self.unquoted {
                Some(_) => write!(f, " (see {place})")?,
                None => write!(f, " ({place}: {})", escaped(message))?,
            }
        }
        if let Some(code) = self.code {
            write!(f, " [{code}]")?;
        }
        Ok(())
    }
}

/// Serialises `path`, `line`, `column`, `severity`, `code`, `message`, `help`, `reason` (if accepted) and `related`,
/// for `--json`.
impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostic", 9)?;
        object.serialize_field("path", &self.place.path.to_string_lossy())?;
        object.serialize_field("line", &self.place.line)?;
        object.serialize_field("column", &self.place.column)?;
        object.serialize_field("severity", &self.severity)?;
        object.serialize_field("code", &self.code.map(Code::as_str))?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("help", &self.help)?;
        match &self.reason {
            Some(reason) => object.serialize_field("reason", &**reason)?,
            None => object.skip_field("reason")?,
        }
        object.serialize_field("related", &self.related)?;
        object.end()
    }
}

/// Returns a value in backticks for a message: escaped, and cut if it is long.
#[must_use]
pub fn quoted(value: &str) -> String {
    /// The limit of characters in a quoted value.
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}…`", escaped(&value[..end])),
        None => format!("`{}`", escaped(value)),
    }
}

/// Returns the last character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Converts a line or column number for the renderer.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::place::Span;
    use super::super::source::Source;
    use super::*;

    /// A file of two lines.
    fn source() -> Source {
        Source::new(Path::new("policies/a.toml"), "[policy.a]\nallowed_hostnames = [\"*\"]\n")
    }

    #[test]
    fn one_line_has_place_message_and_help() {
        let diagnostic = source().error(Span { start: 32, end: 35 }, "pattern `*`: too wide").help("write `allow_all`");
        assert_eq!(diagnostic.to_string(), "policies/a.toml:2:22: pattern `*`: too wide: write `allow_all`");
        let json = serde_json::to_value(&diagnostic).unwrap();
        assert_eq!((json["line"].as_u64(), json["severity"].as_str()), (Some(2), Some("error")));
    }

    #[test]
    fn rendering_shows_the_line_a_caret_and_the_help() {
        let other = source().place(0);
        let diagnostic = source().error(Span { start: 32, end: 35 }, "too wide").help("mend it").related(other, "here");
        let expected = "error: too wide\n --> policies/a.toml:2:22\n  |\n2 | allowed_hostnames = [\"*\"]\n  |                      ^^^\n  |\n  = note: policies/a.toml:1:1: here\n  = help: mend it";
        assert_eq!(diagnostic.render(false), expected);
        assert!(diagnostic.render(true).contains("\u{1b}["));
    }

    #[test]
    fn long_line_is_cut_around_the_place_and_keeps_its_column() {
        let text = format!("x = [{}\"*\"]", "\"é.test\", ".repeat(10_000));
        let at = u32::try_from(text.len() - 4).unwrap();
        let diagnostic = Source::new(Path::new("long.toml"), text).error(Span { start: at, end: at + 3 }, "too wide");
        let rendered = diagnostic.render(false);
        assert!(rendered.contains(" --> long.toml:1:100006"), "{rendered}");
        assert!(rendered.len() < 2_000, "{}", rendered.len());
        assert!(rendered.contains("^^^"), "{rendered}");
    }

    #[test]
    fn diagnostic_about_a_whole_file_has_no_line() {
        let diagnostic = Diagnostic::about_file(Path::new("gone.toml"), "cannot be read: permission denied");
        assert_eq!(diagnostic.to_string(), "gone.toml: cannot be read: permission denied");
        assert_eq!(diagnostic.render(false), "error: cannot be read: permission denied\n--> gone.toml");
    }

    #[test]
    fn span_at_the_end_or_over_several_lines_is_rendered() {
        for span in [Span { start: 37, end: 37 }, Span { start: 0, end: 37 }, Span { start: 36, end: 90 }] {
            assert!(source().error(span, "x").render(false).contains("policies/a.toml:"), "{span:?}");
        }
    }

    #[test]
    fn text_of_a_file_is_escaped_for_the_terminal() {
        let text = "ab\u{9b}2Jc = \u{feff}\"\u{202e}x\"";
        let source = Source::new(Path::new("p\u{85}.toml"), text);
        let span = Span { start: 11, end: u32::try_from(text.len()).unwrap() };
        let diagnostic = source.error(span, "m\u{9b}").help("h\u{200b}").related(source.place(0), "r\u{2066}");
        for shown in [diagnostic.render(false), diagnostic.to_string(), diagnostic.without_quotes().to_string()] {
            assert!(shown.chars().all(|character| character == '\n' || !needs_escape(character)), "{shown:?}");
        }
        assert!(diagnostic.render(false).contains(r"m\u{9b}"), "{}", diagnostic.render(false));
    }

    #[test]
    fn private_text_is_rendered_but_not_logged() {
        let source = source();
        let diagnostic = source.error(Span { start: 32, end: 35 }, "pattern `secret`: bad").help("not `secret`");
        let diagnostic = diagnostic.related(source.place(0), "`secret` is here").unquoted("bad entry", Some("mend it"));
        assert_eq!(diagnostic.to_string(), "policies/a.toml:2:22: bad entry: mend it (see policies/a.toml:1:1)");
        assert!(diagnostic.render(false).contains("`secret`"));
        let told = diagnostic.without_quotes().render(false);
        assert!(!told.contains("secret") && !told.contains("allowed_hostnames"), "{told}");
    }

    #[test]
    fn quoted_values_have_no_control_characters() {
        assert_eq!(quoted("a\u{1b}[31m\n\u{9b}\u{202e}"), r"`a\u{1b}[31m\n\u{9b}\u{202e}`");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 83);
    }
}
