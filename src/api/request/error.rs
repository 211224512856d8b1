//! Errors of API requests, as clients see them: a status and `{"message": ...}`.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::api::objects::ApiKind;
use crate::api::request::counts::Outcome;
use crate::reload::Refused;

/// The error of a request.
///
/// The status is never 409 or 429: Runloop's SDKs retry those five times, for half a minute.
#[derive(Debug)]
pub(in crate::api) struct ApiError {
    pub(in crate::api) status: StatusCode,
    /// The reason, and what to do.
    pub(in crate::api) message: String,
    /// The longest pause after which the request is executed again before this is the response; zero for never.
    pub(in crate::api) last_pause: Duration,
    /// True if the token has its share of a capacity, so that its other requests are the reason.
    is_busy: bool,
}

impl ApiError {
    pub(in crate::api) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), last_pause: Duration::ZERO, is_busy: false }
    }

    /// Makes the error for a request that is wrong.
    pub(in crate::api) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Makes the error for an object that does not exist.
    pub(in crate::api) fn not_found(kind: ApiKind, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {} `{}`", kind.name(), id.escape_debug()))
    }

    /// Makes the error for a request that may succeed later; the SDKs retry it.
    pub(in crate::api) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Makes the error for a capacity of which the token has its share.
    pub(in crate::api) fn busy(message: impl Into<String>) -> Self {
        Self { is_busy: true, ..Self::unavailable(message) }
    }

    /// Executes the request again, after pauses up to this one, before the error is the response.
    pub(in crate::api) fn after_retries(self, last_pause: Duration) -> Self {
        Self { last_pause, ..self }
    }

    /// Makes the error for a panic, which the panic hook has logged.
    pub(in crate::api) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "this request hit a fault in hostgate: see its log")
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Bad(_) | Refused::Full => Self::bad(message),
            Refused::Stale
            | Refused::HeldBack
            | Refused::Busy
            | Refused::Stopping
            | Refused::Stuck(_)
            | Refused::Unknown(_)
            | Refused::Late
            | Refused::Unwritable(_) => Self::unavailable(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "message": self.message }))).into_response();
        if self.is_busy {
            // The status 503 alone may also be a fault of ours.
            response.extensions_mut().insert(Outcome::Busy);
        }
        response
    }
}
