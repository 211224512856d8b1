//! Truncation: the records of a response that are sent if the whole response is too long for a client.
//!
//! Records are in order of importance (`order`), so every cut is a prefix of the message, and its end is found by
//! binary search over the TTL offsets.

use super::Response;
use super::order::is_proof;
use crate::dns::name::{LowerName, uncompressed_length};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{HEADER, Header, u16_at};

/// The leading records of a response that fit in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dns) struct Cut {
    /// The number of records kept in each section: answer, authority, additional.
    pub(in crate::dns) counts: [u16; 3],
    /// The offset after the last kept record.
    pub(in crate::dns) end: usize,
    /// True if a record is missing that the client needs, so that TC must be set (RFC 2181 §9).
    pub(in crate::dns) is_truncated: bool,
}

/// The limit of owner name comparisons per cut, so that its cost does not depend on the number of records. If a record
/// set spells its owner in more ways than that, all of it is left out.
const MAX_COMPARED: usize = 4;

impl Response {
    /// Returns the number of leading records that a client cannot do without: the answer, and the proof of a negative
    /// answer, which precedes the rest of the authority section. In a referral (RFC 1034 §4.3.2) the client needs the
    /// whole authority section.
    pub(super) fn count_required(
        message: &[u8],
        qtype: RecordType,
        ttl_offsets: impl Iterator<Item = u16> + Clone,
    ) -> u16 {
        let Some(Header { counts: [_, answers, authorities, _], .. }) = Header::read(message) else { return 0 };
        if authorities == 0 {
            return answers;
        }
        let mut records = ttl_offsets.map(|ttl_at| RecordRef { message, ttl_at: usize::from(ttl_at) });
        let mut authority = records.clone().skip(answers.into()).take(authorities.into());
        let is_referral = !records.by_ref().take(answers.into()).any(|record| record.rtype() == qtype)
            && !authority.clone().any(|record| record.rtype() == RecordType::SOA);
        if is_referral {
            return answers.saturating_add(authorities);
        }
        let is_rest = |record: RecordRef<'_>| {
            !is_proof(if record.rtype() == RecordType::RRSIG { record.covered() } else { record.rtype() })
        };
        answers + u16::try_from(authority.position(is_rest).unwrap_or(authorities.into())).unwrap_or_default()
    }

    /// Returns the records that fit in `room` octets, for a message that is longer as a whole (RFC 2181 §9).
    ///
    /// Additional records are dropped first, by whole record sets, then all authority records that are not required: a
    /// signed one must not appear without its signature (RFC 4035 §3.1.1). If the answer or a proof does not fit, TC is
    /// set and as many answer records are kept as fit, because each is true and usable by a client without TCP. The
    /// cost does not depend on the number of records.
    pub(in crate::dns) fn cut(&self, room: usize) -> Cut {
        let message = self.message();
        let [answers, authorities, additionals] =
            Header::read(message).map_or([0; 3], |header| [1, 2, 3].map(|section| usize::from(header.counts[section])));
        let records = RecordList { message, ttl_offsets: self.packed.raw_ttl_offsets() };
        // A binary search, as records end in the order of their TTL fields.
        let fit = records.count_within(room);
        let required = usize::from(self.required);
        let is_truncated = fit < required;
        let kept = if is_truncated {
            fit.min(answers)
        } else if fit < answers + authorities {
            required
        } else {
            records.last_rrset_end(fit, answers + authorities)
        };
        let mut left = kept;
        let counts = [answers, authorities, additionals].map(|count| {
            let taken = count.min(left);
            left -= taken;
            u16::try_from(taken).unwrap_or_default()
        });
        Cut { counts, end: records.start(kept), is_truncated }
    }
}

/// The records of a well-formed message, as a random-access list.
struct RecordList<'a> {
    message: &'a [u8],
    /// The offsets of the TTL fields, in native byte order.
    ttl_offsets: &'a [[u8; 2]],
}

