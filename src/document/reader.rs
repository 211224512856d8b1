//! A TOML reader with typed getters that report errors and continue.
//!
//! A caller asks a [`Table`] for the keys it knows; the table reports wrong types at once and, in [`Table::finish`],
//! the keys that were never asked for. So a file's schema is written nowhere but in the code that reads it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::code::Code;
use super::diagnostic::{Diagnostic, Excerpt, Related, Severity, quoted};
use super::findings::Findings;
use super::place::{Locator, Span};
use super::source::Source;
use super::suggest::closest;

/// A value with its position in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value itself.
    pub value: T,
    /// The bytes of the value in the text.
    pub span: Span,
}

impl<T> Placed<T> {
    /// Replaces the value and keeps the span.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Placed<U> {
        Placed { value: map(self.value), span: self.span }
    }
}

/// Parses `source` and passes its root table to `take`. Returns the result of `take` and all diagnostics.
///
/// `take` also runs after a syntax error, on what the parser could recover, so that all errors are reported at once.
/// Its result is meaningful only if no diagnostic is an error.
pub fn read<T>(source: &Source, take: impl FnOnce(&mut Table<'_>) -> T) -> (T, Vec<Diagnostic>) {
    let readable = source.text().len() <= Source::MAX_LEN;
    let source = &if readable { source.clone().with_accepts() } else { source.clone() };
    let text = source.text();
    // A text that is too large is read as an empty one, and reported at the end.
    let (root, errors) = parse(if readable { text } else { "" });
    let reader = Reader {
        source,
        locator: Locator::new(if readable { text } else { "" }),
        findings: RefCell::new(Findings::of(source.accepts())),
        is_whole: Cell::new(readable && errors.is_empty()),
    };
    for error in &errors {
        let end = text.len();
        // An error without a position is reported at the end of the text.
        let span = error.span().unwrap_or(end..end);
        reader.add(None, span.into(), || Note { message: error.message().to_owned(), ..Note::default() });
    }
    let mut table = Table {
        reader: &reader,
        entries: root.get_ref(),
        span: Span::default(),
        what: String::new(),
        asked: Vec::new(),
    };
    let taken = take(&mut table);
    table.finish();
    let mut diagnostics = reader.findings.into_inner().into_diagnostics(source.path());
    if !readable {
        let limit = Source::MAX_LEN >> 20;
        let error = Diagnostic::about_file(source.path(), format!("the file is larger than {limit} MiB"));
        diagnostics.push(error.help("keep long lists of hostnames in a list file"));
    }
    (taken, diagnostics)
}

/// Parses a text; returns what could be understood, and the syntax errors.
///
/// The parser keeps each error in 600 octets of memory, and any two octets can be one. So from a long text with an error,
/// only a part is read: up to [`ERRORS_WITHIN`] octets after the first error.
fn parse(text: &str) -> (Spanned<DeTable<'_>>, Vec<toml::de::Error>) {
    if text.len() <= ERRORS_WITHIN {
        return DeTable::parse_recoverable(text);
    }
    match DeTable::parse(text) {
        Ok(root) => (root, Vec::new()),
        Err(first) => {
            let at = first.span().map_or(0, |span| span.start).saturating_add(ERRORS_WITHIN).min(text.len());
            let end = text.as_bytes()[..at].iter().rposition(|octet| *octet == b'\n').unwrap_or(0);
            let (root, errors) = DeTable::parse_recoverable(&text[..end]);
            // An error of the last line may be one of the whole text alone.
            (root, if errors.is_empty() { vec![first] } else { errors })
        }
    }
}

/// The octets after the first syntax error of a text in which further errors are looked for.
const ERRORS_WITHIN: usize = 16 << 10;

/// The state that all tables of one document share.
struct Reader<'t> {
    source: &'t Source,
    locator: Locator<'t>,
    /// The diagnostics so far.
    findings: RefCell<Findings>,
    /// True if the syntax is valid. Otherwise a key that seems missing may be in the part that was not parsed.
    is_whole: Cell<bool>,
}

impl Reader<'_> {
    /// Adds an error, or a warning if there is a code. `make` is called only if the diagnostic is kept.
    fn add(&self, code: Option<Code>, span: Span, make: impl FnOnce() -> Note) {
        let severity = if code.is_some() { Severity::Warning } else { Severity::Error };
        let make = || {
            let Note { message, help, related } = make();
            let (line, column) = self.locator.locate(span.start);
            let place = self.source.at(line, column);
            let excerpt = Some(Excerpt::cut(self.source.text(), span.range()));
            let unquoted = self.source.unquoted(severity);
            Diagnostic { severity, code, reason: None, place, message, help, related, excerpt, unquoted }
        };
        let mut findings = self.findings.borrow_mut();
        match code {
            Some(code) => findings.warn(code, span, make),
            None => findings.error(make),
        }
    }
}

