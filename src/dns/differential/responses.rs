//! Differential tests of responses: the records that are kept, and those that a filtered client sees.

use std::sync::LazyLock;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, NS, SOA, SRV, SVCB, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType as HickoryType};
use proptest::prelude::*;

use super::{apply, damage, naive, recorded};
use crate::dns::name::LowerName;
use crate::dns::rebinding::is_globally_reachable;
use crate::dns::response::{Filtered, Question, Response, ResponseError, ResponseRules, filter_response};
use crate::dns::rtype::RecordType;
use crate::dns::wire::u32_at;

/// Intended differences from hickory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// The RDATA of most types and options other than EDE are not read: interpreting them is the client's matter (RFC
    /// 3597). Hickory reads those it knows. A name that was read before is not read again through a pointer; hickory
    /// reads it again, and rejects it if its labels reach past the start of those before the pointer.
    Unread,
    /// Names that hickory accepts are refused: pointers into the header, where no name is (RFC 1035 §4.1.4), and a
    /// compressed QNAME.
    OddName,
    /// A malformed OPT record (RFC 6891 §6.1) or an EDE without a code (RFC 8914 §2) is refused.
    OddOpt,
    /// RDATA that is longer or shorter than its type requires is refused, for types that hickory does not know, and for
    /// A and AAAA in every section.
    OddRdata,
}

/// Rules without private addresses and without inspection.
struct Strict;

impl ResponseRules for Strict {
    fn allows_private(&self) -> bool {
        false
    }

    fn inspects_by(&self) -> Option<u64> {
        None
    }

    fn allows_target(&self, _: &LowerName) -> bool {
        true
    }
}

/// A kept record as it is compared: section, owner, type, TTL, data.
type Line = (usize, String, HickoryType, u32, String);

/// Returns a record as it is compared; names in lower case, as compression may change their case.
fn line(section: usize, record: &Record) -> Line {
    let text = record.data.to_string().to_lowercase();
    (section, record.name.to_string().to_lowercase(), record.record_type(), record.ttl, text)
}

/// Returns the records of a response that must be kept, in order, and the targets of its CNAME chain.
///
/// This is a naive second implementation of [`crate::dns::response`] over hickory's types, with linear searches only,
/// for the types that [`is_modelled`] accepts.
fn model(message: &Message, qtype: HickoryType) -> (Vec<Line>, Vec<Name>) {
    let (answers, authorities) = (&message.answers, &message.authorities);
    let alias = |name: &Name| {
        answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name && record.dns_class == DNSClass::IN => {
                Some((record, &target.0))
            }
            _ => None,
        })
    };
    let mut chain = vec![message.queries[0].name.clone()];
    let (mut followed, mut targets) = (Vec::new(), Vec::new());
    // The limit of 32 is `MAX_HOPS` in `response::chain`.
    while let Some((record, target)) = chain.last().and_then(alias).filter(|_| targets.len() < 32) {
        followed.push(record);
        targets.push(target.clone());
        if qtype == HickoryType::CNAME || chain.contains(target) {
            break;
        }
        chain.push(target.clone());
    }
    let is_above = |name: &Name| chain.iter().any(|on| name.zone_of(on));
    let in_answer = |record: &&Record| match record.record_type() {
        HickoryType::CNAME => followed.iter().any(|other| std::ptr::eq(*other, *record)),
        rtype => chain.contains(&record.name) && (rtype == qtype || qtype == HickoryType::ANY),
    };
    let in_authority =
        |record: &&Record| matches!(record.record_type(), HickoryType::SOA | HickoryType::NS) && is_above(&record.name);
    let class_in = |record: &&Record| record.dns_class == DNSClass::IN;
    let mut kept: Vec<(usize, &Record)> = Vec::new();
    let data = |record: &&Record| record.record_type() != HickoryType::CNAME;
    // Aliases are in chain order, and proofs precede other authority records.
    kept.extend(followed.iter().copied().filter(|record| class_in(record)).map(|record| (1, record)));
    kept.extend(answers.iter().filter(class_in).filter(in_answer).filter(data).map(|record| (1, record)));
    for is_proof in [true, false] {
        let in_turn = |record: &&Record| (record.record_type() == HickoryType::SOA) == is_proof;
        let in_turn = authorities.iter().filter(class_in).filter(in_authority).filter(in_turn);
        kept.extend(in_turn.map(|record| (2, record)));
    }
    let named: Vec<&Name> = kept
        .iter()
        .filter_map(|(_, record)| match &record.data {
            RData::NS(NS(name)) => Some(name),
            RData::MX(MX { exchange, .. }) => Some(exchange),
            RData::SRV(SRV { target, .. }) => Some(target),
            // The root as target stands for the owner (RFC 9460 §2.5).
            RData::HTTPS(HTTPS(SVCB { target_name, .. })) | RData::SVCB(SVCB { target_name, .. }) => {
                Some(if target_name.is_root() { &record.name } else { target_name })
            }
            _ => None,
        })
        .collect();
    let in_additional = |record: &&Record| {
        matches!(record.record_type(), HickoryType::A | HickoryType::AAAA) && named.contains(&&record.name)
    };
    let additionals = message.additionals.iter().filter(class_in).filter(in_additional);
    kept.extend(additionals.map(|record| (3, record)).collect::<Vec<_>>());
    kept.retain(|(_, record)| is_modelled(record.record_type()));
    (kept.into_iter().map(|(section, record)| line(section, record)).collect(), targets)
}

