//! The edge: sockets, threads and signals.
//!
//! `udp` and `tcp` take queries to the engine and its answers back; `admin` serves metrics and status; `supervisor` takes
//! signals and watches all of them; this file puts them together, and takes them down again without losing a query.

mod admin;
mod lacking;
mod limits;
mod outages;
mod overload;
pub(crate) mod sockets;
mod supervisor;
pub(crate) mod takeover;
mod tcp;
pub(crate) mod udp;
mod unix;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::lacking::{Lacking, Purpose};
use self::limits::Limits;
use self::sockets::{ControlSocket, Feature, Sockets, Threads};
use self::supervisor::{HANG, Supervisor, Why};
use self::takeover::{Offer, Offered, Takeover};
use self::udp::{Front, Shared};
use crate::bounds::{MAX_TOLD_ADDRESSES, MAX_TOLD_UPSTREAMS};
use crate::control::{self, Control};
use crate::engine::Engine;
use crate::reload::out_of_date::{Kind as Lag, OutOfDate};
use crate::reload::{self, Progress, Reloader};
use crate::telemetry::decision_log::Counts;
use crate::telemetry::exposition::{self, Gauges, UpstreamState};
use crate::telemetry::heartbeat::{Heartbeat, Kind, Stall};
use crate::telemetry::log::LogWriter;

/// Everything a running hostgate consists of, as far as others look into it.
pub(crate) struct Service {
    /// Bytes in, bytes out.
    engine: Arc<Engine>,
    /// What is in force and what is held back.
    progress: Arc<Progress>,
    /// Bounds of TCP.
    limits: Arc<Limits>,
    /// What became of decision records.
    decisions: Arc<Counts>,
    /// What became of log lines.
    log: LogWriter,
    /// What the API has done.
    control: Arc<control::Counts>,
    /// The API, if there is one.
    api: Option<Arc<Control>>,
    /// When the process began.
    started: Instant,
    /// Whether shutdown has begun.
    stopping: AtomicBool,
    /// The threads that hang.
    stalls: ArcSwap<Vec<Stall>>,
    /// How often the main thread has looked at them.
    looks: AtomicU64,
    /// Seconds for which it has not, as the admin endpoint counts them.
    silent: AtomicU64,
    /// The sockets besides those of DNS that cannot be had.
    lacking: Arc<Lacking>,
    /// What it listens at, and by which configuration.
    listening: Mutex<Listening>,
}

/// What a process listens at, so that `hostgate check --start` tells what is free once it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The process.
    pub(crate) pid: u32,
    /// The absolute path of its configuration file; null where it has none.
    pub(crate) configuration: Option<PathBuf>,
    /// Its addresses, and `unix:` with the paths of its Unix sockets.
    pub(crate) addresses: BTreeSet<String>,
    /// Whether it listens at more than that.
    pub(crate) more: bool,
}

/// What `/status` says.
#[derive(Serialize)]
pub(crate) struct Status {
    /// The program's version.
    version: &'static str,
    /// Seconds since the start.
    uptime_seconds: u64,
    /// Policies and upstreams.
    #[serde(flatten)]
    state: reload::State,
    /// Why no change goes into force; null where nothing hangs.
    reload_stuck: Option<String>,
    /// The threads that hang, and since when.
    stalled: Vec<Stall>,
    /// Why log lines are lost; null while standard error is read and can be written.
    log_error: Option<String>,
    /// Why decision records are lost; null while they are written, or there is no decision log.
    decision_log_error: Option<String>,
    /// Each upstream.
    upstreams: Vec<UpstreamState>,
    /// The API; null when it is off.
    control: Option<ControlState>,
    /// The process, and what it listens at.
    listening: Listening,
}

/// What `/status` says of the API.
#[derive(Serialize)]
pub(crate) struct ControlState {
    /// What is wrong with its files, a line each; null when nothing is.
    error: Option<String>,
}

