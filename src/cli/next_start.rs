//! The command `hostgate check --start`: reports what the next start would do with the present files, on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;
use serde::Serialize;

use super::output::{Output, count};
use super::service_user::ServiceUser;
use super::sources::{self, Search};
use super::try_start::{AddressTrial, try_out};
use super::{CONFIG, FAILED, OK, USAGE};
use crate::api;
use crate::config::Config;
use crate::daemon::prepare::StartRefusal;
use crate::document::Diagnostic;
use crate::reload::is_absent;
use crate::reload::last_good::LastGoodPlace;
use crate::telemetry::record_file::{self, RecordKind};

/// The report that `--json` writes.
#[derive(Serialize)]
struct Report {
    /// The outcome of the start.
    start: Start,
    /// The time at which the last good state was written; null if the start would not use it.
    last_good: Option<String>,
    /// The directory of the last good state.
    last_good_in: Option<PathBuf>,
    /// The policy files that would not be in force.
    held_back: Vec<String>,
    /// The reasons for the API to be closed.
    api: Vec<String>,
    /// The sockets other than those for DNS that could not be opened, and would be tried again each second.
    lacking: Vec<String>,
    /// The listening addresses that no interface has at present.
    absent: Vec<String>,
    /// The addresses of the running hostgate at which the start would not listen.
    unlisted: Vec<String>,
    /// The addresses that other processes use, with the process.
    taken: Vec<String>,
    /// The files of records that could not be written, and why; queries would be answered without them.
    unwritten: Vec<String>,
    /// The reason for having no upstream; null if there is one.
    upstream_error: Option<String>,
    /// The reason for refusing to serve although the files are good.
    refused: Option<String>,
    /// The errors and warnings in the files.
    diagnostics: Vec<Diagnostic>,
}

/// The outcome of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Start {
    /// The start serves all that is on disk.
    AsOnDisk,
    /// The start serves, but something is missing: an object, an address, an upstream or the API.
    WithoutWhatIsBad,
    /// The start serves the last good state, together with the good files on disk.
    FromLastGood,
    /// The start does not serve.
    Refused,
}

impl Report {
    /// Makes the report of a start that is refused, without a reason so far.
    fn refused(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            start: Start::Refused,
            last_good: None,
            last_good_in: None,
            held_back: Vec::new(),
            api: Vec::new(),
            lacking: Vec::new(),
            absent: Vec::new(),
            unlisted: Vec::new(),
            taken: Vec::new(),
            unwritten: Vec::new(),
            upstream_error: None,
            refused: None,
            diagnostics,
        }
    }

    /// Returns the faults of a start that serves, one a line.
    fn lines(&self) -> impl Iterator<Item = String> {
        let api = self.api.iter().map(|why| format!("the API would be closed: {why}"));
        let held_back = self.held_back.iter().map(|path| format!("would not be in force: {path}"));
        let lacking = self.lacking.iter().map(|why| format!("would be tried again each second: {why}"));
        let upstream = self.upstream_error.iter().map(|why| format!("allowed names would be answered SERVFAIL: {why}"));
        let served = "would not be served, and is now: no key of the configuration has it any more";
        let unlisted = self.unlisted.iter().map(move |address| format!("{address} {served}"));
        api.chain(held_back).chain(lacking).chain(upstream).chain(unlisted)
    }

    /// Returns the outcome in one line. `errors` is the number of errors in the files.
    fn outcome(&self, errors: usize) -> String {
        let later = match &*self.absent.join(", ") {
            "" => String::new(),
            absent => format!(", and {absent} once it is there"),
        };
        match (self.start, &self.last_good, &self.refused) {
            (Start::AsOnDisk, ..) => "the next start serves what is on disk".to_owned(),
            // The only deviation is an address that an interface will get later, or a test that fails.
            (Start::WithoutWhatIsBad, ..) if self.lines().next().is_none() => {
                format!("the next start serves what is on disk{later}")
            }
            (Start::WithoutWhatIsBad, ..) => format!("the next start serves, but not all that is on disk{later}"),
            (Start::FromLastGood, written, _) => {
                let written = written.as_deref().unwrap_or("an unknown time");
                let place = self.last_good_in.as_deref().unwrap_or(Path::new("")).display();
                format!(
                    "the next start begins with the last good state, of {written} (in {place}), and with what is good on \
                     disk{later}"
                )
            }
            (Start::Refused, _, Some(why)) => format!("the next start is refused: {why}"),
            (Start::Refused, ..) => format!("the next start is refused: {}", count(errors, "error")),
        }
    }
}

