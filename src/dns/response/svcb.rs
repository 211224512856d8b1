//! `SvcParams` of SVCB and HTTPS records (RFC 9460 §2.2): checks for `ech` and address hints, and their removal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dns::rebinding::Reach;
use crate::dns::wire::u16_at;

/// The key `mandatory`: the keys that a client must understand.
const MANDATORY: u16 = 0;
/// The key `ipv4hint`: addresses that save the client an A query.
const IPV4HINT: u16 = 4;
/// The key `ech`: the configuration of Encrypted Client Hello.
const ECH: u16 = 5;
/// The key `ipv6hint`: addresses that save the client an AAAA query.
const IPV6HINT: u16 = 6;

/// The properties of a record's `SvcParams` that filters need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// True if there is an `ech` parameter.
    pub(super) has_ech: bool,
    /// True if there is an address hint that is not globally reachable.
    pub(super) has_private_hint: bool,
}

/// The address hints that are kept when `SvcParams` are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hints {
    /// All hints are kept.
    Keep,
    /// Only hints that are globally reachable are kept.
    KeepReachable(Reach),
}

/// Returns the `SvcParams` in the RDATA of an SVCB or HTTPS record, which follow the priority and the target name.
pub(super) fn params(rdata: &[u8]) -> &[u8] {
    // The parser has checked the name: labels up to the root or a pointer.
    let mut at = 2;
    loop {
        match rdata.get(at) {
            Some(0) | None => return rdata.get(at + 1..).unwrap_or_default(),
            Some(0xc0..) => return rdata.get(at + 2..).unwrap_or_default(),
            Some(&length) => at += 1 + usize::from(length),
        }
    }
}

/// Examines `SvcParams`. Returns `None` if they are malformed: keys not in strictly increasing order (RFC 9460 §2.2),
/// or lengths that do not fit (RFC 9460 §7.3, §8).
pub(super) fn summarise(params: &[u8], reach: &Reach) -> Option<Summary> {
    let mut summary = Summary::default();
    let mut last = None;
    for param in Params(params) {
        let (key, value) = param?;
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
        // The size of one element of the value.
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

/// Appends `SvcParams` without `ech` and without the hints that `keep` excludes. A parameter that becomes empty is
/// removed, and its key is removed from `mandatory`, because clients reject a record whose mandatory keys are missing
/// (RFC 9460 §8).
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
        // An empty `mandatory` is malformed (RFC 9460 §8).
        if length == 0 && key == MANDATORY {
            out.truncate(start);
        } else {
            out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Returns whether a hint with this address is kept.
fn stays(keep: Hints, address: IpAddr) -> bool {
    match keep {
        Hints::Keep => true,
        Hints::KeepReachable(reach) => reach.is_global(address),
    }
}

/// Returns the addresses of a hint parameter, each with its octets; empty for other parameters.
fn hints(key: u16, value: &[u8]) -> impl Iterator<Item = (IpAddr, &[u8])> {
    let unit = match key {
        IPV4HINT => 4,
        IPV6HINT => 16,
        // No value is that long, so it has no chunk.
        _ => usize::MAX,
    };
    value.chunks_exact(unit).filter_map(|octets| Some((address(octets)?, octets)))
}

/// Converts 4 or 16 octets to an address.
pub(super) fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// An iterator over `SvcParams`: the key and the value of each. At a malformed one it yields one `None` and ends.
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
