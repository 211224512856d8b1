//! Fields of requests, checked one by one; what is wrong is noted and the rest goes on.

use serde_json::Value;

use crate::api::objects::object_file::Fields;
use crate::api::request::error::Wrongs;
use crate::document::{closest, quoted};

/// Notes that a field is missing which is what people call an object.
pub(in crate::api) fn require(fields: &Fields, key: Option<&str>, wrongs: &mut Wrongs) {
    if let Some(key) = key.filter(|key| !fields.contains_key(*key)) {
        wrongs.add(format!("{key}: it is missing: write what people are to call it"));
    }
}

/// Takes a text out of the fields: a label for people, of one line.
pub(in crate::api) fn label(fields: &mut Fields, key: &str, wrongs: &mut Wrongs) -> Option<Value> {
    let value = fields.remove(key)?;
    match value.as_str() {
        None => wrongs.add(not(key, "a string", &value)),
        Some("") => wrongs.add(format!("{key}: it is empty: write what people are to call it")),
        Some(text) if text.chars().count() > LONGEST_LABEL => {
            wrongs.add(format!("{key}: it is longer than {LONGEST_LABEL} characters: shorten it"));
        }
        Some(text) if text.chars().any(char::is_control) => {
            wrongs.add(format!("{key}: it holds a control character: remove it"));
        }
        Some(_) => return Some(value),
    }
    None
}

/// Takes a text of any length out of the fields.
pub(in crate::api) fn text(fields: &mut Fields, key: &str, wrongs: &mut Wrongs) -> Option<Value> {
    typed(fields, key, "a string", wrongs, Value::is_string)
}

/// Takes a flag out of the fields.
pub(in crate::api) fn flag(fields: &mut Fields, key: &str, wrongs: &mut Wrongs) -> Option<bool> {
    typed(fields, key, "true or false", wrongs, Value::is_boolean)?.as_bool()
}

/// Takes an object out of the fields; nulls in it are absent.
pub(in crate::api) fn object(fields: &mut Fields, key: &str, wrongs: &mut Wrongs) -> Option<Fields> {
    match typed(fields, key, "an object", wrongs, Value::is_object) {
        Some(Value::Object(mut object)) => {
            object.retain(|_, value| !value.is_null());
            Some(object)
        }
        _ => None,
    }
}

/// Takes an array out of the fields.
pub(in crate::api) fn array(fields: &mut Fields, key: &str, wrongs: &mut Wrongs) -> Option<Vec<Value>> {
    match typed(fields, key, "an array", wrongs, Value::is_array) {
        Some(Value::Array(values)) => Some(values),
        _ => None,
    }
}

/// Takes free text by key out of the fields.
pub(in crate::api) fn metadata(fields: &mut Fields, wrongs: &mut Wrongs) -> Option<Fields> {
    let metadata = object(fields, "metadata", wrongs)?;
    for (key, value) in metadata.iter().filter(|(_, value)| !value.is_string()) {
        wrongs.add(not(&format!("metadata.{}", key.escape_debug()), "a string", value));
    }
    Some(metadata)
}

/// Takes the id of a policy out of launch parameters.
pub(in crate::api) fn launch_policy(launch: &mut Fields, wrongs: &mut Wrongs) -> Option<Value> {
    let id = launch.remove("network_policy_id")?;
    if id.is_string() {
        return Some(id);
    }
    wrongs.add(not("launch_parameters.network_policy_id", "a string", &id));
    None
}

/// Refuses fields that are slips of those that say which policy applies or what it allows: kept as unknown ones they
/// would restrict nobody, and nobody would be told. `meant` has each such field and where it is to be written; `at` is where
/// `fields` are.
pub(in crate::api) fn near_misses(fields: &Fields, at: &str, meant: &[(&str, &str)], wrongs: &mut Wrongs) {
    // As `closest` folds case and `-`, only `_` is left to be folded.
    let folded = |name: &str| name.replace(['_', '-', ' ', '.'], "").to_lowercase();
    let known: Vec<(String, &str)> = meant.iter().map(|(name, place)| (folded(name), *place)).collect();
    for key in fields.keys() {
        let word = folded(key);
        if let Some(close) = closest(&word, known.iter().map(|(name, _)| name.as_str()))
            && let Some((_, place)) = known.iter().find(|(name, _)| name == close)
        {
            let key = quoted(key);
            wrongs.add(format!(
                "{at}{}: it is not known, and would restrict nothing: write `{place}`",
                key.trim_matches('`')
            ));
        }
    }
}

/// Says that a field is of another type than it must be.
pub(in crate::api) fn not(field: &str, what: &str, value: &Value) -> String {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("{field}: it must be {what}, not {is}")
}

/// Takes a value of a type out of the fields.
fn typed(
    fields: &mut Fields,
    key: &str,
    what: &str,
    wrongs: &mut Wrongs,
    is: impl FnOnce(&Value) -> bool,
) -> Option<Value> {
    let value = fields.remove(key)?;
    if is(&value) {
        return Some(value);
    }
    wrongs.add(not(key, what, &value));
    None
}

/// The longest label, in characters.
const LONGEST_LABEL: usize = 256;
