//! What an upstream says: reading it, judging it for a client, and writing the answer that the client gets.

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::op;
use hostgate::dns::answer::{TtlMode, from_response};
use hostgate::dns::name::LowerName;
use hostgate::dns::query::{Parsed, Query, Transport, parse};
use hostgate::dns::rebinding::is_globally_reachable;
use hostgate::dns::response::{
    Casing, Filtered, Question, ReplyCheck, Response, ResponseError, ResponseRules, filter_response, is_reply_to,
};
use hostgate::dns::rtype::RecordType;

use super::naive::{Message, Record, word};
use super::query::check_answer;

/// Reads `data` as the reply to the question it holds itself; its ID, which nothing else depends on, says how the
/// client asked and what its policy is.
///
/// # Panics
/// When what becomes of the reply is not what it has to be.
pub fn run(data: &[u8]) {
    let choices = word(data, 0).unwrap_or_default();
    let question = question_of(data, choices);
    let parsed = Response::parse(data, &question);
    match (is_reply_to(data, choices, &question, Casing::LOWER), &parsed) {
        (ReplyCheck::NotOurs, Err(ResponseError::NotOurs | ResponseError::Malformed)) => {}
        (ReplyCheck::Ours { truncated, .. }, _) if truncated == (parsed == Err(ResponseError::Truncated)) => {}
        (check, _) => panic!("{check:?}, but {parsed:?}"),
    }
    assert_eq!(is_reply_to(data, !choices, &question, Casing::LOWER), ReplyCheck::NotOurs, "another ID");
    // Asked in a case of our own, the reply has to be in that, or it is none.
    let mixed = is_reply_to(data, choices, &question, Casing::of_bits(u64::from(choices) << 1));
    let lower = is_reply_to(data, choices, &question, Casing::LOWER);
    assert!(mixed == lower || mixed == ReplyCheck::OtherCase && lower != ReplyCheck::NotOurs, "{mixed:?} {lower:?}");
    let Ok(response) = parsed else { return };
    let client = Client::of(&question, choices);
    let bytes = client.query();
    let Parsed::Query(query) = parse(&bytes) else { panic!("no query: {bytes:02x?}") };
    check_response(data, &question, &query, &response);
    check_filtered(&client, &query, &response);
}

/// The client that gets the answer.
struct Client<'q> {
    /// What it asks.
    question: &'q Question,
    /// Its payload size; without one it sends no OPT record.
    payload: Option<u16>,
    /// Whether private addresses pass.
    allows_private: bool,
    /// Whether targets are inspected.
    inspects: bool,
}

impl<'q> Client<'q> {
    /// Makes the client that `choices` say.
    fn of(question: &'q Question, choices: u16) -> Self {
        let payload = (choices & 3 != 0 || question.dnssec_ok).then_some(400 * (choices & 3));
        Self { question, payload, allows_private: choices & 4 != 0, inspects: choices & 8 != 0 }
    }

    /// Returns the query it sends.
    fn query(&self) -> Vec<u8> {
        let (rd, cd) = (u8::from(self.question.recursion_desired), u8::from(self.question.checking_disabled));
        let ad = u8::from(self.question.authentic_data);
        let mut bytes = vec![0x12, 0x34, rd, cd << 4 | ad << 5, 0, 1, 0, 0, 0, 0, 0, u8::from(self.payload.is_some())];
        bytes.extend(self.question.qname.as_wire());
        bytes.extend(self.question.qtype.0.to_be_bytes());
        bytes.extend([0, 1]);
        if let Some(payload) = self.payload {
            bytes.extend([0, 0, 41]);
            bytes.extend(payload.to_be_bytes());
            bytes.extend([0, 0, u8::from(self.question.dnssec_ok) << 7, 0, 0, 0]);
        }
        bytes
    }
}

impl ResponseRules for Client<'_> {
    fn allows_private(&self) -> bool {
        self.allows_private
    }

    fn inspects_by(&self) -> Option<u64> {
        self.inspects.then_some(1)
    }

    fn allows_target(&self, target: &LowerName) -> bool {
        // Some are and some are not.
        target.as_wire().len().is_multiple_of(2)
    }
}

/// Returns the question that `data` holds, or any if there is none; never a transfer, which nobody can ask for.
fn question_of(data: &[u8], choices: u16) -> Question {
    let read = LowerName::from_uncompressed(data.get(12..).unwrap_or_default()).ok();
    let (qname, length) = read.unwrap_or((LowerName::root(), 1));
    let qtype = match RecordType(word(data, 12 + length).unwrap_or(1)) {
        RecordType::AXFR | RecordType::IXFR => RecordType::A,
        qtype => qtype,
    };
    Question {
        qname,
        qtype,
        dnssec_ok: choices & 16 != 0,
        authentic_data: choices & (16 | 128) != 0,
        checking_disabled: choices & 32 != 0,
        recursion_desired: choices & 64 != 0,
        partition: 0,
    }
}

