//! Interfaces of link-local upstreams that are written by name, as in `fe80::53%eth0`: which number one has is found out when the
//! upstream is asked. An interface may come later than the configuration, and one that is made again has another number.
//!
//! An address with such an interface has a number of ours in place of the kernel's, which never gives one so large; so it is a
//! [`SocketAddr`] like any other, the same from one reload to the next.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{PoisonError, RwLock};

/// The first of our numbers: the kernel's are positive numbers of 31 bits.
const FIRST: u32 = 1 << 31;

/// Interfaces that may be named by all configurations of a process.
const MAX_NAMED: usize = 1024;

/// The longest name of an interface (`IFNAMSIZ` less the end).
const LONGEST: usize = 15;

/// The names, by our numbers.
static NAMES: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Returns the scope that a zone of an address stands for: a number of the kernel's, or ours for a name. `None` if it can be
/// neither, or too many have been named.
pub(super) fn scope(zone: &str) -> Option<u32> {
    if let Ok(number) = zone.parse::<u32>() {
        return (number < FIRST).then_some(number);
    }
    let is_name =
        |octet: u8| octet.is_ascii_graphic() && !matches!(octet, b'/' | b':' | b'[' | b']' | b'%' | b'"' | b'\\');
    if zone.is_empty() || zone.len() > LONGEST || !zone.bytes().all(is_name) || matches!(zone, "." | "..") {
        return None;
    }
    let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
    let place = names.iter().position(|name| name == zone).or_else(|| {
        (names.len() < MAX_NAMED).then(|| {
            names.push(zone.to_owned());
            names.len() - 1
        })
    })?;
    u32::try_from(place).ok().map(|place| FIRST + place)
}

/// Returns the address that an upstream has now.
///
/// # Errors
/// The interface that it is written with is not there.
pub(super) fn target(address: SocketAddr) -> io::Result<SocketAddr> {
    let Some(name) = name_of(address) else { return Ok(address) };
    let SocketAddr::V6(mut resolved) = address else { return Ok(address) };
    let missing = |error| io::Error::new(io::ErrorKind::NetworkUnreachable, format!("no interface `{name}`: {error}"));
    resolved.set_scope_id(index(&name).map_err(missing)?);
    Ok(SocketAddr::V6(resolved))
}

/// Returns the interface that an address is written with, if it is not there now.
pub(super) fn missing(address: SocketAddr) -> Option<String> {
    target(address).is_err().then(|| name_of(address)).flatten()
}

/// Returns whether the interface of an address is written by name, so that its number may change.
pub(crate) fn is_named(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.scope_id() >= FIRST)
}

/// Returns the name of the interface that an address is written with.
fn name_of(address: SocketAddr) -> Option<String> {
    let SocketAddr::V6(v6) = address else { return None };
    let place = usize::try_from(v6.scope_id().checked_sub(FIRST)?).ok()?;
    NAMES.read().unwrap_or_else(PoisonError::into_inner).get(place).cloned()
}

/// Returns the number of an interface, as the kernel has it in the network namespace of this process.
fn index(name: &str) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind("[::]:0"))?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

/// An upstream's address as it is written: with the name of its interface, where it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown(pub(crate) SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name_of(self.0) {
            Some(name) => write!(f, "[{}%{name}]:{}", self.0.ip(), self.0.port()),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_is_looked_for_when_its_address_is_used() {
        let with = |zone: &str| {
            let scope = scope(zone).unwrap();
            SocketAddr::V6(std::net::SocketAddrV6::new("fe80::53".parse().unwrap(), 53, 0, scope))
        };
        assert_eq!(target(with("lo")).unwrap().to_string(), "[fe80::53%1]:53");
        assert_eq!(Shown(with("lo")).to_string(), "[fe80::53%lo]:53");
        assert_eq!(with("lo"), with("lo"));
        assert_ne!(with("lo"), with("lo2"));
        assert!(is_named(with("lo")) && !is_named(with("3")));
        assert_eq!((target(with("3")).unwrap(), Shown(with("3")).to_string().as_str()), (with("3"), "[fe80::53%3]:53"));
        let missing = target(with("none9")).unwrap_err();
        assert!(missing.to_string().starts_with("no interface `none9`: "), "{missing}");
        assert_eq!((super::missing(with("none9")).as_deref(), super::missing(with("lo"))), (Some("none9"), None));
        for zone in ["", "a/b", "..", "sixteen-octets-x", "a b", "2147483648", "é"] {
            assert_eq!(scope(zone), None, "{zone}");
        }
    }
}
