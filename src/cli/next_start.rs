//! The command `hostgate check --start`: reports what the next start would do with the present files, on this machine.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{Output, count};
use super::sources::{self, Search};
use super::try_start::{InUse, try_out};
use super::{CONFIG, FAILED, OK};
use crate::api;
use crate::config::Config;
use crate::daemon::prepare::StartRefusal;
use crate::document::Diagnostic;
use crate::reload::is_absent;
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
        api.chain(held_back).chain(lacking).chain(upstream)
    }

    /// Returns the outcome in one line. `errors` is the number of errors in the files.
    fn outcome(&self, errors: usize) -> String {
        let later = match &*self.absent.join(", ") {
            "" => String::new(),
            absent => format!(", and {absent} once it is there"),
        };
        match (self.start, &self.last_good, &self.refused) {
            (Start::AsOnDisk, ..) => "the next start serves what is on disk".to_owned(),
            // The only deviation is an address that an interface will get later.
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

/// Runs the steps of a start. Returns the report, and a line about the files that were read.
fn run_steps(config: Option<PathBuf>) -> (Report, Option<String>) {
    let (path, config, mut loaded) = match sources::load(config, Search::HereOrSystem) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return (Report::refused(diagnostics), None),
    };
    let origin = sources::origin(path.as_deref());
    let read = format!("reading {origin} and the policies in {}, as a start does", config.policies.display());
    let in_use = InUse::find(path.as_deref(), &config);
    let taken = in_use.taken(&config);
    let tried = try_out(&config, &mut loaded, &in_use);
    let held_back = loaded.held_back().iter().map(|path| path.display().to_string()).collect();
    let diagnostics = loaded.wrong().into_iter().chain(loaded.warnings).collect();
    let mut report = Report {
        taken,
        held_back,
        last_good: loaded.last_good,
        last_good_in: loaded.last_good_in,
        ..Report::refused(diagnostics)
    };
    match tried {
        Ok((chosen, lacking)) => {
            report.api = config.control.as_ref().map(api::closed_by).unwrap_or_default();
            report.unwritten = unwritten(&config);
            report.lacking = lacking;
            let listeners = config.listen.iter().map(|listen| listen.address);
            report.absent = listeners.filter(|address| is_absent(*address)).map(|it| it.to_string()).collect();
            report.upstream_error = chosen.error;
            let is_whole = report.lines().next().is_none() && report.absent.is_empty();
            report.start = match (&report.last_good, is_whole) {
                (Some(_), _) => Start::FromLastGood,
                (None, true) => Start::AsOnDisk,
                (None, false) => Start::WithoutWhatIsBad,
            };
        }
        Err(StartRefusal::Files(wrong)) => report.diagnostics.extend(wrong),
        Err(StartRefusal::Limits(why) | StartRefusal::System(why)) => report.refused = Some(why),
    }
    (report, Some(read))
}

/// Runs the steps of a start, writes the report, and returns the exit code.
pub(super) fn run(config: Option<PathBuf>, json: bool, output: &mut Output) -> u8 {
    let (mut report, read) = run_steps(config);
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

/// Returns the faults of the decision log and the audit file, one a line.
fn unwritten(config: &Config) -> Vec<String> {
    let audit = config.control.as_ref().and_then(|control| control.audit.as_deref());
    let files = [(RecordKind::Decisions, config.decisions.as_deref()), (RecordKind::Audit, audit)];
    files.into_iter().filter_map(|(kind, path)| record_file::forecast(kind, path?)).collect()
}
