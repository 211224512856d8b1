//! Building blocks of DNS messages that queries and responses share: the header, big-endian integers, EDNS options.
//!
//! Every read is checked against the end of the message and returns `None` there, so no input can make a parser panic.

/// The length of the message header (RFC 1035 §4.1.1) in octets, which is the offset of the question.
pub(super) const HEADER: usize = 12;

/// The length limit of a DNS message in octets: the length prefix of TCP has two octets (RFC 1035 §4.2.2).
pub(super) const MAX_MESSAGE: usize = 65_535;

/// The UDP payload size that hostgate announces, and the most it uses: a packet of this size crosses an IPv6 path
/// without fragmentation (DNS flag day 2020).
pub(super) const PAYLOAD: u16 = 1232;

pub(super) const CLASS_IN: u16 = 1;

/// The EDNS option code of an Extended DNS Error (RFC 8914 §2).
pub(super) const OPTION_EDE: u16 = 15;

/// The DO bit in the flags of an OPT record (RFC 3225 §3).
pub(super) const OPT_DO: u16 = 0x8000;

/// The header flags, as bits of the second 16-bit word.
pub(super) mod flag {
    /// Marks a message as a response.
    pub(crate) const QR: u16 = 0x8000;
    /// The mask of the four opcode bits; QUERY is 0.
    pub(crate) const OPCODE: u16 = 0x7800;
    /// The bit "authoritative answer" (RFC 1035 §4.1.1).
    pub(crate) const AA: u16 = 0x0400;
    /// The bit "truncation" (RFC 2181 §9).
    pub(crate) const TC: u16 = 0x0200;
    /// The bit "recursion desired" (RFC 1035 §4.1.1).
    pub(crate) const RD: u16 = 0x0100;
    /// The bit "recursion available" (RFC 1035 §4.1.1).
    pub(crate) const RA: u16 = 0x0080;
    /// The bit "authentic data" (RFC 4035 §3.1.6).
    pub(crate) const AD: u16 = 0x0020;
    /// The bit "checking disabled" (RFC 4035 §3.1.6).
    pub(crate) const CD: u16 = 0x0010;
    /// The mask of the response code's lower four bits; an OPT record has the upper eight.
    pub(crate) const RCODE: u16 = 0x000f;
}

/// Reads the big-endian 16-bit integer at `at`. Returns `None` if the bytes end before it does.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_be_bytes(*number))
}

/// Reads the big-endian 32-bit integer at `at`. Returns `None` if the bytes end before it does.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

/// The header of a message, decoded.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) id: u16,
    /// The flags word, opcode and RCODE included; see [`flag`].
    pub(super) flags: u16,
    /// The record count that the header claims for each section: question, answer, authority, additional.
    pub(super) counts: [u16; 4],
}

impl Header {
    /// Reads the header at the start of `message`. Returns `None` if the message is shorter than a header.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = message.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Some(Self { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// Returns the header in wire format.
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let [questions, answers, authorities, additionals] = self.counts;
        let mut bytes = [0; HEADER];
        for (to, word) in
            bytes.chunks_exact_mut(2).zip([self.id, self.flags, questions, answers, authorities, additionals])
        {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// Appends the header to `out`.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }
}

/// An iterator over the options in an OPT record's RDATA (RFC 6891 §6.1.2): `Ok((code, data))` for each. At a malformed
/// option it yields one `Err` and ends.
pub(super) struct Options<'a>(pub(super) &'a [u8]);

/// An EDNS option that runs past the end of its OPT record.
pub(super) struct BrokenOption;

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), BrokenOption>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let option = u16_at(self.0, 0).zip(u16_at(self.0, 2)).and_then(|(code, length)| {
            let end = 4 + usize::from(length);
            let data = self.0.get(4..end)?;
            self.0 = &self.0[end..];
            Some((code, data))
        });
        if option.is_none() {
            self.0 = &[];
        }
        Some(option.ok_or(BrokenOption))
    }
}