/// The words of a diagnostic, without its position.
#[derive(Debug, Default)]
pub struct Note {
    /// The message: lower case, no full stop, values in backticks.
    pub message: String,
    /// The fix, if one is known.
    pub help: Option<String>,
    /// Other places that matter for the diagnostic.
    pub related: Vec<Related>,
}

/// A TOML table that is being read.
///
/// Every getter marks its key as known and reports a value of the wrong type. [`Table::finish`] then reports unknown
/// keys.
pub struct Table<'r> {
    reader: &'r Reader<'r>,
    entries: &'r DeTable<'r>,
    /// The span of the table's own key (the header's last part); for an element of an array, of the whole element.
    span: Span,
    /// The description of the table in messages, such as `` policy `build` ``; empty for the root.
    what: String,
    /// The keys that are known: those asked for.
    asked: Vec<&'static str>,
}

impl<'r> Table<'r> {
    /// Returns the span of the table's name; for an element of an array, of the whole element.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// Returns the source that is being read.
    #[must_use]
    pub fn source(&self) -> &'r Source {
        self.reader.source
    }

    /// Returns the line and column of `span`, from 1.
    #[must_use]
    pub fn locate(&self, span: Span) -> (u32, u32) {
        self.reader.locator.locate(span.start)
    }

    /// Returns whether the table has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether the whole text was parsed. If not, a key that seems missing may exist.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.reader.is_whole.get()
    }

    /// Returns whether `key` is a table that contains the table `name`. Does not mark the key as known.
    #[must_use]
    pub fn has_table(&self, key: &str, name: &str) -> bool {
        let table = self.entries.get(key).and_then(|value| value.get_ref().as_table());
        table.and_then(|table| table.get(name)).is_some_and(|value| value.get_ref().is_table())
    }

    /// Returns the span of `key` itself; `None` if the table does not have it. Does not mark the key as known.
    #[must_use]
    pub fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.get_key_value(key).map(|(key, _)| key.span().into())
    }

    /// Returns the span of the value of `key` if it is a string, for [`Source::string`]. Does not mark the key as
    /// known.
    #[must_use]
    pub fn string_span(&self, key: &str) -> Option<Span> {
        self.entries.get(key).filter(|value| value.get_ref().is_str()).map(|value| value.span().into())
    }

    /// Reports an error at `span`.
    pub fn error(&self, span: Span, message: impl Into<String>, help: Option<String>) {
        self.reader.add(None, span, || Note { message: message.into(), help, related: Vec::new() });
    }

    /// Reports a warning at `span`.
    pub fn warning(&self, code: Code, span: Span, message: impl Into<String>, help: Option<String>) {
        self.warn(code, span, || Note { message: message.into(), help, related: Vec::new() });
    }

    /// Reports a warning at `span`. `make` is called only if the warning is kept.
    pub fn warn(&self, code: Code, span: Span, make: impl FnOnce() -> Note) {
        self.reader.add(Some(code), span, make);
    }

    /// Reports that `key` is missing, unless the text has a syntax error that may have hidden it.
    pub fn missing(&self, key: &str, help: impl Into<String>) {
        if self.is_whole() {
            self.error(self.span, format!("{}missing key `{key}`", self.prefix()), Some(help.into()));
        }
    }

    /// Returns the string at `key`; reports another type.
    pub fn string(&mut self, key: &'static str) -> Option<Placed<&'r str>> {
        let value = self.value(key)?;
        self.typed(key, value, "a string", DeValue::as_str)
    }

    /// Returns the boolean at `key`; reports another type.
    pub fn boolean(&mut self, key: &'static str) -> Option<Placed<bool>> {
        let value = self.value(key)?;
        self.typed(key, value, "`true` or `false`", DeValue::as_bool)
    }

    /// Returns the integer at `key`; reports another type, or a number outside `range`.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Placed<u64>> {
        let value = self.value(key)?;
        let integer = self.typed(key, value, "an integer", DeValue::as_integer)?;
        let number = u64::from_str_radix(integer.value.as_str(), integer.value.radix()).ok();
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(integer.map(|_| number));
        }
        let message = format!("{}`{key}` is out of range", self.prefix());
        self.error(integer.span, message, Some(format!("write a number from {} to {}", range.start(), range.end())));
        None
    }

    /// Returns the value paired with the word at `key`; reports a string that is not one of `words`.
    pub fn one_of<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<Placed<T>> {
        let text = self.string(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(text.map(|_| *value));
        }
        let known = words.iter().map(|(word, _)| *word);
        let help = match closest(text.value, known.clone()) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => format!("write {}", list(known.map(|word| format!("\"{word}\"")), "or")),
        };
        self.error(text.span, format!("{}`{key}` cannot be {}", self.prefix(), quoted(text.value)), Some(help));
        None
    }

    /// Returns the array of strings at `key`, each with its span. Elements of another type are reported and skipped.
    pub fn strings(&mut self, key: &'static str) -> Option<Placed<Vec<Placed<&'r str>>>> {
        let value = self.value(key)?;
        if let DeValue::String(text) = value.get_ref() {
            // A common mistake is one string with several values, so the help shows these as an array.
            let parts = text.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty());
            let parts: Vec<_> = parts.map(|part| format!("\"{}\"", part.escape_debug())).collect();
            let help = format!("write `{key} = [{}]`", parts.join(", "));
            let message = format!("{}`{key}` must be an array of strings, not a string", self.prefix());
            self.error(value.span().into(), message, Some(help));
            return None;
        }
        let array = self.typed(key, value, "an array of strings", DeValue::as_array)?;
        let mut strings = Vec::with_capacity(array.value.len());
        for element in array.value {
            match element.get_ref() {
                DeValue::String(text) => strings.push(Placed { value: &**text, span: element.span().into() }),
                other => {
                    let message =
                        format!("{}`{key}` must hold strings, not {}", self.prefix(), with_article(other.type_str()));
                    self.error(element.span().into(), message, Some("put it between quotes".to_owned()));
                }
            }
        }
        Some(array.map(|_| strings))
    }

    /// Returns the table at `key`; reports another type.
    pub fn table(&mut self, key: &'static str) -> Option<Self> {
        let span = self.key_span(key);
        let value = self.value(key)?;
        let table = self.typed(key, value, "a table", DeValue::as_table)?;
        let what = format!("`{key}`");
        Some(Table {
            reader: self.reader,
            entries: table.value,
            span: span.unwrap_or(table.span),
            what,
            asked: Vec::new(),
        })
    }

    /// Returns the tables `[key.NAME]` with their names, in the order of the file.
    pub fn tables(&mut self, key: &'static str) -> Vec<(Placed<&'r str>, Self)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(group) = self.typed(key, value, "a table of tables", DeValue::as_table) else { return Vec::new() };
        let mut tables = Vec::new();
        for (name, value) in group.value {
            let span = name.span().into();
            let Some(table) = value.get_ref().as_table() else {
                let found = with_article(value.get_ref().type_str());
                let message = format!("`{key}.{}` must be a table, not {found}", name.get_ref().escape_debug());
                self.error(span, message, Some(format!("write `[{key}.ID]` with its keys below")));
                continue;
            };
            let what = format!("{key} {}", quoted(name.get_ref()));
            let table = Table { reader: self.reader, entries: table, span, what, asked: Vec::new() };
            tables.push((Placed { value: &**name.get_ref(), span }, table));
        }
        // The parser sorts keys by name; diagnostics and conflicts are reported in the order of the file.
        tables.sort_by_key(|(name, _)| name.span);
        tables
    }

    /// Returns the elements of the array of tables `[[key]]`. Elements of another type are reported and skipped.
    pub fn array_of_tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(array) = self.typed(key, value, "an array of tables", DeValue::as_array) else { return Vec::new() };
        let mut tables = Vec::new();
        for element in array.value {
            if let Some(entries) = element.get_ref().as_table() {
                tables.push(self.element(key, element, entries));
            } else {
                let found = with_article(element.get_ref().type_str());
                let message = format!("`{key}` must hold tables, not {found}");
                self.error(element.span().into(), message, Some(format!("write `[[{key}]]` with its keys below")));
            }
        }
        tables
    }

    /// Returns whether `key` is an array of exactly the `expected` strings. Does not mark the key as known.
    #[must_use]
    pub fn strings_are(&self, key: &str, expected: &[&str]) -> bool {
        let array = self.entries.get(key).and_then(|value| value.get_ref().as_array());
        array.is_some_and(|array| {
            array.iter().map(|element| element.get_ref().as_str()).eq(expected.iter().copied().map(Some))
        })
    }

    /// Marks `key` as known without reading it.
    pub fn accept(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    /// Returns the elements of an array that may mix strings and tables. Elements of another type are reported and
    /// skipped.
    pub fn strings_or_tables(&mut self, key: &'static str) -> Vec<Element<'r>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        if let DeValue::String(text) = value.get_ref() {
            let help = format!("write `{key} = [\"{}\"]`", text.escape_debug());
            self.error(
                value.span().into(),
                format!("{}`{key}` must be an array, not a string", self.prefix()),
                Some(help),
            );
            return Vec::new();
        }
        let Some(array) = self.typed(key, value, "an array", DeValue::as_array) else { return Vec::new() };
        let mut elements = Vec::with_capacity(array.value.len());
        for element in array.value {
            match element.get_ref() {
                DeValue::String(text) => {
                    elements.push(Element::Text(Placed { value: text, span: element.span().into() }));
                }
                DeValue::Table(entries) => elements.push(Element::Table(self.element(key, element, entries))),
                other => {
                    let found = with_article(other.type_str());
                    let message = format!("{}`{key}` must hold strings or tables, not {found}", self.prefix());
                    self.error(element.span().into(), message, None);
                }
            }
        }
        elements
    }

    /// Returns the string or table at `key`; reports another type.
    pub fn string_or_table(&mut self, key: &'static str) -> Option<Element<'r>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Element::Text(Placed { value: text, span: value.span().into() })),
            DeValue::Table(entries) => Some(Element::Table(self.element(key, value, entries))),
            other => {
                let found = with_article(other.type_str());
                let message = format!("{}`{key}` must be a string or a table, not {found}", self.prefix());
                self.error(value.span().into(), message, None);
                None
            }
        }
    }

    /// Returns the reader of a table without a name of its own: an element of the array `key`, or the value of `key`.
    fn element(&self, key: &str, element: &Spanned<DeValue<'r>>, entries: &'r DeTable<'r>) -> Self {
        let (span, what) = (element.span().into(), format!("`{key}`"));
        Table { reader: self.reader, entries, span, what, asked: Vec::new() }
    }

    /// Reports every key that was not asked for; call it after the last getter.
    pub fn finish(&self) {
        for key in self.entries.keys() {
            let name = &**key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            self.reader.add(None, key.span().into(), || {
                let help = match closest(name, self.asked.iter().copied()) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None if self.asked.is_empty() => "remove it".to_owned(),
                    None => {
                        format!("known keys are {}", list(self.asked.iter().map(|known| format!("`{known}`")), "and"))
                    }
                };
                Note {
                    message: format!("{}unknown key {}", self.prefix(), quoted(name)),
                    help: Some(help),
                    ..Note::default()
                }
            });
        }
    }

    /// Returns the value of `key` and marks the key as known.
    fn value(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'r>>> {
        self.asked.push(key);
        self.entries.get(key)
    }

    /// Returns the result of `convert` for a value; reports a value of another type than `expected`.
    fn typed<T>(
        &self,
        key: &str,
        value: &'r Spanned<DeValue<'r>>,
        expected: &str,
        convert: impl FnOnce(&'r DeValue<'r>) -> Option<T>,
    ) -> Option<Placed<T>> {
        let span = value.span().into();
        let converted = convert(value.get_ref());
        if converted.is_none() {
            // A table's span is its header or empty, so the error points to its key.
            let span = if value.get_ref().is_table() { self.key_span(key).unwrap_or(span) } else { span };
            let found = with_article(value.get_ref().type_str());
            self.error(span, format!("{}`{key}` must be {expected}, not {found}", self.prefix()), None);
        }
        converted.map(|value| Placed { value, span })
    }

    /// Returns the prefix of messages about this table.
    fn prefix(&self) -> Cow<'_, str> {
        if self.what.is_empty() { Cow::Borrowed("") } else { Cow::Owned(format!("{}: ", self.what)) }
    }
}

