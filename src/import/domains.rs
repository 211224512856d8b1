//! Reader of plain lists with one hostname or `*.` wildcard per line, as hostgate's own lists and most published ones
//! are. Entries copied from JSON, TOML and YAML are read too: in quotes, with commas and dashes.

use super::collect::{Collector, EVERYTHING, Scope};
use super::{lines, without_comment};

/// Reads a list of hostnames. The format does not define whether they are allowed or denied.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = without_comment(line);
        if content.is_empty() || matches!(content, "[" | "]" | "]," | "{" | "}") {
            continue;
        }
        let content = content.strip_prefix("- ").unwrap_or(content);
        let parts = content.split(',').map(|part| unquoted(part.trim().trim_matches(['[', ']'])));
        for part in parts.filter(|part| !part.is_empty()) {
            read_entry(number, part, out);
        }
    }
}

/// Returns a word without surrounding spaces and quotes.
pub(super) fn unquoted(part: &str) -> &str {
    part.trim().trim_matches(['"', '\'', '`']).trim()
}

/// Reads one entry of the list.
fn read_entry(number: u32, entry: &str, out: &mut Collector) {
    let base = entry.strip_prefix("*.").unwrap_or(entry);
    if matches!(entry, "*" | "**") {
        out.leave_out(number, EVERYTHING, entry);
    } else if base.contains('*') {
        out.leave_out(number, "wildcards that are not the whole first label", entry);
    } else if entry.starts_with('.') {
        out.leave_out(number, "names that begin with a dot (`--as squid` reads them)", entry);
    } else if entry.contains(char::is_whitespace) {
        out.leave_out(number, "lines of several words", entry);
    } else {
        out.take_pattern(number, None, Scope::Name, entry);
    }
}
