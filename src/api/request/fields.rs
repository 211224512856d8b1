//! The fields of a request, read one by one into types. All errors are collected, each with its place in the body.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::objects::object_file::Fields;
use crate::api::request::error::ApiError;
use crate::bounds::MAX_TOLD_LINE;
use crate::document::{closest, quoted, shortened};

/// The longest name of an object, in characters.
const LONGEST_NAME: usize = 256;
/// The number of errors that a response lists.
const MOST_ERRORS: usize = 20;

/// The fields that were not read yet, and the errors of those that were.
pub(in crate::api) struct RequestFields {
    fields: Fields,
    errors: Vec<String>,
}

/// The launch parameters of a blueprint or devbox.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::api) struct LaunchParameters {
    pub(in crate::api) network_policy_id: Option<String>,
    /// The parameters that only views show.
    #[serde(flatten)]
    pub(in crate::api) others: Fields,
}

impl RequestFields {
    pub(in crate::api) fn new(fields: Fields) -> Self {
        Self { fields, errors: Vec::new() }
    }

    /// Adds an error, which begins with the field.
    pub(in crate::api) fn error(&mut self, error: String) {
        self.errors.push(error);
    }

    /// Reads a field. Returns `None` if it is absent, null or of another type.
    pub(in crate::api) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.fields.remove(key)?;
        let error = match serde_path_to_error::deserialize(value) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let dot = match &*error.path().to_string() {
            // The path is relative to the field, and serde_path_to_error calls the field itself `.`.
            "." => String::new(),
            path if path.starts_with('[') => path.to_owned(),
            path => format!(".{path}"),
        };
        self.error(format!("{key}{}: {}", shortened(&dot, MAX_TOLD_LINE), type_error(error.inner())));
        None
    }

    /// Reads the name of an object, which is one line.
    pub(in crate::api) fn name(&mut self) -> Option<String> {
        // Names may repeat: Runloop's samples create two policies `build-policy`, and its API says since 2.0.0 that names are
        // labels.
        let name: String = self.take("name")?;
        if name.is_empty() {
            self.error("name: it is empty: write what people are to call it".to_owned());
        } else if name.chars().count() > LONGEST_NAME {
            self.error(format!("name: it is longer than {LONGEST_NAME} characters: shorten it"));
        } else if name.chars().any(char::is_control) {
            self.error("name: it holds a control character: remove it".to_owned());
        } else {
            return Some(name);
        }
        None
    }

    /// Adds an error if the request has no name.
    pub(in crate::api) fn require_name(&mut self) {
        if !self.fields.contains_key("name") {
            self.error("name: it is missing: write what people are to call it".to_owned());
        }
    }

    /// Returns whether the request clears the name. Runloop's API lets an empty name of a devbox do that.
    pub(in crate::api) fn takes_empty_name(&mut self) -> bool {
        let is_empty = self.fields.get("name").is_some_and(|name| name == "");
        if is_empty {
            self.fields.remove("name");
        }
        is_empty
    }

    /// Reads the metadata: strings by key.
    pub(in crate::api) fn metadata(&mut self) -> Option<Fields> {
        let metadata: BTreeMap<String, Option<String>> = self.take("metadata")?;
        Some(metadata.into_iter().filter_map(|(key, value)| Some((key, value?.into()))).collect())
    }

    /// Reads the launch parameters; `known` are the fields that [`RequestFields::check_spelling`] compares with.
    pub(in crate::api) fn launch_parameters(&mut self, known: &[(&str, &str)]) -> Option<LaunchParameters> {
        let mut launch: LaunchParameters = self.take("launch_parameters")?;
        launch.others.retain(|_, value| !value.is_null());
        self.errors.extend(misspelt(&launch.others, "launch_parameters.", known));
        Some(launch)
    }

    /// Refuses a field for a reason.
    pub(in crate::api) fn refuse(&mut self, key: &str, why: &str) {
        if self.fields.remove(key).is_some() {
            self.error(format!("{key}: {why}"));
        }
    }

    /// Drops fields of views, which a client may send back.
    pub(in crate::api) fn ignore(&mut self, keys: &[&str]) {
        self.fields.retain(|key, _| !keys.contains(&&**key));
    }

    /// Refuses unknown fields that look like one of `known`, which has the place to write each. Kept as an unknown field, a
    /// misspelt restriction would restrict nothing, and nobody would notice.
    pub(in crate::api) fn check_spelling(&mut self, known: &[(&str, &str)]) {
        self.errors.extend(misspelt(&self.fields, "", known));
    }

    /// Returns the unknown fields, which views show.
    ///
    /// # Errors
    /// All errors of the fields, if there are any.
    pub(in crate::api) fn finish(self) -> Result<Fields, ApiError> {
        match self.errors.len() {
            0 => Ok(self.fields),
            1..=MOST_ERRORS => Err(ApiError::bad(self.errors.join("; "))),
            all => {
                let more = all - MOST_ERRORS;
                Err(ApiError::bad(format!("{}; and {more} more", self.errors[..MOST_ERRORS].join("; "))))
            }
        }
    }
}

/// Returns the message of a value of another type: serde's, in the words of JSON.
fn type_error(error: &serde_json::Error) -> String {
    let error = error.to_string();
    let parts = error.strip_prefix("invalid type: ").or_else(|| error.strip_prefix("invalid value: "));
    let message = match parts.and_then(|parts| parts.rsplit_once(", expected ")) {
        Some((found, "a map")) => format!("it must be an object, not {found}"),
        Some((found, "a sequence")) => format!("it must be an array, not {found}"),
        Some((found, expected)) => format!("it must be {expected}, not {found}"),
        None => error,
    };
    shortened(&message, MAX_TOLD_LINE).into_owned()
}

/// Returns the errors of fields that look like one of `known`.
fn misspelt(fields: &Fields, place: &str, known: &[(&str, &str)]) -> Vec<String> {
    // `closest` folds case and `-` itself.
    let folded = |name: &str| name.replace(['_', '-', ' ', '.'], "").to_lowercase();
    // With `allowed_hosts` among the unknown fields, a policy would deny everything, or a devbox have no policy at all.
    let known: Vec<(String, &str)> = known.iter().map(|(name, place)| (folded(name), *place)).collect();
    let errors = fields.keys().filter_map(|key| {
        let close = closest(&folded(key), known.iter().map(|(name, _)| name.as_str()))?;
        let (_, meant) = known.iter().find(|(name, _)| name == close)?;
        let key = quoted(key);
        let key = key.trim_matches('`');
        Some(format!("{place}{key}: it is not known, and would restrict nothing: write `{meant}`"))
    });
    errors.collect()
}

/// Returns a value, or null if it is absent.
pub(in crate::api) fn or_null(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}
