//! The parameters of SVCB and HTTPS records (RFC 9460 §2.2): what they hold, and how some are taken out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dns::rebinding::Reach;
use crate::dns::wire::u16_at;

/// The keys that a client must understand.
const MANDATORY: u16 = 0;
/// IPv4 addresses that save a query.
const IPV4HINT: u16 = 4;
/// The keys of Encrypted Client Hello.
const ECH: u16 = 5;
/// IPv6 addresses that save a query.
const IPV6HINT: u16 = 6;

/// What the parameters of a record hold that matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// The key `ech`.
    pub(super) has_ech: bool,
    /// An address hint that is not globally reachable.
    pub(super) has_private_hint: bool,
}

/// Which address hints stay when parameters are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hints {
    /// All.
    Keep,
    /// Those that are globally reachable.
    KeepReachable(Reach),
}

/// Returns the parameters in the RDATA of an SVCB or HTTPS record: what stands behind the priority and the target name.
pub(super) fn params(rdata: &[u8]) -> &[u8] {
    // The form has been checked: labels up to the root, or up to a pointer.
    let mut at = 2;
    loop {
        match rdata.get(at) {
            Some(0) | None => return rdata.get(at + 1..).unwrap_or_default(),
            Some(0xc0..) => return rdata.get(at + 2..).unwrap_or_default(),
            Some(&length) => at += 1 + usize::from(length),
        }
    }
}

/// Looks through the parameters; returns nothing if they are malformed: keys not in strictly increasing order, lengths
/// that do not fit.
pub(super) fn summarise(params: &[u8], reach: &Reach) -> Option<Summary> {
    let mut summary = Summary::default();
    let mut last = None;
    for param in Params(params) {
        let (key, value) = param?;
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
        let unit = match key {
            MANDATORY => 2,
            IPV4HINT => 4,
            IPV6HINT => 16,
            _ => 0,
        };
        if unit > 0 && (value.is_empty() || !value.len().is_multiple_of(unit)) {
            return None;
        }
        summary.has_ech |= key == ECH;
        summary.has_private_hint |= hints(key, value).any(|(address, _)| !reach.is_global(address));
    }
    Some(summary)
}

/// Appends the parameters without `ech` and without the hints that may not stay. A parameter that has become empty
/// goes, and `mandatory` never names one that went (RFC 9460 §8: a client would reject the record).
pub(super) fn rewrite(params: &[u8], keep: Hints, out: &mut Vec<u8>) {
    let emptied = |hint| {
        Params(params).flatten().any(|(key, value)| key == hint && !hints(key, value).any(|hint| stays(keep, hint.0)))
    };
    let (ipv4_gone, ipv6_gone) = (emptied(IPV4HINT), emptied(IPV6HINT));
    let goes = |key| key == ECH || key == IPV4HINT && ipv4_gone || key == IPV6HINT && ipv6_gone;
    for (key, value) in Params(params).flatten().filter(|(key, _)| !goes(*key)) {
        let start = out.len();
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        match key {
            MANDATORY => {
                for listed in value.chunks_exact(2).filter(|listed| !u16_at(listed, 0).is_some_and(goes)) {
                    out.extend_from_slice(listed);
                }
            }
            IPV4HINT | IPV6HINT => {
                for (_, octets) in hints(key, value).filter(|hint| stays(keep, hint.0)) {
                    out.extend_from_slice(octets);
                }
            }
            _ => out.extend_from_slice(value),
        }
        let length = u16::try_from(out.len() - start - 4).unwrap_or_default();
        if length == 0 && key == MANDATORY {
            out.truncate(start);
        } else {
            out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Returns whether a hint stays.
fn stays(keep: Hints, address: IpAddr) -> bool {
    match keep {
        Hints::Keep => true,
        Hints::KeepReachable(reach) => reach.is_global(address),
    }
}

/// Returns the addresses of a hint, each with its octets; of another parameter none.
fn hints(key: u16, value: &[u8]) -> impl Iterator<Item = (IpAddr, &[u8])> {
    let unit = match key {
        IPV4HINT => 4,
        IPV6HINT => 16,
        _ => usize::MAX,
    };
    value.chunks_exact(unit).filter_map(|octets| Some((address(octets)?, octets)))
}

/// Reads four or sixteen octets as an address.
pub(super) fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// Walks parameters: key and value, or one nothing where the form breaks and then the end.
struct Params<'a>(&'a [u8]);

impl<'a> Iterator for Params<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let param = u16_at(self.0, 0).zip(u16_at(self.0, 2)).and_then(|(key, length)| {
            let (param, rest) = self.0.split_at_checked(4 + usize::from(length))?;
            self.0 = rest;
            Some((key, &param[4..]))
        });
        if param.is_none() {
            self.0 = &[];
        }
        Some(param)
    }
}
