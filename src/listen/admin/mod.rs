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

/// How long a request's head may take to arrive.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last in all.
const LIFETIME: Duration = Duration::from_mins(1);
/// How often a runtime shows that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// The pause after a failed accept, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves on a thread and a runtime of its own, so that it can tell when the others hang, until told to stop.
///
/// # Errors
/// The system gives no thread or no descriptors.
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
    // Never joined: nobody's query is in it.
    thread::Builder::new().name("admin".into()).spawn(serve).map(drop)
}

/// Returns the listener once it can be had; `None` if the process stops before.
async fn listener(
    socket: Feature<StdListener>,
    service: &Arc<Service>,
    (stop, offered): (watch::Receiver<bool>, Option<Offered>),
) -> Option<TcpListener> {
    let is_late = socket.first.is_err();
    let listener = Arc::clone(&service.lacking).until_had(Purpose::Admin, socket, stop).await?;
    if is_late && let Ok(address) = listener.local_addr() {
        service.listens("admin", address);
        if let (Some(offered), Ok(listener)) = (offered, listener.try_clone()) {
            offered.add(listener.into());
        }
    }
    let ready = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    ready.inspect_err(|error| service.lacking.note(Purpose::Admin, None, &error.to_string())).ok()
}

/// Shows that a runtime's threads take turns, or one of them does.
pub(crate) async fn beat(heartbeat: Heartbeat) {
    let mut interval = tokio::time::interval(BEAT);
    loop {
        interval.tick().await;
        heartbeat.beat();
    }
}

/// Watches the main thread, which watches all others.
async fn watch_main(service: Arc<Service>) {
    let mut looks = 0;
    loop {
        tokio::time::sleep(BEAT).await;
        looks = service.watch_main(looks);
    }
}

/// Serves until told to stop; what is under way then is cut off, as nobody's query is in it.
async fn serve(listener: TcpListener, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(service);
    // Those that were told to close take a moment to do so.
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
            // The error says nothing of a waiting connection, so the ones that have just come get time to send a request.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            open.close_one();
            continue;
        };
        let (routes, entry) = (TowerToHyperService::new(routes.clone()), open.add(source));
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(loan.is_none());
            let service = service_fn(|request| {
                entry.is_busy(true);
                let answer = routes.call(request);
                let entry = Arc::clone(&entry);
                async move {
                    let answer = answer.await;
                    // An answer that is not taken keeps nobody out.
                    entry.is_busy(false);
                    answer
                }
            });
            let served = timeout(LIFETIME, http.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                // However it ends, it is the client's to notice.
                _ = served => {}
                () = entry.told_to_close() => {}
            }
            // The connection is closed by now.
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

/// Answers `/livez`: no thread hangs in a way that only a restart helps against.
async fn live(State(service): State<Arc<Service>>) -> Response {
    match service.dead() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

/// Answers `/readyz`: queries are taken and answered, and changes of policies go into force.
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
