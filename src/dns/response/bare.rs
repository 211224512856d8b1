//! Replies without a question section, as some servers send to a query that they cannot or will not parse.
//!
//! The parser of full responses rejects them as replies to another question, so their RCODE is read here.

use crate::dns::rcode::Rcode;
use crate::dns::rtype::RecordType;
use crate::dns::wire::{HEADER, Header, flag};

/// Returns the RCODE of a reply to query `id` that has no question: a lone header (with any counts, as some servers
/// copy the query's), or a header and an OPT record (RFC 6891 §7). Returns `None` for anything else.
#[must_use]
pub fn bare_rcode(bytes: &[u8], id: u16) -> Option<Rcode> {
    let Header { id: own, flags, counts } = Header::read(bytes)?;
    let is_reply = own == id && flags & (flag::QR | flag::OPCODE) == flag::QR;
    let rcode_high = match bytes.get(HEADER..)? {
        [] => 0,
        // Root, type, class, extended RCODE, version, flags; then the length of the options and the options.
        [0, type_high, type_low, _, _, rcode_high, _, _, _, options @ ..]
            if counts == [0, 0, 0, 1] && u16::from_be_bytes([*type_high, *type_low]) == RecordType::OPT.0 =>
        {
            let (length, options) = options.split_first_chunk()?;
            if usize::from(u16::from_be_bytes(*length)) != options.len() {
                return None;
            }
            u16::from(*rcode_high)
        }
        _ => return None,
    };
    is_reply.then_some(Rcode(rcode_high << 4 | flags & flag::RCODE))
}

/// Returns the four RCODE bits in the header of a message, whatever follows.
#[must_use]
pub fn header_rcode(bytes: &[u8]) -> Option<Rcode> {
    Header::read(bytes).map(|header| Rcode(header.flags & flag::RCODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags, counts, octets after the header, the expected RCODE.
    type Case = (u16, [u16; 4], &'static [u8], Option<u16>);

    #[test]
    fn rcode_is_read_from_every_form_of_reply_without_a_question() {
        const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
        const BADVERS: &[u8] = b"\0\0\x29\x04\xd0\x01\0\0\0\0\0";
        const EDE: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\x06\0\x0f\0\x02\0\x04";
        let header = |flags: u16, counts: [u16; 4]| {
            let mut bytes = Vec::new();
            Header { id: 7, flags, counts }.write(&mut bytes);
            bytes
        };
        let (none, asked, opt) = ([0; 4], [1, 0, 0, 1], [0, 0, 0, 1]);
        let cases: [Case; 12] = [
            (0x8001, none, &[], Some(1)),
            (0x8584, none, &[], Some(4)),
            (0x8001, asked, &[], Some(1)),
            (0x8005, opt, OPT, Some(5)),
            (0x8001, opt, EDE, Some(1)),
            (0x8000, opt, BADVERS, Some(16)),
            (0x8003, opt, OPT, Some(3)),
            // Messages that are no replies, are cut off, or have octets after the end.
            (0x8001, asked, OPT, None),
            (0x8001, opt, &OPT[..10], None),
            (0x8001, opt, &EDE[..14], None),
            (0x0001, none, &[], None),
            (0xa801, none, &[], None),
        ];
        for (flags, counts, rest, expected) in cases {
            let bytes = [header(flags, counts), rest.to_vec()].concat();
            assert_eq!(bare_rcode(&bytes, 7).map(|rcode| rcode.0), expected, "{bytes:?}");
            assert_eq!(bare_rcode(&bytes, 8), None, "{bytes:?}");
        }
    }
}
