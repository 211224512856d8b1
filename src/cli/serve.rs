//! The command `hostgate serve`: starts the log, loads the files and runs the service that [`Daemon`] makes of them.
//! Every error ends it before anything serves.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use super::output::Output;
use super::sources::{self, Search};
use super::{CONFIG, DEADLINE, FAILED, OK};
use crate::bounds::capacity::{self, Capacity};
use crate::daemon::Daemon;
use crate::daemon::prepare::{Start, StartRefusal};
use crate::daemon::systemd::SlowStart;
use crate::document::escaped;
use crate::reload::SetLogFilter;
use crate::telemetry::log::{Log, LogWriter};

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
    let slow_start = SlowStart::begin();
    let loaded = sources::load(config, Search::Here);
    drop(slow_start);
    let (path, config, loaded) = match loaded {
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
    let daemon = match Daemon::new((path, config, loaded), how, log.writer(), set_log_filter) {
        Ok(daemon) => daemon,
        Err(refused) => {
            match &refused {
                StartRefusal::Files(diagnostics) => output.diagnostics_unquoted(diagnostics),
                StartRefusal::Limits(error) | StartRefusal::Older(error) | StartRefusal::System(error) => {
                    output.error(error);
                }
            }
            return if matches!(refused, StartRefusal::System(_)) { FAILED } else { CONFIG };
        }
    };
    match daemon.serve() {
        Ok(unfinished) if unfinished.is_empty() => OK,
        Ok(_) => DEADLINE,
        Err(error) => {
            output.error(format!("serve: {error}"));
            FAILED
        }
    }
}

/// The time for writing the last log lines.
const LAST_LINES: Duration = Duration::from_secs(1);

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