impl Service {
    /// Makes the service around an engine.
    pub(crate) fn new(
        engine: Arc<Engine>,
        progress: Arc<Progress>,
        (decisions, log): (Arc<Counts>, LogWriter),
        (api, control): (Option<Arc<Control>>, Arc<control::Counts>),
        configuration: Option<PathBuf>,
    ) -> Arc<Self> {
        let listening = Listening { pid: std::process::id(), configuration, addresses: BTreeSet::new(), more: false };
        Arc::new(Self {
            engine,
            progress,
            limits: Limits::new(),
            decisions,
            log,
            control,
            api,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            stalls: ArcSwap::default(),
            looks: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            lacking: Arc::default(),
            listening: Mutex::new(listening),
        })
    }

    /// Returns what it listens at.
    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an address for the status, while there are not too many.
    fn note_address(&self, address: String) {
        let mut listening = self.listening();
        listening.more |= listening.addresses.len() >= MAX_TOLD_ADDRESSES;
        if !listening.more {
            listening.addresses.insert(address);
        }
    }

    /// Notes an address, or the path of a Unix socket as `unix:PATH`, that it listens at, and says so.
    fn listens(&self, transport: &'static str, address: impl fmt::Display) {
        self.note_address(address.to_string());
        tracing::info!(transport, %address, "listening");
    }

    /// Returns why it is not ready; `None` where queries are taken, and changes of policies go into force.
    fn unready(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("stopping".to_owned());
        }
        self.progress.stuck().or_else(|| self.stalls().first().map(Stall::describe))
    }

    /// Returns why only a restart helps; `None` where none is needed.
    fn dead(&self) -> Option<String> {
        self.stalls().iter().find(|stall| supervisor::needs_restart(stall)).map(Stall::describe)
    }

    /// Notes what the main thread saw when it looked at the other threads.
    fn looked_at(&self, stalls: &Arc<Vec<Stall>>) {
        self.stalls.store(Arc::clone(stalls));
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a second in which the main thread has not looked, if it is the same number of looks as `before`; returns it.
    /// Counted so, a process that was stopped as a whole has no thread that hangs.
    fn watch_main(&self, before: u64) -> u64 {
        let looks = self.looks.load(Ordering::Relaxed);
        let silent = if looks == before && looks > 0 { self.silent.load(Ordering::Relaxed) + 1 } else { 0 };
        self.silent.store(silent, Ordering::Relaxed);
        looks
    }

    /// Returns the threads that hang, the main one among them.
    fn stalls(&self) -> Vec<Stall> {
        let mut stalls = Vec::clone(&self.stalls.load());
        let silent = Duration::from_secs(self.silent.load(Ordering::Relaxed));
        if silent >= HANG && !self.stopping.load(Ordering::Relaxed) {
            let now = jiff::Timestamp::now();
            let since = now.checked_sub(silent).unwrap_or(now);
            stalls.push(Stall { thread: "main".into(), kind: Kind::Main, since, on_disk: false });
        }
        stalls
    }

    /// Returns what `/status` says.
    async fn status(&self) -> Status {
        let control = match &self.api {
            Some(api) => Some(ControlState { error: Arc::clone(api).error().await }),
            None => None,
        };
        let mut state = reload::State::clone(&self.progress.state());
        state.out_of_date = self.out_of_date();
        state.out_of_date_total = state.out_of_date.len();
        let upstreams: Vec<_> = self.engine.view().upstreams.status().collect();
        state.upstream_error = state.upstream_error.or_else(|| outages::all_gone(&upstreams));
        let upstreams = upstreams.into_iter().take(MAX_TOLD_UPSTREAMS).map(UpstreamState::from).collect();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
            state,
            reload_stuck: self.progress.stuck(),
            stalled: self.stalls(),
            log_error: self.log.error(),
            decision_log_error: self.decisions.error(),
            upstreams,
            control,
            listening: self.listening().clone(),
        }
    }

    /// Returns what is out of date now: what the last look found, a look that takes long, the API's own files, and
    /// sockets that are lacking.
    fn out_of_date(&self) -> OutOfDate {
        let mut all = self.progress.state().out_of_date.clone();
        self.progress.late().into_iter().for_each(|entry| all.add(entry));
        self.api.iter().flat_map(|api| api.out_of_date()).for_each(|entry| all.add(entry));
        self.lacking.entries().into_iter().for_each(|entry| all.add(entry));
        all
    }

    /// Returns what each upstream has been doing.
    fn upstreams(&self) -> Vec<UpstreamState> {
        self.engine.view().upstreams.status().map(UpstreamState::from).collect()
    }

    /// Returns all metrics as text.
    fn encode_metrics(&self) -> Result<String, fmt::Error> {
        let state = self.progress.state();
        let cache = self.engine.cache_stats();
        let tcp = self.limits.counts();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let out_of_date = self.out_of_date();
        let gauges = Gauges {
            generation: state.generation,
            reloads: self.progress.swaps(),
            reload_failures: self.progress.failures(),
            reload_ok: state.error.is_none(),
            reload_running: self.progress.running().as_secs(),
            reload_stuck: self.progress.stuck().is_some(),
            out_of_date: Lag::ALL.map(|kind| out_of_date.count(kind)),
            cache_entries: count(cache.entries),
            cache_bytes: count(cache.bytes),
            cache_evictions: cache.evictions,
            tcp_connections: count(self.limits.open()),
            tcp_closed: [&tcp.closed_idle, &tcp.closed_client].map(|counter| counter.load(Ordering::Relaxed)),
            tcp_accepts_failed: tcp.failed.load(Ordering::Relaxed),
            in_flight: count(self.engine.in_flight()),
            decisions_written: self.decisions.written.load(Ordering::Relaxed),
            decisions_dropped: self.decisions.dropped.load(Ordering::Relaxed),
            log_lines_dropped: self.log.lost(),
            logs_ok: [self.log.error(), self.decisions.error(), self.api.as_ref().and_then(|api| api.audit_error())]
                .map(|error| error.is_none()),
            stalled: {
                let stalls = self.stalls();
                Kind::ALL.map(|kind| count(stalls.iter().filter(|stall| stall.kind == kind).count()))
            },
            objects: [count(state.policies), count(state.blueprints), count(state.clients)],
        };
        exposition::encode(self.engine.metrics(), &gauges, &self.upstreams(), &self.control)
    }
}

