//! Reserved addresses, which no devbox or build container can have: those of hostgate and its machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use crate::config::Config;
use crate::config::control::Endpoint;

/// Addresses of documentation (RFC 5737, RFC 3849), which no machine has.
const NOBODYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe))];

/// The reserved addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// The addresses that hostgate listens on.
    served: Vec<IpAddr>,
    pools: Vec<IpNet>,
}

impl Reserved {
    /// Makes the reserved addresses of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let api = config.control.as_ref().and_then(|control| match &control.listen {
            Endpoint::Address(address) => Some(*address),
            Endpoint::Unix(_) => None,
        });
        let listen = config.listen.iter().map(|listen| listen.address);
        let all = listen.chain(config.admin).chain(api).map(|address: SocketAddr| address.ip().to_canonical());
        let mut served: Vec<IpAddr> = all.collect();
        // A service on every address, or on any of loopback, is reached at the usual ones.
        if served.iter().any(|address| address.is_unspecified() || address.is_loopback()) {
            served.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        }
        let pools = config.control.iter().flat_map(|control| [control.devbox_pool, control.build_pool]).flatten();
        Self { served, pools: pools.collect() }
    }

    /// Returns the role of a reserved address; `None` if an address is not reserved.
    pub(in crate::api) fn role(&self, address: IpAddr) -> Option<&'static str> {
        if self.served.contains(&address) {
            return Some("an address that hostgate itself is served at");
        }
        for pool in self.pools.iter().filter(|pool| pool.contains(&address)) {
            if address == pool.network() {
                return Some("the network address of a pool");
            }
            if pool.hosts().next() == Some(address) {
                return Some("the gateway's address of a pool");
            }
            if address.is_ipv4() && address == pool.broadcast() {
                return Some("the broadcast address of a pool");
            }
        }
        is_of_machine(address).then_some("an address of this machine")
    }
}

/// Returns whether an interface has an address. Those of loopback do not count, as people try hostgate with them.
fn is_of_machine(address: IpAddr) -> bool {
    let can_bind = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    // With `net.ipv4.ip_nonlocal_bind` every address can be bound.
    let [v4, v6] = NOBODYS;
    !address.is_loopback() && can_bind(address) && !can_bind(if address.is_ipv4() { v4 } else { v6 })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_hostgate_is_served_at_and_the_ends_of_pools_are_given_to_nobody() {
        let role = |lines: &str, address: &str| {
            let text = format!("{lines}\n[upstream]\nservers = ['192.0.2.53']\n");
            let config = Config::parse(Path::new("h.toml"), text).unwrap();
            Reserved::of(&config).role(address.parse().unwrap())
        };
        let api = "[[listen]]\naddress = '192.0.2.1:53'\n[admin]\nlisten = '127.0.0.9:9153'\n[control]\ntoken_file = 't'\n\
                   devbox_pool = '10.88.0.0/24'\nbuild_pool = '2001:db8::/64'\n";
        for (address, expected) in [
            ("192.0.2.1", Some("an address that hostgate itself is served at")),
            ("127.0.0.1", Some("an address that hostgate itself is served at")),
            ("127.0.0.9", Some("an address that hostgate itself is served at")),
            ("::1", Some("an address that hostgate itself is served at")),
            ("10.88.0.0", Some("the network address of a pool")),
            ("10.88.0.1", Some("the gateway's address of a pool")),
            ("10.88.0.255", Some("the broadcast address of a pool")),
            ("2001:db8::", Some("the network address of a pool")),
            ("10.88.0.2", None),
            ("10.88.1.0", None),
            ("127.0.0.2", None),
            ("198.51.100.1", None),
        ] {
            assert_eq!(role(api, address), expected, "{address}");
        }
        let everywhere = "[[listen]]\naddress = '0.0.0.0:53'\n[admin]\nlisten = 'off'\n";
        assert!(role(everywhere, "127.0.0.1").is_some() && role(everywhere, "192.0.2.1").is_none());
    }
}
