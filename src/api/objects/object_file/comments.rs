//! Comments in arrays of strings, which stay when the API sets the array.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;
use toml_edit::Array;

/// Returns an array of strings as TOML with the comments of the array that it replaces: those of strings that stay, and
/// those at its beginning and end. Returns `None` if there are none, or either array has other values.
pub(super) fn keep(old: &Array, value: &Value) -> Option<toml_edit::Value> {
    let values: Vec<&str> = value.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let text = |raw: Option<&toml_edit::RawString>| raw.and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
    // Between two strings, a comment up to the end of the line belongs to the first, those below to the second.
    let (mut between, mut strings) = (vec![String::new()], Vec::new());
    for element in old {
        strings.push(element.as_str()?);
        let (before, after) = (text(element.decor().prefix()), text(element.decor().suffix()));
        between.last_mut()?.push_str(&before);
        between.push(after);
    }
    between.last_mut()?.push_str(&text(Some(old.trailing())));
    let halves: Vec<(&str, &str)> = between.iter().map(|text| text.split_once('\n').unwrap_or((text, ""))).collect();
    let line = |half: &str| if half.trim().is_empty() { String::new() } else { format!(" {}", half.trim()) };
    let mut indices: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (index, string) in strings.iter().enumerate() {
        indices.entry(string).or_default().push_back(index);
    }
    let (mut array, mut behind) = (Array::new(), line(halves[0].0));
    for value in values {
        let index = indices.get_mut(value).and_then(VecDeque::pop_front);
        let above = index.map(|index| halves[index].1).filter(|above| !above.is_empty()).unwrap_or("    ");
        let mut element = toml_edit::Value::from(value);
        element.decor_mut().set_prefix(format!("{behind}\n{above}"));
        array.push_formatted(element);
        behind = index.map(|index| line(halves[index + 1].0)).unwrap_or_default();
    }
    array.set_trailing_comma(!array.is_empty());
    array.set_trailing(format!("{behind}\n{}", halves[halves.len() - 1].1));
    array.to_string().contains('#').then(|| array.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::objects::object_file::ObjectFile;

    #[test]
    fn strings_that_stay_keep_their_comments() {
        const CASES: &[(&str, &[&str], &str)] = &[
            (
                "[ # why\n  \"a\", # inner\n  # Of b.\n  \"b\", 'c' # of c\n  # The end.\n]",
                &["c", "b", "new"],
                "[ # why\n    \"c\", # of c\n  # Of b.\n  \"b\",\n    \"new\",\n  # The end.\n]",
            ),
            ("[ # why\n  \"a\", # inner\n]", &["a", "a"], "[ # why\n  \"a\", # inner\n    \"a\",\n]"),
            ("[ # why\n  \"a\" # inner\n  , # more\n]", &[], "[ # why\n   # more\n]"),
            ("[ # why\n]", &["a"], "[ # why\n    \"a\",\n]"),
            ("[\"a\", \"b\"]", &["b"], "[\"b\"]"),
            ("[1, # one\n]", &["b"], "[\"b\"]"),
        ];
        for (old, values, expected) in CASES {
            let mut file = ObjectFile::parse(&format!("[policy.p]\nallowed_hostnames = {old}\n")).unwrap();
            file.set("policy", "p", "allowed_hostnames", &json!(values));
            assert_eq!(&*file.text(), format!("[policy.p]\nallowed_hostnames = {expected}\n"), "{old}");
            assert_eq!(
                ObjectFile::parse(&file.text()).unwrap().fields("policy", "p").unwrap()["allowed_hostnames"],
                json!(values)
            );
        }
    }
}
