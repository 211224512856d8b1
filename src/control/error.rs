//! What a client of the API is told when something is not done.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::reload::Refused;

/// Why a request was not done.
///
/// Never 409 or 429: the SDKs ask again five times at those, for half a minute.
#[derive(Debug)]
pub(super) struct ApiError {
    /// The status.
    pub(super) status: StatusCode,
    /// What is wrong, why, and what to do.
    pub(super) message: String,
}

/// The body of an error.
#[derive(Serialize)]
struct Body<'b> {
    /// What is wrong.
    message: &'b str,
}

impl ApiError {
    /// Makes an error of what a request asks for.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// Makes the error for an id that nothing has.
    pub(super) fn unknown(what: &str, id: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: format!("{what} `{}` not found", id.escape_debug()) }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Bad(_) => StatusCode::BAD_REQUEST,
            // All of them may pass: the clients ask again.
            Refused::Stale | Refused::Busy | Refused::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Unwritable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: refused.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(Body { message: &self.message })).into_response()
    }
}
