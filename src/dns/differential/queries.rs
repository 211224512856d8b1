//! Differential tests of queries: acceptance, parsed fields, and RCODEs of refusals.

use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::DNSClass;
use proptest::prelude::*;

use super::naive::{self, name};
use super::{apply, damage, recorded};
use crate::dns::query::{Parsed, parse};
use crate::dns::rcode::Rcode;
use crate::dns::rtype::RecordType;

/// The expected handling of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Drop,
    /// The message is answered with this RCODE.
    Refuse(Rcode),
    /// The message is a query.
    Accept {
        id: u16,
        /// The RD and CD bits.
        flags: [bool; 2],
        qname: Vec<u8>,
        qtype: u16,
        /// The payload size of the OPT record, at least 512, and its DO bit.
        edns: Option<(u16, bool)>,
    },
}

/// Intended differences from hickory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// A compressed QNAME is refused: a pointer refers to a prior name (RFC 1035 §4.1.4), and there is none. Hickory
    /// follows it into the header.
    CompressedQname,
    /// Octets after the last record are refused, as in BIND, NSD and unbound. Hickory does not check.
    OctetsBehind,
    /// An OPT record whose owner is not a zero octet is refused (RFC 6891 §6.1.2). Hickory accepts a pointer to one.
    OptOwner,
    /// Options that run past their record are refused (RFC 6891 §6.1.2), as in BIND. Hickory drops the last one.
    BrokenOption,
    /// Another EDNS version is refused with BADVERS before its options are read, as that version may have changed their
    /// form (RFC 6891 §6.1.3). Hickory reads them.
    LaterVersion,
    /// Of records without meaning in a query only the length is read (as of TSIG), and of options only code and length,
    /// as unknown ones are ignored (RFC 6891 §6.1.2). Hickory reads those it knows, and follows the pointers of owners.
    Unread,
}

/// Returns our handling of `bytes`.
fn ours(bytes: &[u8]) -> Verdict {
    match parse(bytes) {
        Parsed::Drop(_) => Verdict::Drop,
        Parsed::Refuse(refusal) => Verdict::Refuse(refusal.reason.rcode()),
        Parsed::Query(query) => Verdict::Accept {
            id: query.id,
            flags: [query.recursion_desired, query.checking_disabled],
            qname: query.qname.as_wire().to_vec(),
            qtype: query.qtype.0,
            edns: query.edns.map(|edns| (edns.payload_size.max(512), edns.dnssec_ok)),
        },
    }
}

/// Returns the handling of `bytes` that follows from what hickory reads.
fn hickorys(bytes: &[u8]) -> Verdict {
    // Responses come first: they are never answered, however malformed.
    if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
        return Verdict::Drop;
    }
    let Ok(Message { metadata, queries, answers, authorities, edns, .. }) = Message::from_vec(bytes) else {
        return Verdict::Refuse(if bytes[2] & 0x78 == 0 { Rcode::FORMERR } else { Rcode::NOTIMP });
    };
    assert_eq!(metadata.message_type, MessageType::Query);
    if metadata.op_code != OpCode::Query {
        return Verdict::Refuse(Rcode::NOTIMP);
    }
    let ([query], true, true) = (&queries[..], answers.is_empty(), authorities.is_empty()) else {
        return Verdict::Refuse(Rcode::FORMERR);
    };
    if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Verdict::Refuse(Rcode::BADVERS);
    }
    let qtype = u16::from(query.query_type);
    if query.query_class != DNSClass::IN || matches!(RecordType(qtype), RecordType::AXFR | RecordType::IXFR) {
        return Verdict::Refuse(Rcode::REFUSED);
    }
    let labels = query.name.iter().flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label].concat());
    Verdict::Accept {
        id: metadata.id,
        flags: [metadata.recursion_desired, metadata.checking_disabled],
        qname: labels.chain([0]).map(|octet| octet.to_ascii_lowercase()).collect(),
        qtype,
        edns: edns.map(|edns| (edns.max_payload().max(512), edns.flags().dnssec_ok)),
    }
}

