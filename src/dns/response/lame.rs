//! Lame replies: NOERROR from a server that does not resolve names for us, such as an upward referral.
//!
//! Taken for NODATA, such a reply would hide records that exist, so the caller asks another upstream.

use super::{Question, Response};
use crate::dns::rcode::Rcode;
use crate::dns::rtype::RecordType;
use crate::dns::wire::{HEADER, Header, flag, u16_at};

/// The kinds of authority section in a reply without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthorityKind {
    /// A SOA record: the reply is a genuine NODATA (RFC 2308 §2.2).
    Soa,
    /// NS records of the root and no SOA record: a referral upward.
    Root,
    /// Anything else, or an empty section.
    Other,
}

impl Response {
    /// Returns whether `reply`, from which the response was parsed, is lame: a referral upward, or a reply without RA
    /// that contains nothing but aliases at most.
    ///
    /// An authoritative reply is never lame. Neither is a reply to a question without RD, which asks only for what the
    /// server has.
    #[must_use]
    pub fn is_lame(&self, reply: &[u8], question: &Question) -> bool {
        let Some(header) = Header::read(reply) else { return false };
        // Servers that refuse say so with an RCODE; only NOERROR can be mistaken for NODATA.
        let is_answer = self.rcode() != Rcode::NOERROR || header.flags & flag::AA != 0 || !question.recursion_desired;
        let recurses = header.flags & flag::RA != 0;
        let has_answers = Header::read(self.message()).is_none_or(|kept| kept.counts[1] > 0);
        if is_answer || recurses && has_answers {
            return false;
        }
        match authority_kind(self.message(), question.qtype) {
            None | Some(AuthorityKind::Soa) => false,
            Some(AuthorityKind::Root) => true,
            Some(AuthorityKind::Other) => !recurses,
        }
    }
}

/// Returns the kind of authority section if a well-formed message has no answer of this type; `None` if it has one.
fn authority_kind(message: &[u8], qtype: RecordType) -> Option<AuthorityKind> {
    let header = Header::read(message)?;
    let mut at = name_end(message, HEADER)? + 4;
    let mut found = AuthorityKind::Other;
    for index in 0..header.counts[1].saturating_add(header.counts[2]) {
        let is_root = message.get(at) == Some(&0);
        let fixed = name_end(message, at)?;
        match RecordType(u16_at(message, fixed)?) {
            rtype if index < header.counts[1] && rtype == qtype => return None,
            _ if index < header.counts[1] => {}
            RecordType::SOA => return Some(AuthorityKind::Soa),
            RecordType::NS if is_root => found = AuthorityKind::Root,
            _ => {}
        }
        at = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
    }
    Some(found)
}

/// Returns the offset after the name at `at`. The message is well-formed, so a pointer ends the name.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ ..=63 => at += 1 + length,
            _ => return Some(at + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::name::LowerName;

    /// An NS record of the root.
    const ROOT: &[u8] = &[0, 0, 2, 0, 1, 0, 0, 0, 60, 0, 3, 1, b'a', 0];
    /// An NS record of the question's parent.
    const PARENT: &[u8] = &[0xc0, 16, 0, 2, 0, 1, 0, 0, 0, 60, 0, 3, 1, b'a', 0];
    /// A SOA record of the question's parent.
    const SOA: &[u8] =
        &[0xc0, 16, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];

    /// An address of the name that was asked for.
    const ADDRESS: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 215, 14];
    /// An alias of the name that was asked for.
    const ALIAS: &[u8] = &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'a', 0xc0, 16];
    const OF_ALIAS: &[u8] = &[0xc0, 41, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 215, 14];

    /// RD, AA, RA, RCODE, answers, records of the authority section, whether the reply is lame.
    type Case = (bool, bool, bool, u8, &'static [&'static [u8]], &'static [&'static [u8]], bool);

    #[test]
    fn only_referrals_and_empty_replies_without_recursion_are_lame() {
        let cases: &[Case] = &[
            (true, false, false, 0, &[], &[], true),
            (true, false, true, 0, &[], &[], false),
            (true, false, false, 0, &[], &[ROOT], true),
            (true, false, true, 0, &[], &[ROOT], true),
            (true, false, false, 0, &[], &[PARENT], true),
            (true, false, true, 0, &[], &[PARENT], false),
            (true, false, false, 0, &[], &[PARENT, SOA], false),
            (true, false, true, 0, &[], &[ROOT, SOA], false),
            (true, true, false, 0, &[], &[], false),
            (true, false, false, 0, &[ADDRESS], &[ROOT], false),
            (true, false, false, 0, &[ALIAS, OF_ALIAS], &[], false),
            (true, false, false, 0, &[ALIAS], &[], true),
            (true, false, false, 0, &[ALIAS], &[ROOT], true),
            (true, false, true, 0, &[ALIAS], &[], false),
            (true, true, false, 0, &[ALIAS], &[], false),
            (true, false, false, 0, &[ALIAS], &[SOA], false),
            (true, false, false, 3, &[], &[], false),
            (false, false, false, 0, &[], &[ROOT], false),
        ];
        for case in cases {
            let &(rd, aa, ra, rcode, answers, authorities, lame) = case;
            let question = Question {
                qname: LowerName::from_text("www.example").unwrap(),
                qtype: RecordType::A,
                dnssec_ok: false,
                authentic_data: false,
                checking_disabled: false,
                recursion_desired: rd,
                partition: 0,
            };
            let count = u8::try_from(authorities.len()).unwrap();
            let flags = [0x80 | u8::from(aa) << 2 | u8::from(rd), u8::from(ra) << 7 | rcode];
            let mut reply =
                [&[0, 1][..], &flags, &[0, 1, 0, u8::try_from(answers.len()).unwrap(), 0, count, 0, 0]].concat();
            reply.extend(question.qname.as_wire());
            reply.extend([0, 1, 0, 1]);
            reply.extend(answers.concat());
            reply.extend(authorities.concat());
            let response = Response::parse(&reply, &question).unwrap();
            assert_eq!(response.is_lame(&reply, &question), lame, "{case:?}");
        }
    }
}
