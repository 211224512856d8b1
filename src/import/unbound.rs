//! unbound.conf(5) (<https://unbound.docs.nlnetlabs.nl/en/latest/manpages/unbound.conf.html>): `local-zone` with its types,
//! which hold for the name and everything below, and `local-data`, which holds for the name.

use std::net::IpAddr;

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{hosts, lines, without_comment};

/// Reads zones and data.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = without_comment(line);
        match content.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            None if content.is_empty() => {}
            Some(("server" | "view", "")) => {}
            Some(("local-zone", value)) => read_zone(number, content, value, out),
            Some(("local-data", value)) => read_data(number, content, value, out),
            _ => out.leave(number, "settings that neither deny nor allow names", content),
        }
    }
}

/// Reads the value of `local-zone`.
fn read_zone(number: u32, content: &str, value: &str, out: &mut Collector) {
    let (name, kind) = match value.strip_prefix('"').and_then(|value| value.split_once('"')) {
        Some((name, kind)) => (name, kind),
        None => value.split_once(char::is_whitespace).unwrap_or((value, "")),
    };
    let effect = match kind.trim().trim_matches('"') {
        "deny" | "refuse" | "static" | "redirect" | "inform_deny" | "inform_redirect" | "always_refuse"
        | "always_nxdomain" | "always_null" | "always_nodata" | "always_deny" => Effect::Deny,
        "transparent" | "typetransparent" | "always_transparent" | "nodefault" | "inform" => Effect::Allow,
        _ => {
            out.leave(number, "zones of a type that neither denies nor allows", content);
            return;
        }
    };
    match name.trim() {
        "." => out.leave(number, EVERYTHING, content),
        name => out.take(number, Some(effect), Scope::Both, name),
    }
}

/// Reads the value of `local-data`.
fn read_data(number: u32, content: &str, value: &str, out: &mut Collector) {
    let record = value.trim_matches(['"', '\'']);
    let name = record.split_ascii_whitespace().next().unwrap_or_default();
    let data = record.split_ascii_whitespace().next_back().unwrap_or_default();
    if data.parse::<IpAddr>().is_ok_and(hosts::is_null) {
        out.take(number, Some(Effect::Deny), Scope::Exact, name);
    } else {
        out.leave(number, "names that the file gives data to", content);
    }
}
