//! Query strings of requests to the API, with their escapes.

use clap::Args;

/// The filter of a list.
#[derive(Args)]
pub(in crate::cli) struct Filter {
    /// Only list objects whose name contains this text.
    #[arg(long)]
    name: Option<String>,
    /// Only list objects whose id or name contains this text.
    #[arg(long)]
    search: Option<String>,
    /// The most objects to list.
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
}

impl Filter {
    /// Returns the query string for one page.
    pub(super) fn query(&self, limit: usize, after: Option<&str>) -> String {
        let mut query = format!("limit={limit}&include_total_count=false");
        for (key, value) in
            [("name", self.name.as_deref()), ("search", self.search.as_deref()), ("starting_after", after)]
        {
            if let Some(value) = value {
                query.extend(["&", key, "=", &escape(value)]);
            }
        }
        query
    }
}

/// Escapes every octet that is not unreserved in a URI (RFC 3986 §2.3).
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.extend([byte >> 4, byte & 0xf].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let filter = Filter { name: Some("a b&c=\u{e4}".to_owned()), search: None, limit: 5 };
        assert_eq!(
            filter.query(5, Some("npol_1")),
            "limit=5&include_total_count=false&name=a%20b%26c%3D%C3%A4&starting_after=npol_1"
        );
        assert_eq!(escape("../x?y"), "..%2Fx%3Fy");
    }
}
