//! Reader of the blocked-names and allowed-names files of dnscrypt-proxy
//! (<https://github.com/DNSCrypt/dnscrypt-proxy/wiki/Filters>): `x` and `*.x` are `x` and everything below, `=x` is
//! this name only, and `*`, `?` and `[]` may occur anywhere.

use super::collect::{Collector, EVERYTHING, Scope};
use super::{lines, without_comment};

/// Reads name patterns. Both files have the same form, so the effect of the patterns is unknown.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = without_comment(line);
        let mut words = content.split_ascii_whitespace();
        let Some(pattern) = words.next() else { continue };
        if words.next().is_some() {
            out.leave_out(number, "patterns that hold at certain times", content);
            continue;
        }
        let base = pattern.strip_prefix("*.").or_else(|| pattern.strip_prefix('.')).unwrap_or(pattern);
        if pattern == "*" {
            out.leave_out(number, EVERYTHING, pattern);
        } else if let Some(name) = pattern.strip_prefix('=') {
            out.take(number, None, Scope::Exact, name);
        } else if base.contains(['*', '?', '[']) {
            out.leave_out(number, "patterns that are not `x`, `*.x` or `=x`", pattern);
        } else {
            out.take(number, None, Scope::Both, base);
        }
    }
}
