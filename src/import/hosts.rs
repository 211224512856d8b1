//! Hosts files: an address and names a line, as hosts(5) documents it; published as block lists with the addresses 0.0.0.0,
//! 127.0.0.1 and `::`.

use std::net::IpAddr;

use super::collect::{Collector, Effect, Scope};
use super::lines;
use crate::policy::is_own_name;

/// Reads a hosts file. It does not say whether its names are allowed or denied.
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
        out.leave(number, "lines that do not begin with an address", content);
        return;
    };
    let mut names = words.peekable();
    if names.peek().is_none() {
        out.leave(number, "addresses without a name", content);
    }
    for name in names {
        if is_own_name(name) {
            out.leave(number, "names of the machine itself, as hosts files have them", name);
        } else if is_null(address) {
            out.take(number, effect, Scope::Name, name);
        } else {
            // 192.0.2.7 nas.example: such a line says where a name leads to, and nothing about whether it may be looked up.
            out.leave(number, "names that the file gives an address to", name);
        }
    }
}

/// Returns whether an address is one that block lists lead to.
pub(super) fn is_null(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unspecified() || address.is_loopback(),
    }
}