/// Compares both handlings of `bytes`. Returns the intended difference, if any.
fn compare(bytes: &[u8]) -> Result<Option<Difference>, String> {
    let (ours, theirs) = (ours(bytes), hickorys(bytes));
    if ours == theirs {
        return Ok(None);
    }
    let message = naive::Message::read_start(bytes);
    let difference = match (&ours, &theirs) {
        (Verdict::Refuse(Rcode::FORMERR), _) if is_compressed(bytes) => Difference::CompressedQname,
        (Verdict::Refuse(Rcode::FORMERR), _) if message.as_ref().is_some_and(|it| it.end < bytes.len()) => {
            Difference::OctetsBehind
        }
        (Verdict::Refuse(Rcode::FORMERR), _)
            if message.as_ref().is_some_and(|it| it.opts.iter().any(|opt| bytes[opt.start] != 0)) =>
        {
            Difference::OptOwner
        }
        (Verdict::Refuse(Rcode::FORMERR), _) if message.as_ref().is_some_and(|it| it.options(bytes).is_none()) => {
            Difference::BrokenOption
        }
        (Verdict::Refuse(Rcode::BADVERS), Verdict::Refuse(Rcode::FORMERR)) => Difference::LaterVersion,
        // The owner is a pointer into the header, and hickory's error hides what else is wrong.
        (Verdict::Refuse(Rcode::FORMERR), _) if message.is_none() && bytes[10..12] != [0, 0] => Difference::Unread,
        // The part that hickory rejects must be in the additional section: without that, both agree.
        (Verdict::Accept { .. } | Verdict::Refuse(Rcode::REFUSED), Verdict::Refuse(Rcode::FORMERR))
            if bytes[10..12] != [0, 0] && without_edns(&ours) == hickorys(&without_additional(bytes)) =>
        {
            Difference::Unread
        }
        _ => return Err(format!("ours: {ours:?}, hickory's: {theirs:?}: {bytes:02x?}")),
    };
    Ok(Some(difference))
}

/// Returns whether QNAME contains a compression pointer.
fn is_compressed(bytes: &[u8]) -> bool {
    let mut at = 12;
    while let Some(&length @ 1..=63) = bytes.get(at) {
        at += 1 + usize::from(length);
    }
    bytes.get(at).is_some_and(|&octet| octet >= 0xc0)
}

/// Returns a query without its additional section.
fn without_additional(bytes: &[u8]) -> Vec<u8> {
    let end = name(bytes, 12).map_or(12, |(_, end)| end + 4);
    let mut bytes = bytes[..end].to_vec();
    bytes[10..12].fill(0);
    bytes
}

/// Returns the verdict for the same query without an OPT record.
fn without_edns(verdict: &Verdict) -> Verdict {
    let mut verdict = verdict.clone();
    if let Verdict::Accept { edns, .. } = &mut verdict {
        *edns = None;
    }
    verdict
}

/// Queries recorded from real clients.
static RECORDED: LazyLock<Vec<(&str, Vec<u8>)>> =
    LazyLock::new(|| recorded(include_str!("../../../tests/messages/queries.txt")));

#[test]
fn recorded_queries_are_handled_as_hickory_reads_them() {
    let queries = &*RECORDED;
    let mut accepted = 0;
    for (what, bytes) in queries {
        assert_eq!(compare(bytes), Ok(None), "{what}");
        accepted += usize::from(matches!(ours(bytes), Verdict::Accept { .. }));
    }
    assert!(accepted > 50, "most are queries: {accepted} of {}", queries.len());
}