/// Returns whether the model covers records of this type.
fn is_modelled(rtype: HickoryType) -> bool {
    use HickoryType as T;
    matches!(rtype, T::A | T::AAAA | T::CNAME | T::NS | T::SOA | T::MX | T::TXT | T::SRV | T::PTR | T::HINFO | T::CAA)
}

/// Returns the records of a message whose types the model covers.
fn lines(message: &Message) -> Vec<Line> {
    let sections = [(1, &message.answers), (2, &message.authorities), (3, &message.additionals)];
    let records = sections.iter().flat_map(|(section, records)| records.iter().map(|record| (*section, record)));
    let records = records.filter(|(_, record)| is_modelled(record.record_type()));
    records.map(|(section, record)| line(section, record)).collect()
}

/// Compares how hostgate and hickory read the reply `bytes`. Returns the intended difference, if any.
fn compare(bytes: &[u8]) -> Result<Option<Difference>, String> {
    let Some(question) = question(bytes) else { return Ok(None) };
    let ours = Response::parse(bytes, &question);
    let theirs = Message::from_vec(bytes);
    // A third, naive reading tells which intended difference it is.
    let message = naive::Message::read_start(bytes);
    match (ours, theirs) {
        (Err(ResponseError::NotOurs | ResponseError::Truncated), _) | (Err(_), Err(_)) => Ok(None),
        (Ok(_), Err(_)) if message.is_some() => Ok(Some(Difference::Unread)),
        (Err(ResponseError::Malformed), Ok(_)) => match message {
            None => Ok(Some(Difference::OddName)),
            Some(message) if has_odd_opt(&message, bytes) => Ok(Some(Difference::OddOpt)),
            Some(message) if points_into_header(&message, bytes) => Ok(Some(Difference::OddName)),
            Some(message) if has_odd_rdata(&message) => Ok(Some(Difference::OddRdata)),
            Some(_) => Err(format!("hickory alone reads {bytes:02x?}")),
        },
        (Ok(ours), Ok(theirs)) => {
            compare_kept(&ours, &theirs, &question).map(|()| None).map_err(|why| format!("{why}: {bytes:02x?}"))
        }
        (ours, theirs) => Err(format!("ours: {ours:?}, hickory's: {theirs:?}: {bytes:02x?}")),
    }
}

/// Compares the kept records with those of the model.
fn compare_kept(ours: &Response, theirs: &Message, question: &Question) -> Result<(), String> {
    let kept = Message::from_vec(ours.message()).map_err(|error| format!("{error}: kept {:02x?}", ours.message()))?;
    let (mut expected, targets) = model(theirs, HickoryType::from(question.qtype.0));
    let mut found = lines(&kept);
    // RFC 2181 §8: a TTL over 31 bits is 0. The TTL of a negative response's SOA record may have been lowered.
    let mut soas = found.iter_mut().filter(|line| line.0 == 2 && line.2 == HickoryType::SOA);
    for line in &mut expected {
        line.3 = if line.3 > u32::MAX >> 1 { 0 } else { line.3 };
        if line.0 == 2
            && line.2 == HickoryType::SOA
            && let Some(soa) = soas.next()
        {
            soa.3 = if soa.3 <= line.3 { line.3 } else { soa.3 };
        }
    }
    if found != expected {
        return Err(format!("kept {found:#?}, not {expected:#?}"));
    }
    let texts: Vec<_> = ours.targets().map(|target| target.to_string()).collect();
    let expected: Vec<_> = targets.iter().map(lower_name).map(|target| target.to_string()).collect();
    if texts != expected {
        return Err(format!("targets {texts:?}, not {expected:?}"));
    }
    let ttls = ours.ttl_offsets().map(|at| u32_at(ours.message(), usize::from(at)));
    let records = kept.answers.iter().chain(&kept.authorities).chain(&kept.additionals);
    if !ttls.eq(records.map(|record| Some(record.ttl))) {
        return Err(format!(
            "offsets {:?} are not those of the TTLs of {kept:?}",
            ours.ttl_offsets().collect::<Vec<_>>()
        ));
    }
    compare_filtered(ours, &found, question)
}

