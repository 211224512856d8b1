//! Names in the place of ids: an id is taken as it is; else the one object that has exactly this name is meant.

use hyper::StatusCode;
use serde_json::Value;

use super::fields::Fields;
use super::{Failure, Kind, PAGE, one, query};
use crate::cli::http::{Api, HttpError};

/// The fields of requests about a kind that hold ids, as the field around them (if any), their key, and what they name.
const REFERENCES: [(Kind, Option<&str>, &str, Kind); 4] = [
    (Kind::Blueprint, None, "network_policy_id", Kind::Policy),
    (Kind::Blueprint, Some("launch_parameters"), "network_policy_id", Kind::Policy),
    (Kind::Devbox, None, "blueprint_id", Kind::Blueprint),
    (Kind::Devbox, Some("launch_parameters"), "network_policy_id", Kind::Policy),
];

/// How many objects of one name an error lists.
const LISTED: usize = 10;

/// Does something with the object that `text` names: with the object of that id, or, where there is none, with the only
/// one of that name.
///
/// # Errors
/// It fails, there is no such object, or several have the name.
pub(super) fn with<T>(
    api: &Api,
    kind: Kind,
    text: &str,
    mut act: impl FnMut(&str) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if text.is_empty() {
        return Err(Failure::Refused(format!("an empty text names no {}", kind.as_str())));
    }
    match act(text) {
        // Nobody is to have an object taken for another one by giving it that one's id as a name.
        Err(Failure::Api(HttpError::Refused { status: StatusCode::NOT_FOUND, message }))
            if !text.starts_with(kind.prefix()) =>
        {
            match find(api, kind, text) {
                Ok(Some(id)) => act(&id),
                Err(several @ Failure::Refused(_)) => Err(several),
                // What the API said first says more than a failed search.
                Ok(None) | Err(Failure::Api(_)) => {
                    Err(Failure::Api(HttpError::Refused { status: StatusCode::NOT_FOUND, message }))
                }
            }
        }
        done => done,
    }
}

/// Puts ids in the place of the names that a request has for other objects.
///
/// # Errors
/// The API does not answer, or several objects have a name.
pub(super) fn resolve(api: &Api, kind: Kind, fields: &mut Fields) -> Result<(), Failure> {
    for (_, outer, key, named) in REFERENCES.iter().filter(|(of, ..)| *of == kind) {
        let Some(Value::String(text)) = fields.value(*outer, key) else { continue };
        // What has the form of an id needs no search: the API says whether there is such an object.
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

/// Returns the id of the object with exactly this name. Devboxes that were shut down are meant only where none runs.
///
/// # Errors
/// The API does not answer, or several objects have the name.
fn find(api: &Api, kind: Kind, name: &str) -> Result<Option<String>, Failure> {
    let mut found = search(api, kind, name, if kind == Kind::Devbox { "&status=running" } else { "" })?;
    if found.is_empty() && kind == Kind::Devbox {
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
fn search(api: &Api, kind: Kind, name: &str, more: &str) -> Result<Vec<String>, HttpError> {
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
