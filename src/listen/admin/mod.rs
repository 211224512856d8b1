//! The admin endpoint: `/metrics`, `/livez`, `/readyz` and `/status` over HTTP on loopback.

mod connections;
pub(crate) mod exposition;
pub(crate) mod service;

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::connections::Connections;
use self::service::Service;
use super::missing_sockets::Purpose;
use super::sockets::Feature;
use super::takeover::Offered;
use crate::bounds::capacity;
use crate::telemetry::heartbeat::Heartbeat;
use crate::util::reserve;

/// The media type of the text that `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The deadline for the head of a request.
const HEAD: Duration = Duration::from_secs(5);
/// The longest lifetime of a connection.
const LIFETIME: Duration = Duration::from_mins(1);
/// The interval between heartbeats of a runtime.
const BEAT: Duration = Duration::from_secs(1);
/// The pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts the admin endpoint on a thread and a runtime of its own, so that it still answers when other threads hang. It
/// ends when `stop` becomes true. A socket that is bound only later is added to `offered`, for a take-over.
///
/// # Errors
/// No thread or no descriptor is available.
pub(crate) fn start(
    socket: Feature<StdListener>,
    service: Arc<Service>,
    (stop, offered): (watch::Receiver<bool>, Option<Offered>),
    heartbeat: Heartbeat,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        runtime.spawn(beat(heartbeat));
        runtime.spawn(watch_main(Arc::clone(&service)));
        runtime.block_on(async move {
            if let Some(listener) = listener(socket, &service, (stop.clone(), offered)).await {
                serve(listener, service, stop).await;
            }
        });
    };
    // The thread is never joined: it answers no DNS query, so a stop does not have to wait for it.
    thread::Builder::new().name("admin".into()).spawn(serve).map(drop)
}

/// Waits until the socket is bound, and returns its listener. Returns `None` if the process stops before, or the
/// runtime does not accept the socket.
async fn listener(
    socket: Feature<StdListener>,
    service: &Arc<Service>,
    (stop, offered): (watch::Receiver<bool>, Option<Offered>),
) -> Option<TcpListener> {
    let is_late = socket.first.is_err();
    let listener = Arc::clone(&service.lacking).until_had(Purpose::Admin, socket, stop).await?;
    // Sockets that are bound at the start are logged and offered there.
    if is_late && let Ok(address) = listener.local_addr() {
        service.listens("admin", address);
        if let (Some(offered), Ok(listener)) = (offered, listener.try_clone()) {
            offered.add(listener.into());
        }
    }
    let ready = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    ready.inspect_err(|error| service.lacking.note(Purpose::Admin, None, &error.to_string())).ok()
}

/// Increases a runtime's heartbeat every second, which stops only when all threads of the runtime hang.
pub(crate) async fn beat(heartbeat: Heartbeat) {
    let mut interval = tokio::time::interval(BEAT);
    loop {
        interval.tick().await;
        heartbeat.beat();
    }
}

/// Watches the main thread, which watches all other threads.
async fn watch_main(service: Arc<Service>) {
    let mut looks = 0;
    loop {
        tokio::time::sleep(BEAT).await;
        looks = service.watch_main(looks);
    }
}

/// Accepts connections and serves them until `stop` becomes true. Requests that are under way then are cut off, as they
/// are no DNS queries.
async fn serve(listener: TcpListener, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(service);
    // There are more permits than connections in `open`: those that were notified to close take a moment to do so.
    let slots = Arc::new(Semaphore::new(capacity::granted().admin));
    let open = Arc::new(Connections::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            let ((stream, peer), loan) = reserve::ADMIN.wait(|context| listener.poll_accept(context)).await?;
            Ok::<_, io::Error>((stream, peer.ip(), (slot, loan)))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, source, (slot, loan))) = accepted else {
            // Without a free descriptor, accept(2) fails even if no connection waits. So an accepted connection gets
            // time to send its request before it may be closed for the next one.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            open.close_one();
            continue;
        };
        let (routes, entry) = (TowerToHyperService::new(routes.clone()), open.add(source));
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            // A connection on a reserved descriptor gives it back after one answer.
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(loan.is_none());
            let service = service_fn(|request| {
                entry.is_busy(true);
                let answer = routes.call(request);
                let entry = Arc::clone(&entry);
                async move {
                    let answer = answer.await;
                    // Once the answer is made, the connection counts as idle and can be closed for another one, even if
                    // the client does not read the answer.
                    entry.is_busy(false);
                    answer
                }
            });
            let served = timeout(LIFETIME, http.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                // An error or the end of the lifetime matters to the client only.
                _ = served => {}
                () = entry.told_to_close() => {}
            }
            // Dropped only now that the connection is closed and its descriptor free.
            drop((slot, loan));
        });
    }
}

/// Answers `/metrics`.
async fn metrics(State(service): State<Arc<Service>>) -> Response {
    match service.encode_metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Answers `/livez`: 200, or 503 if a thread hangs and only a restart helps.
async fn live(State(service): State<Arc<Service>>) -> Response {
    match service.dead() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

/// Answers `/readyz`: 200 if queries are answered and changes of policies come into force, or else 503.
async fn ready(State(service): State<Arc<Service>>) -> Response {
    match service.unready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

/// Answers `/status`.
async fn status(State(service): State<Arc<Service>>) -> Response {
    Json(service.status().await).into_response()
}
