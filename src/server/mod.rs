//! The edge: sockets, threads and signals.
//!
//! `udp` and `tcp` take queries to the engine and its answers back; `admin` serves metrics and status; this file
//! puts them together, and takes them down again without losing a query.

mod admin;
mod limits;
mod outages;
mod overload;
pub(crate) mod sockets;
pub(crate) mod takeover;
mod tcp;
pub(crate) mod udp;
mod unix;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::limits::Limits;
use self::sockets::{ControlSocket, Sockets};
use self::takeover::Takeover;
use self::udp::{Front, Shared};
use crate::bounds::MAX_TOLD_UPSTREAMS;
use crate::control::{self, Control};
use crate::engine::Engine;
use crate::reload::out_of_date::{Kind, OutOfDate};
use crate::reload::{self, Progress, Reloader, Waker};
use crate::systemd;
use crate::telemetry::decision_log::Counts;
use crate::telemetry::exposition::{self, Gauges, UpstreamState};
use crate::telemetry::log::LogWriter;

/// How long queries in flight may take at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Why serving ends when a successor serves.
const TAKEN: &str = "taken over";

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
    /// Whether every receiving thread turned since the watchdog last looked.
    alive: AtomicBool,
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
    /// Why log lines are lost; null while standard error is read.
    log_error: Option<String>,
    /// Each upstream.
    upstreams: Vec<UpstreamState>,
    /// The API; null when it is off.
    control: Option<ControlState>,
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
    ) -> Arc<Self> {
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
            alive: AtomicBool::new(true),
        })
    }

    /// Returns why it is not ready; `None` where queries are taken, and changes of policies go into force.
    fn unready(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("stopping".to_owned());
        }
        self.progress.stuck()
    }

    /// Returns whether every receiving thread turns.
    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Returns what `/status` says.
    fn status(&self) -> Status {
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
            log_error: self.log.error(),
            upstreams,
            control: self.api.as_ref().map(|api| ControlState { error: api.error() }),
        }
    }

    /// Returns what is out of date now: what the last look found, a look that takes long, and the API's own files.
    fn out_of_date(&self) -> OutOfDate {
        let mut all = self.progress.state().out_of_date.clone();
        self.progress.late().into_iter().for_each(|entry| all.add(entry));
        self.api.iter().flat_map(|api| api.out_of_date()).for_each(|entry| all.add(entry));
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
            out_of_date: Kind::ALL.map(|kind| out_of_date.count(kind)),
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
            objects: [count(state.policies), count(state.blueprints), count(state.clients)],
        };
        exposition::encode(self.engine.metrics(), &gauges, &self.upstreams(), &self.control)
    }
}

