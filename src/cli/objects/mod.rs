//! The commands `hostgate policy`, `blueprint` and `devbox`: create, change and delete objects through the API.
//!
//! Output is made for scripts: `create` writes only the id to standard output, and every other line starts with an id.

mod access;
mod arguments;
mod change;
mod fields;
mod named;
mod query;
mod text;

use std::path::PathBuf;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use self::access::AccessError;
use self::arguments::ApiOptions;
pub(super) use self::arguments::{BlueprintVerb, DevboxVerb, PolicyVerb};
use self::fields::Fields;
use super::http::{Api, HttpError};
use super::output::Output;
use super::{CONFIG, FAILED, OK, USAGE};
use crate::bounds::MAX_REPEATED_CHANGES;

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectKind {
    Policy,
    Blueprint,
    Devbox,
}

impl ObjectKind {
    /// Returns the name of the command.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Blueprint => "blueprint",
            Self::Devbox => "devbox",
        }
    }

    /// Returns the prefix of ids that the API assigns.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Policy => "npol_",
            Self::Blueprint => "bpt_",
            Self::Devbox => "dbx_",
        }
    }

    /// Returns the path of the collection.
    const fn path(self) -> &'static str {
        match self {
            Self::Policy => "/v1/network-policies",
            Self::Blueprint => "/v1/blueprints",
            Self::Devbox => "/v1/devboxes",
        }
    }

    /// Returns the field of a list answer that has the objects.
    const fn list(self) -> &'static str {
        match self {
            Self::Policy => "network_policies",
            Self::Blueprint => "blueprints",
            Self::Devbox => "devboxes",
        }
    }
}

/// The actions of a command.
enum Action {
    Create(Fields),
    List(query::Filter),
    Show(String),
    /// Changes a blueprint or a devbox.
    Update(String, Fields),
    /// Changes a policy.
    Change(String, Box<change::Change>),
    /// Deletes an object, or shuts a devbox down.
    Delete(String),
}

impl Action {
    /// Checks the options as far as possible without the API.
    ///
    /// # Errors
    /// The options are wrong.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Update(_, fields) if fields.is_empty() => {
                Err("nothing to change: give at least one option (--help lists them)".to_owned())
            }
            Self::Change(_, change) => change.check(),
            _ => Ok(()),
        }
    }

    /// Returns whether the action changes anything.
    fn changes(&self) -> bool {
        match self {
            Self::List(_) | Self::Show(_) => false,
            Self::Change(_, change) => !change.is_dry(),
            Self::Create(_) | Self::Update(..) | Self::Delete(_) => true,
        }
    }
}

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The API did not answer, or refused.
    #[error(transparent)]
    Api(#[from] HttpError),
    /// The action is impossible for the object that the API shows.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Returns the failure of a change that lost against changes by others each time.
    fn changed_by_others(id: &str) -> Self {
        Self::Refused(format!(
            "`{id}` was changed by others {MAX_REPEATED_CHANGES} times meanwhile; nothing is changed by this: try again"
        ))
    }

    /// Returns whether the action may have been carried out nevertheless.
    const fn leaves_open(&self) -> bool {
        matches!(self, Self::Api(error) if error.leaves_open())
    }
}

/// Runs a command and returns the exit code. `outer` is the configuration file given before the command's name.
pub(super) fn run(command: impl Into<Command>, outer: Option<PathBuf>, output: &mut Output) -> u8 {
    let Command { kind, action, place } = command.into();
    let json = place.json;
    let say = |error: &str| format!("{}: {error}", kind.as_str());
    if let Err(error) = action.check() {
        output.error(say(&error));
        return USAGE;
    }
    let api = match access::open(place, outer) {
        Ok((api, told)) => {
            if !json {
                output.error(say(&told));
            }
            api
        }
        Err(AccessError::Usage(error)) => {
            output.error(say(&error));
            return USAGE;
        }
        Err(AccessError::Config(error)) => {
            output.error(say(&error));
            return CONFIG;
        }
        Err(AccessError::Files(diagnostics)) => {
            output.diagnostics(&diagnostics);
            return CONFIG;
        }
        Err(AccessError::Failed(error)) => {
            output.error(say(&error));
            return FAILED;
        }
    };
    let changes = action.changes();
    match act(&api, kind, action, json, output) {
        Ok(()) => OK,
        Err(error) => {
            let open = if changes && error.leaves_open() { " (`list` shows whether it is done)" } else { "" };
            let error = error.to_string();
            output.error(say(&format!("{}: {error}{open}", api.place())));
            FAILED
        }
    }
}

