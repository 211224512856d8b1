//! The diagnostics of one file, as they are collected while it is read.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::accept::{Accepts, At};
use super::code::Code;
use super::diagnostic::{Diagnostic, Severity};

/// The diagnostics of one file, bounded, because a large file can have a million errors.
#[derive(Debug, Default)]
pub struct Findings {
    /// The comments of the file that accept warnings.
    accepts: Option<Arc<Accepts>>,
    /// The first [`Findings::KEPT`] errors.
    errors: Vec<Diagnostic>,
    /// The first [`Findings::KEPT`] warnings of each code.
    warnings: Vec<Diagnostic>,
    /// Accepted warnings, one for each comment.
    accepted: Vec<Diagnostic>,
    /// The lines and codes of accepted warnings, to keep one for each comment.
    accepted_at: HashSet<(u32, Code)>,
    /// The number of errors beyond those kept.
    more_errors: usize,
    /// The number of warnings by code (`None`: without one), including those not kept.
    warned: BTreeMap<Option<Code>, usize>,
}

impl Findings {
    /// The limit of errors, and of warnings for each code, that are kept of one file.
    pub const KEPT: usize = 100;

    /// Creates an empty collection for a file with these accepting comments.
    #[must_use]
    pub fn of(accepts: Option<&Arc<Accepts>>) -> Self {
        Self { accepts: accepts.cloned(), ..Self::default() }
    }

    /// Returns whether there is no error.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds a warning at a place, unless a comment accepts it there. `make` is called only if the result is kept.
    pub fn warn(&mut self, code: Code, at: impl Into<At>, make: impl FnOnce() -> Diagnostic) {
        match self.accepts.as_ref().and_then(|accepts| accepts.at(code, at.into())) {
            None => self.add(Severity::Warning, Some(code), || make().code(code)),
            Some(accept) if self.accepted_at.insert((accept.line, code)) => {
                self.accepted.push(make().code(code).accepted(&accept.reason));
            }
            Some(_) => {}
        }
    }

    /// Adds an error. `make` is called only if it is kept.
    pub fn error(&mut self, make: impl FnOnce() -> Diagnostic) {
        self.add(Severity::Error, None, make);
    }

    /// Adds the result of `make`, or only counts it if enough of its kind are kept.
    pub(super) fn add(&mut self, severity: Severity, code: Option<Code>, make: impl FnOnce() -> Diagnostic) {
        match severity {
            Severity::Error if self.errors.len() < Self::KEPT => self.errors.push(make()),
            Severity::Error => self.more_errors += 1,
            Severity::Warning => {
                let warned = self.warned.entry(code).or_default();
                *warned += 1;
                if *warned <= Self::KEPT {
                    self.warnings.push(make());
                }
            }
            // Bounded by the comments of the file, one each.
            Severity::Accepted => self.accepted.push(make()),
        }
    }

    /// Adds the diagnostics of a later part of the same file.
    pub fn append(&mut self, other: Self) {
        for diagnostic in other.errors.into_iter().chain(other.warnings).chain(other.accepted) {
            self.add(diagnostic.severity, diagnostic.code, || diagnostic);
        }
        for (code, count) in other.warned {
            // The warnings that were kept have been counted by `add`.
            *self.warned.entry(code).or_default() += count.saturating_sub(Self::KEPT);
        }
        self.accepted_at.extend(other.accepted_at);
        self.more_errors += other.more_errors;
    }

    /// Returns all diagnostics in the order of the file, and one more for each kind of which some were omitted.
    #[must_use]
    pub fn into_diagnostics(self, path: &Path) -> Vec<Diagnostic> {
        let mut all = self.errors;
        all.extend(self.warnings);
        all.extend(self.accepted);
        all.sort_by_key(|diagnostic| (diagnostic.place.line, diagnostic.place.column));
        if self.more_errors > 0 {
            all.push(Diagnostic::about_file(path, format!("and {} more errors in this file", self.more_errors)));
        }
        for (code, count) in self.warned {
            let Some(count) = count.checked_sub(Self::KEPT).filter(|count| *count > 0) else { continue };
            let message = format!("and {count} more warnings in this file");
            all.push(Diagnostic { severity: Severity::Warning, code, ..Diagnostic::about_file(path, message) });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::Span;
    use super::super::source::Source;
    use super::*;

    #[test]
    fn findings_are_bounded_and_sorted_by_position() {
        let source = Source::new(Path::new("policies/a.toml"), "[policy.a]\nallowed_hostnames = [\"*\"]\n");
        let mut findings = Findings::default();
        for start in (0..37).rev().cycle().take(250) {
            findings.error(|| source.error(Span { start, end: start + 1 }, "x"));
        }
        let mut more = Findings::default();
        more.warn(Code::Covered, Span::default(), || source.warning(Span::default(), "w"));
        assert!(more.is_clean());
        findings.append(more);
        assert!(!findings.is_clean());
        let all = findings.into_diagnostics(source.path());
        assert_eq!(all.len(), 102);
        assert!(all[..101].is_sorted_by_key(|diagnostic| diagnostic.place.clone()));
        assert_eq!(all[101].to_string(), "policies/a.toml: and 150 more errors in this file");
    }
}