/// Checks what a client without any rules gets.
fn check_response(data: &[u8], question: &Question, query: &Query<'_>, response: &Response) {
    let mut out = Vec::new();
    let tcp = query.payload_limit(Transport::Tcp);
    let rcode = said_rcode(query, response);
    from_response(query, response, TtlMode::Aged(0), None, tcp, &mut out);
    let message = check_answer(query, &out, tcp, rcode);
    if message.flags & 0x0200 != 0 {
        // Only the OPT record can have made it too long.
        assert!(data.len() + 11 > tcp);
        return;
    }
    assert_eq!(response.targets().count().min(33), response.targets().count(), "at most 32 hops and a loop's end");
    check_came_from(data, &message);
    if let Some(ttl) = message.records.iter().filter(|record| record.section == 1).map(|record| record.ttl).min() {
        assert!(response.ttl() <= ttl, "kept longer than the answer says");
    }

    if op::Message::from_vec(data).is_ok() {
        op::Message::from_vec(&out).unwrap_or_else(|error| panic!("hickory: {error}: {out:02x?}"));
    }

    // What the client gets is itself a reply, of which everything is kept.
    let again = Response::parse(&out, question).unwrap_or_else(|error| panic!("{error}: {out:02x?}"));
    let mut written = Vec::new();
    from_response(query, &again, TtlMode::Aged(0), None, tcp, &mut written);
    assert_eq!(written, out, "the answer to an answer");
    assert!(again.targets().eq(response.targets()) && again.service_targets().eq(response.service_targets()));
    assert!(again.ttl() == response.ttl() || rcode != response.rcode().0, "{} {}", again.ttl(), response.ttl());

    // TTLs alone differ, and all of them do.
    let mut fixed = Vec::new();
    from_response(query, response, TtlMode::Fixed(0x0102_0304), None, tcp, &mut fixed);
    let patched = Message::read(&fixed).expect("an answer");
    assert!(patched.records.iter().all(|record| record.ttl == 0x0102_0304));
    let mut unpatched = out.clone();
    for record in &message.records {
        unpatched[record.ttl_at..record.ttl_at + 4].copy_from_slice(&[1, 2, 3, 4]);
    }
    assert_eq!(unpatched, fixed, "TTLs alone are patched");

    let udp = query.payload_limit(Transport::Udp);
    from_response(query, response, TtlMode::Aged(u32::MAX), None, udp, &mut out);
    let part = check_answer(query, &out, udp, rcode);
    assert!(part.records.iter().all(|record| record.ttl == 0));
    // What fits is the start of it, and the answer is all there unless TC is set.
    let keys = |message: &Message| -> Vec<_> {
        message.records.iter().map(|record| (record.section, record.owner.clone(), record.rtype)).collect()
    };
    let (all, some) = (keys(&message), keys(&part));
    assert!(all.starts_with(&some), "{some:?} is not the start of {all:?}");
    let answers = all.iter().filter(|(section, ..)| *section == 1).count();
    assert!(if part.flags & 0x0200 == 0 { some.len() >= answers } else { some.len() <= answers });
}

/// Checks what the client's rules make of the response.
fn check_filtered(client: &Client<'_>, query: &Query<'_>, response: &Response) {
    let limit = query.payload_limit(Transport::Tcp);
    let mut out = Vec::new();
    let mut written = |response: &Response| {
        from_response(query, response, TtlMode::Aged(0), None, limit, &mut out);
        let message = check_answer(query, &out, limit, said_rcode(query, response));
        let is_private = |record: &&Record| match (RecordType(record.rtype), &out[record.rdata.clone()]) {
            (RecordType::A, octets) => {
                <[u8; 4]>::try_from(octets).is_ok_and(|four| !is_globally_reachable(IpAddr::from(four)))
            }
            (RecordType::AAAA, octets) => {
                <[u8; 16]>::try_from(octets).is_ok_and(|many| !is_globally_reachable(IpAddr::from(many)))
            }
            _ => false,
        };
        (message.records.iter().filter(is_private).count(), message.records.len(), message.flags)
    };
    let denied = response.targets().chain(response.service_targets()).find(|target| !client.allows_target(target));
    match filter_response(response, client) {
        Filtered::Denied { target } => assert!(client.inspects && denied == Some(target)),
        other => {
            assert!(!client.inspects || denied.is_none(), "a target that is not allowed passes");
            match other {
                Filtered::Unchanged => assert!(client.allows_private || written(response).0 == 0, "a private address"),
                Filtered::Rewritten(rewritten) => {
                    let (private, count, flags) = written(rewritten);
                    assert!(!client.allows_private && private == 0, "a private address");
                    assert!(count <= written(response).1);
                    assert_eq!(flags & 0x0020, 0, "AD");
                }
                _ => assert!(!client.allows_private && matches!(query.qtype, RecordType::A | RecordType::AAAA)),
            }
        }
    }
}

/// Checks that the records of an answer are some of those of the reply: none is made up. Aliases and proofs may have moved.
fn check_came_from(data: &[u8], message: &Message) {
    // Octets behind the last record are left off.
    let Some(before) = Message::read_start(data) else { panic!("kept of what is malformed: {data:02x?}") };
    let key = |record: &Record| (record.section, record.owner.clone(), record.rtype, record.class);
    let mut left: HashMap<_, Vec<u32>> = HashMap::new();
    for record in &before.records {
        left.entry(key(record)).or_default().push(record.ttl);
    }
    for record in &message.records {
        let ttls = left.entry(key(record)).or_default();
        // A SOA record's TTL may shrink; one over 31 bits is 0 (RFC 2181 §8).
        let closest = (0..ttls.len()).filter(|at| ttls[*at] >= record.ttl).min_by_key(|at| ttls[*at]);
        let Some(at) = closest.filter(|_| record.class == 1) else { panic!("{record:?} is not of {before:?}") };
        ttls.swap_remove(at);
    }
}

/// Returns the RCODE that a client of this query is told.
fn said_rcode(query: &Query<'_>, response: &Response) -> u16 {
    match response.rcode().0 {
        rcode if rcode > 15 && query.edns.is_none() => 2,
        rcode => rcode,
    }
}