#[test]
fn every_listed_difference_occurs() {
    let plain = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x00\x00\x01\x00\x01";
    let with = |more: &[u8]| {
        let mut bytes = [&plain[..], more].concat();
        bytes[11] = 1;
        bytes
    };
    // The pointer leads to a zero octet of the header.
    let compressed = [&plain[..12], b"\x01a\xc0\x04\x00\x01\x00\x01"].concat();
    let cases = [
        (plain.to_vec(), None),
        (compressed, Some(Difference::CompressedQname)),
        ([plain, &b"\x00"[..]].concat(), Some(Difference::OctetsBehind)),
        (with(b"\xc0\x18\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"), Some(Difference::OptOwner)),
        (with(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x04\x00\x08\x00\x01"), Some(Difference::BrokenOption)),
        (with(b"\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x01\x09"), Some(Difference::LaterVersion)),
        (with(b"\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x01\x09"), Some(Difference::Unread)),
        (with(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x05\x00\x08\x00\x01\x09"), Some(Difference::Unread)),
    ];
    for (bytes, difference) in cases {
        assert_eq!(compare(&bytes), Ok(difference), "{bytes:02x?}");
    }
}

/// Returns a generator of wire names: labels of any octets, uncompressed or ending in a pointer.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![6 => prop::sample::select(&b"abcXYZ019-_*"[..]), 1 => any::<u8>()];
    let label = prop_oneof![9 => prop::collection::vec(octet.clone(), 1..8), 1 => prop::collection::vec(octet, 1..=63)];
    let end = prop_oneof![12 => Just(vec![0]), 1 => (0u8..60).prop_map(|at| vec![0xc0, at])];
    (prop::collection::vec(label, 0..6), end).prop_map(|(labels, end)| {
        let labels = labels.into_iter().flat_map(|label| [&[u8::try_from(label.len()).unwrap()], &label[..]].concat());
        labels.chain(end).collect()
    })
}

/// Returns a generator of additional records in wire format.
fn additionals() -> impl Strategy<Value = Vec<u8>> {
    let option = (0u16..20, prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(code, data)| {
        [&code.to_be_bytes()[..], &u16::try_from(data.len()).unwrap().to_be_bytes(), &data].concat()
    });
    let ttl = prop_oneof![8 => Just(0), 4 => Just(0x8000), 1 => Just(0x0001_0000), 1 => any::<u32>()];
    let opt = (any::<u16>(), ttl, prop::collection::vec(option, 0..3))
        .prop_map(|(payload, ttl, options)| (vec![0], 41u16, payload, ttl, options.concat()));
    let other = (names(), prop_oneof![Just(250u16), 1u16..50, any::<u16>()], prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(owner, rtype, rdata)| (owner, rtype, 1u16, 0, rdata));
    prop_oneof![5 => opt, 1 => other].prop_map(|(owner, rtype, class, ttl, rdata)| {
        let length = u16::try_from(rdata.len()).unwrap();
        let fixed = [&rtype.to_be_bytes()[..], &class.to_be_bytes(), &ttl.to_be_bytes(), &length.to_be_bytes()];
        [&owner[..], &fixed.concat(), &rdata].concat()
    })
}

/// Returns a generator of queries.
fn queries() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![6 => Just(0x0100u16), 2 => Just(0x0130), 1 => any::<u16>()];
    let qtype = prop_oneof![4 => prop::sample::select(&[1u16, 28, 65, 5, 255, 251, 252][..]), 1 => any::<u16>()];
    let qclass = prop_oneof![9 => Just(1u16), 1 => any::<u16>()];
    let additionals = prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec(additionals(), 1..3)];
    (any::<u16>(), flags, names(), qtype, qclass, additionals).prop_map(
        |(id, flags, qname, qtype, qclass, additionals)| {
            let count = u16::try_from(additionals.len()).unwrap();
            let header = [id, flags, 1, 0, 0, count].map(u16::to_be_bytes).concat();
            [header, qname, qtype.to_be_bytes().to_vec(), qclass.to_be_bytes().to_vec(), additionals.concat()].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn generated_queries_are_handled_as_hickory_reads_them(mut bytes in queries(), damage in damage()) {
        apply(&damage, &mut bytes);
        if let Err(difference) = compare(&bytes) {
            prop_assert!(false, "{difference}");
        }
    }

    #[test]
    fn damaged_recorded_queries_are_handled_as_hickory_reads_them(which in any::<prop::sample::Index>(), damage in damage()) {
        let mut bytes = which.get(&RECORDED).1.clone();
        apply(&damage, &mut bytes);
        if let Err(difference) = compare(&bytes) {
            prop_assert!(false, "{difference}");
        }
    }
}