/// Runs the steps of a start, for which the addresses may have been tried already. Returns the report, and a line about
/// the files that were read and the user by whose rights that was done.
fn run_steps(config: Option<PathBuf>, (trial, by): (Option<AddressTrial>, &str)) -> (Report, Option<String>) {
    let (path, config, mut loaded) = match sources::load(config, Search::HereOrSystem) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return (Report::refused(diagnostics), None),
    };
    let origin = sources::origin(path.as_deref());
    let read = format!("reading {origin} and the policies in {}, as {by} does", config.policies.display());
    let trial = trial.unwrap_or_else(|| AddressTrial::run(path.as_deref(), &config));
    let tried = try_out(&config, &mut loaded, &trial);
    let held_back = loaded.held_back().iter().map(|path| path.display().to_string()).collect();
    let failing = loaded.library().failing_tests().to_vec();
    let has_failing = !failing.is_empty();
    let diagnostics = loaded.wrong().into_iter().chain(failing).chain(loaded.warnings).collect();
    let mut report = Report {
        taken: trial.taken.clone(),
        held_back,
        last_good: loaded.last_good,
        last_good_in: loaded.last_good_in,
        ..Report::refused(diagnostics)
    };
    match tried {
        Ok((chosen, lacking)) => {
            report.api = config.control.as_ref().map(api::closed_by).unwrap_or_default();
            report.unwritten = unwritten(&config);
            report.unwritten.extend(path.as_deref().and_then(|path| not_kept(path, &config)));
            report.unlisted = trial.in_use.unlisted;
            report.lacking = lacking;
            let listeners = config.listen.iter().map(|listen| listen.address);
            report.absent = listeners.filter(|address| is_absent(*address)).map(|it| it.to_string()).collect();
            report.upstream_error = chosen.error;
            let is_whole = report.lines().next().is_none() && report.absent.is_empty() && !has_failing;
            report.start = match (&report.last_good, is_whole) {
                (Some(_), _) => Start::FromLastGood,
                (None, true) => Start::AsOnDisk,
                (None, false) => Start::WithoutWhatIsBad,
            };
        }
        Err(StartRefusal::Files(wrong)) => report.diagnostics.extend(wrong),
        Err(StartRefusal::Limits(why) | StartRefusal::Older(why) | StartRefusal::System(why)) => {
            report.refused = Some(why);
        }
    }
    (report, Some(read))
}

/// The options of the command.
pub(super) struct Options {
    /// The user by whose rights the files are judged.
    pub(super) user: Option<String>,
    /// The outcome of [`AddressTrial`] as JSON, from the process of root that started this one.
    pub(super) trial: Option<String>,
    pub(super) json: bool,
}