impl<'a> RecordList<'a> {
    fn get(&self, index: usize) -> Option<RecordRef<'a>> {
        let ttl_at = u16::from_ne_bytes(*self.ttl_offsets.get(index)?);
        Some(RecordRef { message: self.message, ttl_at: usize::from(ttl_at) })
    }

    /// Returns the number of leading records that end within the first `room` octets.
    fn count_within(&self, room: usize) -> usize {
        let end = |ttl_at: [u8; 2]| {
            RecordRef { message: self.message, ttl_at: usize::from(u16::from_ne_bytes(ttl_at)) }.end()
        };
        self.ttl_offsets.partition_point(|ttl_at| end(*ttl_at) <= room)
    }

    /// Returns the offset of a record, or the end of the last record for the index after it.
    fn start(&self, index: usize) -> usize {
        // The first record follows the question: QNAME, which is not compressed, QTYPE and QCLASS.
        let before = index.checked_sub(1).and_then(|before| self.get(before));
        before.map_or_else(
            || HEADER + 4 + uncompressed_length(self.message.get(HEADER..).unwrap_or_default()).unwrap_or_default(),
            RecordRef::end,
        )
    }

    /// Returns the highest number of leading records, at most `count`, that splits no record set. At least `section`,
    /// the number of records before the current section, as a record set never begins in an earlier one.
    fn last_rrset_end(&self, count: usize, section: usize) -> usize {
        let (mut end, mut compared) = (count, 0);
        while end > section && end < self.ttl_offsets.len() && self.are_of_one_rrset(end - 1, end, &mut compared) {
            end -= 1;
        }
        end
    }

    /// Returns whether two adjacent records, first index first, belong to one record set. `compared` counts the
    /// comparisons of names that differ in spelling.
    fn are_of_one_rrset(&self, first: usize, second: usize, compared: &mut usize) -> bool {
        let (Some(one), Some(other)) = (self.get(first), self.get(second)) else { return false };
        if one.rtype() != other.rtype() {
            return false;
        }
        let starts = [first, second].map(|index| self.start(index));
        let owner = |start: usize, record: RecordRef<'a>| self.message.get(start..record.ttl_at - 4);
        if owner(starts[0], one) == owner(starts[1], other) {
            return true;
        }
        *compared += 1;
        let [one, other] = starts.map(|start| LowerName::from_message(self.message, start).ok());
        *compared > MAX_COMPARED || one == other
    }
}

/// A record of a well-formed message, identified by its TTL field.
#[derive(Clone, Copy)]
struct RecordRef<'a> {
    message: &'a [u8],
    /// The offset of the TTL field, which follows owner, type and class.
    ttl_at: usize,
}

