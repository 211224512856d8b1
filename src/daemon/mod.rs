//! The running service: starting its threads and tasks in order, and stopping them without losing a query.
//!
//! The main thread starts everything, becomes the `supervisor`, which handles signals and watches the other threads,
//! and at the end stops everything at once.

mod outages;
mod supervisor;
mod systemd;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::supervisor::{StopReason, Supervisor};
use crate::api::connection::socket::ControlSocket;
use crate::api::{self, Control};
use crate::listen::admin;
use crate::listen::admin::service::Service;
use crate::listen::missing_sockets::Purpose;
use crate::listen::sockets::{Feature, Sockets, Threads};
use crate::listen::takeover::{Offer, Offered, Takeover};
use crate::listen::tcp;
use crate::listen::udp::{Front, Shared};
use crate::reload::Reloader;
use crate::telemetry::heartbeat::{Heartbeat, ThreadKind};

/// Serves until SIGTERM, SIGINT or a successor that serves, then answers the queries in flight, for at most five
/// seconds. Returns the names of what had not ended by then. Runs on the main thread: see [`supervisor`].
///
/// # Errors
/// The system refuses a thread, a socket or a signal handler, or the predecessor keeps its sockets.
pub(crate) fn serve(
    runtime: &Runtime,
    service: &Arc<Service>,
    sockets: (Sockets, Option<Arc<Control>>),
    takeover: Option<Takeover>,
    reloader: Reloader,
) -> io::Result<Vec<&'static str>> {
    let (events, happened) = mpsc::sync_channel(EVENTS);
    runtime.spawn(outages::watch(Arc::clone(service)));
    supervisor::listen_for_signals(events.clone())?;
    let waker = reloader.waker();
    let offered = takeover.as_ref().map(Takeover::offered);
    if let Some(takeover) = &takeover {
        service.note_address(format!("unix:{}", takeover.path().display()));
    }
    let serving = Serving::start(runtime, service, sockets, (reloader, offered))?;
    {
        let state = service.progress.state();
        tracing::info!(
            generation = state.generation,
            hash = state.hash,
            policies = state.policies,
            blueprints = state.blueprints,
            clients = state.clients,
            "ready"
        );
    }
    let mut supervisor = Supervisor::new(Arc::clone(service), waker.clone(), serving.heartbeats());
    let offer = takeover.map(|takeover| takeover.serving(events, Arc::clone(&service.lacking))).transpose()?;
    let watched = supervisor.watch(&happened);
    supervisor.stopping();
    waker.stop();
    match watched {
        Ok(why) => {
            tracing::info!(why = why.as_str(), "stopping: answering what is in flight");
            Ok(serving.stop(why, offer))
        }
        Err(error) => {
            // Queries received so far are answered. The sockets, and their paths, remain those of the predecessor.
            serving.stop(StopReason::TakenOver, None);
            Err(error)
        }
    }
}

/// Serves the API once its socket is available, until `stop`. `made` receives the path of a Unix socket that this
/// process created.
async fn serve_api(
    service: Arc<Service>,
    socket: Feature<ControlSocket>,
    control: Arc<Control>,
    (stop, offered): (watch::Receiver<bool>, Option<Offered>),
    made: Arc<OnceLock<PathBuf>>,
) {
    let is_late = socket.first.is_err();
    let Some(socket) = Arc::clone(&service.lacking).until_had(Purpose::Api, socket, stop.clone()).await else { return };
    if let ControlSocket::Unix { path, is_ours: true, .. } = &socket {
        // The only place that sets it, once.
        let _ = made.set(path.clone());
    }
    if is_late {
        service.listens("control", &socket);
        if let (Some(offered), Ok(socket)) = (offered, socket.duplicate()) {
            offered.add(socket);
        }
    }
    match api::connection::Listener::from_socket(socket) {
        Ok(listener) => api::connection::serve(listener, control, stop).await,
        Err(error) => service.lacking.note(Purpose::Api, None, &error.to_string()),
    }
}

/// The threads and tasks of the service, and the channels that stop them.
struct Serving {
    service: Arc<Service>,
    /// The threads that answer queries over UDP.
    fronts: Vec<Front>,
    /// Set to stop the UDP threads.
    stopping: Arc<AtomicBool>,
    /// The tasks of the TCP listeners.
    tcp: Vec<JoinHandle<()>>,
    /// The task of the API.
    api: Option<JoinHandle<()>>,
    /// The channel that stops TCP, the API and the admin endpoint.
    stop: watch::Sender<bool>,
    /// The path of the API's Unix socket, once this process has created it.
    control_path: Arc<OnceLock<PathBuf>>,
    reload: thread::JoinHandle<()>,
    /// The heartbeats of the runtimes.
    runtimes: Vec<(ThreadKind, Heartbeat)>,
}

