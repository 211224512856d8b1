//! The admin endpoint: `/metrics`, `/livez`, `/readyz` and `/status` over HTTP on loopback.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Service;

/// The media type of the text that `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until told to stop.
///
/// # Errors
/// The listener fails for good.
pub(super) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(service);
    let stopped = async move {
        // An error means that the sender is gone, and the process with it.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, routes).with_graceful_shutdown(stopped).await
}

/// Answers `/metrics`.
async fn metrics(State(service): State<Arc<Service>>) -> Response {
    match service.encode_metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Answers `/livez`: the process runs and its receiving threads turn.
async fn live(State(service): State<Arc<Service>>) -> Response {
    if service.is_alive() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a receiving thread hangs\n").into_response()
    }
}

/// Answers `/readyz`: queries are taken and answered.
async fn ready(State(service): State<Arc<Service>>) -> Response {
    if service.is_ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    }
}

/// Answers `/status`.
async fn status(State(service): State<Arc<Service>>) -> Response {
    Json(service.status()).into_response()
}
