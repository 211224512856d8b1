//! Lists of errors, warnings and paths for status, log and API responses, bounded whatever the number of bad files.

use crate::bounds::{MAX_TOLD_FILES, MAX_TOLD_LINE};
use crate::document::{Diagnostic, escaped, shortened};

/// Returns the first diagnostics, a line each, up to `most` octets of JSON; a last line counts the rest, as
/// "and N more `what`".
pub(crate) fn lines<'d>(diagnostics: impl Iterator<Item = &'d Diagnostic>, most: usize, what: &str) -> Vec<String> {
    // A diagnostic that counts others names the directory, which sorts before its files; it belongs at the end.
    let all: Vec<&Diagnostic> = diagnostics.collect();
    let counts = all.iter().take_while(|diagnostic| diagnostic.is_count()).count();
    let all = all[counts..].iter().chain(&all[..counts]);
    bounded(all, most, what, |diagnostic| shortened(&diagnostic.to_string(), MAX_TOLD_LINE).into_owned())
}

/// Returns the first paths, a line each, up to [`MAX_TOLD_FILES`] octets of JSON; a last line counts the rest.
pub(super) fn paths<'p>(paths: impl Iterator<Item = &'p std::path::PathBuf>) -> Vec<String> {
    bounded(paths, MAX_TOLD_FILES, "files", |path| {
        shortened(&escaped(&path.to_string_lossy()), MAX_TOLD_LINE).into_owned()
    })
}

/// Returns the first lines, up to `most` octets of JSON; lines beyond that are counted and never formatted.
fn bounded<T>(all: impl Iterator<Item = T>, most: usize, what: &str, line: impl Fn(T) -> String) -> Vec<String> {
    let (mut lines, mut octets, mut more) = (Vec::new(), 0, 0_usize);
    for one in all {
        if octets >= most {
            more += 1;
            continue;
        }
        let line = line(one);
        // A quotation mark or backslash takes two octets in JSON; quotes and a comma around a line take a few more.
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
    fn lists_are_bounded_and_the_rest_is_counted() {
        let long = "\"\\".repeat(10_000);
        let diagnostics: Vec<_> =
            (0..1_000).map(|number| Diagnostic::about_file(Path::new("a.toml"), format!("{number} {long}"))).collect();
        let listed = lines(diagnostics.iter(), 10_000, "errors");
        let json = serde_json::to_string(&listed).unwrap();
        assert!(json.len() <= 10_100, "{} octets", json.len());
        assert_eq!(listed.last().unwrap(), &format!("and {} more errors", 1_001 - listed.len()));
        assert_eq!(lines(diagnostics[..1].iter(), 10_000, "errors").len(), 1);
        let many: Vec<PathBuf> = (0..10_000).map(|number| format!("policies/{number}.toml").into()).collect();
        let json = serde_json::to_string(&paths(many.iter())).unwrap();
        assert!(json.len() <= MAX_TOLD_FILES + 100 && json.contains("more files"), "{json}");
    }
}
