//! Devboxes.

use serde_json::Value;

use crate::policy::Snapshot;

/// Returns a devbox as the API shows it.
pub(super) fn view(_snapshot: &Snapshot, _id: &str) -> Option<Value> {
    None
}
