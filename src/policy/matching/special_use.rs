//! Special-use names, which have a meaning on this host or network alone and are therefore never sent to an upstream.
//!
//! localhost is this host itself (RFC 6761 §6.3). The other names are for local networks or for other ways to resolve
//! names, or exist nowhere: no upstream has an answer, and the question would tell an outsider about the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dns::name::LowerName;
use crate::dns::reverse;
use crate::dns::rtype::RecordType;

/// The special use of a name, which keeps it from being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecialUse {
    /// `localhost` or a name below it: the host itself.
    Localhost,
    /// A name at or below a local zone, with the length of the zone's wire name in octets. Such a name is forwarded
    /// only if the allowed pattern that matches it is at or below that zone: see [`SpecialUse::is_opened_by`].
    Local(usize),
}

/// The wire name of the host itself.
pub(crate) const LOCALHOST: &[u8] = b"\x09localhost\0";

/// The wire names of the local zones, without the reverse zones: RFC 7686 §2, RFC 6761 §6.4, RFC 6762 §22.1, RFC 9476
/// §2, RFC 8375 §4.
const ZONES: [&[u8]; 5] = [b"\x05onion\0", b"\x07invalid\0", b"\x05local\0", b"\x03alt\0", b"\x04home\x04arpa\0"];

/// Returns whether a wire name is a local zone. Nobody can register names there, so a wildcard on it is accepted,
/// unlike one on a public suffix.
pub(crate) fn is_zone(wire: &[u8]) -> bool {
    ZONES.contains(&wire)
}

impl SpecialUse {
    /// Returns the special use of a name. For nearly all names this costs a few comparisons.
    #[inline]
    pub(crate) fn of(name: &LowerName) -> Option<Self> {
        // The last four octets of every special-use name: the end of its last label and the root label. They are tested
        // first, for all zones together, so that one load and a few comparisons reject an ordinary name.
        let may_be = matches!(
            name.as_wire().last_chunk(),
            Some(b"ost\0" | b"ion\0" | b"lid\0" | b"cal\0" | b"alt\0" | b"rpa\0")
        );
        if may_be { Self::find(name) } else { None }
    }

    /// Finds the special use of a name that passed the quick test of [`SpecialUse::of`].
    #[cold]
    fn find(name: &LowerName) -> Option<Self> {
        if is_localhost(name) {
            return Some(Self::Localhost);
        }
        // Compares whole suffixes, which begin at a label: `ends_with` on the octets would also match within a label.
        let zone = name.suffixes().find(|suffix| ZONES.contains(suffix));
        zone.or_else(|| reverse::local_zone(name)).map(|zone| Self::Local(zone.len()))
    }

    /// Returns whether the allowed pattern that matches the name was written for the local zone, that is, whether its
    /// name, in wire format, is at or below the zone. A wildcard above the zone does not allow the zone's names, as its
    /// author hardly thought of them.
    pub(crate) fn is_opened_by(self, pattern: &[u8]) -> bool {
        // Both the pattern's name and the zone are suffixes of the same name, so the longer one is below the other.
        matches!(self, Self::Local(length) if pattern.len() >= length)
    }
}

/// Returns whether a name is `localhost` or below it. For nearly all names this costs one comparison.
#[inline]
pub(crate) fn is_localhost(name: &LowerName) -> bool {
    name.as_wire().last_chunk() == Some(b"ost\0") && name.suffixes().last() == Some(LOCALHOST)
}

