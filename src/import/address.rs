//! Readers of URLs and of hosts with ports. Only the host counts, because DNS sees neither ports nor paths.

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{lines, without_comment};

/// Reads endpoints `host:port`, one or several per line, separated by commas or spaces.
pub(super) fn read_host_ports(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let words = without_comment(line).split([' ', '\t', ',', ';']);
        for word in words.map(super::domains::unquoted).filter(|word| !word.is_empty()) {
            // After a comma, as in `host:80,443`: another port of the preceding host.
            if word.bytes().all(|octet| octet.is_ascii_digit() || octet == b'-') {
                out.remark(number, PORTS, word);
            } else {
                take(number, None, Scope::Name, word, out);
            }
        }
    }
}

/// The remark about entries with ports.
const PORTS: &str = "ports are not seen by DNS: every port is meant here";

/// Reads URLs, one per line.
pub(super) fn read_urls(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        // A `#` within a URL starts its fragment.
        let words = without_comment(line).split([' ', '\t', ',']);
        for word in words.map(super::domains::unquoted).filter(|word| !word.is_empty()) {
            take(number, None, Scope::Name, word, out);
        }
    }
}

/// Adds the host of a URL, of `host:port`, or of a hostname or wildcard; a bare name covers `scope`.
pub(super) fn take(number: u32, effect: Option<Effect>, scope: Scope, word: &str, out: &mut Collector) {
    let (has_scheme, rest) = match word.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, word),
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    let path = &rest[authority.len()..];
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host_and_port.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|octet| octet.is_ascii_digit() || octet == b'*') => host,
        _ => host_and_port,
    };
    let has_path = path.len() > 1 && path != "/*";
    if has_path && effect == Some(Effect::Deny) {
        out.leave_out(number, "paths that are denied on a host: DNS could deny only the whole host", word);
        return;
    }
    if matches!(host, "*" | "**") {
        out.leave_out(number, EVERYTHING, word);
        return;
    }
    if host.strip_prefix("*.").unwrap_or(host).contains('*') {
        out.leave_out(number, "wildcards that are not the whole first label", word);
        return;
    }
    if has_path {
        out.remark(number, "paths are not seen by DNS: the whole host is meant here", word);
    } else if host.len() < host_and_port.len() {
        out.remark(number, PORTS, word);
    } else if has_scheme {
        out.remark(number, "schemes are not seen by DNS: every one is meant here", word);
    }
    out.take_pattern(number, effect, scope, host);
}