/// A value that may be a string or a table.
pub enum Element<'r> {
    /// A string element with its span.
    Text(Placed<&'r str>),
    /// An inline table, or one under a `[[key]]` header.
    Table(Table<'r>),
}

/// Returns a type name with its indefinite article.
fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// Joins words as in a sentence: `a, b and c`.
fn list(words: impl Iterator<Item = String>, and: &str) -> String {
    let words: Vec<String> = words.collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {and} {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Reads `text` with `take` and returns the diagnostics as lines.
    fn complaints(text: &str, take: impl FnOnce(&mut Table<'_>)) -> Vec<String> {
        let source = Source::new(Path::new("t.toml"), text);
        read(&source, take).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_have_their_spans() {
        let source =
            Source::new(Path::new("t.toml"), "s = 'x'\nb = true\ni = 0x10\n[t.one]\n[t.two]\n[[a]]\nn = ['p', 'q']");
        let ((), diagnostics) = read(&source, |root| {
            assert_eq!(root.string("s").map(|text| (text.value, root.locate(text.span))), Some(("x", (1, 5))));
            assert_eq!(root.boolean("b").map(|flag| flag.value), Some(true));
            assert_eq!(root.integer("i", 0..=16).map(|number| number.value), Some(16));
            assert_eq!(root.string("absent"), None);
            assert_eq!((root.string_span("b"), root.string_span("absent")), (None, None));
            assert_eq!(
                root.string_span("s").map(|span| (span, source.string(span))),
                Some((Span { start: 4, end: 7 }, "x".into()))
            );
            let tables = root.tables("t");
            let names: Vec<_> = tables.iter().map(|(name, table)| (name.value, root.locate(table.span()))).collect();
            assert_eq!(names, [("one", (4, 4)), ("two", (5, 4))]);
            let mut elements = root.array_of_tables("a");
            let strings = elements[0].strings("n").unwrap().value;
            let places: Vec<_> = strings.iter().map(|text| (text.value, root.locate(text.span))).collect();
            assert_eq!(places, [("p", (7, 6)), ("q", (7, 11))]);
            assert_eq!(root.locate(elements[0].span()), (6, 1));
            elements[0].finish();
        });
        assert_eq!(diagnostics, []);
    }

    #[test]
    fn wrong_types_are_reported_with_the_expected_type() {
        const CASES: &[(&str, &str)] = &[
            ("s = 1", "t.toml:1:5: `s` must be a string, not an integer"),
            ("b = 'true'", "t.toml:1:5: `b` must be `true` or `false`, not a string"),
            ("i = 1.5", "t.toml:1:5: `i` must be an integer, not a float"),
            ("i = -1", "t.toml:1:5: `i` is out of range: write a number from 1 to 9"),
            ("i = 10", "t.toml:1:5: `i` is out of range: write a number from 1 to 9"),
            ("l = 'x'", "t.toml:1:5: `l` must be an array of strings, not a string: write `l = [\"x\"]`"),
            (
                "l = 'x, y z'",
                "t.toml:1:5: `l` must be an array of strings, not a string: write `l = [\"x\", \"y\", \"z\"]`",
            ),
            ("l = ['x', 1]", "t.toml:1:11: `l` must hold strings, not an integer: put it between quotes"),
            ("w = 'of'", "t.toml:1:5: `w` cannot be `of`: did you mean \"off\"?"),
            ("w = 'never'", "t.toml:1:5: `w` cannot be `never`: write \"on\" or \"off\""),
            ("[s]", "t.toml:1:2: `s` must be a string, not a table"),
            ("t = 1", "t.toml:1:5: `t` must be a table of tables, not an integer"),
            ("t.x = 1", "t.toml:1:3: `t.x` must be a table, not an integer: write `[t.ID]` with its keys below"),
            ("a = [1]", "t.toml:1:6: `a` must hold tables, not an integer: write `[[a]]` with its keys below"),
            ("[lst]", "t.toml:1:2: unknown key `lst`: known keys are `s`, `b`, `i`, `l`, `w`, `t` and `a`"),
            ("ww = 1", "t.toml:1:1: unknown key `ww`: did you mean `w`?"),
        ];
        for (text, expected) in CASES {
            let found = complaints(text, |root| {
                root.string("s");
                root.boolean("b");
                root.integer("i", 1..=9);
                root.strings("l");
                root.one_of("w", &[("on", true), ("off", false)]);
                root.tables("t");
                root.array_of_tables("a");
            });
            assert_eq!(found, [*expected], "{text}");
        }
    }

    #[test]
    fn errors_after_a_syntax_error_are_reported_too() {
        let found = complaints("s = \nx = 1\ny = 'unclosed\n", |root| {
            root.string("s");
            root.missing("must", "write it");
        });
        assert!(found.iter().any(|line| line.starts_with("t.toml:1:")), "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("t.toml:2:1: unknown key `x`")), "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("t.toml:3:")), "{found:?}");
        assert!(!found.iter().any(|line| line.contains("missing")), "{found:?}");
    }

    #[test]
    fn duplicate_key_is_an_error_with_its_place() {
        let found = complaints("s = 'x'\ns = 'y'\n", |root| {
            root.string("s");
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("t.toml:2:1: "), "{found:?}");
    }
}
