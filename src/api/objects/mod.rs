//! Network policies, blueprints and devboxes: the requests about them, their views, and their files.
//!
//! [`ApiObject`] is what the three kinds have in common. Lists, retrieval, changes and deletions are written once for it.

pub(super) mod address;
pub(super) mod blueprints;
pub(super) mod build_run;
pub(super) mod devboxes;
pub(super) mod egress;
pub(super) mod id;
pub(super) mod object_file;
pub(super) mod policies;
pub(crate) mod reserved;
pub(super) mod writer;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use self::blueprints::BlueprintKind;
use self::devboxes::DevboxKind;
use self::object_file::without;
use self::policies::PolicyKind;
use self::writer::FileEdit;
use crate::api::audit::AuditAction;
use crate::api::request::call::{Call, Done, JsonText};
use crate::api::request::error::ApiError;
use crate::api::request::fields::RequestFields;
use crate::api::request::list::{ListEntry, ListQuery};
use crate::document::{Place, Source};
use crate::policy::{ApiTable, BUILT_IN, Client, Snapshot};
use crate::util::sha256;

/// The field with the revision of an object: the SHA-256 of its file.
pub(in crate::api) const REVISION: &str = "hostgate_revision";
// The statuses of Runloop's API. Its SDKs wait while a blueprint is queued, provisioning or building, and take any other
// status for final.
/// The status of a blueprint whose build waits.
pub(in crate::api) const QUEUED: &str = "queued";
/// The status of a blueprint whose build runs.
pub(in crate::api) const BUILDING: &str = "building";
/// The status of a blueprint whose build failed.
pub(in crate::api) const FAILED: &str = "failed";
/// The status of a blueprint that devboxes can be created from.
pub(in crate::api) const COMPLETE: &str = "build_complete";
/// The status of a devbox whose address is bound.
pub(in crate::api) const RUNNING: &str = "running";
/// The status of a devbox whose file is bad or gone: its addresses are held.
const FAILURE: &str = "failure";
/// The status of a devbox that was shut down.
pub(in crate::api) const SHUTDOWN: &str = "shutdown";

/// The folder of the API's files in the policies directory.
const FOLDER: &str = "api";
/// The number of users of an object that a message names.
const MOST_NAMED: usize = 10;

/// A kind of object, by which it is named in ids, files, responses and audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::api) enum ApiKind {
    Policy,
    Blueprint,
    Devbox,
}

impl ApiKind {
    const ALL: [Self; 3] = [Self::Policy, Self::Blueprint, Self::Devbox];

    /// Returns the kind of an object that the API created, by its id.
    pub(in crate::api) fn of_id(id: &str) -> Option<Self> {
        // The prefixes are in Runloop's public examples; programs tell ids apart by them.
        Self::ALL.into_iter().find(|kind| id.starts_with(kind.prefix()))
    }

    /// Returns the prefix of ids, which is Runloop's.
    pub(in crate::api) const fn prefix(self) -> &'static str {
        match self {
            Self::Policy => "npol_",
            Self::Blueprint => "bpt_",
            Self::Devbox => "dbx_",
        }
    }

    /// Returns the name in messages.
    pub(in crate::api) const fn name(self) -> &'static str {
        match self {
            Self::Policy => "network policy",
            Self::Blueprint => "blueprint",
            Self::Devbox => "devbox",
        }
    }

    /// Returns the name of the table that defines an object in its file.
    const fn table(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Blueprint => "blueprint",
            Self::Devbox => "client",
        }
    }

    /// Returns the field of a page that holds its objects.
    const fn collection(self) -> &'static str {
        match self {
            Self::Policy => "network_policies",
            Self::Blueprint => "blueprints",
            Self::Devbox => "devboxes",
        }
    }
}

