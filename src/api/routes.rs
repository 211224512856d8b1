//! Method and path to what is done.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};

use crate::api::Control;
use crate::api::objects::blueprints;
use crate::api::objects::devboxes;
use crate::api::objects::kind::Kind;
use crate::api::objects::policies;
use crate::api::objects::view;
use crate::api::request::call::Call;
use crate::api::request::error::ApiError;
use crate::api::request::long_poll;

/// Returns all routes. Each request carries its [`crate::api::auth::Principal`] as an extension.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let policies = get(|call: Call| call.look(policies::list)).post(|call: Call| call.change(policies::create));
    let policy = get(|call: Call| call.look(|call, snapshot| view(snapshot, Kind::Policy, &call.id)))
        .post(|call: Call| call.change(policies::update));
    let blueprints = get(|call: Call| call.look(blueprints::list)).post(|call: Call| call.change(blueprints::create));
    let blueprint = get(|call: Call| call.look(|call, snapshot| view(snapshot, Kind::Blueprint, &call.id)))
        .post(|call: Call| call.change(blueprints::update));
    let devboxes = get(|call: Call| call.look(devboxes::list)).post(|call: Call| call.change(devboxes::create));
    let devbox = get(|call: Call| call.look(|call, snapshot| view(snapshot, Kind::Devbox, &call.id)))
        .post(|call: Call| call.change(devboxes::update));
    Router::new()
        .route("/v1/network-policies", policies)
        .route("/v1/network-policies/{id}", policy)
        .route("/v1/network-policies/{id}/delete", post(|call: Call| call.change(policies::delete)))
        .route("/v1/blueprints", blueprints)
        .route("/v1/blueprints/{id}", blueprint)
        .route("/v1/blueprints/{id}/delete", post(|call: Call| call.change(blueprints::delete)))
        .route("/v1/blueprints/{id}/logs", get(|call: Call| call.look(blueprints::logs)))
        .route("/v1/devboxes", devboxes)
        .route("/v1/devboxes/create_and_await_running", post(|call: Call| call.change(devboxes::create)))
        .route("/v1/devboxes/{id}", devbox)
        .route("/v1/devboxes/{id}/wait_for_status", post(long_poll::wait))
        .route("/v1/devboxes/{id}/shutdown", post(|call: Call| call.change(devboxes::shut_down)))
        .route("/v1/devboxes/{id}/{*rest}", any(no_container))
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
    ApiError::new(StatusCode::NOT_FOUND, "there is no such route: see /openapi.json".to_owned())
}

/// Answers what would need a container.
async fn no_container(Path((_, rest)): Path<(String, String)>) -> ApiError {
    let rest = rest.escape_debug();
    let message = format!("`{rest}` is not served: hostgate starts no containers, it answers for their addresses");
    ApiError::new(StatusCode::NOT_FOUND, message)
}

/// Answers a method that a route does not have.
async fn not_so() -> ApiError {
    let message = "this route has no such method: see /openapi.json".to_owned();
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
