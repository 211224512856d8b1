//! A bound on the memory that a JSON body takes once it is parsed.
//!
//! Some texts take a hundred times their length: an object with one field takes 640 octets, and eight of text. So the
//! values are counted in the text before it is parsed.

use serde_json::Value;

use crate::api::objects::object_file::Fields;

/// The octets that the values of one body may take: 150,000 hostnames do.
pub(in crate::api) const MAX_TREE: usize = 16 << 20;
/// The octets of an array or an object for each element: vectors grow by doubling, and nodes of maps are half full.
const ELEMENT: usize = 2 * size_of::<Value>();
/// The octets of the first node of a map: eleven keys and values.
const NODE: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;
/// The octets of an allocation, including the allocator's own.
const ALLOCATION: usize = 32;

/// Returns an estimate of the octets that the values of a JSON text take.
///
/// # Errors
/// The estimate is over [`MAX_TREE`].
pub(in crate::api) fn weight(body: &[u8]) -> Result<usize, String> {
    let (mut octets, mut is_string, mut is_escaped) = (0, false, false);
    for octet in body {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_string,
            b'"' => {
                octets += if is_string { 0 } else { ALLOCATION };
                is_string = !is_string;
            }
            _ if is_string => octets += 1,
            b'{' => octets += NODE,
            b'[' => octets += ALLOCATION + ELEMENT,
            b',' | b':' => octets += ELEMENT,
            _ => {}
        }
    }
    if octets <= MAX_TREE {
        return Ok(octets);
    }
    Err(format!("body: its values take more than {} MiB: send it in several requests", MAX_TREE >> 20))
}

/// Parses a body: no body has no fields, and a null is no value.
///
/// # Errors
/// The body is not a JSON object.
pub(in crate::api) fn parse(body: &[u8]) -> Result<Fields, String> {
    // A deletion comes from the Python SDK with an empty body and a JSON content type, and from the TypeScript SDK with `{}`.
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Fields::new());
    }
    match serde_json::from_slice(body).map_err(|error| format!("body: it is no JSON: {error}"))? {
        Value::Object(mut fields) => {
            // The SDKs send null for an argument that is `None`, and Runloop's API treats it as absent.
            fields.retain(|_, value| !value.is_null());
            Ok(fields)
        }
        Value::Null => Ok(Fields::new()),
        _ => Err("body: it is no JSON object: write `{\"name\": ...}`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_may_be_empty_and_nulls_are_absent() {
        for empty in ["", " \r\n", "null", "{}", r#"{"name":null}"#] {
            assert_eq!(parse(empty.as_bytes()), Ok(Fields::new()), "{empty}");
        }
        assert_eq!(parse(br#"{"a":{"b":null}}"#).unwrap().len(), 1);
        assert_eq!(parse(br#"{"a":1,"a":2.5}"#).unwrap()["a"], 2.5, "the last of equal keys counts");
        for (bad, expected) in [
            ("[]", "body: it is no JSON object"),
            ("{", "body: it is no JSON: EOF"),
            ("\u{feff}{}", "body: it is no JSON"),
            ("{} {}", "body: it is no JSON"),
            ("{\"a\":[1,]}", "body: it is no JSON"),
        ] {
            assert!(parse(bad.as_bytes()).unwrap_err().starts_with(expected), "{bad}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err() && parse("[".repeat(10_000).as_bytes()).is_err());
    }

    #[test]
    fn bodies_whose_values_take_a_hundred_times_their_length_are_refused() {
        let list =
            |element: &str| format!("{{\"x\":[{}]}}", vec![element; (1 << 20) / (element.len() + 1) - 4].join(","));
        for bad in ["{\"\":0}", "[]", "0", "{}", "\"\"", "[[[[]]]]", "\"x\""] {
            let told = weight(list(bad).as_bytes()).unwrap_err();
            assert_eq!(told, "body: its values take more than 16 MiB: send it in several requests", "{bad}");
        }
        let octets = weight(list("\"host.example.test\"").as_bytes()).unwrap();
        assert!(octets < MAX_TREE * 3 / 5, "50,000 hostnames take {octets}");
        assert!(weight(list("\"ab.test\"").as_bytes()).is_ok());
        let text = format!("{{\"x\":\"{}\"}}", "\\\"{,[".repeat(200_000));
        assert!(weight(text.as_bytes()).unwrap() < text.len() + 2_000, "a string is one value");
    }
}