/// The operations of one kind of object.
pub(in crate::api) trait ApiObject {
    const KIND: ApiKind;
    /// The statuses that a list can be filtered by.
    const STATUSES: &'static [&'static str];
    /// The fields of a request that changes an object.
    type Update: Send + Sync;

    /// Reads the fields of a request that changes an object.
    fn read_update(fields: RequestFields) -> Result<Self::Update, ApiError>;

    /// Writes a change into an object's file.
    ///
    /// # Errors
    /// The change does not fit the object, or it refers to one that does not exist.
    fn apply(
        update: &Self::Update,
        snapshot: &Snapshot,
        id: &str,
        file: &mut object_file::ObjectFile,
    ) -> Result<(), ApiError>;

    /// Returns the file of an object that the API created.
    ///
    /// # Errors
    /// No such object exists, or a person wrote it.
    fn source<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s Source, ApiError>;

    /// Returns the objects that a list may show.
    fn entries<'s>(snapshot: &'s Snapshot, query: &ListQuery) -> Box<dyn Iterator<Item = ListEntry<'s>> + 's>;

    /// Returns the function that makes the view of an object by its id.
    fn viewer(snapshot: &Snapshot) -> impl Fn(&str) -> Option<Value>;
}

/// A kind of object that clients delete; a devbox is shut down instead.
pub(in crate::api) trait Deletable: ApiObject {
    /// The help of the error that an object is in use.
    const IN_USE_HELP: &'static str;

    /// Returns the names of an object's users, because of which it cannot be deleted.
    fn users(snapshot: &Snapshot, id: &str) -> Vec<String>;

    /// Returns the response to a deletion.
    fn deleted(snapshot: &Snapshot, id: &str) -> Value;
}

/// Returns the page of a list that a request asks for.
pub(in crate::api) fn list<O: ApiObject>(call: &Call, snapshot: &Snapshot) -> Result<JsonText, ApiError> {
    let query = ListQuery::parse(&call.query, O::STATUSES)?;
    Ok(query.page(O::KIND, O::entries(snapshot, &query))?.render(O::KIND.collection(), O::viewer(snapshot)))
}

/// Returns the view of one object.
pub(in crate::api) fn retrieve<O: ApiObject>(call: &Call, snapshot: &Snapshot) -> Result<Value, ApiError> {
    O::viewer(snapshot)(&call.id).ok_or_else(|| ApiError::not_found(O::KIND, &call.id))
}

/// Changes an object: fields that the request does not have stay. A request with a revision changes that one alone, so
/// that it overwrites no change its client has not seen.
pub(in crate::api) async fn update<O: ApiObject>(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    // A missing object is reported before any field, as Runloop's API does.
    O::source(&control.snapshot(), id)?;
    let mut fields = call.fields();
    let revision: Option<String> = fields.take(REVISION);
    let update = O::read_update(fields)?;
    let edit = |snapshot: &Snapshot| {
        let source = O::source(snapshot, id)?;
        let mut file = object_file::ObjectFile::parse(source.text())?;
        O::apply(&update, snapshot, id, &mut file)?;
        // Last, as a request with other errors is answered with those (RFC 9110 §13.2.1).
        if revision.as_ref().is_some_and(|seen| *seen != self::revision(source.text())) {
            let kind = O::KIND.name();
            let message = format!("{REVISION}: {kind} `{id}` was changed meanwhile: read it again, and change that");
            return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, message));
        }
        Ok(FileEdit::update(id, source.text(), &file))
    };
    control.apply(&call.principal, AuditAction::Update, edit).await?;
    view(&control.snapshot(), O::KIND, id).map(Done::changed)
}

/// Deletes an object that nothing uses. Other tables that a person wrote into its file stay.
pub(in crate::api) async fn delete<O: Deletable>(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    if held(&control.snapshot(), O::KIND, id).is_some() {
        let edit = |snapshot: &Snapshot| FileEdit::of_held(snapshot, O::KIND, id, None);
        control.apply(&call.principal, AuditAction::Delete, edit).await?;
        return Ok(Done::changed(Value::Object(object_file::Fields::new())));
    }
    let mut response = Value::Null;
    let edit = |snapshot: &Snapshot| {
        let text = O::source(snapshot, id)?.text();
        let users = O::users(snapshot, id);
        // Runloop answers with 400 as well: the SDKs would retry a 409 for half a minute.
        if !users.is_empty() {
            let (kind, users, help) = (O::KIND.name(), named(&users), O::IN_USE_HELP);
            return Err(ApiError::bad(format!("{kind} `{id}` is in use by {users}: {help}")));
        }
        response = O::deleted(snapshot, id);
        let after = without(text, O::KIND, &[(O::KIND.table(), id), ("api", id)])?;
        Ok(FileEdit { id: id.into(), before: Some(Arc::clone(text)), after, is_held: false })
    };
    control.apply(&call.principal, AuditAction::Delete, edit).await?;
    Ok(Done::changed(response))
}

