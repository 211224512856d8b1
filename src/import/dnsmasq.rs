//! Reader of dnsmasq configurations (<https://thekelleys.org.uk/dnsmasq/docs/dnsmasq-man.html>): a domain between
//! slashes covers itself and everything below.

use std::net::IpAddr;

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{hosts, lines, without_comment};

/// Reads the directives about domains.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = without_comment(line);
        if !content.is_empty() {
            read_directive(number, content.strip_prefix("--").unwrap_or(content), out);
        }
    }
}

/// Reads one directive.
fn read_directive(number: u32, content: &str, out: &mut Collector) {
    let (key, value) = content.split_once('=').unwrap_or((content, ""));
    let (key, value) = (key.trim(), value.trim());
    let domains = value.strip_prefix('/').and_then(|value| value.rsplit_once('/'));
    let effect = match (key, domains) {
        ("address", Some((_, target))) => match target.trim() {
            // Without an address the answer is NXDOMAIN; with `#`, the null addresses.
            "" | "#" => Some(Effect::Deny),
            target if target.parse::<IpAddr>().is_ok_and(hosts::is_null) => Some(Effect::Deny),
            _ => {
                out.leave_out(number, "names that the file gives an address to", content);
                return;
            }
        },
        ("server" | "local", Some((_, target))) => match target.trim() {
            // Without a server, such names are answered from local data only.
            "" => Some(Effect::Deny),
            // The servers that are asked for everything else: an exception.
            "#" => Some(Effect::Allow),
            _ => {
                out.leave_out(number, "names that are forwarded to a server of their own", content);
                return;
            }
        },
        // Addresses of these names are put into sets that a firewall allows or blocks; the file does not say which.
        ("ipset" | "nftset", Some(_)) => None,
        _ => {
            out.leave_out(number, "directives that neither deny nor allow names", content);
            return;
        }
    };
    let Some((domains, _)) = domains else { return };
    for domain in domains.split('/') {
        let domain = domain.trim();
        if matches!(domain, "" | "#") {
            out.leave_out(number, EVERYTHING, content);
        } else if let Some(base) = domain.strip_prefix("*.") {
            out.take(number, effect, Scope::Below, base);
        } else if domain.contains('*') {
            out.leave_out(number, "wildcards that are not the whole first label", domain);
        } else {
            out.take(number, effect, Scope::Both, domain.strip_prefix('.').unwrap_or(domain));
        }
    }
}