impl RecordRef<'_> {
    fn rtype(self) -> RecordType {
        RecordType(u16_at(self.message, self.ttl_at - 4).unwrap_or_default())
    }

    /// Returns the type covered by an RRSIG record; meaningless for others.
    fn covered(self) -> RecordType {
        RecordType(u16_at(self.message, self.ttl_at + 6).unwrap_or_default())
    }

    /// Returns the offset after the record.
    fn end(self) -> usize {
        self.ttl_at + 6 + usize::from(u16_at(self.message, self.ttl_at + 4).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Response;
    use super::*;
    use crate::dns::answer::{TtlMode, from_response};
    use crate::dns::sample::{Sample, parsed, question, read, records, rrsig, soa, wire};
    use crate::dns::wire::flag;

    /// The type most cases ask for.
    const A: RecordType = RecordType::A;

    /// Returns the lines that a client gets of a reply, and whether TC is set.
    fn given(sample: Sample, qtype: RecordType, payload: Option<u16>, limit: usize) -> (Vec<String>, bool) {
        let response = Response::parse(&sample.bytes(), &question("www.example", qtype)).unwrap();
        let query = Sample::query("www.example", qtype);
        let bytes =
            payload.map_or_else(|| Sample::query("www.example", qtype).bytes(), |size| query.opt(size, 0, &[]).bytes());
        let mut out = Vec::new();
        from_response(&parsed(&bytes), &response, TtlMode::Aged(10), None, limit, &mut out);
        assert!(out.len() <= limit, "{} octets, {limit} fit", out.len());
        let message = read(&out);
        assert_eq!(message.edns.is_some(), payload.is_some(), "OPT is kept");
        assert!(!(message.metadata.truncation && message.metadata.authentic_data), "a part is not authentic");
        (records(&out), message.metadata.truncation)
    }

    /// Returns the types of the lines of a section.
    fn types<'l>(lines: &'l [String], section: &str) -> Vec<&'l str> {
        let lines = lines.iter().filter(|line| line.starts_with(section));
        lines.map(|line| line.rsplit(' ').next().unwrap()).collect()
    }

    /// Returns an address, 13 name servers, and one address of each family for each: the reply of a generous resolver.
    fn generous() -> Sample {
        let mut sample = Sample::response("www.example", A, flag::AD).record(1, "www.example", A, 60, &[8, 8, 8, 8]);
        let servers: Vec<String> = (0..13).map(|number| format!("ns{number}.example")).collect();
        for server in &servers {
            sample = sample.record(2, "example", RecordType::NS, 60, &wire(server));
        }
        for server in &servers {
            sample =
                sample.record(3, server, A, 60, &[8, 8, 4, 4]).record(3, server, RecordType::AAAA, 60, &[0x20; 16]);
        }
        sample
    }

    #[test]
    fn optional_records_are_dropped_first_without_tc() {
        for (payload, limit) in [(None, 512), (Some(512), 512), (None, 600), (Some(700), 700)] {
            let (lines, truncated) = given(generous(), A, payload, limit);
            assert!(!truncated, "{lines:?}");
            assert_eq!(lines[0], "an www.example. 50 A", "TTLs count down");
            assert_eq!(types(&lines, "ns").len(), 13, "{lines:?}");
            let additional = types(&lines, "ar");
            assert!(limit == 512 || additional.len() > 2, "{lines:?}");
            assert!(additional.len() < 26, "{lines:?}");
        }
        // Authority records that are not required are kept or dropped as a whole.
        let (lines, truncated) = given(generous(), A, None, 200);
        assert_eq!((lines.len(), truncated), (1, false), "{lines:?}");
        let (lines, truncated) = given(generous(), A, None, 65_535);
        assert_eq!((lines.len(), truncated), (1 + 13 + 26, false));
    }

    #[test]
    fn answer_that_does_not_fit_is_cut_and_sets_tc() {
        let addresses = (0..120u8).fold(Sample::response("www.example", A, 0), |sample, last| {
            sample.raw(1, &[0xc0, 12], A, 1, 60, &[8, 8, 8, last])
        });
        let bytes = addresses.bytes();
        let again = || {
            (0..120u8).fold(Sample::response("www.example", A, 0), |sample, last| {
                sample.raw(1, &[0xc0, 12], A, 1, 60, &[8, 8, 8, last])
            })
        };
        assert_eq!(bytes.len(), 29 + 120 * 16);
        for (payload, limit, count) in [(None, 512, 30), (Some(512), 512, 29), (Some(1232), 1232, 74)] {
            let (lines, truncated) = given(again(), A, payload, limit);
            assert_eq!((lines.len(), truncated), (count, true), "{payload:?}");
        }
    }

    #[test]
    fn proof_of_a_negative_answer_stays_whole_or_tc_is_set() {
        let signed = |sample: Sample, owner: &str, rtype, data: &[u8]| {
            let signature = [&rrsig(rtype, "example")[..], &[1; 64]].concat();
            sample.record(2, owner, rtype, 60, data).record(2, owner, RecordType::RRSIG, 60, &signature)
        };
        let name_servers = |sample| signed(sample, "example", RecordType::NS, &wire("ns.example"));
        let nsec = |sample| signed(sample, "a.example", RecordType::NSEC, &wire("z.example"));
        // The answer of a wildcard; the proof that the name itself does not exist comes after the name servers.
        let wildcard =
            || nsec(name_servers(Sample::response("www.example", A, 0).record(1, "www.example", A, 60, &[8; 4])));
        let whole = given(wildcard(), A, None, 512).0;
        assert_eq!(types(&whole, "ns"), ["NSEC", "RRSIG", "NS", "RRSIG"]);
        let (lines, truncated) = given(wildcard(), A, None, 250);
        assert_eq!((types(&lines, "ns"), truncated), (vec!["NSEC", "RRSIG"], false));
        let (lines, truncated) = given(wildcard(), A, None, 150);
        assert_eq!((types(&lines, "an"), types(&lines, "ns"), truncated), (vec!["A"], vec![], true));
        let none = || nsec(signed(Sample::response("www.example", A, 3), "example", RecordType::SOA, &soa(60)));
        assert!(!given(none(), A, None, 512).1);
        assert_eq!(given(none(), A, None, 300), (vec![], true));
    }

    #[test]
    fn name_servers_of_a_referral_are_required_and_their_addresses_optional() {
        let referral = |sample: Sample| {
            let servers: Vec<String> = (0..9).map(|number| format!("ns{number}.{}.example", "x".repeat(30))).collect();
            let add = |sample: Sample, server: &String| sample.record(2, "example", RecordType::NS, 60, &wire(server));
            let sample = servers.iter().fold(sample, add);
            servers.iter().fold(sample, |sample, server| sample.record(3, server, A, 60, &[8, 8, 4, 4]))
        };
        let empty = || referral(Sample::response("www.example", A, 0));
        // After an alias it is a referral as well.
        let alias = || {
            let sample = Sample::response("www.example", A, 0);
            referral(sample.record(1, "www.example", RecordType::CNAME, 60, &wire("a.b.example")))
        };
        for (sample, answers) in [(&empty as &dyn Fn() -> Sample, 0), (&alias, 1)] {
            for (payload, limit) in [(None, 512), (Some(600), 600)] {
                assert!(!given(sample(), A, payload, 1232).1);
                let (lines, truncated) = given(sample(), A, payload, limit);
                assert_eq!((lines.len(), truncated), (answers, true), "{limit}: {lines:?}");
            }
            let (lines, truncated) = given(sample(), A, None, 700);
            assert_eq!((types(&lines, "ns").len(), truncated), (9, false), "{lines:?}");
            assert!(types(&lines, "ar").len() < 9, "{lines:?}");
        }
    }

    /// A record: section, owner, type, octets of data.
    type Line = (usize, &'static str, RecordType, usize);

    /// Returns records of all sections, some of one record set.
    fn any_records() -> impl Strategy<Value = Vec<Line>> {
        let owner = prop::sample::select(vec!["ns1.example", "ns2.example"]);
        let answers = prop::collection::vec((Just("www.example"), 0..40usize), 1..12);
        let servers = prop::collection::vec(Just("example"), 0..2);
        let additionals = prop::collection::vec((owner, any::<bool>()), 0..12);
        (answers, servers, additionals).prop_map(|(answers, servers, additionals)| {
            let mut lines: Vec<Line> =
                answers.iter().map(|(owner, size)| (1, *owner, RecordType::TXT, *size)).collect();
            for _ in servers {
                lines.extend([(2, "example", RecordType::NS, 1), (2, "example", RecordType::NS, 2)]);
            }
            let mut glue: Vec<Line> = additionals
                .iter()
                .map(|(owner, six)| if *six { (3, *owner, RecordType::AAAA, 16) } else { (3, *owner, A, 4) })
                .collect();
            glue.sort_by_key(|(_, owner, rtype, _)| (*owner, *rtype));
            if lines.iter().any(|line| line.0 == 2) {
                lines.extend(glue);
            }
            lines
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn cut_keeps_the_longest_prefix_that_fits(lines in any_records(), limit in 60..700usize, opt in any::<bool>(), pointers in any::<bool>()) {
            let sample = || lines.iter().fold(Sample::response("www.example", RecordType::TXT, 0), |sample, (section, owner, rtype, size)| {
                let data = match *rtype {
                    RecordType::NS => wire(&format!("ns{size}.example")),
                    RecordType::TXT => [&[u8::try_from(*size).unwrap()][..], &vec![b'x'; *size]].concat(),
                    _ => vec![8; *size],
                };
                match (section, pointers) {
                    (1, true) => sample.raw(1, &[0xc0, 12], *rtype, 1, 60, &data),
                    (2, true) => sample.raw(2, &[0xc0, 16], *rtype, 1, 60, &data),
                    _ => sample.record(*section, owner, *rtype, 60, &data),
                }
            });
            let payload = opt.then_some(512);
            let (all, _) = given(sample(), RecordType::TXT, payload, 65_535);
            let (part, truncated) = given(sample(), RecordType::TXT, payload, limit);
            prop_assert!(all.starts_with(&part), "what is sent is its start: {:?}", part);
            let answers = types(&all, "an").len();
            if truncated {
                prop_assert!(part.len() < answers);
                // One more record would exceed the limit.
                let more = lines[..=part.len()].iter().map(|(_, owner, _, size)| if pointers { 2 } else { wire(owner).len() } + 11 + size);
                let length = 29 + more.sum::<usize>() + usize::from(opt) * 11;
                prop_assert!(length > limit, "{} octets fit", length);
            } else {
                prop_assert!(part.len() >= answers);
                // No record set is split.
                if let (Some(last), Some(next)) = (part.last(), all.get(part.len())) {
                    prop_assert!(part.len() == answers || last != next, "{:?} is parted", last);
                }
            }
        }
    }
}