/// Returns the view of an object of any kind.
///
/// # Errors
/// No such object exists.
pub(in crate::api) fn view(snapshot: &Snapshot, kind: ApiKind, id: &str) -> Result<Value, ApiError> {
    let view = match kind {
        ApiKind::Policy => PolicyKind::viewer(snapshot)(id),
        ApiKind::Blueprint => BlueprintKind::viewer(snapshot)(id),
        ApiKind::Devbox => DevboxKind::viewer(snapshot)(id),
    };
    view.ok_or_else(|| ApiError::not_found(kind, id))
}

/// Returns the revision of an object whose file holds `text`; audit records have the same hash.
pub(in crate::api) fn revision(text: &str) -> String {
    sha256(text.as_bytes())
}

/// Returns the client that has the addresses of an object whose file is bad or gone.
fn held<'s>(snapshot: &'s Snapshot, kind: ApiKind, id: &str) -> Option<&'s Client> {
    snapshot.client(id).filter(|client| client.is_held() && ApiKind::of_id(id) == Some(kind))
}

/// Returns the path of the file of an object that the API created, relative to the policies directory.
pub(in crate::api) fn path_of(id: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{id}.toml"))
}

/// Returns whether a path is that of an object's file. It allocates nothing, as lists ask it for every object.
fn is_file_of(path: &Path, id: &str) -> bool {
    let folder = path.as_os_str().as_bytes().strip_suffix(b".toml").and_then(|path| path.strip_suffix(id.as_bytes()));
    let above = folder.and_then(|folder| folder.strip_suffix(b"/")?.strip_suffix(FOLDER.as_bytes()));
    above.is_some_and(|above| above.is_empty() || above.ends_with(b"/"))
}

/// Returns whether the API created the object that `source` defines: it is in the file of its id, with its API table.
pub(in crate::api) fn is_of_api(snapshot: &Snapshot, id: &str, source: &Source) -> bool {
    let is_there = |table: &ApiTable| Arc::ptr_eq(table.source().text(), source.text());
    is_file_of(source.path(), id) && snapshot.record(id).is_some_and(is_there)
}

/// Returns the API table of an object. A table `[api.ID]` in any other file than the object's own is ignored.
pub(in crate::api) fn api_table<'s>(snapshot: &'s Snapshot, id: &str) -> Option<&'s ApiTable> {
    snapshot.record(id).filter(|table| is_in_own_file(table))
}

/// Returns whether an API table is in the file of its object.
pub(in crate::api) fn is_in_own_file(table: &ApiTable) -> bool {
    is_file_of(table.source().path(), table.id())
}

/// Makes the error for a change of an object that a person wrote.
fn by_hand(kind: ApiKind, id: &str, place: &Place) -> ApiError {
    let (kind, id) = (kind.name(), id.escape_debug());
    if place.path.starts_with(BUILT_IN) {
        let file = place.path.strip_prefix(BUILT_IN).unwrap_or(&place.path).display();
        return ApiError::bad(format!(
            "{kind} `{id}` is built in: a file `{file}` in the policies directory replaces it, or include it in a policy \
             of your own"
        ));
    }
    ApiError::bad(format!("{kind} `{id}` is written by hand in {place}: edit it there"))
}

/// Returns a list of users for a message, at most [`MOST_NAMED`] of them by name.
fn named(users: &[String]) -> String {
    let more = users.len().saturating_sub(MOST_NAMED);
    let first = users.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_api_is_in_its_folder_and_named_as_its_object() {
        const CASES: &[(&str, bool)] = &[
            ("policies/api/npol_1.toml", true),
            ("/api/npol_1.toml", true),
            ("api/npol_1.toml", true),
            ("policies/myapi/npol_1.toml", false),
            ("policies/api/npol_2.toml", false),
            ("policies/api/xnpol_1.toml", false),
            ("policies/api/npol_1.tom", false),
            ("npol_1.toml", false),
        ];
        for (path, expected) in CASES {
            assert_eq!(is_file_of(Path::new(path), "npol_1"), *expected, "{path}");
            assert_eq!(Path::new(path).ends_with(path_of("npol_1")), *expected, "{path}");
        }
    }
}
