//! The order in which the records that are kept are written, and the signatures that go with what they cover.

use super::chain::Selection;
use super::names::NameId;
use super::parse::{Message, Record, Section};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{CLASS_IN, u16_at};

/// The rank of what is no part of the chain: the answer itself.
const LAST: usize = usize::MAX;

/// Puts the records of `message` into the order in which they are written: aliases as the chain goes, then the answer; in the
/// authority section proofs first, so that what may be left out of a short message is its end. Returns whether any moved.
///
/// glibc and others read the answer section once and in order: an alias behind its target's address is no answer to them.
/// The records of one rank keep their order, and signatures move only with others.
pub(super) fn arrange(message: &mut Message<'_>, selection: &mut Selection) -> bool {
    let chain = Chain::of(message, selection);
    let ranks: Vec<_> = message.records.iter().map(|record| chain.rank(message, record)).collect();
    let kept = message.records.iter().zip(&selection.keep).zip(&ranks).filter(|((_, keep), _)| **keep);
    let is_signature_of_answer =
        |record: &Record| record.section == Section::Answer && record.rtype == RecordType::RRSIG;
    let is_sorted = kept.filter(|((record, _), _)| !is_signature_of_answer(record)).map(|(_, rank)| rank).is_sorted();
    if is_sorted {
        return false;
    }
    let records = std::mem::take(&mut message.records);
    let mut ranked: Vec<_> = ranks.into_iter().zip(records.into_iter().zip(selection.keep.drain(..))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    (message.records, selection.keep) = ranked.into_iter().map(|(_, kept)| kept).unzip();
    true
}

/// Leaves out the signatures of record sets of which a record is left out, or changed as `changes` says: they no longer fit.
pub(super) fn drop_signatures(message: &Message<'_>, keep: &mut [bool], changes: impl Fn(&Record) -> bool) {
    let is_signature = |record: &Record| record.class == CLASS_IN && record.rtype == RecordType::RRSIG;
    if !message.records.iter().zip(&*keep).any(|(record, keep)| *keep && is_signature(record)) {
        return;
    }
    let key = |record: &Record, rtype: RecordType| (record.section.index(), record.owner.index(), rtype);
    let records = message.records.iter().zip(&*keep).filter(|(record, _)| record.class == CLASS_IN);
    let changed = records.filter(|(record, keep)| !is_signature(record) && (!**keep || changes(record)));
    let mut changed: Vec<_> = changed.map(|(record, _)| key(record, record.rtype)).collect();
    changed.sort_unstable();
    for (record, keep) in message.records.iter().zip(keep).filter(|(record, _)| is_signature(record)) {
        *keep &= changed.binary_search(&key(record, covered(message, record))).is_err();
    }
}

/// Returns whether a record of the authority section, `covered` by a signature or itself of that type, is part of a proof that
/// something does not exist: without it the answer cannot be used.
pub(super) const fn is_proof(covered: RecordType) -> bool {
    matches!(covered, RecordType::SOA | RecordType::NSEC | RecordType::NSEC3)
}

/// Returns the type that an RRSIG record covers (RFC 4034 §3.1.1).
pub(super) fn covered(message: &Message<'_>, record: &Record) -> RecordType {
    RecordType(u16_at(message.rdata(record), 0).unwrap_or_default())
}

/// The chain of a response, to rank records by.
struct Chain {
    /// The hop that each name is the alias of, by its number.
    aliases: Vec<usize>,
    /// The first hop whose alias is below each name.
    below: Vec<usize>,
}

impl Chain {
    /// Numbers the hops of a selection.
    fn of(message: &Message<'_>, selection: &Selection) -> Self {
        let names = &message.names;
        let mut chain = Self { aliases: vec![LAST; names.len()], below: vec![LAST; names.len()] };
        let aliases = std::iter::once(&message.qname).chain(&selection.targets).take(selection.targets.len());
        for (hop, alias) in aliases.enumerate() {
            chain.aliases[alias.index()] = hop.min(chain.aliases[alias.index()]);
            for above in names.at_and_above(*alias).skip(1) {
                // What is above this one has been numbered with it.
                if chain.below[above.index()] != LAST {
                    break;
                }
                chain.below[above.index()] = hop;
            }
        }
        chain
    }

    /// Returns what a record is sorted by: its section, and where in it.
    fn rank(&self, message: &Message<'_>, record: &Record) -> (usize, usize) {
        let is_signature = record.rtype == RecordType::RRSIG;
        let covers = if is_signature { covered(message, record) } else { record.rtype };
        let place = |hops: &[usize], owner: NameId, kind: usize| {
            hops[owner.index()].checked_mul(4).map_or(LAST, |place| place + kind + usize::from(is_signature))
        };
        let rank = match (record.section, covers) {
            (Section::Answer, RecordType::DNAME) => place(&self.below, record.owner, 0),
            (Section::Answer, RecordType::CNAME) => place(&self.aliases, record.owner, 2),
            (Section::Answer, _) => LAST,
            (Section::Authority, covers) => usize::from(!is_proof(covers)),
            (Section::Additional, _) => 0,
        };
        (record.section.index(), rank)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Response;
    use crate::dns::rtype::RecordType;
    use crate::dns::sample::{Sample, question, records, rrsig, soa, svcb, wire};

    /// A record of a reply: section, owner, type, RDATA.
    type Line = (usize, &'static str, RecordType, Vec<u8>);

    /// Returns what is kept of a reply with these records to www.example of this type: section, owner, type.
    fn kept(lines: &[Line], qtype: RecordType) -> Vec<String> {
        let sample =
            lines.iter().fold(Sample::response("www.example", qtype, 0), |sample, (section, owner, rtype, data)| {
                sample.record(*section, owner, *rtype, 60, data)
            });
        let response = Response::parse(&sample.bytes(), &question("www.example", qtype)).unwrap();
        records(response.message()).iter().map(|line| line.replace(" 60 ", " ")).collect()
    }

    /// Returns the answer www.example, by a DNAME at d.test and three more aliases, with its signatures, in order.
    fn chain() -> Vec<Line> {
        let (cname, dname) = (RecordType::CNAME, RecordType::DNAME);
        vec![
            (1, "www.example", cname, wire("x.d.test")),
            (1, "www.example", RecordType::RRSIG, rrsig(cname, "example")),
            (1, "d.test", dname, wire("e.test")),
            (1, "d.test", RecordType::RRSIG, rrsig(dname, "d.test")),
            (1, "x.d.test", cname, wire("x.e.test")),
            (1, "x.e.test", cname, wire("end.test")),
            (1, "x.e.test", RecordType::RRSIG, rrsig(cname, "e.test")),
            (1, "end.test", RecordType::A, vec![8, 8, 8, 8]),
            (1, "end.test", RecordType::A, vec![8, 8, 4, 4]),
            (1, "end.test", RecordType::RRSIG, rrsig(RecordType::A, "end.test")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn aliases_come_in_the_order_of_the_chain_whatever_they_came_in(lines in Just(chain()).prop_shuffle()) {
            let is_data = |line: &&String| !line.ends_with("RRSIG");
            let (found, expected) = (kept(&lines, RecordType::A), kept(&chain(), RecordType::A));
            prop_assert_eq!(found.iter().filter(is_data).collect::<Vec<_>>(), expected.iter().filter(is_data).collect::<Vec<_>>());
            prop_assert_eq!(found.len(), expected.len());
        }
    }

    #[test]
    fn an_answer_in_order_stays_as_it_came() {
        let lines = chain();
        let expected: Vec<_> = lines.iter().map(|(_, owner, rtype, _)| format!("an {owner}. {rtype}")).collect();
        assert_eq!(kept(&lines, RecordType::A), expected);
        // Signatures behind everything else harm nobody.
        let mut behind = lines.clone();
        behind.sort_by_key(|(_, _, rtype, _)| *rtype == RecordType::RRSIG);
        let expected: Vec<_> = behind.iter().map(|(_, owner, rtype, _)| format!("an {owner}. {rtype}")).collect();
        assert_eq!(kept(&behind, RecordType::A), expected);
    }

    #[test]
    fn proofs_come_before_the_rest_of_the_authority() {
        let lines = [
            (2, "example", RecordType::NS, wire("ns.example")),
            (2, "example", RecordType::RRSIG, rrsig(RecordType::NS, "example")),
            (2, "example", RecordType::SOA, soa(60)),
            (2, "example", RecordType::RRSIG, rrsig(RecordType::SOA, "example")),
            (2, "a.example", RecordType::NSEC, wire("z.example")),
            (2, "a.example", RecordType::RRSIG, rrsig(RecordType::NSEC, "example")),
        ];
        let expected = ["SOA", "RRSIG", "NSEC", "RRSIG", "NS", "RRSIG"];
        let found = kept(&lines, RecordType::A);
        assert_eq!(found.iter().map(|line| line.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_signature_goes_with_a_record_it_covers() {
        let (https, sig) = (RecordType::HTTPS, RecordType::RRSIG);
        let service = |params: &[(u16, &[u8])]| (1, "www.example", https, svcb(1, "", params));
        let over_https = (1, "www.example", sig, rrsig(https, "example"));
        let plain: &[(u16, &[u8])] = &[(1, b"\x02h2")];
        let ech: &[(u16, &[u8])] = &[(1, b"\x02h2"), (5, b"secret")];
        let broken: &[(u16, &[u8])] = &[(4, b"")];
        let both = ["an www.example. HTTPS", "an www.example. RRSIG"];
        assert_eq!(kept(&[service(plain), over_https.clone()], https), both);
        // What is changed, or goes, takes the signature with it, wherever that stands.
        assert_eq!(kept(&[service(ech), over_https.clone()], https), both[..1]);
        assert_eq!(kept(&[over_https.clone(), service(ech)], https), both[..1]);
        assert_eq!(kept(&[service(plain), service(broken), over_https.clone()], https), both[..1]);
        // The alias that leads there, and its signature, are not touched.
        let alias = (1, "www.example", RecordType::CNAME, wire("a.test"));
        let over_alias = (1, "www.example", sig, rrsig(RecordType::CNAME, "example"));
        let (there, over_there) = ((1, "a.test", https, svcb(1, "", ech)), (1, "a.test", sig, rrsig(https, "a.test")));
        assert_eq!(
            kept(&[alias, over_alias, there, over_there], https),
            ["an www.example. CNAME", "an www.example. RRSIG", "an a.test. HTTPS"]
        );
    }
}
