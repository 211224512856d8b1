//! What is wrong with a file, where, and what mends it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::accept::{Accepts, At, Code};
use super::escape::{escaped, needs_escape};
use super::place::{Place, Source};

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not taken.
    Error,
    /// The file is taken; something in it is probably not meant.
    Warning,
    /// It would be a warning, but for a comment that accepts it with a reason.
    Accepted,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// True if it stops the file from being taken.
    pub severity: Severity,
    /// The kind of a warning.
    pub code: Option<Code>,
    /// Why it is accepted, as the comment that accepts it says.
    pub reason: Option<Arc<str>>,
    /// Where it is.
    pub place: Place,
    /// What is wrong: lower case, no full stop, values in backticks.
    pub message: String,
    /// The mend, where one can be named.
    pub help: Option<String>,
    /// Other places that have to do with it.
    pub related: Vec<Related>,
    /// The line it is in, unless it is about a file as a whole.
    pub excerpt: Option<Excerpt>,
    /// The words for readers who may not see what the file holds; `None` where `message` and `help` hold nothing of it.
    pub unquoted: Option<Box<Unquoted>>,
}

/// What a diagnostic says without any text of the file it is about: log, status and API answers have readers who may not
/// read that file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unquoted {
    /// What is wrong.
    pub message: String,
    /// The fix, where one can be named.
    pub help: Option<String>,
}

/// Another place that has to do with a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Related {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is there.
    pub message: String,
}

/// The line of a diagnostic (a part of it, if it is very long) and what in it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The text, without its line end.
    line: String,
    /// What is underlined, in bytes of `line`.
    span: Range<usize>,
    /// True if `line` is less than the whole line.
    cut: bool,
}

impl Excerpt {
    /// The most bytes kept before and behind the start of what is meant.
    const REACH: usize = 160;

    /// Cuts the line in which `span` starts out of `text`; what reaches into further lines is left off.
    pub(super) fn cut(text: &str, span: Range<usize>) -> Self {
        let at = floor_boundary(text, span.start);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let end = if text[start..end].ends_with('\r') { end - 1 } else { end }.max(at);
        let from = floor_boundary(text, at.saturating_sub(Self::REACH)).max(start);
        let to = floor_boundary(text, at + 2 * Self::REACH).min(end).max(at);
        let until = floor_boundary(text, span.end.clamp(at, to));
        Self { line: text[from..to].to_owned(), span: at - from..until - from, cut: from > start || to < end }
    }

    /// Returns the excerpt as it may be shown on a terminal. One character stands for one, so that columns stay.
    fn shown(&self) -> Self {
        let shown = |text: &str| -> String {
            let replaced = |character| if needs_escape(character) { char::REPLACEMENT_CHARACTER } else { character };
            // The renderer has a way of its own with tabs.
            text.chars().map(|character| if character == '\t' { character } else { replaced(character) }).collect()
        };
        let Range { start, end } = self.span;
        let parts = [&self.line[..start], &self.line[start..end], &self.line[end..]].map(shown);
        let start = parts[0].len();
        Self { span: start..start + parts[1].len(), line: parts.concat(), cut: self.cut }
    }
}

impl Diagnostic {
    /// Returns an error about a whole file.
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

    /// Adds the mend.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the kind of a warning.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    /// Makes a warning one that is accepted for a reason.
    #[must_use]
    pub fn accepted(mut self, reason: &Arc<str>) -> Self {
        (self.severity, self.reason) = (Severity::Accepted, Some(Arc::clone(reason)));
        self
    }

    /// Sets the kind of a warning, which one of the file's comments may accept at its place.
    #[must_use]
    pub fn unless_accepted(self, code: Code, source: &Source) -> Self {
        let accept = source.accepts().and_then(|accepts| accepts.at(code, At::Line(self.place.line)));
        let warning = self.code(code);
        match accept {
            Some(accept) => warning.accepted(&accept.reason),
            None => warning,
        }
    }

    /// Adds another place that has to do with it.
    #[must_use]
    pub fn related(mut self, place: Place, message: impl Into<String>) -> Self {
        self.related.push(Related { place, message: message.into() });
        self
    }

    /// Sets the words for readers who may not see what the file holds.
    #[must_use]
    pub fn unquoted(mut self, message: impl Into<String>, help: Option<&str>) -> Self {
        self.unquoted = Some(Box::new(Unquoted { message: message.into(), help: help.map(str::to_owned) }));
        self
    }

    /// Returns the one line that it is with all that it quotes, for a person who may read the file.
    #[must_use]
    pub fn with_quotes(&self) -> String {
        Self { unquoted: None, ..self.clone() }.to_string()
    }

