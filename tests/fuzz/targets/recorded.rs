//! Recorded messages as they are kept in `tests/messages`: a comment that says what it is, then a line of hexadecimal.

/// Returns the messages in `text`: what each is, and its octets.
pub(super) fn recorded(text: &str) -> Vec<(&str, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut what = "";
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            what = comment;
            continue;
        }
        let octets = line.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
        messages.push((what, octets.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()));
    }
    messages
}
