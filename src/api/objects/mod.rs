//! What requests mean for each kind of object, and how objects become files and files objects.

pub(super) mod address;
pub(super) mod blueprints;
pub(super) mod devboxes;
pub(super) mod edit;
pub(super) mod egress;
pub(super) mod id;
pub(super) mod kind;
pub(super) mod object_file;
pub(super) mod policies;
pub(crate) mod reserved;
pub(super) mod revision;

use serde_json::Value;

use self::kind::Kind;
use crate::api::request::error::ApiError;
use crate::policy::Snapshot;

/// Returns an object as `snapshot` has it.
///
/// # Errors
/// There is none.
pub(super) fn view(snapshot: &Snapshot, kind: Kind, id: &str) -> Result<Value, ApiError> {
    let view = match kind {
        Kind::Policy => policies::view,
        Kind::Blueprint => blueprints::view,
        Kind::Devbox => devboxes::view,
    };
    view(snapshot, id).ok_or_else(|| ApiError::unknown(kind, id))
}
