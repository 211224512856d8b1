//! The JSON fields of a request that creates or changes an object.

use serde_json::{Map, Value};

/// The fields that the command line has values for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields(Map<String, Value>);

/// The nested fields: the key in a request, and the JSON pointer to the same value in an object.
const NESTED: [(&str, &str); 2] = [("launch_parameters", "/parameters/launch_parameters"), ("metadata", "/metadata")];

impl Fields {
    /// Sets a field, unless `value` is `None`.
    pub(super) fn set(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    /// Sets a field within the field `outer`, unless `value` is `None`.
    pub(super) fn set_in(&mut self, outer: &str, key: &str, value: Option<impl Into<Value>>) {
        let Some(value) = value else { return };
        let field = self.0.entry(outer).or_insert_with(|| Map::new().into());
        if let Some(fields) = field.as_object_mut() {
            fields.insert(key.to_owned(), value.into());
        }
    }

    /// Returns the value of a field, or of one within the field `outer`.
    pub(super) fn value(&self, outer: Option<&str>, key: &str) -> Option<&Value> {
        match outer {
            Some(outer) => self.0.get(outer)?.get(key),
            None => self.0.get(key),
        }
    }

    /// Replaces the value of a field, or of one within the field `outer`.
    pub(super) fn replace(&mut self, outer: Option<&str>, key: &str, value: Value) {
        match outer {
            Some(outer) => self.set_in(outer, key, Some(value)),
            None => self.set(key, Some(value)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the API would replace a nested field as a whole, and with it values that were not given.
    pub(super) fn replaces(&self) -> bool {
        NESTED.iter().any(|(key, _)| self.0.contains_key(*key))
    }

    /// Returns the body of a request that creates an object.
    pub(super) fn into_new(self) -> Map<String, Value> {
        self.0
    }

    /// Returns the body of a request that changes the object `current`: nested fields keep the values that were not
    /// given.
    pub(super) fn over(self, current: &Value) -> Map<String, Value> {
        let Self(mut fields) = self;
        for (key, pointer) in NESTED {
            let (Some(Value::Object(named)), Some(Value::Object(kept))) = (fields.get(key), current.pointer(pointer))
            else {
                continue;
            };
            let mut whole = kept.clone();
            whole.extend(named.clone());
            fields.insert(key.to_owned(), whole.into());
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn update_keeps_nested_values_that_were_not_given() {
        let mut fields = Fields::default();
        assert!(fields.is_empty());
        fields.set("name", Some("n"));
        fields.set("description", None::<String>);
        assert!(!fields.is_empty() && !fields.replaces());
        fields.set_in("launch_parameters", "network_policy_id", Some("npol_2"));
        fields.set_in("metadata", "b", Some("2"));
        assert!(fields.replaces());
        let current = json!({
            "name": "o", "metadata": { "a": "1", "b": "1" },
            "parameters": { "launch_parameters": { "launch_commands": ["x"], "network_policy_id": "npol_1" } },
        });
        let expected = json!({
            "name": "n", "metadata": { "a": "1", "b": "2" },
            "launch_parameters": { "launch_commands": ["x"], "network_policy_id": "npol_2" },
        });
        assert_eq!(Value::from(fields.clone().over(&current)), expected);
        let new =
            json!({ "name": "n", "metadata": { "b": "2" }, "launch_parameters": { "network_policy_id": "npol_2" } });
        assert_eq!(Value::from(fields.clone().over(&Value::Null)), new);
        assert_eq!(Value::from(fields.into_new()), new);
    }
}
