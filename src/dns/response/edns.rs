//! Fallback for upstreams without full EDNS support: they reject queries that have an OPT record or the DO bit, with
//! various RCODEs (RFC 6891 §7). The query is then repeated without the DO bit, or without the OPT record.

use crate::dns::rcode::Rcode;
use crate::dns::wire::OPT_DO;

/// The use of EDNS in a query to an upstream, ordered from most to least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edns {
    /// An OPT record, with the DO bit if the question has it.
    #[default]
    Full,
    /// An OPT record without the DO bit.
    WithoutDo,
    /// No OPT record (RFC 1035 alone).
    None,
}

/// The length of the OPT record at the end of a query, in octets: root, type, class, TTL, and a length of 0.
const OPT: usize = 11;

impl Edns {
    /// Removes the parts of EDNS that this level excludes from a query written by
    /// [`query_upstream`](super::query_upstream).
    pub fn limit(self, query: &mut Vec<u8>) {
        let Some(start) = query.len().checked_sub(OPT) else { return };
        match self {
            Self::Full => {}
            Self::WithoutDo => {
                // The EDNS flags are the lower half of the TTL field.
                if let Some(flags) = query.get_mut(start + 7) {
                    let [high, _] = OPT_DO.to_be_bytes();
                    *flags &= !high;
                }
            }
            Self::None => {
                query.truncate(start);
                // The OPT record was the only additional record.
                if let Some(additionals) = query.get_mut(10..12) {
                    additionals.fill(0);
                }
            }
        }
    }

    /// Returns the level at which to repeat a query that was rejected at this one; `None` if there is no lower level.
    /// [`Edns::WithoutDo`] is skipped unless the question has the DO bit (`dnssec_ok`), as it would be the same query.
    #[must_use]
    pub fn less(self, dnssec_ok: bool) -> Option<Self> {
        match self {
            Self::Full if dnssec_ok => Some(Self::WithoutDo),
            Self::Full | Self::WithoutDo => Some(Self::None),
            Self::None => None,
        }
    }

    /// Returns whether an upstream rejects a query with this response code, possibly because of its OPT record (RFC
    /// 6891 §6.1.3, §6.2.2, §7).
    #[must_use]
    pub fn is_rejected_by(rcode: Rcode) -> bool {
        matches!(rcode, Rcode::FORMERR | Rcode::NOTIMP | Rcode::BADVERS)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;

    use super::*;
    use crate::dns::name::LowerName;
    use crate::dns::response::{Casing, Question, query_upstream};
    use crate::dns::rtype::RecordType;

    #[test]
    fn query_is_reduced_to_the_edns_level_of_its_upstream() {
        for dnssec_ok in [false, true] {
            let question = Question {
                qname: LowerName::from_text("www.example").unwrap(),
                qtype: RecordType::A,
                dnssec_ok,
                authentic_data: false,
                checking_disabled: true,
                recursion_desired: true,
                partition: 0,
            };
            for (edns, expected) in [(Edns::Full, Some(dnssec_ok)), (Edns::WithoutDo, Some(false)), (Edns::None, None)]
            {
                let mut query = Vec::new();
                query_upstream(&question, Casing::LOWER, 7, &mut query);
                edns.limit(&mut query);
                let message = Message::from_vec(&query).unwrap();
                let found = message.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
                assert_eq!(found, expected, "{edns:?}");
                assert_eq!(
                    message.edns.as_ref().map(hickory_proto::op::Edns::max_payload),
                    expected.map(|_| 1232),
                    "{edns:?}"
                );
                assert!(message.metadata.checking_disabled && message.additionals.is_empty());
                assert_eq!(message.to_vec().unwrap(), query, "nothing is left behind");
            }
        }
    }

    #[test]
    fn edns_levels_descend_to_no_opt_record() {
        assert_eq!(Edns::Full.less(true), Some(Edns::WithoutDo));
        assert_eq!(Edns::Full.less(false), Some(Edns::None), "it would be the same query");
        assert_eq!(Edns::WithoutDo.less(true), Some(Edns::None));
        assert_eq!(Edns::None.less(true), None);
    }
}
