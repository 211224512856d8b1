//! Errors and warnings as status, log and API answers have them: bounded, whatever is wrong with however many files.

use crate::bounds::{MAX_TOLD_FILES, MAX_TOLD_LINE};
use crate::document::{Diagnostic, escaped, shortened};

/// Returns the first of some diagnostics, a line each, as far as they take `most` octets as JSON; the rest is counted in
/// one more line, as "and N more `what`".
pub(crate) fn lines<'d>(diagnostics: impl Iterator<Item = &'d Diagnostic>, most: usize, what: &str) -> Vec<String> {
    // How many more there are of all files is about the directory, whose path is before those of files.
    let all: Vec<&Diagnostic> = diagnostics.collect();
    let counts = all.iter().take_while(|diagnostic| diagnostic.is_count()).count();
    let all = all[counts..].iter().chain(&all[..counts]);
    bounded(all, most, what, |diagnostic| shortened(&diagnostic.to_string(), MAX_TOLD_LINE).into_owned())
}

/// Returns the first of some paths in the same way.
pub(super) fn paths<'p>(paths: impl Iterator<Item = &'p std::path::PathBuf>) -> Vec<String> {
    bounded(paths, MAX_TOLD_FILES, "files", |path| {
        shortened(&escaped(&path.to_string_lossy()), MAX_TOLD_LINE).into_owned()
    })
}

/// Returns the first of some lines, which are made only as long as there is room for them.
fn bounded<T>(all: impl Iterator<Item = T>, most: usize, what: &str, line: impl Fn(T) -> String) -> Vec<String> {
    let (mut lines, mut octets, mut more) = (Vec::new(), 0, 0_usize);
    for one in all {
        if octets >= most {
            more += 1;
            continue;
        }
        let line = line(one);
        // A quotation mark or backslash takes two in JSON; between lines there are a few more.
        octets += line.len() + line.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count() + 4;
        if octets > most {
            octets = most;
            more += 1;
            continue;
        }
        lines.push(line);
    }
    if more > 0 {
        lines.push(format!("and {more} more {what}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn what_is_told_is_bounded_and_the_rest_counted() {
        let long = "\"\\".repeat(10_000);
        let diagnostics: Vec<_> =
            (0..1_000).map(|number| Diagnostic::about_file(Path::new("a.toml"), format!("{number} {long}"))).collect();
        let told = lines(diagnostics.iter(), 10_000, "errors");
        let json = serde_json::to_string(&told).unwrap();
        assert!(json.len() <= 10_100, "{} octets", json.len());
        assert_eq!(told.last().unwrap(), &format!("and {} more errors", 1_001 - told.len()));
        assert_eq!(lines(diagnostics[..1].iter(), 10_000, "errors").len(), 1);
        let many: Vec<PathBuf> = (0..10_000).map(|number| format!("policies/{number}.toml").into()).collect();
        let json = serde_json::to_string(&paths(many.iter())).unwrap();
        assert!(json.len() <= MAX_TOLD_FILES + 100 && json.contains("more files"), "{json}");
    }
}
