//! Replies that are no answer although their response code says so: of servers that do not resolve names for us.

use super::{Question, Response};
use crate::dns::rcode::Rcode;
use crate::dns::rtype::RecordType;
use crate::dns::wire::{HEADER, Header, flag, u16_at};

/// What the authority section of a reply without answers says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    /// A SOA record: there is no such data (RFC 2308 §2.2).
    Soa,
    /// Name servers of the root, and no SOA record: ask from the top.
    Root,
    /// Something else, or nothing.
    Other,
}

impl Response {
    /// Returns whether `reply`, which this was read from, is lame: a referral upward, or the reply of a server that does not
    /// recurse (RA=0) and has nothing to say. Taken for NODATA it would hide what the name has.
    ///
    /// An authoritative reply is never lame, nor is one to a question without RD, which asks for no more than is known.
    #[must_use]
    pub fn is_lame(&self, reply: &[u8], question: &Question) -> bool {
        let Some(header) = Header::read(reply) else { return false };
        let is_answer = self.rcode() != Rcode::NOERROR || header.flags & flag::AA != 0 || !question.recursion_desired;
        if is_answer || Header::read(self.message()).is_none_or(|kept| kept.counts[1] > 0) {
            return false;
        }
        match authority(self.message()).unwrap_or(Authority::Other) {
            Authority::Soa => false,
            Authority::Root => true,
            Authority::Other => header.flags & flag::RA == 0,
        }
    }
}

/// Reads the authority section of a well-formed message without answers; `None` where it breaks off.
fn authority(message: &[u8]) -> Option<Authority> {
    let header = Header::read(message)?;
    let mut at = name_end(message, HEADER)? + 4;
    let mut found = Authority::Other;
    for _ in 0..header.counts[2] {
        let is_root = message.get(at) == Some(&0);
        let fixed = name_end(message, at)?;
        match RecordType(u16_at(message, fixed)?) {
            RecordType::SOA => return Some(Authority::Soa),
            RecordType::NS if is_root => found = Authority::Root,
            _ => {}
        }
        at = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
    }
    Some(found)
}

/// Returns where the name at `at` ends.
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

    /// RD, AA, RA, RCODE, answers, records of the authority section, whether that is lame.
    type Case = (bool, bool, bool, u8, u8, &'static [&'static [u8]], bool);

    #[test]
    fn only_replies_that_say_nothing_are_lame() {
        let cases: &[Case] = &[
            (true, false, false, 0, 0, &[], true),
            (true, false, true, 0, 0, &[], false),
            (true, false, false, 0, 0, &[ROOT], true),
            (true, false, true, 0, 0, &[ROOT], true),
            (true, false, false, 0, 0, &[PARENT], true),
            (true, false, true, 0, 0, &[PARENT], false),
            (true, false, false, 0, 0, &[PARENT, SOA], false),
            (true, false, true, 0, 0, &[ROOT, SOA], false),
            (true, true, false, 0, 0, &[], false),
            (true, false, false, 0, 1, &[ROOT], false),
            (true, false, false, 3, 0, &[], false),
            (false, false, false, 0, 0, &[ROOT], false),
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
            let mut reply = [&[0, 1][..], &flags, &[0, 1, 0, answers, 0, count, 0, 0]].concat();
            reply.extend(question.qname.as_wire());
            reply.extend([0, 1, 0, 1]);
            for _ in 0..answers {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 93, 184, 215, 14]);
            }
            reply.extend(authorities.concat());
            let response = Response::parse(&reply, &question).unwrap();
            assert_eq!(response.is_lame(&reply, &question), lame, "{case:?}");
        }
    }
}
