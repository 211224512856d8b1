//! The order of the records that are kept, and the removal of signatures that no longer match.

use super::chain::Selection;
use super::names::NameId;
use super::parse::{Message, Record, Section};
use crate::dns::rtype::RecordType;
use crate::dns::wire::CLASS_IN;

/// The rank of records that are not CNAME or DNAME records: they come last in the answer section. In a [`Chain`], the
/// value for a name without a hop.
const LAST: usize = usize::MAX;

/// Sorts the records of `message`: in the answer section the aliases in chain order, then the data; in the authority
/// section proofs first, as a message that is too long loses its end. Returns whether any record moved.
///
/// glibc and other stub resolvers read the answer section once and in order, and do not find an address that precedes
/// its alias. The sort is stable, and signatures alone are no reason to sort.
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

/// Removes the signatures of record sets from which a record was removed, or in which `changes` says that one was
/// changed: the signature would not verify.
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
        *keep &= changed.binary_search(&key(record, message.covered(record))).is_err();
    }
}

/// Returns whether a record of the authority section belongs to a negative answer or a proof, without which the answer
/// is useless; `covered` is its type or, for a signature, the type covered.
pub(super) const fn is_proof(covered: RecordType) -> bool {
    matches!(covered, RecordType::SOA | RecordType::NSEC | RecordType::NSEC3)
}

/// The CNAME chain as a lookup table for ranks.
struct Chain {
    /// For each name, by index, the number of the hop whose CNAME record it owns; [`LAST`] if there is none.
    aliases: Vec<usize>,
    /// For each name, by index, the number of the first hop whose CNAME record has an owner below it; [`LAST`] if there
    /// is none. A DNAME record is sorted by it, as its CNAME records are synthesised for names below its owner.
    below: Vec<usize>,
}

impl Chain {
    /// Builds the table from a selection.
    fn of(message: &Message<'_>, selection: &Selection) -> Self {
        let names = &message.names;
        let mut chain = Self { aliases: vec![LAST; names.len()], below: vec![LAST; names.len()] };
        let aliases = std::iter::once(&message.qname).chain(&selection.targets).take(selection.targets.len());
        for (hop, alias) in aliases.enumerate() {
            chain.aliases[alias.index()] = hop.min(chain.aliases[alias.index()]);
            for above in names.at_and_above(*alias).skip(1) {
                // If this name has a number, all names above it have one.
                if chain.below[above.index()] != LAST {
                    break;
                }
                chain.below[above.index()] = hop;
            }
        }
        chain
    }

    /// Returns the sort key of a record: its section and its rank within it.
    fn rank(&self, message: &Message<'_>, record: &Record) -> (usize, usize) {
        let is_signature = record.rtype == RecordType::RRSIG;
        let covers = if is_signature { message.covered(record) } else { record.rtype };
        let place = |hops: &[usize], owner: NameId, kind: usize| {
            // Four ranks for each hop: the DNAME record, its signature, the CNAME record, its signature.
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

    /// Returns the records that are kept of a reply to www.example: section, owner, type.
    fn kept(lines: &[Line], qtype: RecordType) -> Vec<String> {
        let sample =
            lines.iter().fold(Sample::response("www.example", qtype, 0), |sample, (section, owner, rtype, data)| {
                sample.record(*section, owner, *rtype, 60, data)
            });
        let response = Response::parse(&sample.bytes(), &question("www.example", qtype)).unwrap();
        records(response.message()).iter().map(|line| line.replace(" 60 ", " ")).collect()
    }

    /// Returns the answer for www.example through a DNAME at d.test and three more aliases, signed and in order.
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
        fn aliases_are_sorted_into_chain_order(lines in Just(chain()).prop_shuffle()) {
            let is_data = |line: &&String| !line.ends_with("RRSIG");
            let (found, expected) = (kept(&lines, RecordType::A), kept(&chain(), RecordType::A));
            prop_assert_eq!(found.iter().filter(is_data).collect::<Vec<_>>(), expected.iter().filter(is_data).collect::<Vec<_>>());
            prop_assert_eq!(found.len(), expected.len());
        }
    }

    #[test]
    fn answer_that_is_in_order_is_not_changed() {
        let lines = chain();
        let expected: Vec<_> = lines.iter().map(|(_, owner, rtype, _)| format!("an {owner}. {rtype}")).collect();
        assert_eq!(kept(&lines, RecordType::A), expected);
        // Signatures after all other records are no reason to sort.
        let mut behind = lines.clone();
        behind.sort_by_key(|(_, _, rtype, _)| *rtype == RecordType::RRSIG);
        let expected: Vec<_> = behind.iter().map(|(_, owner, rtype, _)| format!("an {owner}. {rtype}")).collect();
        assert_eq!(kept(&behind, RecordType::A), expected);
    }

    #[test]
    fn proofs_precede_other_authority_records() {
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
    fn signature_is_removed_with_a_record_of_its_record_set() {
        let (https, sig) = (RecordType::HTTPS, RecordType::RRSIG);
        let service = |params: &[(u16, &[u8])]| (1, "www.example", https, svcb(1, "", params));
        let over_https = (1, "www.example", sig, rrsig(https, "example"));
        let plain: &[(u16, &[u8])] = &[(1, b"\x02h2")];
        let ech: &[(u16, &[u8])] = &[(1, b"\x02h2"), (5, b"secret")];
        let broken: &[(u16, &[u8])] = &[(4, b"")];
        let both = ["an www.example. HTTPS", "an www.example. RRSIG"];
        assert_eq!(kept(&[service(plain), over_https.clone()], https), both);
        // If a record is changed or removed, its signature is removed, whether before or after it.
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
