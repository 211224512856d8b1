//! A YAML tree with line numbers, also for JSON, which YAML includes. This module is the home of the crate
//! `saphyr-parser`.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser};

/// The limit of nested lists and maps; configurations have about ten levels.
pub(super) const MAX_NESTING: usize = 64;

/// A value and the line that it starts on.
#[derive(Debug)]
pub(super) struct Item<'t> {
    /// The line number, from 1.
    pub(super) line: u32,
    pub(super) value: Value<'t>,
}

/// A node of the tree.
#[derive(Debug)]
pub(super) enum Value<'t> {
    /// A scalar: text, a number, a boolean or null.
    Scalar(Cow<'t, str>),
    /// A list of values.
    List(Vec<Item<'t>>),
    /// A map in the order of the file. A key that is not a scalar is empty.
    Map(Vec<(Cow<'t, str>, Item<'t>)>),
    /// A reference to an anchored value. It is not followed, so that a small file cannot expand to a huge tree.
    Alias,
}

impl<'t> Item<'t> {
    /// Returns the value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.pairs().iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }

    /// Returns the keys and values of a map; empty for other values.
    pub(super) fn pairs(&self) -> &[(Cow<'t, str>, Self)] {
        match &self.value {
            Value::Map(pairs) => pairs,
            _ => &[],
        }
    }

    /// Returns the elements of a list; empty for other values.
    pub(super) fn elements(&self) -> &[Self] {
        match &self.value {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// Returns the text of a scalar; `None` for other values.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the scalars of a list, or the value itself if it is a scalar, with their lines.
    pub(super) fn texts(&self) -> impl Iterator<Item = (u32, &str)> {
        let own = self.text().map(|text| (self.line, text));
        own.into_iter().chain(self.elements().iter().filter_map(|item| Some((item.line, item.text()?))))
    }

    /// Calls `see` with the path, key and value of every map entry in the tree, outer ones first.
    pub(super) fn walk<'i>(&'i self, see: &mut impl FnMut(&[&'i str], &'i str, &'i Self)) {
        self.walk_within(&mut Vec::new(), see);
    }

    /// Walks the tree below the path `within`.
    fn walk_within<'i>(&'i self, within: &mut Vec<&'i str>, see: &mut impl FnMut(&[&'i str], &'i str, &'i Self)) {
        for element in self.elements() {
            element.walk_within(within, see);
        }
        for (key, value) in self.pairs() {
            see(within, key, value);
            within.push(key);
            value.walk_within(within, see);
            within.pop();
        }
    }

    /// Calls `see` with the line of every alias in the tree.
    pub(super) fn aliases(&self, see: &mut impl FnMut(u32)) {
        match &self.value {
            Value::Alias => see(self.line),
            Value::Scalar(_) => {}
            Value::List(elements) => elements.iter().for_each(|element| element.aliases(see)),
            Value::Map(pairs) => pairs.iter().for_each(|(_, value)| value.aliases(see)),
        }
    }
}

/// Parses all documents of a text.
///
/// # Errors
/// Fails if the text is not YAML, with the position and the reason.
pub(super) fn read(text: &str) -> Result<Vec<Item<'_>>, String> {
    /// A list or map that is still being read.
    enum Open<'t> {
        /// The start line and the elements.
        List(u32, Vec<Item<'t>>),
        /// The start line, the pairs, and the key whose value comes next.
        Map(u32, Vec<(Cow<'t, str>, Item<'t>)>, Option<Cow<'t, str>>),
    }
    let mut documents = Vec::new();
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let mark = error.marker();
            format!("line {}, column {}: it is not valid YAML: {}", mark.line(), mark.col() + 1, error.info())
        })?;
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        if open.len() > MAX_NESTING {
            return Err(format!("line {line}: lists and maps are nested more than {MAX_NESTING} deep"));
        }
        let item = match event {
            Event::Scalar(text, ..) => Item { line, value: Value::Scalar(text) },
            Event::Alias(_) => Item { line, value: Value::Alias },
            Event::SequenceStart(..) => {
                open.push(Open::List(line, Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(line, Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(line, elements)) => Item { line, value: Value::List(elements) },
                Some(Open::Map(line, pairs, _)) => Item { line, value: Value::Map(pairs) },
                None => continue,
            },
            _ => continue,
        };
        match open.last_mut() {
            None => documents.push(item),
            Some(Open::List(_, elements)) => elements.push(item),
            Some(Open::Map(_, pairs, key)) => match key.take() {
                Some(key) => pairs.push((key, item)),
                None => {
                    *key = Some(match item.value {
                        Value::Scalar(text) => text,
                        _ => Cow::Borrowed(""),
                    });
                }
            },
        }
    }
    Ok(documents)
}

/// Replaces tabs in JSON by spaces: YAML does not allow tabs as indentation, and JSON has none within strings.
pub(super) fn without_tabs(text: &str) -> Cow<'_, str> {
    let is_json = text.trim_start().starts_with(['{', '[']);
    if is_json && text.contains('\t') { Cow::Owned(text.replace('\t', " ")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_values_have_their_lines_and_aliases_are_not_followed() {
        let text = "a: &x\n  - one\n  - 'two'\nb: *x\nc: { d: [1, \"e\"] }\nf: >\n  g\n  h\n";
        let documents = read(text).unwrap();
        let root = &documents[0];
        assert_eq!(root.get("a").unwrap().texts().collect::<Vec<_>>(), [(2, "one"), (3, "two")]);
        assert_eq!(root.get("c").unwrap().get("d").unwrap().texts().collect::<Vec<_>>(), [(5, "1"), (5, "e")]);
        assert_eq!(root.get("f").unwrap().text(), Some("g h\n"));
        let mut lines = Vec::new();
        root.aliases(&mut |line| lines.push(line));
        assert_eq!(lines, [4]);
        let mut keys = Vec::new();
        root.walk(&mut |within, key, _| keys.push(format!("{}/{key}", within.join("/"))));
        assert_eq!(keys, ["/a", "/b", "/c", "c/d", "/f"]);
    }

    #[test]
    fn json_with_tabs_is_read() {
        let text = without_tabs("{\n\t\"a\": [\n\t\t\"x.test\",\n\t\t\"y.test\"\n\t]\n}");
        let documents = read(&text).unwrap();
        assert_eq!(documents[0].get("a").unwrap().texts().collect::<Vec<_>>(), [(3, "x.test"), (4, "y.test")]);
    }

    #[test]
    fn malformed_yaml_is_an_error_with_its_place_and_nesting_is_bounded() {
        assert!(read("a: [b\nc: d\n").unwrap_err().contains("line "), "{:?}", read("a: [b\nc: d\n"));
        assert!(read(&"[".repeat(10_000)).is_err());
        assert!(read(&format!("{}{}", "[".repeat(100), "]".repeat(100))).unwrap_err().contains("nested more than 64"));
        assert!(read(&"- ".repeat(10_000)).unwrap_err().contains("nested more than 64"));
    }
}