/// Compares the addresses that remain for a client under [`Strict`].
fn compare_filtered(ours: &Response, found: &[Line], question: &Question) -> Result<(), String> {
    let is_private =
        |line: &&Line| line.4.parse().is_ok_and(|address| !is_globally_reachable(address)) && is_address(line);
    let qtype = HickoryType::from(question.qtype.0);
    let mut asked_for = found.iter().filter(|line| line.0 == 1 && line.2 == qtype && is_address(line)).peekable();
    let is_filtered = asked_for.peek().is_some() && asked_for.all(|line| is_private(&line));
    let left = match filter_response(ours, &Strict) {
        Filtered::Unchanged => lines(&Message::from_vec(ours.message()).expect("it was read before")),
        Filtered::Rewritten(rewritten) => {
            lines(&Message::from_vec(rewritten.message()).map_err(|error| format!("rewritten: {error}"))?)
        }
        Filtered::NoData if is_filtered => return Ok(()),
        other => return Err(format!("{other:?}")),
    };
    let without_ttl = |line: &Line| (line.0, line.1.clone(), line.2, line.4.clone());
    let expected: Vec<_> = found.iter().filter(|line| !is_private(line)).map(without_ttl).collect();
    let left: Vec<_> = left.iter().map(without_ttl).collect();
    if left == expected && !is_filtered { Ok(()) } else { Err(format!("left {left:?}, not {expected:?}")) }
}

/// Returns whether a line is an address.
fn is_address(line: &Line) -> bool {
    matches!(line.2, HickoryType::A | HickoryType::AAAA)
}

/// Returns the question of a message, with fixed flags.
fn question(bytes: &[u8]) -> Option<Question> {
    let (qname, length) = LowerName::from_uncompressed(bytes.get(12..)?).ok()?;
    let qtype = RecordType(naive::word(bytes, 12 + length)?);
    Some(Question {
        qname,
        qtype,
        dnssec_ok: false,
        authentic_data: false,
        checking_disabled: false,
        recursion_desired: true,
        partition: 0,
    })
}

/// Converts a hickory name.
fn lower_name(name: &Name) -> LowerName {
    let labels = name.iter().flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label].concat());
    LowerName::from_uncompressed(&labels.chain([0]).collect::<Vec<_>>()).expect("hickory read it").0
}

/// Returns whether there is a malformed OPT record, or more than one.
fn has_odd_opt(message: &naive::Message, bytes: &[u8]) -> bool {
    let odd = |opt: &naive::Record| opt.section != 3 || opt.owner != [0];
    let options = message.options(bytes);
    message.opts.len() > 1
        || message.opts.iter().any(odd)
        || options.is_none_or(|options| options.iter().any(|(code, data)| *code == 15 && data.len() < 2))
}

/// Returns whether a record of a type that hickory does not read has malformed RDATA, or an address record has the
/// wrong length.
fn has_odd_rdata(message: &naive::Message) -> bool {
    message.records.iter().any(|record| match (RecordType(record.rtype), record.rdata.len()) {
        (RecordType::A, length) => length != 4,
        (RecordType::AAAA, length) => length != 16,
        // An empty record of a dynamic update, which hickory accepts in a response too.
        (_, 0) => true,
        (rtype, _) => !is_modelled(HickoryType::from(rtype.0)),
    })
}

/// Returns whether some RDATA may contain a pointer into the header.
fn points_into_header(message: &naive::Message, bytes: &[u8]) -> bool {
    let mut rdata = message.records.iter().flat_map(|record| bytes[record.rdata.clone()].windows(2));
    rdata.any(|pair| pair[0] == 0xc0 && pair[1] < 12)
}

