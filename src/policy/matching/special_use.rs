//! Special-use names: those that mean something here alone, so that nobody outside is asked for them.
//!
//! localhost is this host itself (RFC 6761 §6.3). The rest is for local networks or other ways to resolve names, or stands
//! for nothing; outside there is no answer, and the question tells a stranger what is in here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rules::Rule;
use crate::dns::name::LowerName;
use crate::dns::reverse;
use crate::dns::rtype::RecordType;

/// A name that no upstream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecialUse {
    /// The host itself: `localhost` and below.
    Localhost,
    /// At or below a zone whose name has so many octets on the wire: it exists for those alone whose policy names it.
    Local(usize),
}

/// The name of the host itself, in wire format.
pub(crate) const LOCALHOST: &[u8] = b"\x09localhost\0";

/// The zones of which nobody outside knows anything, but for those of addresses: RFC 7686 §2, RFC 6761 §6.4, RFC 6762 §22.1,
/// RFC 9476 §2, RFC 8375 §4.
const ZONES: [&[u8]; 5] = [b"\x05onion\0", b"\x07invalid\0", b"\x05local\0", b"\x03alt\0", b"\x04home\x04arpa\0"];

/// Returns whether a wire name is that of a zone below which nobody can register a name, as nobody outside knows it.
pub(crate) fn is_zone(wire: &[u8]) -> bool {
    ZONES.contains(&wire)
}

impl SpecialUse {
    /// Returns what is special about a name. For nearly all names it costs a few comparisons.
    #[inline]
    pub(crate) fn of(name: &LowerName) -> Option<Self> {
        // How the last labels of all of them end.
        let may_be = matches!(
            name.as_wire().last_chunk(),
            Some(b"ost\0" | b"ion\0" | b"lid\0" | b"cal\0" | b"alt\0" | b"rpa\0")
        );
        if may_be { Self::find(name) } else { None }
    }

    /// Does the work of [`SpecialUse::of`].
    #[cold]
    fn find(name: &LowerName) -> Option<Self> {
        if is_localhost(name) {
            return Some(Self::Localhost);
        }
        // What a wire name ends with may also be the end of a longer label.
        let zone = name.suffixes().find(|suffix| ZONES.contains(suffix));
        zone.or_else(|| reverse::local_zone(name)).map(|zone| Self::Local(zone.len()))
    }

    /// Returns whether an allowed pattern that matches the name says that it is meant: it is at or below the zone. A wildcard
    /// above it does not.
    pub(crate) fn is_named_by(self, rule: &Rule<'_>) -> bool {
        // Both are above the same name, so the longer one is below.
        matches!(self, Self::Local(length) if rule.wire().len() >= length)
    }
}

/// Returns whether a name is the host itself. For nearly all names it costs one comparison.
#[inline]
pub(crate) fn is_localhost(name: &LowerName) -> bool {
    name.as_wire().last_chunk() == Some(b"ost\0") && name.suffixes().last() == Some(LOCALHOST)
}

/// Returns the host's own address of this type.
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

    /// Returns what a client of a policy with these lines gets for a name: action, reason.
    fn decided(lines: &str, qname: &str, qtype: RecordType) -> String {
        let client = "[client.c]\nsources = [\"2001:db8::1\"]\npolicy = \"p\"\n";
        let library = Directory::of(&[("p.toml", &format!("[policy.p]\n{lines}\n{client}"))]).library();
        let snapshot = library.snapshot();
        let decision = snapshot.decide(&snapshot.asker("2001:db8::1".parse().unwrap(), 0), &name(qname), qtype);
        format!("{:?} {}", decision.action, decision.reason.as_str())
    }

    #[test]
    fn wildcards_on_their_zones_are_no_ones_on_public_suffixes() {
        for zone in ["onion", "home.arpa", "local", "alt", "invalid"] {
            let listed = format!("allowed_hostnames = [\"*.{zone}\"]");
            assert_eq!(decided(&listed, &format!("x.{zone}"), RecordType::A), "Allow rule", "{zone}");
        }
        assert_eq!(decided("allow_all = true", "x.onion", RecordType::A), "Deny special-use");
    }

    /// Names that are special, each with the zone.
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

    /// Names that are not, though they look like it.
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
    fn special_names_are_known_by_their_labels() {
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
    fn what_allows_everything_allows_no_special_name() {
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
    fn auditing_lets_no_special_name_out_whatever_is_denied() {
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
    fn a_pattern_that_names_them_allows_them() {
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
            // A wildcard above names the reverse names of all addresses, not of these.
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
