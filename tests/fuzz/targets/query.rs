//! What a client sends: `dns::query::parse`, and every answer we write without an upstream.

use hickory_proto::op;
use hostgate::dns::answer::{self, Ede, Negative};
use hostgate::dns::name::LowerName;
use hostgate::dns::query::{DropReason, OwnedQuery, Parsed, Query, Refusal, Transport, parse};
use hostgate::dns::response::{Casing, query_upstream};

use super::naive::{Message, word};

/// Parses `data` as a datagram and checks what becomes of it.
///
/// # Panics
/// When a query, or an answer to one, is not what it has to be.
pub fn run(data: &[u8]) {
    match parse(data) {
        Parsed::Drop(DropReason::Short) => assert!(data.len() < 12),
        Parsed::Drop(DropReason::Response) => assert!(data[2] & 0x80 != 0),
        Parsed::Refuse(refusal) => check_refusal(data, &refusal),
        Parsed::Query(query) => check_query(data, &query),
    }
}

/// Checks a query: what was read of it, and that its copy and its form upstream say the same.
fn check_query(data: &[u8], query: &Query<'_>) {
    assert_eq!(query.question, &data[12..12 + query.question.len()], "the question is that of the message");
    // The owners of records that mean nothing here are not followed: some are no names.
    if let Some(message) = Message::read(data) {
        assert_eq!(message.question, query.question);
        assert_eq!(query.edns.is_some(), message.opts.len() == 1);
        assert!(message.options(data).is_some(), "the options of a query are well-formed");
    }
    let name = query.qname.as_wire();
    assert_eq!(name, query.question[..name.len()].to_ascii_lowercase());
    let text = query.qname.to_string();
    assert_eq!(LowerName::from_text(&text).as_ref(), Ok(&query.qname), "{text}");

    let owned = OwnedQuery::new(query, query.to_question());
    assert_eq!(format!("{:?}", owned.as_query()), format!("{query:?}"));
    let mut upstream = Vec::new();
    query_upstream(&query.to_question(), Casing::of_bits(0x5a5a_1234_8765_0ff0), 0xabcd, &mut upstream);
    let Parsed::Query(asked) = parse(&upstream) else { panic!("a query upstream is none: {upstream:02x?}") };
    assert_eq!(asked.to_question(), query.to_question());
    assert_eq!(asked.id, 0xabcd);
    check_answers(query);
}

/// Writes all answers of our own to a query and checks them.
fn check_answers(query: &Query<'_>) {
    // A text that is long, and has its characters' boundaries at odd places.
    let text = "policy `é`: ".repeat(120);
    let ede = Ede { code: Ede::BLOCKED, text: &text };
    let limits = [query.payload_limit(Transport::Udp), query.payload_limit(Transport::Tcp)];
    let mut out = Vec::new();
    let hickory_reads = |out: &[u8]| op::Message::from_vec(out).unwrap_or_else(|error| panic!("{error}: {out:02x?}"));
    for limit in limits {
        for (kind, rcode) in [(Negative::NxDomain, 3), (Negative::NoData, 0)] {
            answer::negative(query, kind, 5, Some(ede), limit, &mut out);
            let message = check_answer(query, &out, limit, rcode);
            let [soa] = &message.records[..] else { panic!("{message:?}") };
            assert_eq!((soa.section, soa.rtype, soa.class, soa.ttl), (2, 6, 1, 5));
            assert_eq!(soa.owner, query.qname.parent_wire(), "the SOA's owner is the parent");
            let options = message.options(&out).expect("our options are well-formed");
            assert!(options.iter().all(|(code, data)| *code == 15 && std::str::from_utf8(&data[2..]).is_ok()));
            assert_eq!(u16::from(hickory_reads(&out).metadata.response_code), rcode);
        }
    }
    let limit = limits[0];
    answer::any(query, &mut out);
    assert_eq!(check_answer(query, &out, limit, 0).records.len(), 1);
    assert_eq!(hickory_reads(&out).answers.len(), 1);
    answer::servfail(query, &[ede, Ede { code: 22, text: "" }], &mut out);
    assert!(check_answer(query, &out, limit, 2).records.is_empty());
    hickory_reads(&out);
    answer::truncated(query, &mut out);
    assert!(check_answer(query, &out, limit, 0).flags & 0x0200 != 0);
}

/// Checks what holds of every answer to a query, and returns it.
///
/// # Panics
/// When the answer is not what it has to be.
#[must_use]
pub fn check_answer(query: &Query<'_>, out: &[u8], limit: usize, rcode: u16) -> Message {
    assert!(out.len() <= limit, "{} octets, {limit} fit", out.len());
    let message = Message::read(out).unwrap_or_else(|| panic!("malformed: {out:02x?}"));
    assert_eq!(message.id, query.id);
    assert_eq!(message.question, query.question, "the question is echoed in its case");
    assert!(message.flags & 0x8080 == 0x8080, "QR and RA");
    assert_eq!(message.flags & 0x0100 != 0, query.recursion_desired);
    assert_eq!(message.flags & 0x0010 != 0, query.checking_disabled);
    assert_eq!(message.flags & 0x7840, 0, "opcode QUERY, no Z");
    assert_eq!(message.opts.len(), usize::from(query.edns.is_some()), "OPT answers OPT");
    let mut said = message.flags & 15;
    if let (Some(opt), Some(edns)) = (message.opts.first(), query.edns) {
        assert_eq!((opt.owner.as_slice(), opt.class, opt.section), (&[0][..], 1232, 3));
        assert_eq!(opt.ttl >> 16 & 0xff, 0, "version 0");
        assert_eq!(opt.ttl & 0xffff, if edns.dnssec_ok { 0x8000 } else { 0 });
        said |= u16::try_from(opt.ttl >> 24 << 4).expect("eight bits and four");
        assert!(message.options(out).is_some());
    }
    assert_eq!(said, rcode, "RCODE");
    message
}

/// Checks the answer to what is refused.
fn check_refusal(data: &[u8], refusal: &Refusal<'_>) {
    let mut out = Vec::new();
    answer::refuse(refusal, &mut out);
    assert!(out.len() <= 512);
    assert_eq!(out[..2], data[..2], "the ID is echoed");
    // QR; opcode, RD and CD as they came.
    assert_eq!(out[2], 0x80 | data[2] & 0x79);
    assert_eq!(out[3] & 0xf0, 0x80 | data[3] & 0x10);
    let echoed = refusal.question.unwrap_or_default();
    assert!(data[12..].starts_with(echoed) && out[12..].starts_with(echoed));
    assert_eq!(word(&out, 4), Some(u16::from(refusal.question.is_some())));
    assert_eq!(word(&out, 10), Some(u16::from(refusal.edns.is_some())));
    let read = op::Message::from_vec(&out).unwrap_or_else(|error| panic!("hickory: {error}: {out:02x?}"));
    assert_eq!(read.edns.is_some(), refusal.edns.is_some());
    assert_eq!(read.queries.len(), usize::from(refusal.question.is_some()));
    let high = read.edns.map_or(0, |edns| u16::from(edns.rcode_high()));
    assert_eq!(high << 4 | u16::from(out[3] & 15), refusal.reason.rcode().0);
}
