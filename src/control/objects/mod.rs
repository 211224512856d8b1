//! What requests mean for each kind of object, and how objects become files and files objects.

pub(in crate::control) mod address;
pub(in crate::control) mod blueprints;
pub(in crate::control) mod devboxes;
pub(in crate::control) mod egress;
pub(in crate::control) mod id;
pub(in crate::control) mod kind;
pub(in crate::control) mod policies;
pub(in crate::control) mod record;
pub(crate) mod reserved;
pub(in crate::control) mod revision;
pub(in crate::control) mod writer;

use serde_json::Value;

use self::kind::Kind;
use crate::control::request::error::ApiError;
use crate::policy::Snapshot;

/// Returns an object as `snapshot` has it.
///
/// # Errors
/// There is none.
pub(in crate::control) fn view(snapshot: &Snapshot, kind: Kind, id: &str) -> Result<Value, ApiError> {
    let view = match kind {
        Kind::Policy => policies::view,
        Kind::Blueprint => blueprints::view,
        Kind::Devbox => devboxes::view,
    };
    view(snapshot, id).ok_or_else(|| ApiError::unknown(kind, id))
}
