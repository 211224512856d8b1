//! Escaping of text from files and clients for terminals, logs and JSON.
//!
//! Without it, a crafted name could forge log lines or send control sequences to an operator's terminal.

use std::borrow::Cow;

/// Escapes every character that a terminal acts on or does not show: control characters (line feeds too), bidirectional
/// overrides, invisible and unassigned characters. Backslashes stay as they are, so the result is for people, not for a
/// parser.
///
/// Every text from a file or a client goes through here before it is printed or logged.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if needs_escape(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Escapes each line of a text and keeps the line feeds.
#[must_use]
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|character| character != '\n' && needs_escape(character)) {
        return Cow::Borrowed(text);
    }
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n").into()
}

/// Escapes the characters that [`escaped`] escapes in JSON text, in JSON's own notation. In serialised JSON they occur
/// only within strings, except line feeds, which are kept.
#[must_use]
pub fn escaped_json(text: &str) -> Cow<'_, str> {
    let needs_escape = |character: char| character != '\n' && needs_escape(character);
    if !text.chars().any(needs_escape) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if needs_escape(character) {
            // JSON escapes are UTF-16 code units (RFC 8259 §7).
            let mut units = [0; 2];
            out.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(character);
        }
    }
    out.into()
}

/// Cuts a text to at most `most` octets at a character boundary; an ellipsis marks the cut.
#[must_use]
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = (0..=most.saturating_sub('…'.len_utf8())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// Returns whether [`escaped`] escapes a character.
pub(super) fn needs_escape(character: char) -> bool {
    match character {
        ' '..='~' => false,
        // Beyond ASCII the standard library knows which characters are visible. It also escapes combining marks.
        _ => character.escape_debug().len() > 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_escaped() {
        const CASES: &[(&str, &str)] = &[
            ("plain \"text\" 'q' \\ äß漢", "plain \"text\" 'q' \\ äß漢"),
            ("\u{1b}[2J\r\n\t\0\u{7f}", r"\u{1b}[2J\r\n\t\u{0}\u{7f}"),
            ("\u{9b}2J\u{85}", r"\u{9b}2J\u{85}"),
            ("\u{feff}a\u{200b}\u{200e}\u{ad}", r"\u{feff}a\u{200b}\u{200e}\u{ad}"),
            ("\u{202e}x\u{2066}y\u{61c}", r"\u{202e}x\u{2066}y\u{61c}"),
            ("\u{2028}\u{2029}\u{e0041}\u{fff9}", r"\u{2028}\u{2029}\u{e0041}\u{fff9}"),
        ];
        for (text, expected) in CASES {
            assert_eq!(escaped(text), *expected, "{text:?}");
        }
        assert_eq!(escaped_lines("a\nb\u{9b}\n"), "a\nb\\u{9b}\n");
    }

    #[test]
    fn escaped_json_parses_to_the_same_value() {
        let value = serde_json::json!({ "a\u{9b}": "\u{202e}\u{e0041}\n\u{feff}ä" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escaped_json(&text);
        assert!(escaped.chars().all(|character| character == '\n' || !needs_escape(character)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn text_is_cut_at_a_character_boundary() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("äääää", 8), "ää…");
        assert_eq!(shortened("long text", 3), "…");
    }
}
