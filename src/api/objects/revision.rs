//! Revisions of objects: what tells an object's file from what it was, so that nobody overwrites what another client, or a
//! person, changed after it was read.

use axum::http::StatusCode;
use ring::digest::{SHA256, digest};

use crate::api::hex;
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::Fields;
use crate::api::request::error::{ApiError, Wrongs};
use crate::api::request::fields;

/// The field for a revision: the one that a view shows, or that a request is about.
pub(in crate::api) const KEY: &str = "hostgate_revision";

/// Returns the revision of an object whose file holds `text`; the audit record has the same hash.
pub(in crate::api) fn of(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

/// Takes the revision that is to be changed out of a request; any is if it names none.
///
/// # Errors
/// It is no text.
pub(in crate::api) fn take(given: &mut Fields) -> Result<Option<String>, ApiError> {
    let mut wrongs = Wrongs::default();
    let revision = fields::text(given, KEY, &mut wrongs);
    wrongs.check()?;
    Ok(revision.and_then(|revision| revision.as_str().map(str::to_owned)))
}

/// Checks that an object's file, which holds `text`, is still the one that a request is about. To be asked last: a request
/// that is wrong whatever the revision is told that (RFC 9110 §13.2.1).
///
/// # Errors
/// It was changed.
pub(in crate::api) fn check(seen: Option<&str>, kind: Kind, id: &str, text: &str) -> Result<(), ApiError> {
    if seen.is_none_or(|seen| seen == of(text)) {
        return Ok(());
    }
    let message = format!("{KEY}: {} `{id}` was changed meanwhile: read it again, and change that", kind.word());
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, message))
}