/// Serves until SIGTERM, SIGINT or a successor that serves, then answers what is in flight, for five seconds at most.
///
/// # Errors
/// A thread, a socket or a signal handler that the operating system refuses.
pub(crate) async fn run(
    service: Arc<Service>,
    (mut sockets, control): (Sockets, Option<Arc<Control>>),
    takeover: Option<Takeover>,
    reloader: Reloader,
) -> io::Result<()> {
    let signals = Signals::install()?;
    let (stop, stopped) = watch::channel(false);
    let shared = Shared { engine: Arc::clone(&service.engine), runtime: Handle::current() };
    let mut fronts = Vec::new();
    let mut tasks = JoinSet::new();
    for (number, listener) in std::mem::take(&mut sockets.listeners).into_iter().enumerate() {
        let address = listener.address;
        fronts.push(Front::start(listener.udp, number, &shared)?);
        tracing::info!(transport = "udp", %address, "listening");
        listener.tcp.set_nonblocking(true)?;
        let tcp = tokio::net::TcpListener::from_std(listener.tcp)?;
        let (engine, limits) = (Arc::clone(&service.engine), Arc::clone(&service.limits));
        tasks.spawn(tcp::serve(tcp, number, engine, limits, stopped.clone()));
        tracing::info!(transport = "tcp", %address, "listening");
    }
    if let Some(listener) = sockets.admin {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (service, stopped) = (Arc::clone(&service), stopped.clone());
        tasks.spawn(admin::serve(listener, service, stopped));
        tracing::info!(transport = "admin", %address, "listening");
    }
    let mut control_path = None;
    if let (Some(socket), Some(control)) = (sockets.control, control) {
        let address = socket.to_string();
        if let ControlSocket::Unix { path, is_ours: true, .. } = &socket {
            control_path = Some(path.clone());
        }
        let listener = control::connection::Listener::from_socket(socket)?;
        tasks.spawn(control::connection::serve(listener, control, stopped.clone()));
        tracing::info!(transport = "control", %address, "listening");
    }
    tokio::spawn(outages::watch(Arc::clone(&service)));
    let waker = reloader.waker();
    let looking = std::thread::Builder::new().name("reload".into()).spawn(move || reloader.run())?;
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
    systemd::ready(&service.progress.state().summary());
    let (offer, taken) = takeover.map(Takeover::serving).transpose()?.unzip();
    let why = signals.handle(&service, &waker, &fronts, taken).await;

    tracing::info!(why, "stopping: answering what is in flight");
    systemd::stopping();
    service.stopping.store(true, Ordering::Relaxed);
    waker.stop();
    if let Some(offer) = offer {
        offer.end();
    }
    // Before its socket is closed, so that the path is ours still; a successor has the same socket.
    if let Some(path) = control_path.filter(|_| why != TAKEN) {
        // Should it be gone already, that is as well.
        let _ = std::fs::remove_file(path);
    }
    // A receiver that is gone has stopped already.
    let _ = stop.send(true);
    let end = tokio::time::Instant::now() + DRAIN;
    let joined = tokio::task::spawn_blocking(move || fronts.into_iter().for_each(Front::stop));
    let drained = tokio::time::timeout_at(end, async {
        // A panic in a front has been reported by the panic hook.
        let _ = joined.await;
        service.engine.drained().await;
        while tasks.join_next().await.is_some() {}
    });
    let in_flight = if drained.await.is_err() { service.engine.in_flight() } else { 0 };
    if in_flight > 0 {
        tracing::warn!(in_flight, "stopped with queries unanswered");
    }
    service.engine.close_decision_log(Duration::from_secs(1));
    if looking.is_finished() || tokio::time::Instant::now() < end {
        let joined = tokio::task::spawn_blocking(move || looking.join());
        // A reload under way is abandoned at the deadline; it changes nothing on disk.
        let _ = tokio::time::timeout_at(end, joined).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// The signals we act on.
struct Signals {
    /// Stop.
    terminate: tokio::signal::unix::Signal,
    /// Stop, from a terminal.
    interrupt: tokio::signal::unix::Signal,
    /// Reload.
    hangup: tokio::signal::unix::Signal,
    /// Reopen the decision log.
    user1: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the handlers.
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Acts on signals, and pets the watchdog, until told to stop, or until `taken` says that a successor serves; returns
    /// why it ended.
    async fn handle(
        mut self,
        service: &Service,
        waker: &Waker,
        fronts: &[Front],
        taken: Option<oneshot::Receiver<()>>,
    ) -> &'static str {
        let taken = async {
            if let Some(taken) = taken
                && taken.await.is_ok()
            {
                return;
            }
            // Nobody can take over, or not any more.
            std::future::pending::<()>().await;
        };
        tokio::pin!(taken);
        let mut watchdog = systemd::Watchdog::new();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                () = &mut taken => return TAKEN,
                _ = self.hangup.recv() => waker.ask(),
                _ = self.user1.recv() => service.engine.reopen_decision_log(),
                () = watchdog.tick() => {
                    let alive = watchdog.look(fronts.iter().flat_map(Front::beats));
                    service.alive.store(alive, Ordering::Relaxed);
                }
            }
        }
    }
}
