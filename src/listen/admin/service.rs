//! The state of the running process, from which the admin endpoint makes status, readiness and metrics.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::exposition::{self, Gauges, UpstreamState};
use crate::api::{self, ApiState};
use crate::bounds::{MAX_TOLD_ADDRESSES, MAX_TOLD_UPSTREAMS};
use crate::document::shortened;
use crate::engine::Engine;
use crate::listen::connection_limits::Limits;
use crate::listen::missing_sockets::Lacking;
use crate::reload::out_of_date::{Kind as Lag, OutOfDate};
use crate::reload::{self, ReloadStatus};
use crate::telemetry::decision_log::DecisionLogCounts;
use crate::telemetry::heartbeat::{HANG, Stall, ThreadKind};
use crate::telemetry::log::LogWriter;
use crate::upstream::Status as UpstreamStatus;
use crate::util::lock;

/// The longest list of failed upstreams in `upstream_error`, in octets.
const LISTED: usize = 256;

/// The parts of the running process that the admin endpoint and the supervisor read.
pub(crate) struct Service {
    /// The engine, which answers queries.
    pub(crate) engine: Arc<Engine>,
    /// The status of reloads: what is in force, and which files are held back.
    pub(crate) progress: Arc<ReloadStatus>,
    /// The limits on TCP connections, with the connections counted against them.
    pub(crate) limits: Arc<Limits>,
    /// The numbers of decision records written and dropped; zero if there is no decision log.
    pub(crate) decisions: Arc<DecisionLogCounts>,
    /// The queue of log lines, which knows how many were lost.
    pub(crate) log: LogWriter,
    /// The numbers of API requests and connections; zero while the API is off.
    pub(crate) control: Arc<api::RequestCounts>,
    /// The API; `None` if it is off.
    pub(crate) api: Option<Arc<ApiState>>,
    /// The time at which the process started.
    pub(crate) started: Instant,
    /// Set once shutdown has begun.
    pub(crate) stopping: AtomicBool,
    /// The threads that hung when the main thread checked the heartbeats last.
    pub(crate) stalls: ArcSwap<Vec<Stall>>,
    /// The number of checks of the heartbeats by the main thread.
    pub(crate) looks: AtomicU64,
    /// The number of seconds since `looks` last increased, counted by the admin endpoint.
    pub(crate) silent: AtomicU64,
    /// The sockets of the admin endpoint, the API and take-overs that could not be opened.
    pub(crate) lacking: Arc<Lacking>,
    /// The addresses that the process listens on.
    pub(crate) listening: Mutex<Listening>,
}

/// The addresses that a process listens on. `hostgate check --start` reads them from the running process, as they will
/// be free once that process has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The id of the process.
    pub(crate) pid: u32,
    /// The absolute path of the configuration file; null if there is none.
    pub(crate) configuration: Option<PathBuf>,
    /// The addresses, and the paths of Unix sockets as `unix:PATH`.
    pub(crate) addresses: BTreeSet<String>,
    /// Whether there are more addresses than `addresses` may hold.
    pub(crate) more: bool,
}

/// The answer to `/status`.
#[derive(Serialize)]
pub(crate) struct Status {
    /// The version of hostgate.
    version: &'static str,
    /// The time since the start, in seconds.
    uptime_seconds: u64,
    /// The state of policies and upstreams.
    #[serde(flatten)]
    state: reload::State,
    /// The reason why no change comes into force; null if no reload hangs.
    reload_stuck: Option<String>,
    /// The threads that hang, each with the time of its last heartbeat.
    stalled: Vec<Stall>,
    /// The reason why log lines are lost; null while standard error is read and can be written.
    log_error: Option<String>,
    /// The reason why decision records are lost; null while they are written, or if there is no decision log.
    decision_log_error: Option<String>,
    /// The first [`MAX_TOLD_UPSTREAMS`] upstreams.
    upstreams: Vec<UpstreamState>,
    /// The state of the API; null if it is off.
    control: Option<ControlState>,
    /// The addresses that the process listens on.
    listening: Listening,
}

/// The state of the API in `/status`.
#[derive(Serialize)]
pub(crate) struct ControlState {
    /// The faults of the API's files, each as one line; null if there are none.
    error: Option<String>,
}

impl Service {
    /// Makes the service of a process that listens on no address yet.
    pub(crate) fn new(
        engine: Arc<Engine>,
        progress: Arc<ReloadStatus>,
        (decisions, log): (Arc<DecisionLogCounts>, LogWriter),
        (api, control): (Option<Arc<ApiState>>, Arc<api::RequestCounts>),
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

    /// Locks the addresses that the process listens on.
    pub(crate) fn listening(&self) -> MutexGuard<'_, Listening> {
        lock(&self.listening)
    }

