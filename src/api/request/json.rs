//! Request bodies: JSON read into values, within a bound on the memory that these take.
//!
//! Some texts take a hundred times their length: an object of one field takes 640 octets, and eight of text.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Octets that the values of one body may take: 150,000 hostnames do.
pub(in crate::api) const MAX_TREE: usize = 16 << 20;

/// Octets of text that take [`MAX_TREE`] at the worst: less text needs no more than its part of it.
const WORST: usize = 160;

/// Octets that an array or an object takes for each element: vectors grow by doubling, and nodes of maps are half full.
const ELEMENT: usize = 2 * size_of::<Value>();

/// Octets that the first node of a map takes: eleven keys and values.
const NODE: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;

/// Octets that an allocation takes with what the allocator keeps of it.
const ALLOCATION: usize = 32;

/// Returns how many octets the values of a body of `length` octets take at most.
pub(in crate::api) fn worst(length: usize) -> usize {
    length.saturating_mul(WORST).min(MAX_TREE)
}

/// Reads a body into a value; returns it with an estimate of the octets it takes.
///
/// # Errors
/// It is not valid JSON, or its values take more than [`MAX_TREE`].
pub(in crate::api) fn parse(body: &[u8]) -> Result<(Value, usize), String> {
    let tree = Tree { left: &Cell::new(MAX_TREE) };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = tree.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(value) => Ok((value, MAX_TREE - tree.left.get())),
        Err(_) if tree.left.get() == 0 => {
            Err(format!("body: its values take more than {} MiB: send it in several requests", MAX_TREE >> 20))
        }
        Err(error) => Err(format!("body: it is no JSON: {error}")),
    }
}

/// Reads values for as long as they fit.
#[derive(Clone, Copy)]
struct Tree<'l> {
    /// The octets that further values may take.
    left: &'l Cell<usize>,
}

impl Tree<'_> {
    /// Counts octets.
    fn take<E: serde::de::Error>(self, octets: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(octets).filter(|left| *left > 0);
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or_else(|| E::custom("too many values"))
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.take(ALLOCATION + value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        self.take(ALLOCATION)?;
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(self)? {
            self.take(ELEMENT)?;
            values.push(value);
        }
        values.shrink_to_fit();
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.take(ALLOCATION + key.len() + if fields.is_empty() { NODE } else { 2 * ELEMENT })?;
            fields.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::objects::object_file::tests::any_fields;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_body_is_read_as_serde_json_does(fields in any_fields(&["name", "metadata"])) {
            let text = Value::from(fields).to_string();
            let (value, _) = parse(text.as_bytes()).unwrap();
            prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_nothing_follows_the_value() {
        assert_eq!(parse(br#"{"a":1,"a":2.5}"#).unwrap().0, serde_json::json!({ "a": 2.5 }));
        for bad in ["{} {}", "{", "", "nul", "[1,]", "\"\u{1}\""] {
            assert!(parse(bad.as_bytes()).unwrap_err().starts_with("body: it is no JSON: "), "{bad}");
        }
    }

    #[test]
    fn bodies_whose_values_take_a_hundred_times_their_length_are_refused() {
        let list =
            |element: &str| format!("{{\"x\":[{}]}}", vec![element; (1 << 20) / (element.len() + 1) - 4].join(","));
        for bad in ["{\"\":0}", "[]", "0", "{}", "\"\"", "[[[[]]]]"] {
            let told = parse(list(bad).as_bytes()).unwrap_err();
            assert_eq!(told, "body: its values take more than 16 MiB: send it in several requests", "{bad}");
        }
        let (value, octets) = parse(list("\"host.example.test\"").as_bytes()).unwrap();
        let count = value["x"].as_array().unwrap().len();
        assert!(count > 50_000 && octets < MAX_TREE / 2, "{count} hostnames take {octets}");
        assert!(parse(list("\"x\"").as_bytes()).is_err() && parse(list("\"ab.test\"").as_bytes()).is_ok());
    }

    #[test]
    fn no_body_takes_more_than_its_worst() {
        for text in ["[]", "{}", "{\"\":0}", "[{\"\":{\"\":{\"\":0}}}]", "0", "\"\"", "[0]", "{\"a\":{},\"b\":[{}]}"] {
            let (_, octets) = parse(text.as_bytes()).unwrap();
            assert!(octets <= worst(text.len()), "{text}: {octets}");
        }
    }
}
