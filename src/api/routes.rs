//! The routes of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};

use crate::api::Control;
use crate::api::objects::blueprints::{self, Blueprints};
use crate::api::objects::devboxes::{self, Devboxes};
use crate::api::objects::policies::{self, Policies};
use crate::api::objects::{delete, list, retrieve, update};
use crate::api::request::call::Call;
use crate::api::request::error::ApiError;
use crate::api::request::long_poll;

/// Returns all routes. Each request carries its [`crate::api::auth::Principal`] as an extension.
pub(super) fn router(control: Arc<Control>) -> Router {
    let policies = get(|call: Call| call.read(list::<Policies>)).post(|call: Call| call.change(policies::create));
    let policy = get(|call: Call| call.read(retrieve::<Policies>)).post(|call: Call| call.change(update::<Policies>));
    let blueprints = get(|call: Call| call.read(list::<Blueprints>)).post(|call: Call| call.change(blueprints::create));
    let blueprint =
        get(|call: Call| call.read(retrieve::<Blueprints>)).post(|call: Call| call.change(update::<Blueprints>));
    let devboxes = get(|call: Call| call.read(list::<Devboxes>)).post(|call: Call| call.change(devboxes::create));
    let devbox = get(|call: Call| call.read(retrieve::<Devboxes>)).post(|call: Call| call.change(update::<Devboxes>));
    Router::new()
        .route("/v1/network-policies", policies)
        .route("/v1/network-policies/{id}", policy)
        .route("/v1/network-policies/{id}/delete", post(|call: Call| call.change(delete::<Policies>)))
        .route("/v1/blueprints", blueprints)
        .route("/v1/blueprints/{id}", blueprint)
        .route("/v1/blueprints/{id}/delete", post(|call: Call| call.change(delete::<Blueprints>)))
        .route("/v1/blueprints/{id}/logs", get(|call: Call| call.read(blueprints::logs)))
        .route("/v1/devboxes", devboxes)
        .route("/v1/devboxes/create_and_await_running", post(|call: Call| call.change(devboxes::create)))
        .route("/v1/devboxes/{id}", devbox)
        .route("/v1/devboxes/{id}/wait_for_status", post(long_poll::wait))
        .route("/v1/devboxes/{id}/shutdown", post(|call: Call| call.change(devboxes::shut_down)))
        .route("/v1/devboxes/{id}/{*rest}", any(no_container))
        .route("/openapi.json", get(description))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(control)
}

/// Responds with the `OpenAPI` 3.1 document.
async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn no_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is no such route: see /openapi.json")
}

/// Responds to Runloop's routes that need a container.
async fn no_container(Path((_, rest)): Path<(String, String)>) -> ApiError {
    let rest = rest.escape_debug();
    let message = format!("`{rest}` is not served: hostgate starts no containers, it answers for their addresses");
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn no_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route has no such method: see /openapi.json")
}
