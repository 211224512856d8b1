//! Reader of unbound.conf(5) (<https://unbound.docs.nlnetlabs.nl/en/latest/manpages/unbound.conf.html>): `local-zone`,
//! which covers a name and all names below, and `local-data`, which covers only the name.

use std::net::IpAddr;

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{hosts, lines, without_comment};

/// Reads the zones and data of a configuration.
pub(super) fn read(text: &str, out: &mut Collector) {
    // A zone that is resolved as usual allows names only if everything else is denied; otherwise it has no effect.
    let denies_all = lines(text).any(|(_, line)| {
        let value = without_comment(line).strip_prefix("local-zone:").map(zone_of);
        value.is_some_and(|(name, kind)| name == "." && effect_of(kind) == Some(Effect::Deny))
    });
    for (number, line) in lines(text) {
        let content = without_comment(line);
        match content.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            None if content.is_empty() => {}
            Some(("server" | "view", "")) => {}
            Some(("local-zone", value)) => read_zone(number, content, zone_of(value), denies_all, out),
            Some(("local-data", value)) => read_data(number, content, value, out),
            _ => out.leave_out(number, "settings that neither deny nor allow names", content),
        }
    }
}

/// Returns the name and the type of a zone.
fn zone_of(value: &str) -> (&str, &str) {
    let value = value.trim();
    let (name, kind) = match value.strip_prefix('"').and_then(|value| value.split_once('"')) {
        Some((name, kind)) => (name, kind),
        None => value.split_once(char::is_whitespace).unwrap_or((value, "")),
    };
    (name.trim(), kind.trim().trim_matches('"'))
}

/// Returns the effect of a zone type: to deny, or to resolve names as if there were no zone above.
fn effect_of(kind: &str) -> Option<Effect> {
    match kind {
        "deny" | "refuse" | "static" | "redirect" | "inform_deny" | "inform_redirect" | "always_refuse"
        | "always_nxdomain" | "always_null" | "always_nodata" | "always_deny" => Some(Effect::Deny),
        "transparent" | "typetransparent" | "always_transparent" | "inform" => Some(Effect::Allow),
        // The type `nodefault` removes a zone that unbound has by default.
        _ => None,
    }
}

/// Reads one `local-zone` directive.
fn read_zone(number: u32, content: &str, (name, kind): (&str, &str), denies_all: bool, out: &mut Collector) {
    match (effect_of(kind), name) {
        (None, _) => out.leave_out(number, "zones of a type that neither denies nor allows", content),
        (Some(_), ".") => out.leave_out(number, EVERYTHING, content),
        (Some(Effect::Allow), _) if !denies_all => {
            let what = "zones that are resolved as usual: where the file does not deny all else, that allows nothing";
            out.leave_out(number, what, content);
        }
        (effect, name) => out.take(number, effect, Scope::Both, name),
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
        out.leave_out(number, "names that the file gives data to", content);
    }
}
