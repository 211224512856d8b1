//! `hostgate check --start`: what the next start would do with what is on disk now.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{Output, count};
use super::sources::{self, Search};
use super::{CONFIG, FAILED, OK};
use crate::config::Config;
use crate::control;
use crate::document::Diagnostic;
use crate::telemetry::record_file::{self, Kind};

/// What `--json` writes.
#[derive(Serialize)]
struct Report {
    /// What the start would come to.
    start: Start,
    /// When the last good state was written that it would begin with; null where it would not.
    last_good: Option<String>,
    /// The files that would not be in force.
    held_back: Vec<String>,
    /// What would keep the API closed, a line each.
    api: Vec<String>,
    /// The files of records that would not be written, and why, a line each: queries are answered without them.
    unwritten: Vec<String>,
    /// What is wrong, and what is to be warned of.
    diagnostics: Vec<Diagnostic>,
}

/// What a start would come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Start {
    /// It serves what is on disk.
    AsOnDisk,
    /// It serves, but some of what is on disk is not in force, or the API is closed.
    WithoutWhatIsBad,
    /// It serves the last good state, with what is good on disk.
    FromLastGood,
    /// It does not serve.
    Refused,
}

/// Reads everything as a start does, tells what would come of it, and returns the exit code.
pub(super) fn run(config: Option<PathBuf>, json: bool, output: &mut Output) -> u8 {
    let report = match sources::load(config, Search::HereOrSystem) {
        Ok((path, config, loaded)) => {
            let api = config.control.as_ref().map(control::closed_by).unwrap_or_default();
            let start = match (&loaded.last_good, loaded.held_back().is_empty() && api.is_empty()) {
                (Some(_), _) => Start::FromLastGood,
                (None, true) => Start::AsOnDisk,
                (None, false) => Start::WithoutWhatIsBad,
            };
            if !json {
                output.error(format!(
                    "reading {} and the policies in {}, as a start does",
                    sources::origin(path.as_deref()),
                    config.policies.display()
                ));
            }
            let held_back = loaded.held_back().iter().map(|path| path.display().to_string()).collect();
            let diagnostics = loaded.errors.into_iter().chain(loaded.warnings).collect();
            let unwritten = unwritten(&config);
            Report { start, last_good: loaded.last_good, held_back, api, unwritten, diagnostics }
        }
        Err(diagnostics) => {
            let [held_back, api, unwritten] = [const { Vec::new() }; 3];
            Report { start: Start::Refused, last_good: None, held_back, api, unwritten, diagnostics }
        }
    };
    let code = match report.start {
        Start::AsOnDisk => OK,
        Start::WithoutWhatIsBad | Start::FromLastGood => FAILED,
        Start::Refused => CONFIG,
    };
    if json {
        output.json(&report);
        return code;
    }
    let (errors, _): (Vec<Diagnostic>, Vec<Diagnostic>) =
        report.diagnostics.into_iter().partition(Diagnostic::is_error);
    output.diagnostics(&errors);
    for why in &report.api {
        output.line(format!("the API would be closed: {why}"));
    }
    for why in &report.unwritten {
        output.line(why);
    }
    for path in &report.held_back {
        output.line(format!("would not be in force: {path}"));
    }
    output.line(match (report.start, report.last_good) {
        (Start::AsOnDisk, _) => "the next start serves what is on disk".to_owned(),
        (Start::WithoutWhatIsBad, _) => "the next start serves, but not all that is on disk".to_owned(),
        (Start::FromLastGood, Some(written)) => {
            format!("the next start begins with the last good state, of {written}, and with what is good on disk")
        }
        (Start::FromLastGood, None) => "the next start begins with the last good state".to_owned(),
        (Start::Refused, _) => format!("the next start is refused: {}", count(errors.len(), "error")),
    });
    code
}

/// Returns what would keep the decision log and the audit file from being written, a line each.
fn unwritten(config: &Config) -> Vec<String> {
    let audit = config.control.as_ref().and_then(|control| control.audit.as_deref());
    let files = [(Kind::Decisions, config.decisions.as_deref()), (Kind::Audit, audit)];
    let line = |(kind, path): (Kind, Option<&Path>)| {
        record_file::unwritable(kind, path?).map(|why| format!("the {} would not be written: {why}", kind.name()))
    };
    files.into_iter().filter_map(line).collect()
}
