//! The tests in the files, tried on a snapshot before it goes into force.

use crate::document::{Diagnostic, quoted};

use super::decide::Reason;
use super::snapshot::Snapshot;
use super::spec::FileSpec;

/// Runs all `[[test]]`s and returns an error for each that fails.
///
/// A test that waits for something gone with its file is left out, with a warning in `warnings`: what is gone is gone,
/// and a test must not keep it in force.
pub(super) fn run<'f>(
    files: impl Iterator<Item = &'f FileSpec>,
    snapshot: &Snapshot,
    warnings: &mut Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let mut failures = Vec::new();
    for file in files {
        for test in file.tests() {
            let Some(client) = snapshot.client(&test.client.value) else {
                let message = format!("test not run: client {} is gone with its file", quoted(&test.client.value));
                warnings.push(file.source.warning(test.client.span, message).help("remove the test"));
                continue;
            };
            let decision = snapshot.decide(&client.asker(), &test.name, test.qtype);
            let is_allowed = decision.action.is_allow();
            if is_allowed == test.expects_allow {
                continue;
            }
            let question = format!("`{}` {} for client `{}`", test.name, test.qtype, client.id());
            if decision.reason == Reason::PolicyGone {
                let message = format!("test not run: {question}: its policy is gone with its file");
                warnings.push(file.source.warning(test.span, message).help("remove the test"));
                continue;
            }
            let mut error = file.source.error(test.span, format!("test failed: {question}: {}", decision.explain()));
            if let Some(rule) = decision.rule {
                if rule.is_of_list() {
                    let message =
                        format!("test failed: {question}: {} by an entry of a list file", decision.action.as_str());
                    error = error.unquoted(message, Some(MEND));
                }
                error = error.related(rule.place(), format!("`{rule}` is here"));
            }
            failures.push(error.help(MEND));
        }
    }
    failures
}

/// What is to be done about a test that fails.
const MEND: &str = "mend the policy or the test; until then nothing of this goes into force";
