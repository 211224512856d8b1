//! The `[[test]]` tables of policy files, run on a snapshot before it goes into force.
//!
//! A failed test holds back the file that it is in, if that has changed. A test that fails because of another file, or
//! because of the API, holds back nothing: an author of one file must not be able to veto what others deny.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Code, Diagnostic, Severity, quoted};

use crate::policy::decide::Reason;
use crate::policy::model::spec::FileSpec;
use crate::policy::snapshot::Snapshot;

/// Runs all tests and returns the failures.
///
/// A test about an object that does not exist any more is skipped with a warning in `warnings`.
pub(crate) fn run<'f>(
    files: impl Iterator<Item = &'f FileSpec>,
    snapshot: &Snapshot,
    warnings: &mut Vec<Diagnostic>,
) -> Failures {
    let mut files_that_fail = BTreeSet::new();
    let (mut failures, mut passed_over): (Vec<Diagnostic>, usize) = Default::default();
    let (mut not_run, most_warnings) = (None, warnings.len() + MAX_REPORTED);
    for file in files {
        for test in file.tests() {
            // At the limit, further tests run only until it is known whether their file has a failing one.
            if failures.len() == MAX_REPORTED && files_that_fail.contains(&**file.source.path()) {
                not_run = not_run.or(Some((file.source.path(), 0_usize))).map(|(path, count)| (path, count + 1));
                continue;
            }
            let mut warn = |span, make: &dyn Fn() -> String| {
                if warnings.len() < most_warnings {
                    let warning = file.source.warning(span, make()).help("remove the test");
                    warnings.push(warning.unless_accepted(Code::TestNotRun, &file.source));
                } else {
                    passed_over += 1;
                }
            };
            let Some(client) = snapshot.client(&test.client.value) else {
                warn(test.client.span, &|| {
                    format!("test not run: client {} is gone with its file", quoted(&test.client.value))
                });
                continue;
            };
            let decision = snapshot.decide(&client.asker(), &test.name, test.qtype);
            let is_allowed = decision.action.is_allow();
            if is_allowed == test.expects_allow {
                continue;
            }
            if failures.len() == MAX_REPORTED && decision.reason != Reason::PolicyGone {
                files_that_fail.insert(file.source.path().to_path_buf());
                continue;
            }
            let question = format!("`{}` {} for client `{}`", test.name, test.qtype, client.id());
            if decision.reason == Reason::PolicyGone {
                warn(test.span, &|| format!("test not run: {question}: its policy is gone with its file"));
                continue;
            }
            let mut error = file.source.error(test.span, format!("test failed: {question}: {}", decision.explain()));
            if let Some(rule) = decision.rule {
                if rule.is_of_list() {
                    let message =
                        format!("test failed: {question}: {} by an entry of a list file", decision.action.as_str());
                    error = error.unquoted(message, Some(HELP));
                }
                error = error.related(rule.place(), format!("`{rule}` is here"));
            }
            files_that_fail.insert(file.source.path().to_path_buf());
            failures.push(error.help(HELP));
        }
    }
    if let Some((path, count)) = not_run {
        let message = format!("and {count} more tests, which were not run after others had failed");
        failures.push(Diagnostic::about_file(path, message));
    }
    if passed_over > 0 {
        let path = warnings[most_warnings - 1].place.path.clone();
        let message = format!("and {passed_over} more tests of what is gone, which were not run");
        warnings.push(
            Diagnostic { severity: Severity::Warning, ..Diagnostic::about_file(&path, message) }.code(Code::TestNotRun),
        );
    }
    Failures { reported: failures, files: files_that_fail }
}

impl Failures {
    /// Returns the first failure of each file, of the first [`MAX_REPORTED`] failures.
    pub(crate) fn first_of_each(self) -> Vec<Diagnostic> {
        let mut first = BTreeMap::new();
        for failure in self.reported {
            first.entry(Arc::clone(&failure.place.path)).or_insert(failure);
        }
        first.into_values().collect()
    }

    /// Removes the reports about the files that `is_kept` returns false for.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&Path) -> bool) {
        self.reported.retain(|failure| is_kept(&failure.place.path));
    }
}

/// The failed tests.
#[derive(Debug)]
pub(crate) struct Failures {
    /// The error of each reported failure.
    pub(crate) reported: Vec<Diagnostic>,
    /// The files with failed tests.
    pub(crate) files: BTreeSet<PathBuf>,
}

/// The most failed tests that are reported, after which the others are not run; also the most skipped tests that are
/// reported.
const MAX_REPORTED: usize = 100;

/// The help about a failed test.
const HELP: &str = "fix the policy or the test";
