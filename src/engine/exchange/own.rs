//! Answers that take no upstream: denials, types that the policy denies, records of devboxes and of the host itself.

use std::borrow::Cow;

use super::Exchange;
use crate::dns::answer::{self, Ede, Negative};
use crate::dns::rtype::RecordType;
use crate::engine::decision_record::Verdict;
use crate::labels::{Action, Origin, Reason};

impl Exchange<'_> {
    /// Answers what takes no upstream: a denial, a type the policy does not let through, a question for all types, a
    /// devbox, the host itself.
    // The usual end of a denied query, in another module than its beginning.
    #[inline]
    pub(in crate::engine) fn answer_here(&self, out: &mut Vec<u8>) {
        let verdict = match self.decision.action {
            Action::Deny | Action::Refuse => {
                self.deny(Negative::NxDomain, out);
                self.verdict()
            }
            // RFC 8482 §4.2: the name may be asked for, its types are the upstream's business.
            _ if self.query.qtype == RecordType::ANY => {
                answer::any(self.query, out);
                Verdict { action: Action::Allow, reason: Reason::AnyType, ..self.verdict() }
            }
            Action::Answer => {
                self.answer_ourselves(out);
                self.verdict()
            }
            Action::NoData | Action::Allow => {
                self.deny(Negative::NoData, out);
                self.verdict()
            }
        };
        self.record(verdict, out, Origin::None, None, None);
    }

    /// Writes the records that are ours: of the devbox that was asked for, or of the host itself.
    fn answer_ourselves(&self, out: &mut Vec<u8>) {
        let records = self.view.snapshot.own_records(&self.query.qname, self.query.qtype);
        answer::local_data(self.query, records, self.view.denied_ttl, self.limit(), out);
    }

    /// Writes a denial that says why.
    fn deny(&self, negative: Negative, out: &mut Vec<u8>) {
        let code = match self.decision.reason {
            Reason::NoClient | Reason::PolicyGone | Reason::NoPolicy => Ede::PROHIBITED,
            // The name is ours, and this is all there is to it.
            Reason::Devbox | Reason::NoDevbox => return self.negative(negative, None, out),
            Reason::SpecialUse if negative == Negative::NoData => return self.negative(negative, None, out),
            _ => Ede::BLOCKED,
        };
        let text = if self.query.edns.is_some() { self.decision.text() } else { Cow::Borrowed("") };
        self.negative(negative, Some(Ede { code, text: &text }), out);
    }
}
