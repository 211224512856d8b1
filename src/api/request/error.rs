//! What a client of the API is told when something is not done.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::objects::kind::Kind;
use crate::api::request::counts::Outcome;
use crate::reload::Refused;

/// Why a request was not done.
///
/// Never 409 or 429: the SDKs ask again five times at those, for half a minute.
#[derive(Debug)]
pub(in crate::api) struct ApiError {
    /// The status.
    pub(in crate::api) status: StatusCode,
    /// What is wrong, why, and what to do.
    pub(in crate::api) message: String,
    /// The longest pause after which it is tried again before the client is told; zero is never.
    pub(in crate::api) last_pause: Duration,
    /// Whether it is refused for what others are doing.
    pub(in crate::api) is_busy: bool,
}

/// The body of an error.
#[derive(Serialize)]
struct Body<'b> {
    /// What is wrong.
    message: &'b str,
}

impl ApiError {
    /// Makes an error that is told at once.
    pub(in crate::api) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), last_pause: Duration::ZERO, is_busy: false }
    }

    /// Makes an error of what a request asks for.
    pub(in crate::api) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Makes the error for an id that nothing has.
    pub(in crate::api) fn unknown(kind: Kind, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {} `{}`", kind.word(), id.escape_debug()))
    }

    /// Makes the error for what cannot be done now and can be later: the clients ask again.
    pub(in crate::api) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Makes the error for a capacity of which the caller has its share.
    pub(in crate::api) fn busy(message: impl Into<String>) -> Self {
        Self { is_busy: true, ..Self::unavailable(message) }
    }

    /// Makes the error for our own faults; the panic hook has told more.
    pub(in crate::api) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "this request hit a fault in hostgate: see its log")
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Bad(_) | Refused::Full => Self::bad(message),
            // All of them may pass.
            Refused::Stale
            | Refused::HeldBack
            | Refused::Busy
            | Refused::Stopping
            | Refused::Stuck(_)
            | Refused::Late
            | Refused::Unwritable(_) => Self::unavailable(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Body { message: &self.message })).into_response();
        if self.is_busy {
            // The status alone does not tell it from a fault of ours.
            response.extensions_mut().insert(Outcome::Busy);
        }
        response
    }
}

/// What is wrong with the fields of a request: everything, told at once.
#[derive(Debug, Default)]
pub(in crate::api) struct Wrongs(Vec<String>);

impl Wrongs {
    /// Adds something.
    pub(in crate::api) fn add(&mut self, wrong: String) {
        self.0.push(wrong);
    }

    /// Returns the error there is.
    ///
    /// # Errors
    /// Something was added.
    pub(in crate::api) fn check(self) -> Result<(), ApiError> {
        /// How many are told.
        const MOST: usize = 20;
        match self.0.len() {
            0 => Ok(()),
            1..=MOST => Err(ApiError::bad(self.0.join("; "))),
            all => Err(ApiError::bad(format!("{}; and {} more", self.0[..MOST].join("; "), all - MOST))),
        }
    }
}