impl Serving {
    fn start(
        runtime: &Runtime,
        service: &Arc<Service>,
        (sockets, control): (Sockets, Option<Arc<Control>>),
        (reloader, offered): (Reloader, Option<Offered>),
    ) -> io::Result<Self> {
        let _in_runtime = runtime.enter();
        let (stop, stopped) = watch::channel(false);
        let stopping = Arc::<AtomicBool>::default();
        let shared = Shared {
            engine: Arc::clone(&service.engine),
            runtime: runtime.handle().clone(),
            stopping: Arc::clone(&stopping),
        };
        let (mut fronts, mut grouped, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
        for (number, listener) in sockets.listeners.into_iter().enumerate() {
            let address = listener.address;
            match sockets.threads {
                Threads::Each => fronts.push(Front::start(listener.udp, number, &shared)?),
                Threads::Shared(_) => grouped.extend(listener.udp.into_iter().map(|socket| (socket, number))),
            }
            service.listens("udp", address);
            listener.tcp.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener.tcp)?;
            let (engine, limits) = (Arc::clone(&service.engine), Arc::clone(&service.limits));
            tcp.push(runtime.spawn(tcp::serve(listener, number, engine, limits, stopped.clone())));
            service.listens("tcp", address);
        }
        if let Threads::Shared(threads) = sockets.threads {
            fronts.push(Front::start_shared(grouped, threads, &shared)?);
        }
        let mut runtimes = vec![(ThreadKind::Runtime, Heartbeat::default())];
        runtime.spawn(admin::beat(runtimes[0].1.clone()));
        if let Some(socket) = sockets.admin {
            let heartbeat = Heartbeat::default();
            if let Ok(listener) = &socket.first {
                service.listens("admin", listener.local_addr()?);
            }
            admin::start(socket, Arc::clone(service), (stopped.clone(), offered.clone()), heartbeat.clone())?;
            runtimes.push((ThreadKind::Admin, heartbeat));
        }
        let (mut api, control_path) = (None, Arc::default());
        if let (Some(socket), Some(control)) = (sockets.control, control) {
            if let Ok(socket) = &socket.first {
                service.listens("control", socket);
            }
            let (service, path) = (Arc::clone(service), Arc::clone(&control_path));
            api = Some(runtime.spawn(serve_api(service, socket, control, (stopped, offered), path)));
        }
        let reload = thread::Builder::new().name("reload".into()).spawn(move || reloader.run())?;
        let service = Arc::clone(service);
        Ok(Self { service, fronts, stopping, tcp, api, stop, control_path, reload, runtimes })
    }

    /// Returns the name, kind and heartbeat of each thread to watch.
    fn heartbeats(&self) -> Vec<(String, ThreadKind, Heartbeat)> {
        let reload = ("reload".to_owned(), ThreadKind::Reload, self.service.progress.heartbeat().clone());
        let runtimes = self.runtimes.iter().map(|(kind, beats)| (kind.as_str().to_owned(), *kind, beats.clone()));
        let fronts = self.fronts.iter().flat_map(Front::heartbeats);
        fronts.map(|(name, beats)| (name, ThreadKind::Udp, beats)).chain([reload]).chain(runtimes).collect()
    }

    /// Stops everything at once and waits for its end, at most for [`DRAIN`]. Returns the names of what has not ended.
    fn stop(self, why: StopReason, offer: Option<Offer>) -> Vec<&'static str> {
        let end = Instant::now() + DRAIN;
        self.service.stopping.store(true, Ordering::Relaxed);
        self.stopping.store(true, Ordering::Relaxed);
        // Removed before the socket is closed, so that the path is still ours; a successor serves on the same socket.
        let path = self.control_path.get().filter(|_| why != StopReason::TakenOver).cloned();
        let cleanup = move || {
            if let Some(offer) = offer {
                offer.end();
            }
            if let Some(path) = path {
                // The file may have been removed already.
                let _ = fs::remove_file(path);
            }
        };
        // In a thread of its own, as a file system that hangs must not delay the end.
        let (gone, cleanup_ended) = mpsc::channel::<()>();
        let cleanup = thread::Builder::new().name("cleanup".into()).spawn(move || {
            cleanup();
            drop(gone);
        });
        if cleanup.is_ok() {
            let _ = cleanup_ended.recv_timeout(CLEANUP);
        }
        // Fails if all receivers have stopped already.
        let _ = self.stop.send(true);
        while !self.unfinished().is_empty() && Instant::now() < end {
            thread::park_timeout(END_CHECK);
        }
        let mut unfinished = self.unfinished();
        let in_flight = self.service.engine.in_flight();
        if in_flight > 0 {
            tracing::warn!(in_flight, "stopped with queries unanswered");
            // Queries without an answer are the fault of their upstreams, not of this process.
            unfinished.retain(|what| *what != QUERIES);
        }
        if !self.service.api.as_ref().is_some_and(|api| api.is_changing()) {
            // Clients that do not send the rest of a request, or do not read an answer, are no fault of this process
            // either.
            unfinished.retain(|what| *what != API_REQUESTS);
        }
        if !self.service.engine.close_decision_log(LAST_RECORDS) {
            unfinished.push("decision records");
        }
        if unfinished.is_empty() {
            tracing::info!("stopped");
        } else {
            tracing::error!(unfinished = unfinished.join(", "), "stopped at the deadline");
        }
        unfinished
    }

    /// Returns the names of what has not ended.
    fn unfinished(&self) -> Vec<&'static str> {
        let queries = self.service.engine.in_flight() > 0
            || !self.fronts.iter().all(Front::has_ended)
            || !self.tcp.iter().all(JoinHandle::is_finished);
        let all = [
            (QUERIES, queries),
            (API_REQUESTS, self.api.as_ref().is_some_and(|api| !api.is_finished())),
            ("a reload", !self.reload.is_finished()),
        ];
        all.into_iter().filter(|(_, is_unfinished)| *is_unfinished).map(|(what, _)| what).collect()
    }
}

/// The deadline for queries in flight, and for everything else, at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// The deadline for writing the last decision records.
const LAST_RECORDS: Duration = Duration::from_secs(1);
/// The time after which the listening sockets are closed even if their files could not be removed.
const CLEANUP: Duration = Duration::from_millis(500);
/// The interval at which shutdown checks whether everything has ended.
const END_CHECK: Duration = Duration::from_millis(5);
/// The capacity of the main thread's channel; senders of further events wait.
const EVENTS: usize = 16;
/// The name for queries that wait for answers at the deadline.
const QUERIES: &str = "queries";
/// The name for API requests under way at the deadline.
const API_REQUESTS: &str = "API requests";
