//! `hostgate check`: everything that is wrong, with its place and its mend.

use std::path::PathBuf;

use serde::Serialize;

use super::output::{Output, count};
use super::{CONFIG, FAILED, OK, sources};
use crate::document::Diagnostic;

/// How to check and tell.
pub(super) struct Options {
    /// Whether warnings count as errors.
    pub(super) strict: bool,
    /// Whether to write JSON.
    pub(super) json: bool,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    /// Whether hostgate would start with this.
    ok: bool,
    /// Everything there is to say.
    diagnostics: &'a [Diagnostic],
    /// What is as the operator chose, and may be unexpected all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Checks, tells, and returns the exit code.
pub(super) fn run(config: Option<PathBuf>, dir: Option<PathBuf>, options: &Options, output: &mut Output) -> u8 {
    let (diagnostics, summary, note) = match sources::load(config, dir) {
        Ok((_, config, loaded)) => {
            let snapshot = loaded.library().snapshot();
            let policies = snapshot.policies().len();
            let parts = [
                format!("{policies} {}", if policies == 1 { "policy" } else { "policies" }),
                count(snapshot.blueprints().len(), "blueprint"),
                count(snapshot.clients().len(), "client"),
            ];
            let summary = format!("{}: {}, hash {}", config.policies.display(), parts.join(", "), snapshot.hash);
            let note = snapshot.told_without();
            (loaded.warnings, Some(summary), note)
        }
        Err(diagnostics) => (diagnostics, None, None),
    };
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let code = match (errors, warnings) {
        (0, 0) => OK,
        (0, _) if options.strict => FAILED,
        (0, _) => OK,
        _ => CONFIG,
    };
    if options.json {
        output.json(&Report { ok: errors == 0, diagnostics: &diagnostics, note });
        return code;
    }
    output.diagnostics(&diagnostics);
    if let Some(note) = note {
        output.line(format!("note: {note}"));
    }
    if let Some(summary) = summary {
        output.line(summary);
    }
    if errors + warnings > 0 {
        output.line(format!("{}, {}", count(errors, "error"), count(warnings, "warning")));
    }
    code
}
