//! Lookup of objects by name: an argument is used as an id first, else as the exact name of one object.

use hyper::StatusCode;
use serde_json::Value;

use super::fields::Fields;
use super::{Failure, ObjectKind, PAGE, one, query};
use crate::cli::http::{Api, HttpError};

/// The fields of requests that hold ids: the kind of the request, the outer field if any, the key, and the kind
/// referred to.
const REFERENCES: [(ObjectKind, Option<&str>, &str, ObjectKind); 4] = [
    (ObjectKind::Blueprint, None, "network_policy_id", ObjectKind::Policy),
    (ObjectKind::Blueprint, Some("launch_parameters"), "network_policy_id", ObjectKind::Policy),
    (ObjectKind::Devbox, None, "blueprint_id", ObjectKind::Blueprint),
    (ObjectKind::Devbox, Some("launch_parameters"), "network_policy_id", ObjectKind::Policy),
];

/// The number of objects with the same name that an error lists.
const LISTED: usize = 10;

/// Calls `act` with the id of an object: with `text`, or, if no object has that id, with the id of the only object
/// named `text`.
///
/// # Errors
/// The action fails, no object matches, or several have the name.
pub(super) fn with<T>(
    api: &Api,
    kind: ObjectKind,
    text: &str,
    mut act: impl FnMut(&str) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if text.is_empty() {
        return Err(Failure::Refused(format!("an empty text names no {}", kind.as_str())));
    }
    match act(text) {
        // Text in the form of an id is never looked up as a name: otherwise an object could be named like another's id
        // and be taken for it.
        Err(Failure::Api(HttpError::Refused { status: StatusCode::NOT_FOUND, message }))
            if !text.starts_with(kind.prefix()) =>
        {
            match find(api, kind, text) {
                Ok(Some(id)) => act(&id),
                Err(several @ Failure::Refused(_)) => Err(several),
                // The first answer of the API says more than a failed search.
                Ok(None) | Err(Failure::Api(_)) => {
                    Err(Failure::Api(HttpError::Refused { status: StatusCode::NOT_FOUND, message }))
                }
            }
        }
        done => done,
    }
}

/// Replaces names of other objects in a request by their ids.
///
/// # Errors
/// The API does not answer, or several objects have a name.
pub(super) fn resolve(api: &Api, kind: ObjectKind, fields: &mut Fields) -> Result<(), Failure> {
    for (_, outer, key, named) in REFERENCES.iter().filter(|(of, ..)| *of == kind) {
        let Some(Value::String(text)) = fields.value(*outer, key) else { continue };
        // Text in the form of an id needs no search: the API reports whether the object exists.
        if text.starts_with(named.prefix()) {
            continue;
        }
        match api.get(&one(*named, text)) {
            Ok(_) => {}
            Err(HttpError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                if let Some(id) = find(api, *named, text)? {
                    fields.replace(*outer, key, id.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the id of the object with exactly this name. Devboxes that were shut down are considered only if none runs.
///
/// # Errors
/// The API does not answer, or several objects have the name.
fn find(api: &Api, kind: ObjectKind, name: &str) -> Result<Option<String>, Failure> {
    let mut found = search(api, kind, name, if kind == ObjectKind::Devbox { "&status=running" } else { "" })?;
    if found.is_empty() && kind == ObjectKind::Devbox {
        found = search(api, kind, name, "")?;
    }
    match found.len() {
        0 => Ok(None),
        1 => Ok(found.pop()),
        number => {
            let more = number.checked_sub(LISTED).filter(|more| *more > 0);
            let more = more.map_or_else(String::new, |more| format!(" and {more} more"));
            found.truncate(LISTED);
            let (kind, ids) = (kind.as_str(), found.join(", "));
            Err(Failure::Refused(format!("`{name}` is the name of more than one {kind}: {ids}{more}: write the id")))
        }
    }
}

/// Returns the ids of all objects with exactly this name.
fn search(api: &Api, kind: ObjectKind, name: &str, more: &str) -> Result<Vec<String>, HttpError> {
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let from = after.map_or_else(String::new, |id| format!("&starting_after={}", query::escape(&id)));
        let name_part = query::escape(name);
        let path = format!("{}?limit={PAGE}&include_total_count=false&name={name_part}{more}{from}", kind.path());
        let page = api.get(&path)?;
        let objects = page[kind.list()].as_array().map(Vec::as_slice).unwrap_or_default();
        let same = objects.iter().filter(|object| object["name"] == name);
        found.extend(same.filter_map(|object| object["id"].as_str().map(str::to_owned)));
        after = objects.last().and_then(|object| object["id"].as_str().map(str::to_owned));
        if page["has_more"] != true || after.is_none() {
            return Ok(found);
        }
    }
}
