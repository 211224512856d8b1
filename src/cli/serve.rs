//! The command `hostgate serve`: loads the files, opens the sockets and starts the service. Every error ends it before
//! anything serves.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use super::output::Output;
use super::prepare::{Prepared, StartRefusal, prepare, threads};
use super::sources::{self, Search};
use super::{CONFIG, DEADLINE, FAILED, OK};
use crate::api::{self, Control, Opened, Reserved};
use crate::bounds::capacity::{self, Capacity, Needs};
use crate::bounds::machine::{MemoryLeft, group_limit};
use crate::bounds::{MAX_LOGGED, MAX_TOLD_LINE};
use crate::config::{self, Config};
use crate::document::{escaped, shortened};
use crate::engine::cache::Settings;
use crate::engine::{Engine, View};
use crate::listen::admin::service::Service;
use crate::listen::sockets::Threads;
use crate::reload::{Loaded, Reloader, SetLogFilter, log_warnings, log_without};
use crate::telemetry::decision_log::{DecisionLog, DecisionLogCounts};
use crate::telemetry::log::{Log, LogWriter};
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstreams;

/// The treatment of a hostgate that already serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Leave it running: if it has our addresses, the start fails.
    Alone,
    /// Take over its sockets, after which it ends.
    TakeOver,
}

/// Serves until a signal to stop, and returns the exit code. Log lines go through a queue, so that no reader of
/// standard error can block the service; at the end the queue is written, within [`LAST_LINES`].
pub(super) fn run(config: Option<PathBuf>, how: Start, output: &mut Output) -> u8 {
    Capacity::reserve_first();
    let log = match Log::start() {
        Ok(log) => log,
        Err(error) => {
            if let Err(too_few) = capacity::try_threads(1) {
                output.error(format!("not started: {too_few}"));
                return CONFIG;
            }
            output.error(format!("not started: no thread for the log: {error}"));
            return FAILED;
        }
    };
    log.take_panics();
    output.send_errors_to(log.writer());
    let code = serve(config, how, &log, output);
    // A reader that takes nothing must not prevent the end, but it is not a success either.
    if !log.close(LAST_LINES) && code == OK { DEADLINE } else { code }
}

/// Loads the files and serves.
fn serve(config: Option<PathBuf>, how: Start, log: &Log, output: &mut Output) -> u8 {
    let (path, config, loaded) = match sources::load(config, Search::Here) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            output.diagnostics_unquoted(&diagnostics);
            output.error("not started: the configuration or a policy file is bad (`hostgate check` reads them again)");
            return CONFIG;
        }
    };
    let set_log_filter = start_log(log.writer(), &config.log, output.color());
    if how == Start::TakeOver && config.takeover.is_none() {
        output
            .error("--takeover: the configuration has no `takeover`, the path at which a hostgate offers its sockets");
        return CONFIG;
    }
    match start(path, config, loaded, (how, log.writer(), set_log_filter), output) {
        Ok(()) => OK,
        Err(ServeError::Deadline) => DEADLINE,
        Err(ServeError::Config) => CONFIG,
        Err(ServeError::Start(error)) => {
            output.error(error);
            FAILED
        }
    }
}

/// The reason why serving did not start, or did not end cleanly.
enum ServeError {
    /// The configuration is bad, which has been reported.
    Config,
    /// The system refused something.
    Start(String),
    /// The deadline for stopping passed, which has been reported.
    Deadline,
}

