//! What queries and responses share on the wire: the header, numbers, the OPT record's shape.

/// The length of the header (RFC 1035 §4.1.1), and so where the question starts.
pub(super) const HEADER: usize = 12;

/// The longest message (the length prefix of TCP has two octets, RFC 1035 §4.2.2).
pub(super) const MAX_MESSAGE: usize = 65_535;

/// The UDP payload size we announce and at most use: it fits an IPv6 path without fragments (DNS flag day 2020).
pub(super) const PAYLOAD: u16 = 1232;

/// The class IN.
pub(super) const CLASS_IN: u16 = 1;

/// The EDNS option of an Extended DNS Error (RFC 8914 §2).
pub(super) const OPTION_EDE: u16 = 15;

/// The DO bit in the flags of an OPT record (RFC 3225 §3).
pub(super) const OPT_DO: u16 = 0x8000;

/// The header flags, as bits of the second 16-bit word.
pub(super) mod flag {
    /// The message is a response.
    pub(crate) const QR: u16 = 0x8000;
    /// The opcode's four bits.
    pub(crate) const OPCODE: u16 = 0x7800;
    /// Authoritative answer.
    pub(crate) const AA: u16 = 0x0400;
    /// Truncation.
    pub(crate) const TC: u16 = 0x0200;
    /// Recursion desired.
    pub(crate) const RD: u16 = 0x0100;
    /// Recursion available.
    pub(crate) const RA: u16 = 0x0080;
    /// Authentic data (RFC 4035 §3.1.6).
    pub(crate) const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035 §3.1.6).
    pub(crate) const CD: u16 = 0x0010;
    /// The lower four bits of the response code.
    pub(crate) const RCODE: u16 = 0x000f;
}

/// Reads the 16-bit number at `at`, if the bytes reach that far.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_be_bytes(*number))
}

/// Reads the 32-bit number at `at`, if the bytes reach that far.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

/// The header of a message, read.
#[derive(Clone, Copy)]
pub(super) struct Header {
    /// The message ID.
    pub(super) id: u16,
    /// The flags word, opcode and RCODE included; see [`flag`].
    pub(super) flags: u16,
    /// How many records each section claims: question, answer, authority, additional.
    pub(super) counts: [u16; 4],
}

impl Header {
    /// Reads the header at the start of `message`, or nothing if it is shorter than one.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = message.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Some(Self { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// Returns the header as it stands on the wire.
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

    /// Writes the header at the end of `out`.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }
}

/// Walks the options of an OPT record's RDATA (RFC 6891 §6.1.2): `Ok((code, data))`, or one `Err` where the form
/// breaks and then nothing more.
pub(super) struct Options<'a>(pub(super) &'a [u8]);

/// The options of an OPT record run past its end.
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
