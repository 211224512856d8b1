//! Method and path to what is done.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::Control;
use super::error::ApiError;

/// Returns all routes. Each request carries its [`super::access::Principal`] as an extension.
pub(crate) fn router(control: Arc<Control>) -> Router {
    Router::new().fallback(nothing_there).with_state(control)
}

/// Answers what no route is for.
async fn nothing_there() -> impl IntoResponse {
    ApiError { status: StatusCode::NOT_FOUND, message: "there is no such route: see /openapi.json".to_owned() }
}
