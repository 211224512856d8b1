//! `hostgate policy`, `blueprint` and `devbox`: objects of the running hostgate, created and changed by its API.
//!
//! What a program wants stands first: `create` prints the id alone on standard output, the others begin each line with it.

mod access;
mod arguments;
mod change;
mod fields;
mod named;
mod query;
mod tell;

use std::path::PathBuf;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use self::access::Wrong;
use self::arguments::Where;
pub(super) use self::arguments::{BlueprintVerb, DevboxVerb, PolicyVerb};
use self::fields::Fields;
use super::http::{Api, HttpError};
use super::output::Output;
use super::{CONFIG, FAILED, OK, USAGE};
use crate::bounds::MAX_REPEATED_CHANGES;

/// What kind of object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A network policy.
    Policy,
    /// A blueprint.
    Blueprint,
    /// A devbox.
    Devbox,
}

impl Kind {
    /// Returns the command it has.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Blueprint => "blueprint",
            Self::Devbox => "devbox",
        }
    }

    /// Returns what the ids that the API makes begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Policy => "npol_",
            Self::Blueprint => "bpt_",
            Self::Devbox => "dbx_",
        }
    }

    /// Returns the path of all of them.
    const fn path(self) -> &'static str {
        match self {
            Self::Policy => "/v1/network-policies",
            Self::Blueprint => "/v1/blueprints",
            Self::Devbox => "/v1/devboxes",
        }
    }

    /// Returns the field of a list that they are in.
    const fn list(self) -> &'static str {
        match self {
            Self::Policy => "network_policies",
            Self::Blueprint => "blueprints",
            Self::Devbox => "devboxes",
        }
    }
}

/// What is done.
enum Action {
    /// Creates an object.
    Create(Fields),
    /// Lists objects.
    List(arguments::Filter),
    /// Shows an object.
    Show(String),
    /// Changes an object.
    Update(String, Fields),
    /// Changes a policy.
    Change(String, Box<change::Change>),
    /// Deletes an object; shuts a devbox down.
    Delete(String),
}

impl Action {
    /// Checks what can be said without asking the API.
    ///
    /// # Errors
    /// What is wrong with the command line.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Update(_, fields) if fields.is_empty() => {
                Err("nothing to change: name what is to be another (--help shows what can be)".to_owned())
            }
            Self::Change(_, change) => change.check(),
            _ => Ok(()),
        }
    }

    /// Returns whether anything is to be changed.
    fn changes(&self) -> bool {
        match self {
            Self::List(_) | Self::Show(_) => false,
            Self::Change(_, change) => !change.is_dry(),
            Self::Create(_) | Self::Update(..) | Self::Delete(_) => true,
        }
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The API did not answer, or refused.
    #[error(transparent)]
    Api(#[from] HttpError),
    /// What the API shows makes it impossible.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Returns the failure of a change that others are always ahead of.
    fn changed_by_others(id: &str) -> Self {
        Self::Refused(format!(
            "`{id}` was changed by others {MAX_REPEATED_CHANGES} times meanwhile; nothing is changed by this: try again"
        ))
    }

    /// Returns whether what was asked for may be done all the same.
    const fn leaves_open(&self) -> bool {
        matches!(self, Self::Api(error) if error.leaves_open())
    }
}

/// Does what a command asks for and returns the exit code; `outer` is the configuration file named before the command.
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
        Err(Wrong::Usage(error)) => {
            output.error(say(&error));
            return USAGE;
        }
        Err(Wrong::Config(error)) => {
            output.error(say(&error));
            return CONFIG;
        }
        Err(Wrong::Files(diagnostics)) => {
            output.diagnostics(&diagnostics);
            return CONFIG;
        }
        Err(Wrong::Failed(error)) => {
            output.error(say(&error));
            return FAILED;
        }
    };
    let changes = action.changes();
    match act(&api, kind, action, json, output) {
        Ok(()) => OK,
        Err(error) => {
            let open = if changes && error.leaves_open() { " (whether it is done, `list` shows)" } else { "" };
            let error = error.to_string();
            output.error(say(&format!("{}: {error}{open}", api.place())));
            FAILED
        }
    }
}

/// A command, whatever its kind.
pub(super) struct Command {
    /// What kind of object it is about.
    kind: Kind,
    /// What is done.
    action: Action,
    /// Where.
    place: Where,
}

/// Asks the API and tells what it says.
fn act(api: &Api, kind: Kind, action: Action, json: bool, output: &mut Output) -> Result<(), Failure> {
    let path = kind.path();
    match action {
        Action::Create(mut fields) => {
            named::resolve(api, kind, &mut fields)?;
            let made = api.post(path, &fields.into_new().into())?;
            tell::created(kind, &made, json, output);
        }
        Action::List(filter) => list(api, kind, &filter, json, output)?,
        Action::Show(id) => {
            let object = named::with(api, kind, &id, |id| Ok(api.get(&one(kind, id))?))?;
            tell::one(kind, &object, json, output);
        }
        Action::Update(id, mut fields) => {
            named::resolve(api, kind, &mut fields)?;
            let object = named::with(api, kind, &id, |id| update(api, kind, id, &fields))?;
            tell::one(kind, &object, json, output);
        }
        Action::Change(id, change) => named::with(api, kind, &id, |id| change.make(api, id, json, output))?,
        Action::Delete(id) => {
            let verb = if kind == Kind::Devbox { "shutdown" } else { "delete" };
            let (id, deleted) = named::with(api, kind, &id, |id| {
                let deleted = api.post(&format!("{}/{verb}", one(kind, id)), &Map::new().into())?;
                Ok((id.to_owned(), deleted))
            })?;
            tell::deleted(kind, &id, &deleted, json, output);
        }
    }
    Ok(())
}

/// Changes what is named of an object. What the API replaces whole is read first, so that only what is named is another
/// afterwards, and sent with the revision that was read, so that nothing is lost of what others change meanwhile.
fn update(api: &Api, kind: Kind, id: &str, fields: &Fields) -> Result<Value, Failure> {
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

/// Lists objects, page after page, up to the limit.
fn list(api: &Api, kind: Kind, filter: &arguments::Filter, json: bool, output: &mut Output) -> Result<(), HttpError> {
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
        tell::many(kind, &found, output);
        if has_more {
            output.error(format!("{}: there are more than --limit {} shows", kind.as_str(), filter.limit));
        }
    }
    Ok(())
}

/// Returns the path of one object.
fn one(kind: Kind, id: &str) -> String {
    format!("{}/{}", kind.path(), query::escape(id))
}

/// The field of a view that tells an object from what it was and will be.
const REVISION: &str = "hostgate_revision";

/// How many objects a page has: enough to ask seldom, few enough that no answer is long.
const PAGE: usize = 500;
