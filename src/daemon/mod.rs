//! The running service: [`Daemon::new`] makes its parts in order, [`Daemon::serve`] starts their threads and tasks, and
//! stops them without losing a query.
//!
//! The main thread makes and starts everything, becomes the `supervisor`, which handles signals and watches the other
//! threads, and at the end stops everything at once.

mod outages;
pub(crate) mod prepare;
pub(crate) mod sizes;
mod supervisor;
pub(crate) mod systemd;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::prepare::{Prepared, Start, StartRefusal};
use self::supervisor::{StopReason, Supervisor};
use crate::api::connection::socket::ControlSocket;
use crate::api::{self, ApiState, Opened, Reserved};
use crate::bounds::{MAX_LOGGED, MAX_TOLD_LINE};
use crate::config::Config;
use crate::document::shortened;
use crate::engine::cache::Settings;
use crate::engine::{Engine, View};
use crate::listen::admin;
use crate::listen::admin::service::Service;
use crate::listen::missing_sockets::Purpose;
use crate::listen::resolver::{self, TcpThread};
use crate::listen::sockets::{Feature, Sockets, Threads};
use crate::listen::takeover::{Offer, Offered, Takeover};
use crate::listen::tcp;
use crate::listen::udp::{Front, Shared};
use crate::reload::upstreams::Chosen;
use crate::reload::{Loaded, Reloader, SetLogFilter, log_warnings, log_without};
use crate::telemetry::decision_log::{DecisionLog, DecisionLogCounts};
use crate::telemetry::heartbeat::{Heartbeat, ThreadKind};
use crate::telemetry::log::LogWriter;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstreams;

/// The parts of a running hostgate, made but not yet started.
pub(crate) struct Daemon {
    service: Arc<Service>,
    sockets: Sockets,
    /// The API, if there is one.
    control: Option<Arc<ApiState>>,
    takeover: Option<Takeover>,
    reloader: Reloader,
    runtime: Runtime,
}

impl Daemon {
    /// Makes the parts from the files that were read, and opens the sockets. Each part is made from those before it.
    ///
    /// # Errors
    /// The files contradict each other, or the system refuses a socket, a thread or memory.
    pub(crate) fn new(
        (path, config, mut loaded): (Option<PathBuf>, Config, Loaded),
        how: Start,
        log: LogWriter,
        set_log_filter: SetLogFilter,
    ) -> Result<Self, StartRefusal> {
        let request_counts = Arc::new(api::RequestCounts::default());
        let opened = config.control.clone().map(|settings| {
            Opened::new(settings, Reserved::of(&config), Arc::clone(&request_counts)).map_err(StartRefusal::Files)
        });
        let opened = opened.transpose()?;
        // All files have been read and are good at this point, so a successor with a bad file takes over nothing.
        let Prepared { sizes, sockets, takeover, chosen } = prepare::prepare(&config, &mut loaded, how)?;
        let listeners: Vec<_> = sockets.listeners.iter().map(|listener| listener.address).collect();
        let record_counts = Arc::new(DecisionLogCounts::default());
        let decisions = config.decisions.as_ref().map(|path| {
            DecisionLog::open(path, Arc::clone(&record_counts)).map_err(|error| {
                StartRefusal::System(format!("decision log {}: cannot start its thread: {error}", path.display()))
            })
        });
        let decisions = decisions.transpose()?;
        log_files(&config, path.as_deref(), &loaded);
        sizes.log();
        log_upstreams(&chosen);
        let metrics = Arc::new(Metrics::default());
        let observer: Arc<Metrics> = Arc::clone(&metrics);
        let upstreams = Arc::new(Upstreams::new(&chosen.servers, chosen.settings(), observer));
        let view = View {
            snapshot: Arc::clone(loaded.library().snapshot()),
            upstreams: Arc::clone(&upstreams),
            denied_ttl: config.denied_ttl,
        };
        let cache =
            Settings { size: sizes.cache[0], max_ttl: config.cache.max_ttl, serve_stale: config.cache.serve_stale };
        let engine = Arc::new(Engine::new(view, cache, metrics, decisions));
        let configuration = path.as_deref().and_then(|path| std::path::absolute(path).ok());
        let reloader =
            Reloader::new(loaded, (path, config), listeners, (upstreams, chosen), Arc::clone(&engine), set_log_filter);
        let control =
            opened.map(|opened| ApiState::new(Arc::clone(&engine), (reloader.changer(), reloader.status()), opened));
        let api = (control.clone(), request_counts);
        let service = Service::new(engine, reloader.status(), (record_counts, log), api, configuration);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(sizes.cpus.max(2))
            .thread_name("runtime")
            .enable_all()
            .build()
            .map_err(|error| StartRefusal::System(format!("runtime: {error}")))?;
        Ok(Self { service, sockets, control, takeover, reloader, runtime })
    }