    /// Adds an address to the status. Once there are [`MAX_TOLD_ADDRESSES`], it sets `more` instead.
    pub(crate) fn note_address(&self, address: String) {
        let mut listening = self.listening();
        listening.more |= listening.addresses.len() >= MAX_TOLD_ADDRESSES;
        if !listening.more {
            listening.addresses.insert(address);
        }
    }

    /// Adds an address, or the path of a Unix socket as `unix:PATH`, to the status, and logs that hostgate listens on
    /// it.
    pub(crate) fn listens(&self, transport: &'static str, address: impl fmt::Display) {
        self.note_address(address.to_string());
        tracing::info!(transport, %address, "listening");
    }

    /// Returns the reason why the process is not ready; `None` if queries are answered and changes of policies come
    /// into force.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("stopping".to_owned());
        }
        self.progress.stuck().or_else(|| self.stalls().first().map(Stall::describe))
    }

    /// Returns the reason why only a restart helps; `None` if none is needed.
    pub(crate) fn dead(&self) -> Option<String> {
        self.stalls().iter().find(|stall| stall.needs_restart()).map(Stall::describe)
    }

    /// Stores the result of the main thread's check of the heartbeats, and counts the check.
    pub(crate) fn looked_at(&self, stalls: &Arc<Vec<Stall>>) {
        self.stalls.store(Arc::clone(stalls));
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks whether the main thread still checks heartbeats. Called each second with `before`, the number of its
    /// checks that the last call returned; if that is the number still, a second of silence is counted.
    ///
    /// The seconds are counted instead of measured, so that a process that was stopped as a whole (SIGSTOP) has no
    /// thread that hangs.
    pub(crate) fn watch_main(&self, before: u64) -> u64 {
        let looks = self.looks.load(Ordering::Relaxed);
        let silent = if looks == before && looks > 0 { self.silent.load(Ordering::Relaxed) + 1 } else { 0 };
        self.silent.store(silent, Ordering::Relaxed);
        looks
    }

    /// Returns the threads that hang, among them the main thread if that does.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let mut stalls = Vec::clone(&self.stalls.load());
        let silent = Duration::from_secs(self.silent.load(Ordering::Relaxed));
        if silent >= HANG && !self.stopping.load(Ordering::Relaxed) {
            let now = jiff::Timestamp::now();
            let since = now.checked_sub(silent).unwrap_or(now);
            stalls.push(Stall { thread: "main".into(), kind: ThreadKind::Main, since, on_disk: false });
        }
        stalls
    }

    /// Returns the answer to `/status`.
    pub(crate) async fn status(&self) -> Status {
        let control = match &self.api {
            Some(api) => Some(ControlState { error: Arc::clone(api).error().await }),
            None => None,
        };
        let mut state = reload::State::clone(&self.progress.state());
        state.out_of_date = self.out_of_date();
        state.out_of_date_total = state.out_of_date.len();
        let upstreams: Vec<_> = self.engine.view().upstreams.status().collect();
        state.upstream_error = state.upstream_error.or_else(|| all_gone(&upstreams));
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

    /// Returns everything that is out of date now: what the last comparison with the disk found, a reload that takes
    /// long, the API's own files, and sockets that could not be opened.
    pub(crate) fn out_of_date(&self) -> OutOfDate {
        let mut all = self.progress.state().out_of_date.clone();
        self.progress.late().for_each(|entry| all.add(entry));
        self.api.iter().flat_map(|api| api.out_of_date()).for_each(|entry| all.add(entry));
        self.lacking.entries().into_iter().for_each(|entry| all.add(entry));
        all
    }

    /// Returns the state of each upstream.
    pub(crate) fn upstreams(&self) -> Vec<UpstreamState> {
        self.engine.view().upstreams.status().map(UpstreamState::from).collect()
    }

    /// Returns all metrics as text.
    pub(crate) fn encode_metrics(&self) -> Result<String, fmt::Error> {
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
                ThreadKind::ALL.map(|kind| count(stalls.iter().filter(|stall| stall.kind == kind).count()))
            },
            objects: [count(state.policies), count(state.blueprints), count(state.clients)],
        };
        exposition::encode(self.engine.metrics(), &gauges, &self.upstreams(), &self.control)
    }
}

/// Returns a message that no upstream answers; `None` unless all of them are gone.
pub(crate) fn all_gone(upstreams: &[UpstreamStatus]) -> Option<String> {
    let are_gone = !upstreams.is_empty() && upstreams.iter().all(|upstream| upstream.is_gone);
    are_gone.then(|| {
        let seconds = upstreams.iter().map(|upstream| upstream.since.as_secs()).min().unwrap_or_default();
        let each = upstreams.iter().map(|upstream| format!("{} is {}", upstream.server, upstream.reason()));
        let each = each.collect::<Vec<_>>().join(", ");
        format!("no upstream has answered for {seconds} s: {}", shortened(&each, LISTED))
    })
}
