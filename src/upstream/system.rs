//! The system's upstreams: the nameservers of a resolv.conf (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::scope;
use super::server::{Server, Transport};

/// The nameservers a resolv.conf names, in its order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nameservers {
    /// The ones that can be asked; empty when the text names none: there is no default.
    pub servers: Vec<Server>,
    /// The `nameserver` lines that cannot be used, and why.
    pub skipped: Vec<Skipped>,
}

/// A `nameserver` line that names no upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The line, from 1.
    pub line: usize,
    /// Why, as a message without the place.
    pub reason: String,
}

/// Returns the upstreams that the text of a resolv.conf names.
///
/// Only `nameserver` lines are read, each by itself: one bad line must not take the good ones with it, and a `search`
/// domain that is none must not take the text. All lines are used, not the first three that the C library takes. Crates
/// for the format read the text as a whole, or drop the scope of a link-local address (`fe80::1%eth0`).
#[must_use]
pub fn nameservers(text: &[u8]) -> Nameservers {
    let mut found = Nameservers::default();
    for (index, line) in text.split(|&octet| octet == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        match server(words.next().unwrap_or_default()) {
            Ok(server) if found.servers.contains(&server) => {}
            Ok(server) => found.servers.push(server),
            Err(reason) => found.skipped.push(Skipped { line: index + 1, reason }),
        }
    }
    found
}

/// Returns the upstream that the `value` of a `nameserver` line names.
fn server(value: &str) -> Result<Server, String> {
    let (address, scope) = value.split_once('%').map_or((value, None), |(address, scope)| (address, Some(scope)));
    let no_address = || format!("`{value}`: not an address");
    let ip: IpAddr = address.parse().map_err(|_| no_address())?;
    let server = Server::at(ip).map_err(|error| error.to_string())?;
    let (v6, scope) = match (ip, scope) {
        (_, None) => return Ok(server),
        (IpAddr::V4(_), Some(_)) => return Err(no_address()),
        (IpAddr::V6(v6), Some(scope)) => (v6, scope),
    };
    let index = scope::scope(scope).ok_or_else(|| format!("`{value}`: `{scope}` is not the name of an interface"))?;
    let address = SocketAddr::V6(SocketAddrV6::new(v6, server.address.port(), 0, index));
    Server::new(address, Transport::Udp).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_taken_in_order_and_nothing_else() {
        const CASES: &[(&str, &[&str])] = &[
            ("nameserver 192.0.2.1\n", &["192.0.2.1:53"]),
            ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", &["192.0.2.1:53", "[2001:db8::1]:53"]),
            ("nameserver 192.0.2.1\r\nsearch example\r\n", &["192.0.2.1:53"]),
            ("# nameserver 192.0.2.9\n; nameserver 192.0.2.8\nnameserver\t192.0.2.1 # why\n", &["192.0.2.1:53"]),
            ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", &["192.0.2.1:53"]),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
                &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53", "192.0.2.4:53"],
            ),
            ("search a..b -- \noptions ndots:x bogus\nnameserver 192.0.2.1\n", &["192.0.2.1:53"]),
            ("nameserver fe80::1%eth0\n", &["[fe80::1%eth0]:53"]),
            ("nameserver fe80::1%3\n", &["[fe80::1%3]:53"]),
            ("nameserver fe80::1%br-lan.7\n", &["[fe80::1%br-lan.7]:53"]),
        ];
        for (text, expected) in CASES {
            let found = nameservers(text.as_bytes());
            let addresses: Vec<_> = found.servers.iter().map(ToString::to_string).collect();
            assert_eq!(addresses, *expected, "{text:?}");
            assert_eq!(found.skipped, [], "{text:?}");
        }
    }

    #[test]
    fn a_text_without_nameservers_gives_none_and_no_default() {
        const CASES: &[&[u8]] =
            &[b"", b"\n", b"search example\n", b"\0\xff\xfe", b"nameservers 192.0.2.1", b"options edns0"];
        for text in CASES {
            assert_eq!(nameservers(text), Nameservers::default(), "{text:?}");
        }
    }

    #[test]
    fn a_bad_line_is_told_with_its_place_and_spares_the_others() {
        const CASES: &[(&str, &str)] = &[
            ("nameserver dns.example", "`dns.example`: not an address"),
            ("nameserver", "``: not an address"),
            ("nameserver 192.0.2.300", "`192.0.2.300`: not an address"),
            ("nameserver fe80::1%a/b", "`fe80::1%a/b`: `a/b` is not the name of an interface"),
            ("nameserver 192.0.2.1%1", "`192.0.2.1%1`: not an address"),
            ("nameserver 0.0.0.0", "`0.0.0.0:53`: no host has this address (write the address of one resolver)"),
        ];
        for (line, reason) in CASES {
            let text = format!("# head\n{line}\nnameserver 192.0.2.1\n");
            let found = nameservers(text.as_bytes());
            assert_eq!(found.servers.len(), 1, "{line}");
            assert_eq!(found.skipped, [Skipped { line: 2, reason: (*reason).to_owned() }], "{line}");
        }
    }
}