/// Serves until SIGTERM, SIGINT or a successor that serves, then answers what is in flight, for five seconds at most. Returns
/// what had not ended by then.
///
/// This is the main thread's work: see [`supervisor`].
///
/// # Errors
/// A thread, a socket or a signal handler that the operating system refuses, or a predecessor that serves on.
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
            // What was taken from the sockets is answered; they, and the paths, are the predecessor's.
            serving.stop(Why::TakenOver, None);
            Err(error)
        }
    }
}

/// Serves the API once its socket can be had, until told to stop; `made` gets its path, if this process made it.
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
        // Set once, here.
        let _ = made.set(path.clone());
    }
    if is_late {
        service.listens("control", &socket);
        if let (Some(offered), Ok(socket)) = (offered, socket.duplicate()) {
            offered.add(socket);
        }
    }
    match control::connection::Listener::from_socket(socket) {
        Ok(listener) => control::connection::serve(listener, control, stop).await,
        Err(error) => service.lacking.note(Purpose::Api, None, &error.to_string()),
    }
}

/// Everything that serves.
struct Serving {
    /// What it serves.
    service: Arc<Service>,
    /// UDP.
    fronts: Vec<Front>,
    /// Set to stop UDP.
    stopping: Arc<AtomicBool>,
    /// TCP.
    tcp: Vec<JoinHandle<()>>,
    /// The API.
    api: Option<JoinHandle<()>>,
    /// Set to stop TCP, the API and the admin endpoint.
    stop: watch::Sender<bool>,
    /// The API's socket in the file system, once this process has made it.
    control_path: Arc<OnceLock<PathBuf>>,
    /// The thread that reloads.
    reload: thread::JoinHandle<()>,
    /// The heartbeats of all runtimes.
    runtimes: Vec<(Kind, Heartbeat)>,
}