/// The time for writing the last log lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Opens the sockets, builds the parts and serves.
fn start(
    path: Option<PathBuf>,
    config: Config,
    mut loaded: Loaded,
    (how, log, set_log_filter): (Start, LogWriter, SetLogFilter),
    output: &mut Output,
) -> Result<(), ServeError> {
    let control_counts = Arc::new(api::RequestCounts::default());
    let opened = config
        .control
        .clone()
        .map(|settings| Opened::new(settings, Reserved::of(&config), Arc::clone(&control_counts)));
    let opened = opened.transpose().map_err(|diagnostics| {
        output.diagnostics_unquoted(&diagnostics);
        ServeError::Config
    })?;
    // All files have been read and are good at this point, so a successor with a bad file takes over nothing.
    let prepared = prepare(&config, &mut loaded, how).map_err(|refused| match refused {
        StartRefusal::Files(diagnostics) => {
            output.diagnostics_unquoted(&diagnostics);
            ServeError::Config
        }
        StartRefusal::Limits(error) => {
            output.error(error);
            ServeError::Config
        }
        StartRefusal::System(error) => ServeError::Start(error),
    })?;
    let Prepared { sizes, sockets, takeover, chosen } = prepared;
    let listeners: Vec<_> = sockets.listeners.iter().map(|listener| listener.address).collect();
    let counts = Arc::new(DecisionLogCounts::default());
    let decisions = config.decisions.as_ref().map(|path| {
        let no_thread =
            |error| ServeError::Start(format!("decision log {}: no thread to write it: {error}", path.display()));
        DecisionLog::open(path, Arc::clone(&counts)).map_err(no_thread)
    });
    let decisions = decisions.transpose()?;
    introduce(&config, path.as_deref(), &loaded);
    sizes.log();
    tracing::info!(upstream = &*shortened(&chosen.describe(), MAX_TOLD_LINE), "forwarding");
    for skipped in chosen.skipped.iter().take(MAX_LOGGED) {
        let skipped = &*shortened(skipped, MAX_TOLD_LINE);
        tracing::warn!(skipped, "nameserver passed over");
    }
    if let Some(error) = &chosen.error {
        let error = &*shortened(error, MAX_TOLD_LINE);
        tracing::error!(error, "no upstream; denied names are denied, allowed ones answered SERVFAIL");
    }
    let metrics = Arc::new(Metrics::default());
    let observer: Arc<Metrics> = Arc::clone(&metrics);
    let upstreams = Arc::new(Upstreams::new(&chosen.servers, chosen.settings(), observer));
    let view = View {
        snapshot: Arc::clone(loaded.library().snapshot()),
        upstreams: Arc::clone(&upstreams),
        denied_ttl: config.denied_ttl,
    };
    let bounds =
        Settings { size: sizes.cache[0], max_ttl: config.cache.max_ttl, serve_stale: config.cache.serve_stale };
    let engine = Arc::new(Engine::new(view, bounds, metrics, decisions));
    let configuration = path.as_deref().and_then(|path| std::path::absolute(path).ok());
    let reloader =
        Reloader::new(loaded, (path, config), listeners, (upstreams, chosen), Arc::clone(&engine), set_log_filter);
    let control =
        opened.map(|opened| Control::new(Arc::clone(&engine), (reloader.changer(), reloader.status()), opened));
    let api = (control.clone(), control_counts);
    let service = Service::new(engine, reloader.status(), (counts, log), api, configuration);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(sizes.cpus.max(2))
        .thread_name("runtime")
        .enable_all()
        .build()
        .map_err(|error| ServeError::Start(format!("runtime: {error}")))?;
    let served = crate::daemon::serve(&runtime, &service, (sockets, control), takeover, reloader);
    // Tasks that still run at the deadline are abandoned.
    runtime.shutdown_background();
    let unfinished = served.map_err(|error| ServeError::Start(format!("serve: {error}")))?;
    if unfinished.is_empty() { Ok(()) } else { Err(ServeError::Deadline) }
}

/// Threads in addition to those for queries and those of the runtime: for reloads, a take-over, the decision log, and
/// blocking calls of the runtime.
const OTHER_THREADS: usize = 8;

/// The nameservers to allow for in a resolv.conf (`MAXNS` of resolv.conf(5)).
const SYSTEM_SERVERS: usize = 3;

/// The limits of this process and the bounds derived from them.
pub(super) struct Sizes {
    open_files: usize,
    capacity: Capacity,
    /// The CPUs to run on, a quota of the control group taken into account.
    cpus: usize,
    threads: usize,
    /// The memory limit of the control group; `None` if it has none.
    group: Option<MemoryLeft>,
    /// The size of the cache in octets: the one in force, and the configured one.
    cache: [usize; 2],
}