/// A command for any kind of object.
pub(super) struct Command {
    kind: ObjectKind,
    action: Action,
    /// The options about the place of the API.
    place: ApiOptions,
}

/// Calls the API and writes its answer.
fn act(api: &Api, kind: ObjectKind, action: Action, json: bool, output: &mut Output) -> Result<(), Failure> {
    let path = kind.path();
    match action {
        Action::Create(mut fields) => {
            named::resolve(api, kind, &mut fields)?;
            let made = api.post(path, &fields.into_new().into())?;
            text::created(kind, &made, json, output);
        }
        Action::List(filter) => list(api, kind, &filter, json, output)?,
        Action::Show(id) => {
            let object = named::with(api, kind, &id, |id| Ok(api.get(&one(kind, id))?))?;
            text::one(kind, &object, json, output);
        }
        Action::Update(id, mut fields) => {
            named::resolve(api, kind, &mut fields)?;
            let object = named::with(api, kind, &id, |id| update(api, kind, id, &fields))?;
            text::one(kind, &object, json, output);
        }
        Action::Change(id, change) => named::with(api, kind, &id, |id| change.make(api, id, json, output))?,
        Action::Delete(id) => {
            let verb = if kind == ObjectKind::Devbox { "shutdown" } else { "delete" };
            let (id, deleted) = named::with(api, kind, &id, |id| {
                let deleted = api.post(&format!("{}/{verb}", one(kind, id)), &Map::new().into())?;
                Ok((id.to_owned(), deleted))
            })?;
            text::deleted(kind, &id, &deleted, json, output);
        }
    }
    Ok(())
}

/// Changes only the given fields of an object. Where the API replaces a field as a whole, the object is read first, and
/// the revision that was read is sent along, so that no concurrent change is lost.
fn update(api: &Api, kind: ObjectKind, id: &str, fields: &Fields) -> Result<Value, Failure> {
    let path = one(kind, id);
    if !fields.replaces() {
        return Ok(api.post(&path, &fields.clone().into_new().into())?);
    }
    for _ in 0..MAX_REPEATED_CHANGES {
        let current = api.get(&path)?;
        let mut fields = fields.clone();
        fields.set(REVISION, current[REVISION].as_str());
        match api.post(&path, &fields.over(&current).into()) {
            Err(HttpError::Refused { status: StatusCode::PRECONDITION_FAILED, .. }) => {}
            changed => return Ok(changed?),
        }
    }
    Err(Failure::changed_by_others(id))
}

/// Lists objects, page by page, up to the limit.
fn list(api: &Api, kind: ObjectKind, filter: &query::Filter, json: bool, output: &mut Output) -> Result<(), HttpError> {
    let mut found = Vec::new();
    let mut has_more = true;
    let most = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    while has_more && found.len() < most {
        let limit = (most - found.len()).min(PAGE);
        let after = found.last().and_then(|last: &Value| last["id"].as_str());
        let mut page = api.get(&format!("{}?{}", kind.path(), filter.query(limit, after)))?;
        let Value::Array(objects) = page[kind.list()].take() else { break };
        has_more = page["has_more"] == true && !objects.is_empty();
        found.extend(objects);
    }
    if json {
        output.json(&json!({ kind.list(): found, "has_more": has_more }));
    } else {
        text::many(kind, &found, output);
        if has_more {
            output.error(format!("{}: there are more than --limit {} shows", kind.as_str(), filter.limit));
        }
    }
    Ok(())
}

/// Returns the path of one object.
fn one(kind: ObjectKind, id: &str) -> String {
    format!("{}/{}", kind.path(), query::escape(id))
}

/// The field with an object's revision, which each change replaces.
const REVISION: &str = "hostgate_revision";

/// The number of objects on a page: few requests, and no answer of excessive length.
const PAGE: usize = 500;