/// Runs the steps of a start, writes the report, and returns the exit code.
///
/// Whether a token file or a log can be opened depends on the user. So root has the steps run by a process of the user
/// that the service runs as.
pub(super) fn run(config: Option<PathBuf>, options: Options, output: &mut Output) -> u8 {
    let Options { user, trial, json } = options;
    let own = geteuid();
    let (trial, by) = if let Some(trial) = trial {
        match serde_json::from_str(&trial) {
            Ok(trial) => (Some(trial), format!("a start by user {}", own.as_raw())),
            Err(error) => {
                output.error(format!("check: --address-trial: {error}"));
                return USAGE;
            }
        }
    } else if user.is_some() || own.is_root() {
        match run_as_service_user(config.clone(), user, json) {
            Ok(Ran::Other(code)) => return code,
            Ok(Ran::Not(trial)) if own.is_root() => {
                (trial, "a start by root (`--user NAME`: by another user)".to_owned())
            }
            Ok(Ran::Not(trial)) => (trial, "a start".to_owned()),
            Err(error) => {
                output.error(format!("check: {error}"));
                return FAILED;
            }
        }
    } else {
        (None, "a start".to_owned())
    };
    let (mut report, read) = run_steps(config, (trial, &by));
    let code = match report.start {
        Start::AsOnDisk => OK,
        Start::WithoutWhatIsBad | Start::FromLastGood => FAILED,
        Start::Refused => CONFIG,
    };
    if json {
        output.json(&report);
        return code;
    }
    if let Some(read) = read {
        output.error(read);
    }
    let diagnostics = std::mem::take(&mut report.diagnostics);
    let errors: Vec<Diagnostic> = diagnostics.into_iter().filter(Diagnostic::is_error).collect();
    output.diagnostics(&errors);
    // Other processes matter only if a socket could not be opened.
    if report.refused.is_some() || !report.lacking.is_empty() {
        report.taken.iter().for_each(|taken| output.line(format!("taken: {taken}")));
    }
    report.unwritten.iter().for_each(|line| output.line(line));
    report.lines().for_each(|line| output.line(line));
    output.line(report.outcome(errors.len()));
    code
}

/// The outcome of looking for another user to run the command as.
enum Ran {
    /// A process of that user ran it, with this exit code.
    Other(u8),
    /// The user is that of this process. The addresses may have been tried.
    Not(Option<AddressTrial>),
}

/// Runs the command in a process of the user that the service runs as, unless that is the user of this process.
///
/// # Errors
/// The user does not exist, or this process may not become that user.
fn run_as_service_user(config: Option<PathBuf>, user: Option<String>, json: bool) -> Result<Ran, String> {
    let named = user.map(|name| ServiceUser::named(&name)).transpose()?;
    if named.is_some_and(|user| user.is(geteuid())) {
        return Ok(Ran::Not(None));
    }
    let read = sources::read_config(config.clone(), Search::HereOrSystem).ok();
    let path = read.as_ref().and_then(|(path, _)| path.clone()).or(config);
    let trial = read.as_ref().map(|(path, config)| AddressTrial::run(path.as_deref(), config));
    let running = trial.as_ref().and_then(|trial| trial.in_use.pid);
    let Some(user) = named.or_else(|| ServiceUser::infer(running, path.as_deref())) else { return Ok(Ran::Not(trial)) };
    let trial = serde_json::to_string(&trial.unwrap_or_default()).map_err(|error| error.to_string())?;
    let path = path.map(|path| std::path::absolute(&path).unwrap_or(path));
    user.run_check(path.as_deref(), &trial, json).map(Ran::Other)
}

/// Returns the faults of the decision log and the audit file, one a line.
fn unwritten(config: &Config) -> Vec<String> {
    let audit = config.control.as_ref().and_then(|control| control.audit.as_deref());
    let files = [(RecordKind::Decisions, config.decisions.as_deref()), (RecordKind::Audit, audit)];
    files.into_iter().filter_map(|(kind, path)| record_file::forecast(kind, path?)).collect()
}

/// Returns why the last good state of the configuration file at `path` would not be kept; `None` if it would be, or need not
/// be.
fn not_kept(path: &Path, config: &Config) -> Option<String> {
    if !config.start_from_last_good {
        return None;
    }
    let place = LastGoodPlace::of(path);
    let directory = place.directory();
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_there = fs::symlink_metadata(directory).is_ok();
    let looked = access(if is_there { directory } else { parent }, Access::WRITE_OK | Access::EXEC_OK);
    let why = match looked {
        Ok(()) if is_there && !directory.is_dir() => "something else is there: move it away".to_owned(),
        Ok(()) => return None,
        Err(error) => {
            format!("{} (make its directory writable for the user hostgate runs as)", std::io::Error::from(error))
        }
    };
    Some(format!("the last good state would not be kept: {}: {why}", directory.display()))
}
