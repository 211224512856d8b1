//! The state of the running hostgate as the admin endpoint shows it: status, readiness and metrics.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::exposition::{self, Gauges, UpstreamState};
use crate::api::{self, Control};
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

/// The longest list of upstreams in a line, in octets.
const LISTED: usize = 256;

/// Everything a running hostgate consists of, as far as others look into it.
pub(crate) struct Service {
    /// Bytes in, bytes out.
    pub(crate) engine: Arc<Engine>,
    /// What is in force and what is held back.
    pub(crate) progress: Arc<ReloadStatus>,
    /// Bounds of TCP.
    pub(crate) limits: Arc<Limits>,
    /// What became of decision records.
    pub(crate) decisions: Arc<DecisionLogCounts>,
    /// What became of log lines.
    pub(crate) log: LogWriter,
    /// What the API has done.
    pub(crate) control: Arc<api::RequestCounts>,
    /// The API, if there is one.
    pub(crate) api: Option<Arc<Control>>,
    /// When the process began.
    pub(crate) started: Instant,
    /// Whether shutdown has begun.
    pub(crate) stopping: AtomicBool,
    /// The threads that hang.
    pub(crate) stalls: ArcSwap<Vec<Stall>>,
    /// How often the main thread has looked at them.
    pub(crate) looks: AtomicU64,
    /// Seconds for which it has not, as the admin endpoint counts them.
    pub(crate) silent: AtomicU64,
    /// The sockets besides those of DNS that cannot be had.
    pub(crate) lacking: Arc<Lacking>,
    /// What it listens at, and by which configuration.
    pub(crate) listening: Mutex<Listening>,
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
        progress: Arc<ReloadStatus>,
        (decisions, log): (Arc<DecisionLogCounts>, LogWriter),
        (api, control): (Option<Arc<Control>>, Arc<api::RequestCounts>),
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
    pub(crate) fn listening(&self) -> MutexGuard<'_, Listening> {
        lock(&self.listening)
    }

    /// Notes an address for the status, while there are not too many.
    pub(crate) fn note_address(&self, address: String) {
        let mut listening = self.listening();
        listening.more |= listening.addresses.len() >= MAX_TOLD_ADDRESSES;
        if !listening.more {
            listening.addresses.insert(address);
        }
    }

    /// Notes an address, or the path of a Unix socket as `unix:PATH`, that it listens at, and says so.
    pub(crate) fn listens(&self, transport: &'static str, address: impl fmt::Display) {
        self.note_address(address.to_string());
        tracing::info!(transport, %address, "listening");
    }

    /// Returns why it is not ready; `None` where queries are taken, and changes of policies go into force.
    pub(crate) fn unready(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("stopping".to_owned());
        }
        self.progress.stuck().or_else(|| self.stalls().first().map(Stall::describe))
    }

    /// Returns why only a restart helps; `None` where none is needed.
    pub(crate) fn dead(&self) -> Option<String> {
        self.stalls().iter().find(|stall| stall.needs_restart()).map(Stall::describe)
    }

    /// Notes what the main thread saw when it looked at the other threads.
    pub(crate) fn looked_at(&self, stalls: &Arc<Vec<Stall>>) {
        self.stalls.store(Arc::clone(stalls));
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a second in which the main thread has not looked, if it is the same number of looks as `before`; returns it.
    /// Counted so, a process that was stopped as a whole has no thread that hangs.
    pub(crate) fn watch_main(&self, before: u64) -> u64 {
        let looks = self.looks.load(Ordering::Relaxed);
        let silent = if looks == before && looks > 0 { self.silent.load(Ordering::Relaxed) + 1 } else { 0 };
        self.silent.store(silent, Ordering::Relaxed);
        looks
    }

    /// Returns the threads that hang, the main one among them.
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

    /// Returns what `/status` says.
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

    /// Returns what is out of date now: what the last look found, a look that takes long, the API's own files, and
    /// sockets that are lacking.
    pub(crate) fn out_of_date(&self) -> OutOfDate {
        let mut all = self.progress.state().out_of_date.clone();
        self.progress.late().into_iter().for_each(|entry| all.add(entry));
        self.api.iter().flat_map(|api| api.out_of_date()).for_each(|entry| all.add(entry));
        self.lacking.entries().into_iter().for_each(|entry| all.add(entry));
        all
    }

    /// Returns what each upstream has been doing.
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

/// Returns why no upstream can be asked, if all of them are gone.
pub(crate) fn all_gone(upstreams: &[UpstreamStatus]) -> Option<String> {
    let are_gone = !upstreams.is_empty() && upstreams.iter().all(|upstream| upstream.is_gone);
    are_gone.then(|| {
        let seconds = upstreams.iter().map(|upstream| upstream.since.as_secs()).min().unwrap_or_default();
        let each = upstreams.iter().map(|upstream| format!("{} is {}", upstream.server, upstream.reason()));
        let each = each.collect::<Vec<_>>().join(", ");
        format!("no upstream has answered for {seconds} s: {}", shortened(&each, LISTED))
    })
}
