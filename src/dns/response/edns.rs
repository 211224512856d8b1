//! How much of EDNS a query to an upstream has: not every upstream understands it, and those say so in several ways
//! (RFC 6891 §7).

use crate::dns::rcode::Rcode;
use crate::dns::wire::OPT_DO;

/// How much of EDNS a query to an upstream has; the least is the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edns {
    /// An OPT record, with the DO bit if the question has it.
    #[default]
    Full,
    /// An OPT record, never with the DO bit.
    WithoutDo,
    /// No OPT record.
    None,
}

/// The octets of the OPT record that a query ends with: the root, type, class, TTL, and a length of 0.
const OPT: usize = 11;

impl Edns {
    /// Takes out of a query, as [`query_upstream`](super::query_upstream) writes it, what it is not to have.
    pub fn limit(self, query: &mut Vec<u8>) {
        let Some(start) = query.len().checked_sub(OPT) else { return };
        match self {
            Self::Full => {}
            Self::WithoutDo => {
                // The flags are the lower half of the TTL field.
                if let Some(flags) = query.get_mut(start + 7) {
                    let [high, _] = OPT_DO.to_be_bytes();
                    *flags &= !high;
                }
            }
            Self::None => {
                query.truncate(start);
                if let Some(additionals) = query.get_mut(10..12) {
                    additionals.fill(0);
                }
            }
        }
    }

    /// Returns how a question is asked again whose query with this much was not understood; `None` if there is no less.
    #[must_use]
    pub fn less(self, dnssec_ok: bool) -> Option<Self> {
        match self {
            Self::Full if dnssec_ok => Some(Self::WithoutDo),
            Self::Full | Self::WithoutDo => Some(Self::None),
            Self::None => None,
        }
    }

    /// Returns whether an upstream says by this response code that it did not understand a query, which may be because of
    /// its OPT record (RFC 6891 §6.2.2, §7).
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
    fn a_query_has_as_much_of_edns_as_its_upstream_understands() {
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
    fn less_and_less_is_asked_with_and_then_no_more() {
        assert_eq!(Edns::Full.less(true), Some(Edns::WithoutDo));
        assert_eq!(Edns::Full.less(false), Some(Edns::None), "it would be the same query");
        assert_eq!(Edns::WithoutDo.less(true), Some(Edns::None));
        assert_eq!(Edns::None.less(true), None);
    }
}