    /// Returns the diagnostic as readers get it who may not see what the file holds.
    #[must_use]
    pub fn without_quotes(&self) -> Self {
        let Some(unquoted) = &self.unquoted else { return self.clone() };
        let Unquoted { message, help } = (**unquoted).clone();
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

    /// Returns whether it only counts others that were left out.
    #[must_use]
    pub fn is_count(&self) -> bool {
        self.place.line == 0 && self.message.starts_with("and ")
    }

    /// Returns whether it stops the file from being taken.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Returns whether it is a warning that nobody accepted.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }

    /// Draws it as rustc does: the place, the line, a caret, the mend; several lines, no line end behind the last.
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
            // The renderer counts columns in what it is given, which is not the whole line.
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

/// Writes one line, escaped, for log, status and API answers: `path:line:column: message: help (other place: what is
/// there)`. It quotes nothing of files that its readers may not see; [`Diagnostic::render`] does, for a person who can read
/// them.
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

/// Writes `path`, `line`, `column`, `severity`, `code`, `message`, `help`, `reason` (where it is accepted) and `related`,
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

/// The diagnostics of one file, bounded: a file can be wrong a million times.
#[derive(Debug, Default)]
pub struct Findings {
    /// The comments of the file that accept warnings.
    accepts: Option<Arc<Accepts>>,
    /// The first errors.
    errors: Vec<Diagnostic>,
    /// The first warnings.
    warnings: Vec<Diagnostic>,
    /// What is accepted, once for each comment.
    accepted: Vec<Diagnostic>,
    /// The lines and kinds of what is accepted.
    accepted_at: HashSet<(u32, Code)>,
    /// How many errors were left off.
    more_errors: usize,
    /// How many warnings of each kind there are, also of those left off.
    warned: BTreeMap<Option<Code>, usize>,
}

impl Findings {
    /// The most errors, and the most warnings of a kind, kept of one file.
    pub const KEPT: usize = 100;

    /// Starts with nothing for a file with these comments that accept warnings.
    #[must_use]
    pub fn of(accepts: Option<&Arc<Accepts>>) -> Self {
        Self { accepts: accepts.cloned(), ..Self::default() }
    }

    /// Returns whether no error was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds a warning of a kind at a place, unless a comment accepts it there; `make` is called if there is room for it.
    pub fn warn(&mut self, code: Code, at: impl Into<At>, make: impl FnOnce() -> Diagnostic) {
        match self.accepts.as_ref().and_then(|accepts| accepts.at(code, at.into())) {
            None => self.add(Severity::Warning, Some(code), || make().code(code)),
            Some(accept) if self.accepted_at.insert((accept.line, code)) => {
                self.accepted.push(make().code(code).accepted(&accept.reason));
            }
            Some(_) => {}
        }
    }

    /// Adds an error; `make` is called if there is room for it.
    pub fn error(&mut self, make: impl FnOnce() -> Diagnostic) {
        self.add(Severity::Error, None, make);
    }

    /// Adds what `make` returns, or counts it when there are enough of its kind already.
    pub(super) fn add(&mut self, severity: Severity, code: Option<Code>, make: impl FnOnce() -> Diagnostic) {
        match severity {
            Severity::Error if self.errors.len() < Self::KEPT => self.errors.push(make()),
            Severity::Error => self.more_errors += 1,
            Severity::Warning => {
                let warned = self.warned.entry(code).or_default();
                *warned += 1;
                if *warned <= Self::KEPT {
                    self.warnings.push(make());
                }
            }
            // A comment each.
            Severity::Accepted => self.accepted.push(make()),
        }
    }

    /// Adds what was found further on in the same file.
    pub fn append(&mut self, other: Self) {
        for diagnostic in other.errors.into_iter().chain(other.warnings).chain(other.accepted) {
            self.add(diagnostic.severity, diagnostic.code, || diagnostic);
        }
        for (code, count) in other.warned {
            // Those that were kept were counted as they were added.
            *self.warned.entry(code).or_default() += count.saturating_sub(Self::KEPT);
        }
        self.accepted_at.extend(other.accepted_at);
        self.more_errors += other.more_errors;
    }

    /// Returns all of them in the order of the file; what was left off is told by one more of its kind.
    #[must_use]
    pub fn into_diagnostics(self, path: &Path) -> Vec<Diagnostic> {
        let mut all = self.errors;
        all.extend(self.warnings);
        all.extend(self.accepted);
        all.sort_by_key(|diagnostic| (diagnostic.place.line, diagnostic.place.column));
        if self.more_errors > 0 {
            all.push(Diagnostic::about_file(path, format!("and {} more errors in this file", self.more_errors)));
        }
        for (code, count) in self.warned {
            let Some(count) = count.checked_sub(Self::KEPT).filter(|count| *count > 0) else { continue };
            let message = format!("and {count} more warnings in this file");
            all.push(Diagnostic { severity: Severity::Warning, code, ..Diagnostic::about_file(path, message) });
        }
        all
    }
}

/// Returns a value in backticks as messages show it: escaped, cut when it is long.
#[must_use]
pub fn quoted(value: &str) -> String {
    /// The most characters shown.
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

/// Converts a line or column for the renderer.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::place::{Source, Span};
    use super::*;

    /// A file of two lines.
    fn source() -> Source {
        Source::new(Path::new("policies/a.toml"), "[policy.a]\nallowed_hostnames = [\"*\"]\n")
    }

    #[test]
    fn one_line_holds_place_message_and_mend() {
        let diagnostic = source().error(Span { start: 32, end: 35 }, "pattern `*`: too wide").help("write `allow_all`");
        assert_eq!(diagnostic.to_string(), "policies/a.toml:2:22: pattern `*`: too wide: write `allow_all`");
        let json = serde_json::to_value(&diagnostic).unwrap();
        assert_eq!((json["line"].as_u64(), json["severity"].as_str()), (Some(2), Some("error")));
    }

    #[test]
    fn rendering_shows_the_line_a_caret_and_the_mend() {
        let other = source().place(0);
        let diagnostic = source().error(Span { start: 32, end: 35 }, "too wide").help("mend it").related(other, "here");
        let expected = "error: too wide\n --> policies/a.toml:2:22\n  |\n2 | allowed_hostnames = [\"*\"]\n  |                      ^^^\n  |\n  = note: policies/a.toml:1:1: here\n  = help: mend it";
        assert_eq!(diagnostic.render(false), expected);
        assert!(diagnostic.render(true).contains("\u{1b}["));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place_and_keeps_its_column() {
        let text = format!("x = [{}\"*\"]", "\"é.test\", ".repeat(10_000));
        let at = u32::try_from(text.len() - 4).unwrap();
        let diagnostic = Source::new(Path::new("long.toml"), text).error(Span { start: at, end: at + 3 }, "too wide");
        let rendered = diagnostic.render(false);
        assert!(rendered.contains(" --> long.toml:1:100006"), "{rendered}");
        assert!(rendered.len() < 2_000, "{}", rendered.len());
        assert!(rendered.contains("^^^"), "{rendered}");
    }

    #[test]
    fn a_whole_file_has_no_line() {
        let diagnostic = Diagnostic::about_file(Path::new("gone.toml"), "cannot be read: permission denied");
        assert_eq!(diagnostic.to_string(), "gone.toml: cannot be read: permission denied");
        assert_eq!(diagnostic.render(false), "error: cannot be read: permission denied\n--> gone.toml");
    }

    #[test]
    fn a_span_at_the_end_or_over_line_ends_is_drawn() {
        for span in [Span { start: 37, end: 37 }, Span { start: 0, end: 37 }, Span { start: 36, end: 90 }] {
            assert!(source().error(span, "x").render(false).contains("policies/a.toml:"), "{span:?}");
        }
    }

    #[test]
    fn findings_are_bounded_and_in_the_order_of_the_file() {
        let source = source();
        let mut findings = Findings::default();
        for start in (0..37).rev().cycle().take(250) {
            findings.error(|| source.error(Span { start, end: start + 1 }, "x"));
        }
        let mut more = Findings::default();
        more.warn(Code::Covered, Span::default(), || source.warning(Span::default(), "w"));
        assert!(more.is_clean());
        findings.append(more);
        assert!(!findings.is_clean());
        let all = findings.into_diagnostics(source.path());
        assert_eq!(all.len(), 102);
        assert!(all[..101].is_sorted_by_key(|diagnostic| diagnostic.place.clone()));
        assert_eq!(all[101].to_string(), "policies/a.toml: and 150 more errors in this file");
    }

    #[test]
    fn nothing_of_a_file_reaches_the_terminal_raw() {
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
    fn what_is_not_to_be_quoted_is_shown_to_a_person_at_a_terminal_alone() {
        let source = source();
        let diagnostic = source.error(Span { start: 32, end: 35 }, "pattern `secret`: bad").help("not `secret`");
        let diagnostic = diagnostic.related(source.place(0), "`secret` is here").unquoted("bad entry", Some("mend it"));
        assert_eq!(diagnostic.to_string(), "policies/a.toml:2:22: bad entry: mend it (see policies/a.toml:1:1)");
        assert!(diagnostic.render(false).contains("`secret`"));
        let told = diagnostic.without_quotes().render(false);
        assert!(!told.contains("secret") && !told.contains("allowed_hostnames"), "{told}");
    }

    #[test]
    fn values_are_shown_without_control_characters() {
        assert_eq!(quoted("a\u{1b}[31m\n\u{9b}\u{202e}"), r"`a\u{1b}[31m\n\u{9b}\u{202e}`");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 83);
    }
}