/// Responses recorded from real resolvers.
static RECORDED: LazyLock<Vec<(&str, Vec<u8>)>> =
    LazyLock::new(|| recorded(include_str!("../../../tests/messages/responses.txt")));

#[test]
fn recorded_responses_are_kept_as_the_model_keeps_them() {
    let responses = &*RECORDED;
    let mut kept = 0;
    for (what, bytes) in responses {
        assert_eq!(compare(bytes), Ok(None), "{what}");
        kept += usize::from(question(bytes).is_some_and(|question| Response::parse(bytes, &question).is_ok()));
    }
    assert!(kept > 90, "most are kept: {kept} of {}", responses.len());
}

/// The names of generated responses. There are so few that owners and targets often coincide.
const NAMES: &[&str] =
    &["www.example.", "WWW.EXAMPLE.", "a.example.", "b.a.example.", "example.", "c.test.", "ns.c.test.", "test.", "."];

/// Returns a generator of names.
fn names() -> impl Strategy<Value = Name> {
    // The first names are more likely.
    prop_oneof![3 => 0usize..4, 2 => 0..NAMES.len()].prop_map(|index| Name::from_ascii(NAMES[index]).unwrap())
}

/// Returns a generator of records.
fn records() -> impl Strategy<Value = Record> {
    let address = prop_oneof![3 => Just([8, 8, 8, 8]), 2 => Just([10, 0, 0, 1]), 1 => any::<[u8; 4]>()];
    let long = prop_oneof![2 => Just("2606:2800::1"), 1 => Just("fd00::1"), 1 => Just("::ffff:10.0.0.1")];
    let data = prop_oneof![
        4 => address.prop_map(|octets| RData::A(A(octets.into()))),
        2 => long.prop_map(|text| RData::AAAA(AAAA(text.parse().unwrap()))),
        4 => names().prop_map(|name| RData::CNAME(CNAME(name))),
        2 => names().prop_map(|name| RData::NS(NS(name))),
        1 => names().prop_map(|name| RData::MX(MX::new(10, name))),
        1 => names().prop_map(|name| RData::SRV(SRV::new(1, 2, 443, name))),
        1 => (names(), 0u32..90).prop_map(|(name, minimum)| RData::SOA(SOA::new(name.clone(), name, 1, 2, 3, 4, minimum))),
        1 => "[a-z ]{0,40}".prop_map(|text| RData::TXT(TXT::new(vec![text]))),
    ];
    let ttl = prop_oneof![6 => 0u32..1000, 1 => any::<u32>()];
    (names(), ttl, data).prop_map(|(owner, ttl, data)| Record::from_rdata(owner, ttl, data))
}

/// Returns a generator of responses to the first of [`NAMES`], as hickory writes them.
fn responses() -> impl Strategy<Value = Vec<u8>> {
    let section = |most| prop::collection::vec(records(), 0..most);
    let qtype = prop::sample::select(&[1u16, 1, 1, 28, 5, 15, 16, 255][..]);
    (qtype, 0u16..6, any::<bool>(), section(6), section(4), section(4)).prop_map(
        |(qtype, rcode, edns, answers, authorities, additionals)| {
            let mut message = Message::query().into_response();
            message.metadata.response_code = rcode.into();
            message.add_query(Query::query(Name::from_ascii(NAMES[0]).unwrap(), qtype.into()));
            message.insert_answers(answers);
            message.insert_authorities(authorities);
            message.insert_additionals(additionals);
            if edns {
                message.set_edns(hickory_proto::op::Edns::new());
            }
            message.to_vec().unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn generated_responses_are_kept_as_the_model_keeps_them(bytes in responses()) {
        if let Err(difference) = compare(&bytes).and_then(|it| it.map_or(Ok(()), |it| Err(format!("{it:?}")))) {
            prop_assert!(false, "{difference}");
        }
    }

    #[test]
    fn damaged_responses_are_kept_as_the_model_keeps_them(mut bytes in responses(), damage in damage()) {
        apply(&damage, &mut bytes);
        if let Err(difference) = compare(&bytes) {
            prop_assert!(false, "{difference}");
        }
    }

    #[test]
    fn damaged_recorded_responses_are_kept_as_the_model_keeps_them(
        which in any::<prop::sample::Index>(),
        damage in damage(),
    ) {
        let mut bytes = which.get(&RECORDED).1.clone();
        apply(&damage, &mut bytes);
        if let Err(difference) = compare(&bytes) {
            prop_assert!(false, "{difference}");
        }
    }
}
