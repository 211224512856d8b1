//! Reader of hosts files: an address and names per line (hosts(5)). Block lists are published in this form with the
//! addresses 0.0.0.0, 127.0.0.1 and `::`.

use std::net::IpAddr;

use super::collect::{Collector, Effect, Scope};
use super::lines;
use crate::policy::is_own_name;

/// Reads a hosts file. The format does not define whether its names are allowed or denied.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = line.split('#').next().unwrap_or_default().trim();
        if !content.is_empty() {
            read_line(number, None, content, out);
        }
    }
}

/// Reads a line without its comment.
pub(super) fn read_line(number: u32, effect: Option<Effect>, content: &str, out: &mut Collector) {
    let mut words = content.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let Ok(address) = first.split('%').next().unwrap_or(first).parse::<IpAddr>() else {
        out.leave_out(number, "lines that do not begin with an address", content);
        return;
    };
    let mut names = words.peekable();
    if names.peek().is_none() {
        out.leave_out(number, "addresses without a name", content);
    }
    for name in names {
        if is_own_name(name) {
            out.leave_out(number, "names of the machine itself, as hosts files have them", name);
        } else if is_null(address) {
            out.take(number, effect, Scope::Name, name);
        } else {
            // A line such as `192.0.2.7 nas.example` defines an address; it does not say whether the name may be
            // resolved.
            out.leave_out(number, "names that the file gives an address to", name);
        }
    }
}

/// Returns whether block lists use an address to deny names.
pub(super) fn is_null(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unspecified() || address.is_loopback(),
    }
}