    /// Serves until SIGTERM, SIGINT or a successor that serves, then answers the queries in flight, for at most five
    /// seconds. Returns the names of what had not ended by then. Runs on the main thread: see [`supervisor`].
    ///
    /// # Errors
    /// The system refuses a thread, a socket or a signal handler, or the predecessor keeps its sockets.
    pub(crate) fn serve(self) -> io::Result<Vec<&'static str>> {
        let Self { service, sockets, control, takeover, reloader, runtime } = self;
        let (events, happened) = mpsc::sync_channel(EVENTS);
        runtime.spawn(outages::watch(Arc::clone(&service)));
        supervisor::listen_for_signals(events.clone())?;
        let waker = reloader.waker();
        let offered = takeover.as_ref().map(Takeover::offered);
        if let Some(takeover) = &takeover {
            service.note_address(format!("unix:{}", takeover.path().display()));
        }
        let serving = Serving::start(&runtime, &service, (sockets, control), (reloader, offered))?;
        log_ready(&service);
        let mut supervisor = Supervisor::new(Arc::clone(&service), waker.clone(), serving.heartbeats());
        let offer = takeover
            .map(|takeover| takeover.serving(events, (Arc::clone(&service.lacking), Arc::clone(&service.progress))))
            .transpose()?;
        let watched = supervisor.watch(&happened);
        supervisor.stopping();
        waker.stop();
        let (why, offer) = match &watched {
            Ok(why) => {
                tracing::info!(why = why.as_str(), "stopping: answering what is in flight");
                (*why, offer)
            }
            // Queries received so far are answered. The sockets, and their paths, remain those of the predecessor.
            Err(_) => (StopReason::TakenOver, None),
        };
        let unfinished = serving.stop(why, offer);
        // Tasks that still run at the deadline are abandoned.
        runtime.shutdown_background();
        watched.map(|_| unfinished)
    }
}

/// Serves the API once its socket is available, until `stop`. `made` receives the path of a Unix socket that this
/// process created.
async fn serve_api(
    service: Arc<Service>,
    socket: Feature<ControlSocket>,
    control: Arc<ApiState>,
    (stop, offered): (watch::Receiver<bool>, Option<Offered>),
    made: Arc<OnceLock<PathBuf>>,
) {
    let is_late = socket.first.is_err();
    let Some(socket) = Arc::clone(&service.lacking).until_had(Purpose::Api, socket, stop.clone()).await else { return };
    if let ControlSocket::Unix { path, is_ours: true, .. } = &socket {
        // Succeeds, as nothing else sets it.
        let _ = made.set(path.clone());
    }
    if is_late {
        service.listens("control", &socket);
        if let (Some(offered), Ok(socket)) = (offered, socket.duplicate()) {
            offered.add(socket);
        }
    }
    match api::connection::ApiListener::from_socket(socket) {
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
    /// Starts the threads and tasks.
    ///
    /// # Errors
    /// The system refuses a thread or a socket option.
    fn start(
        runtime: &Runtime,
        service: &Arc<Service>,
        (sockets, control): (Sockets, Option<Arc<ApiState>>),
        (reloader, offered): (Reloader, Option<Offered>),
    ) -> io::Result<Self> {
        let _in_runtime = runtime.enter();
        let (stop, stopped) = watch::channel(false);
        let stopping = Arc::<AtomicBool>::default();
        let (inboxes, mut inputs) = resolver::open(sockets.listeners.iter().map(|listener| listener.udp.len()).sum())?;
        let shared = Shared {
            engine: Arc::clone(&service.engine),
            runtime: runtime.handle().clone(),
            inboxes,
            stopping: Arc::clone(&stopping),
        };
        let (mut fronts, mut grouped, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
        let first = inputs.next().ok_or(io::ErrorKind::InvalidInput)?;
        let tcp_thread = TcpThread::start(first, &shared.engine, &shared.inboxes, shared.runtime.clone())?;
        for (number, listener) in sockets.listeners.into_iter().enumerate() {
            let address = listener.address;
            match sockets.threads {
                Threads::Each => fronts.push(Front::start(listener.udp, number, &shared, &mut inputs)?),
                Threads::Shared(_) => grouped.extend(listener.udp.into_iter().map(|socket| (socket, number))),
            }
            service.listens("udp", address);
            listener.tcp.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener.tcp)?;
            let (engine, limits) = (Arc::clone(&service.engine), Arc::clone(&service.limits));
            tcp.push(runtime.spawn(tcp::serve(
                listener,
                number,
                engine,
                shared.inboxes[0].clone(),
                limits,
                stopped.clone(),
            )));
            service.listens("tcp", address);
        }
        if let Threads::Shared(threads) = sockets.threads {
            fronts.push(Front::start_shared(grouped, threads, &shared, &mut inputs)?);
        }
        let mut runtimes = vec![(ThreadKind::Runtime, Heartbeat::default()), (ThreadKind::Tcp, tcp_thread.heartbeat)];
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

/// Logs the files that are served, and the errors and warnings about them.
fn log_files(config: &Config, path: Option<&Path>, loaded: &Loaded) {
    let config_file = path.map_or("none, using defaults".to_owned(), |path| path.display().to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = config_file,
        policies = %config.policies.display(),
        "hostgate starts"
    );
    log_warnings(loaded.warnings.iter().filter(|warning| warning.is_warning()));
    if let Some(written) = &loaded.last_good {
        tracing::error!(written, "started from the last good state, as the files on disk are bad; fix them");
    }
    for error in loaded.wrong().iter().take(MAX_LOGGED) {
        let error = error.to_string();
        let error = &*shortened(&error, MAX_TOLD_LINE);
        tracing::error!(error, "started without what is bad on disk");
    }
    log_without(loaded.library().snapshot());
}

/// Logs the upstreams to forward to, and the nameservers of a resolv.conf that cannot be used.
fn log_upstreams(chosen: &Chosen) {
    tracing::info!(upstream = &*shortened(&chosen.describe(), MAX_TOLD_LINE), "forwarding");
    for skipped in chosen.skipped.iter().take(MAX_LOGGED) {
        let skipped = &*shortened(skipped, MAX_TOLD_LINE);
        tracing::warn!(skipped, "nameserver passed over");
    }
    if let Some(error) = &chosen.error {
        let error = &*shortened(error, MAX_TOLD_LINE);
        tracing::error!(error, "no upstream; denied names are denied, allowed ones answered SERVFAIL");
    }
}

/// Logs what is in force at the start.
fn log_ready(service: &Service) {
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