impl Serving {
    /// Starts all threads and tasks.
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
        let mut runtimes = vec![(Kind::Runtime, Heartbeat::default())];
        runtime.spawn(admin::beat(runtimes[0].1.clone()));
        if let Some(socket) = sockets.admin {
            let heartbeat = Heartbeat::default();
            if let Ok(listener) = &socket.first {
                service.listens("admin", listener.local_addr()?);
            }
            admin::start(socket, Arc::clone(service), (stopped.clone(), offered.clone()), heartbeat.clone())?;
            runtimes.push((Kind::Admin, heartbeat));
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

    /// Returns the heartbeats to watch.
    fn heartbeats(&self) -> Vec<(String, Kind, Heartbeat)> {
        let reload = ("reload".to_owned(), Kind::Reload, self.service.progress.heartbeat().clone());
        let runtimes = self.runtimes.iter().map(|(kind, beats)| (kind.as_str().to_owned(), *kind, beats.clone()));
        let fronts = self.fronts.iter().flat_map(Front::heartbeats);
        fronts.map(|(name, beats)| (name, Kind::Udp, beats)).chain([reload]).chain(runtimes).collect()
    }

    /// Stops everything at once, and waits until it has ended, for [`DRAIN`] at most. Returns what has not.
    fn stop(self, why: Why, offer: Option<Offer>) -> Vec<&'static str> {
        let end = Instant::now() + DRAIN;
        self.service.stopping.store(true, Ordering::Relaxed);
        self.stopping.store(true, Ordering::Relaxed);
        // Before its socket is closed, so that the path is ours still; a successor has the same socket.
        let path = self.control_path.get().filter(|_| why != Why::TakenOver).cloned();
        let farewell = move || {
            if let Some(offer) = offer {
                offer.end();
            }
            if let Some(path) = path {
                // Should it be gone already, that is as well.
                let _ = fs::remove_file(path);
            }
        };
        // The file system may not answer.
        let (gone, farewell_ended) = mpsc::channel::<()>();
        let farewell = thread::Builder::new().name("farewell".into()).spawn(move || {
            farewell();
            drop(gone);
        });
        if farewell.is_ok() {
            let _ = farewell_ended.recv_timeout(FAREWELL);
        }
        // A receiver that is gone has stopped already.
        let _ = self.stop.send(true);
        while !self.unfinished().is_empty() && Instant::now() < end {
            thread::park_timeout(END_LOOK);
        }
        let mut unfinished = self.unfinished();
        let in_flight = self.service.engine.in_flight();
        if in_flight > 0 {
            tracing::warn!(in_flight, "stopped with queries unanswered");
            // No fault of this process: their upstreams are silent.
            unfinished.retain(|what| *what != UNANSWERED);
        }
        if !self.service.api.as_ref().is_some_and(|api| api.is_changing()) {
            // Nor are clients of the API that do not send what they began, or do not take their answers.
            unfinished.retain(|what| *what != UNTAKEN);
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

    /// Returns what has not ended yet.
    fn unfinished(&self) -> Vec<&'static str> {
        let queries = self.service.engine.in_flight() > 0
            || !self.fronts.iter().all(Front::has_ended)
            || !self.tcp.iter().all(JoinHandle::is_finished);
        let all = [
            (UNANSWERED, queries),
            (UNTAKEN, self.api.as_ref().is_some_and(|api| !api.is_finished())),
            ("a reload", !self.reload.is_finished()),
        ];
        all.into_iter().filter(|(_, is_unfinished)| *is_unfinished).map(|(what, _)| what).collect()
    }
}

/// How long queries in flight, and everything else that is under way, may take at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last decision records may take.
const LAST_RECORDS: Duration = Duration::from_secs(1);
/// How long removing the sockets in the file system may take before the others are closed all the same.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often shutdown looks whether everything has ended.
const END_LOOK: Duration = Duration::from_millis(5);
/// Events that wait for the main thread; their senders wait with more.
const EVENTS: usize = 16;
/// What has not ended when queries wait for answers.
const UNANSWERED: &str = "queries";
/// What has not ended when requests to the API are under way.
const UNTAKEN: &str = "API requests";
