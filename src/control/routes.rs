//! Method and path to what is done.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use super::call::Call;
use super::error::ApiError;
use super::{Control, policies};

/// Returns all routes. Each request carries its [`super::access::Principal`] as an extension.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let policies = get(|call: Call| call.look(policies::list)).post(|call: Call| call.change(policies::create));
    let policy = get(|call: Call| call.look(policies::retrieve)).post(|call: Call| call.change(policies::update));
    Router::new()
        .route("/v1/network-policies", policies)
        .route("/v1/network-policies/{id}", policy)
        .route("/v1/network-policies/{id}/delete", post(|call: Call| call.change(policies::delete)))
        .route("/openapi.json", get(describe))
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_so)
        .with_state(control)
}

/// Describes all routes, in `OpenAPI` 3.1.
async fn describe() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

/// Answers what no route is for.
async fn nothing_there() -> ApiError {
    ApiError { status: StatusCode::NOT_FOUND, message: "there is no such route: see /openapi.json".to_owned() }
}

/// Answers a method that a route does not have.
async fn not_so() -> ApiError {
    let message = "this route has no such method: see /openapi.json".to_owned();
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, message }
}