/// Derives the bounds from the limits of this process, and puts them into force.
///
/// # Errors
/// The limits are too low to serve.
pub(super) fn size(config: &Config) -> Result<Sizes, String> {
    let (threads, cpus) = (threads(config), available_parallelism().map_or(1, usize::from));
    let open_files = capacity::raise_open_files();
    let count = |is_there: bool| usize::from(is_there);
    let listeners = config.listen.len();
    let how = Threads::of(listeners, threads);
    let (answering, sockets) = (how.count(listeners, threads), listeners * how.sockets(threads));
    let listening = sockets + config.listen.len() + count(config.admin.is_some()) + count(config.control.is_some());
    // Sockets offered to a successor are duplicated.
    let listening = if config.takeover.is_some() { 2 * listening + 2 } else { listening };
    let upstreams = match &config.upstream.servers {
        config::Servers::Listed(servers) => servers.len(),
        config::Servers::System(_) => SYSTEM_SERVERS,
    };
    let (has_admin, has_control) = (config.admin.is_some(), config.control.is_some());
    // Each UDP socket that receives queries has its own ports to upstreams.
    let needs = Needs { listening, threads: sockets, upstreams, has_admin, has_control };
    let capacity = Capacity::of(open_files, needs).map_err(|error| error.to_string())?;
    capacity.grant(needs);
    let needed = answering + cpus.max(2) + OTHER_THREADS;
    capacity::try_threads(needed).map_err(|error| error.to_string())?;
    let group = group_limit(Path::new("/"));
    let cache = capacity::cache_within(config.cache.size, group.as_ref()).map_err(|error| error.to_string())?;
    Ok(Sizes { open_files, capacity, cpus, threads: answering, group, cache: [cache, config.cache.size] })
}

impl Sizes {
    /// Logs the limits and bounds, as a warning if a bound is lower than intended.
    fn log(&self) {
        let Self { open_files, capacity, cpus, threads, group, cache: [cache, wanted] } = self;
        if let Some(MemoryLeft { limit, limited_by, .. }) = group {
            let (memory_mib, cache_mib, wanted_mib) = (limit >> 20, cache >> 20, wanted >> 20);
            if cache < wanted {
                tracing::warn!(memory_mib, cache_mib, wanted_mib, "cache kept to a quarter of {limited_by}");
            } else {
                tracing::info!(memory_mib, cache_mib, "memory limited by {limited_by}");
            }
        }
        let Capacity { connections, admin, control, sockets, ports, apart, streams, reserve: _ } = capacity;
        if *capacity == Capacity::FULL {
            tracing::info!(open_files, cpus, threads, "sized by the limits of this process");
        } else {
            let help = "raise `LimitNOFILE=` of the unit, `ulimit -n` or `--ulimit nofile=`";
            tracing::warn!(
                open_files,
                cpus,
                threads,
                connections,
                admin,
                control,
                sockets,
                ports,
                apart,
                streams,
                help,
                "sized by the limits of this process: fewer connections and sockets than usual"
            );
        }
    }
}

/// Logs which files are served.
fn introduce(config: &Config, path: Option<&Path>, loaded: &Loaded) {
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

/// Installs the log subscriber, and returns the function that changes its filter.
fn start_log(log: LogWriter, filter: &Targets, color: bool) -> SetLogFilter {
    let (filter, handle) = reload::Layer::new(filter.clone());
    // The journal adds its own times.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    // Values come from files, clients and upstreams, so they are escaped. Field names look as those of the default
    // formatter.
    let fields = debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let value = escaped(&value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name if writer.has_ansi_escapes() => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}"),
            name => write!(writer, "{name}={value}"),
        }
    });
    let lines = fmt::layer().fmt_fields(fields.delimited(" "));
    let lines = lines.with_writer(move || log.clone()).with_ansi(color).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // Tests start several subscribers in one process; the first one stays.
    let _ = if in_journal { registry.with(lines.without_time()).try_init() } else { registry.with(lines).try_init() };
    Box::new(move |filter| {
        // Fails only if the subscriber no longer exists.
        let _ = handle.reload(filter.clone());
    })
}