/// Returns the loopback address that answers a query of this type; `None` if the type is neither A nor AAAA.
pub(crate) const fn loopback(qtype: RecordType) -> Option<IpAddr> {
    match qtype {
        RecordType::A => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        RecordType::AAAA => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Directory, name};

    /// Returns the action and the reason of a query of a client whose policy has these lines.
    fn decided(lines: &str, qname: &str, qtype: RecordType) -> String {
        let client = "[client.c]\nsources = [\"2001:db8::1\"]\npolicy = \"p\"\n";
        let library = Directory::of(&[("p.toml", &format!("[policy.p]\n{lines}\n{client}"))]).library();
        let snapshot = library.snapshot();
        let decision = snapshot.decide(&snapshot.asker("2001:db8::1".parse().unwrap(), 0), &name(qname), qtype);
        format!("{:?} {}", decision.action, decision.reason.as_str())
    }

    #[test]
    fn wildcards_on_local_zones_are_not_refused_as_public_suffixes() {
        for zone in ["onion", "home.arpa", "local", "alt", "invalid"] {
            let listed = format!("allowed_hostnames = [\"*.{zone}\"]");
            assert_eq!(decided(&listed, &format!("x.{zone}"), RecordType::A), "Allow rule", "{zone}");
        }
        assert_eq!(decided("allow_all = true", "x.onion", RecordType::A), "Deny special-use");
    }

    /// Special-use names, each with its zone.
    const SPECIAL: &[(&str, &str)] = &[
        ("onion", "onion"),
        ("x.y.onion", "onion"),
        ("a.invalid", "invalid"),
        ("printer.LOCAL", "local"),
        ("_dns-sd._udp.local", "local"),
        ("x.alt", "alt"),
        ("home.arpa", "home.arpa"),
        ("nas.home.arpa", "home.arpa"),
        ("10.in-addr.arpa", "10.in-addr.arpa"),
        ("1.0.0.10.in-addr.arpa", "10.in-addr.arpa"),
        ("x.1.0.0.10.in-addr.arpa", "10.in-addr.arpa"),
        ("31.172.in-addr.arpa", "31.172.in-addr.arpa"),
        ("1.1.16.172.in-addr.arpa", "16.172.in-addr.arpa"),
        ("1.1.168.192.in-addr.arpa", "168.192.in-addr.arpa"),
        ("1.1.254.169.in-addr.arpa", "254.169.in-addr.arpa"),
        ("1.0.0.127.in-addr.arpa", "127.in-addr.arpa"),
        ("0.0.0.0.in-addr.arpa", "0.in-addr.arpa"),
        ("1.2.0.192.in-addr.arpa", "2.0.192.in-addr.arpa"),
        ("255.255.255.255.in-addr.arpa", "255.255.255.255.in-addr.arpa"),
        ("1.1.127.100.in-addr.arpa", "127.100.in-addr.arpa"),
        ("x.d.f.ip6.arpa", "d.f.ip6.arpa"),
        ("1.b.e.f.ip6.arpa", "b.e.f.ip6.arpa"),
        ("1.8.b.d.0.1.0.0.2.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"),
    ];

    /// Ordinary names that look like special-use names.
    const ORDINARY: &[&str] = &[
        "arpa",
        "in-addr.arpa",
        "172.in-addr.arpa",
        "1.1.32.172.in-addr.arpa",
        "1.1.15.172.in-addr.arpa",
        "1.0.192.in-addr.arpa",
        "1.1.1.010.in-addr.arpa",
        "8.8.8.8.in-addr.arpa",
        "1.1.63.100.in-addr.arpa",
        "254.255.255.255.in-addr.arpa",
        "e.f.ip6.arpa",
        "c.e.f.ip6.arpa",
        "1.0.0.2.ip6.arpa",
        "local.test",
        "onion.example",
        r"x\005local",
        "mylocal",
        "notlocalhost",
        "xn--onion",
        "default",
        "post",
        "10.in-addr.arpa.test",
    ];

    #[test]
    fn special_names_are_recognised_at_label_boundaries() {
        for (qname, zone) in SPECIAL {
            let (qname, zone) = (name(qname), name(zone));
            assert_eq!(SpecialUse::of(&qname), Some(SpecialUse::Local(zone.as_wire().len())), "{qname}");
        }
        let zero = "0.".repeat(31);
        for digit in ["0", "1"] {
            let qname = name(&format!("{digit}.{zero}ip6.arpa"));
            assert_eq!(SpecialUse::of(&qname), Some(SpecialUse::Local(qname.as_wire().len())));
        }
        assert_eq!(SpecialUse::of(&name(&format!("2.{zero}ip6.arpa"))), None);
        for qname in ["localhost", "a.b.LocalHost"] {
            assert_eq!(SpecialUse::of(&name(qname)), Some(SpecialUse::Localhost));
        }
        for qname in ORDINARY {
            assert_eq!(SpecialUse::of(&name(qname)), None, "{qname}");
        }
        assert_eq!(SpecialUse::of(&LowerName::root()), None);
    }

    #[test]
    fn allow_all_and_audit_mode_allow_no_special_name() {
        for lines in ["allow_all = true", "mode = \"audit\"", "mode = \"audit\"\nallow_all = true"] {
            for (qname, _) in SPECIAL {
                for qtype in [RecordType::PTR, RecordType::A, RecordType::SOA] {
                    assert_eq!(decided(lines, qname, qtype), "Deny special-use", "{lines}: {qname}");
                }
            }
            for qname in ORDINARY.iter().filter(|qname| !qname.contains('\\')) {
                assert!(decided(lines, qname, RecordType::PTR).starts_with("Allow"), "{lines}: {qname}");
            }
        }
    }

    #[test]
    fn audit_mode_forwards_no_special_name() {
        for (lines, qname) in [
            ("mode = 'audit'\ndenied_hostnames = ['*.local']", "x.local"),
            ("mode = 'audit'\nallowed_hostnames = ['*.172.in-addr.arpa']", "1.1.16.172.in-addr.arpa"),
            ("mode = 'audit'", r"a\.b.local"),
        ] {
            assert_eq!(decided(lines, qname, RecordType::PTR), "Deny special-use", "{lines}: {qname}");
        }
        assert_eq!(decided("", "x.local", RecordType::A), "Deny not-listed");
    }

    #[test]
    fn a_pattern_at_or_below_a_local_zone_allows_its_names() {
        let rule = |list: &str, qname: &str| {
            decided(&format!("allow_all = true\nallowed_hostnames = [{list}]"), qname, RecordType::A)
        };
        for (list, qname) in [
            ("'*.local'", "printer.local"),
            ("'*.corp.local'", "x.corp.local"),
            ("'printer.local'", "printer.local"),
            ("'home.arpa'", "home.arpa"),
            ("'1.0.0.10.in-addr.arpa'", "1.0.0.10.in-addr.arpa"),
            ("'*.10.in-addr.arpa'", "1.0.0.10.in-addr.arpa"),
            ("'*.0.0.10.in-addr.arpa'", "1.0.0.10.in-addr.arpa"),
        ] {
            assert_eq!(rule(list, qname), "Allow rule", "{list}: {qname}");
        }
        for (list, qname) in [
            ("'printer.local'", "scanner.local"),
            ("'*.corp.local'", "corp.local"),
            ("'*.local'", "local"),
            // This wildcard also covers reverse names of public addresses, so it was not written for the private ones.
            ("'*.172.in-addr.arpa'", "1.1.16.172.in-addr.arpa"),
        ] {
            assert_eq!(rule(list, qname), "Deny special-use", "{list}: {qname}");
        }
        assert_eq!(
            decided(
                "allow_all = true\nallowed_hostnames = ['*.local']\ndenied_hostnames = ['x.local']",
                "x.local",
                RecordType::A
            ),
            "Deny denied-rule"
        );
    }

    #[test]
    fn localhost_is_answered_under_every_policy() {
        let policies = [
            "",
            "allow_all = true",
            "mode = 'audit'",
            "allowed_hostnames = ['localhost', '*.localhost']",
            "allowed_hostnames = ['a.localhost']",
            "allowed_hostnames = ['*.a.localhost', 'other.test']",
        ];
        for lines in policies {
            for qname in ["localhost", "a.localhost", "x.a.localhost"] {
                assert_eq!(decided(lines, qname, RecordType::A), "Answer special-use", "{lines}: {qname}");
                assert_eq!(decided(lines, qname, RecordType::AAAA), "Answer special-use", "{lines}: {qname}");
                assert_eq!(decided(lines, qname, RecordType::MX), "NoData special-use", "{lines}: {qname}");
            }
            assert!(!decided(lines, "notlocalhost", RecordType::A).contains("special-use"));
        }
        assert_eq!(decided("query_types = ['AAAA']", "localhost", RecordType::A), "NoData query-type");
        assert_eq!(decided("denied_hostnames = ['localhost']", "localhost", RecordType::A), "Deny denied-rule");
    }
}
