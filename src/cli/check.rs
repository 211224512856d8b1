//! The command `hostgate check`: loads configuration and policies as `serve` does, runs their tests, and reports every
//! error with its place and help.

use std::path::PathBuf;

use serde::Serialize;

use super::output::{Output, count};
use super::{CONFIG, FAILED, OK, sources};
use crate::document::{Diagnostic, Severity};

/// The options of `hostgate check`.
pub(super) struct Options {
    /// Set by `--strict`: warnings make the check fail.
    pub(super) strict: bool,
    /// Set by `--json`.
    pub(super) json: bool,
    /// Set by `--verbose`: accepted warnings are shown, too.
    pub(super) verbose: bool,
}

/// The report that `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    /// Set if hostgate would start with these files.
    ok: bool,
    /// The number of `[[test]]`s that ran and passed; null if there are errors, and a failed test is one.
    tests: Option<usize>,
    /// The errors and warnings.
    diagnostics: &'a [Diagnostic],
    /// The warnings that comments accept, with the reasons given there.
    accepted: &'a [Diagnostic],
    /// A remark about a choice of the operator that may have unexpected effects.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Runs the check, writes the report, and returns the exit code.
pub(super) fn run(config: Option<PathBuf>, dir: Option<PathBuf>, options: &Options, output: &mut Output) -> u8 {
    let announce = (!options.json).then_some(&mut *output);
    let (diagnostics, summary, note, tests) = match sources::load_announced(config, dir, announce) {
        Ok((config, loaded)) => {
            let snapshot = loaded.library().snapshot();
            let tests = loaded.library().tests();
            let policies = snapshot.policies().len();
            let parts = [
                format!("{policies} {}", if policies == 1 { "policy" } else { "policies" }),
                count(snapshot.blueprints().len(), "blueprint"),
                count(snapshot.clients().len(), "client"),
                if tests == 0 { "no test".to_owned() } else { format!("{} passed", count(tests, "test")) },
            ];
            let summary = format!("{}: {}, hash {}", config.policies.display(), parts.join(", "), snapshot.hash);
            let note = snapshot.note_on_clients_without_policy();
            (loaded.warnings, Some(summary), note, Some(tests))
        }
        Err(diagnostics) => (diagnostics, None, None, None),
    };
    let (accepted, diagnostics): (Vec<_>, Vec<_>) =
        diagnostics.into_iter().partition(|diagnostic| diagnostic.severity == Severity::Accepted);
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let code = match (errors, warnings) {
        (0, 0) => OK,
        (0, _) if options.strict => FAILED,
        (0, _) => OK,
        _ => CONFIG,
    };
    if options.json {
        output.json(&Report { ok: errors == 0, tests, diagnostics: &diagnostics, accepted: &accepted, note });
        return code;
    }
    output.diagnostics(&diagnostics);
    if options.verbose {
        output.diagnostics(&accepted);
    }
    if let Some(note) = note {
        output.line(format!("note: {note}"));
    }
    if let Some(summary) = summary {
        output.line(summary);
    }
    let mut parts = Vec::new();
    if errors + warnings > 0 {
        parts.extend([count(errors, "error"), count(warnings, "warning")]);
    }
    if !accepted.is_empty() {
        let hint = if options.verbose { "" } else { " (-v shows them)" };
        parts.push(format!("{} accepted{hint}", count(accepted.len(), "warning")));
    }
    if !parts.is_empty() {
        // A failed test is an ordinary error; its message tells it from others.
        let failed =
            diagnostics.iter().filter(|told| told.is_error() && told.message.starts_with("test failed")).count();
        let failed = match (tests, failed) {
            (Some(_), _) => String::new(),
            (None, 0) => "; no test ran".to_owned(),
            (None, failed) => format!("; {} failed", count(failed, "test")),
        };
        output.line(format!("{}{failed}", parts.join(", ")));
    }
    code
}
