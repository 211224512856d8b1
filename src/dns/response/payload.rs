//! The amount of data in a response that its sender chose, and hashes that show whether two responses carry the same
//! data.
//!
//! Budgets for answers and addresses count it, to bound how much an allowed zone can send into a devbox through DNS
//! (tunnels over TXT, CNAME or NS records). Repeated data is free, hence the hashes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::parse::{Field, Section, layout};
use crate::dns::rtype::RecordType;
use crate::dns::wire::{HEADER, Header, u16_at};

/// The data in a response that its sender chose, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The answer section without addresses and DNSSEC records.
    pub answer: PayloadPart,
    /// The authority and additional sections without DNSSEC records, and Extended DNS Errors.
    pub rest: PayloadPart,
    /// The DNSSEC records of all sections (RFC 4034, RFC 5155).
    pub dnssec: PayloadPart,
    /// The addresses of the answer section.
    pub addresses: PayloadPart,
}

/// The amount and the hash of one kind of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadPart {
    /// Octets of RDATA with uncompressed names, and of owner names if the sender chose these too.
    pub octets: u32,
    /// A hash that is equal for the same records in the same order, whatever their TTLs; the key is random per process.
    /// The order counts because the sender chooses it, except for addresses, which are hashed regardless of order.
    pub content: u64,
}

/// True if a budget withheld a response from a client. Small responses from the cache are not counted against budgets,
/// as they were counted when the upstream sent them; one that was withheld is counted then too. The flag is shared by
/// all clients of the cached response.
#[derive(Debug, Default)]
pub(super) struct Withheld(AtomicBool);

impl Withheld {
    /// Records that the response was withheld.
    pub(super) fn note(&self) {
        self.0.store(true, Relaxed);
    }

    pub(super) fn is_noted(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Copies the value at this moment.
impl Clone for Withheld {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.is_noted()))
    }
}

/// Compares as equal: whether it was withheld is no property of a response.
impl PartialEq for Withheld {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Withheld {}

/// The hash key of [`PayloadPart::content`]. It is secret, so that a sender cannot craft two contents with one hash.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Payload {
    /// Returns the octets of all kinds together.
    #[must_use]
    pub const fn octets(&self) -> u32 {
        let Self { answer, rest, dnssec, addresses } = self;
        answer.octets.saturating_add(rest.octets).saturating_add(dnssec.octets).saturating_add(addresses.octets)
    }

    /// Computes the payload of a well-formed message and its EDE options.
    pub(super) fn of(message: &[u8], ede_options: &[u8]) -> Self {
        let mut payload = Self::default();
        // A message that ends early is never kept; the records read so far count.
        let _ = Reader { message, at: HEADER }.read(&mut payload);
        if !ede_options.is_empty() {
            payload.rest.add(ede_options.len(), KEY.hash_one(ede_options));
        }
        payload
    }
}

impl PayloadPart {
    /// Adds a record. The multiplication (by 2⁶⁴ divided by the golden ratio) makes the hash depend on the order.
    fn add(&mut self, octets: usize, content: u64) {
        self.octets = self.octets.saturating_add(u32::try_from(octets).unwrap_or(u32::MAX));
        self.content = self.content.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(content);
    }

    /// Adds an address. A plain sum makes the hash independent of the order.
    fn add_address(&mut self, data: &[u8]) {
        self.octets = self.octets.saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX));
        self.content = self.content.wrapping_add(KEY.hash_one(data));
    }
}

/// Returns the value of [`Payload::addresses`] for a response with these addresses.
pub fn content_of_addresses<'a>(addresses: impl Iterator<Item = &'a [u8]>) -> PayloadPart {
    addresses.fold(PayloadPart::default(), |mut part, address| {
        part.add_address(address);
        part
    })
}

/// Returns the addresses in the answer section of a well-formed message, in order.
pub(super) fn addresses(message: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut reader = Reader { message, at: HEADER };
    let header = Header::read(message).filter(|_| reader.name(&mut |_| {}).is_some());
    // QTYPE and QCLASS.
    reader.at += 4;
    let answers = header.map_or(0, |header| header.counts[1]);
    let records = (0..answers).map_while(move |_| {
        reader.name(&mut |_| {})?;
        let (rtype, length) = (RecordType(u16_at(message, reader.at)?), u16_at(message, reader.at + 8)?);
        let start = reader.at + 10;
        reader.at = start + usize::from(length);
        Some((rtype, message.get(start..reader.at)?))
    });
    records.filter(|(rtype, _)| is_address(*rtype)).map(|(_, data)| data)
}

const fn is_address(rtype: RecordType) -> bool {
    matches!(rtype, RecordType::A | RecordType::AAAA)
}

/// Returns whether records of a type serve DNSSEC: signatures, keys, or proofs of nonexistence.
const fn is_dnssec(rtype: RecordType) -> bool {
    matches!(
        rtype,
        RecordType::DS
            | RecordType::RRSIG
            | RecordType::NSEC
            | RecordType::DNSKEY
            | RecordType::NSEC3
            | RecordType::NSEC3PARAM
    )
}

/// A cursor over the records of a message.
#[derive(Clone)]
struct Reader<'a> {
    message: &'a [u8],
    /// The offset of the next octet.
    at: usize,
}

impl Reader<'_> {
    /// Reads all records. Returns `None` if the message ends early.
    fn read(&mut self, payload: &mut Payload) -> Option<()> {
        let header = Header::read(self.message)?;
        self.name(&mut |_| {})?;
        // QTYPE and QCLASS.
        self.at += 4;
        for section in Section::ALL {
            for _ in 0..header.counts[section.index()] {
                self.record(section, payload)?;
            }
        }
        Some(())
    }

    /// Reads a record and adds it to the payload.
    fn record(&mut self, section: Section, payload: &mut Payload) -> Option<()> {
        let owner_at = self.at;
        self.name(&mut |_| {})?;
        let (rtype, fixed) = (RecordType(u16_at(self.message, self.at)?), self.at);
        let length = usize::from(u16_at(self.message, fixed + 8)?);
        self.at += 10;
        let end = self.at + length;
        let (mut hasher, mut octets) = (KEY.build_hasher(), 0);
        // The type keeps equal octets of different types apart.
        hasher.write_u16(rtype.0);
        let mut count = |part: &[u8]| {
            hasher.write(part);
            octets += part.len();
        };
        // In the answer section an owner is QNAME or an alias's target, so only its case can carry data.
        let owner = self.message.get(owner_at..fixed).unwrap_or_default();
        if section == Section::Answer && owner.iter().any(u8::is_ascii_uppercase) {
            count(owner);
        }
        if section == Section::Answer && is_address(rtype) {
            payload.addresses.add_address(self.message.get(self.at..end)?);
            if octets > 0 {
                payload.answer.add(octets, hasher.finish());
            }
            self.at = end;
            return Some(());
        }
        let part = match section {
            _ if is_dnssec(rtype) => &mut payload.dnssec,
            Section::Answer => &mut payload.answer,
            Section::Authority | Section::Additional => &mut payload.rest,
        };
        if section != Section::Answer {
            Reader { message: self.message, at: owner_at }.name(&mut count)?;
        }
        for field in layout(rtype) {
            match field {
                Field::Fixed(length) => self.octets(*length, &mut count)?,
                Field::Text => self.octets(1 + usize::from(*self.message.get(self.at)?), &mut count)?,
                Field::Rest => self.octets(end.checked_sub(self.at)?, &mut count)?,
                Field::Compressible | Field::Uncompressed => self.name(&mut count)?,
            }
        }
        part.add(octets, hasher.finish());
        self.at = end;
        Some(())
    }

    /// Counts the next `length` octets.
    fn octets(&mut self, length: usize, count: &mut impl FnMut(&[u8])) -> Option<()> {
        count(self.message.get(self.at..self.at + length)?);
        self.at += length;
        Some(())
    }

    /// Counts a name label by label, following pointers, in the case it has.
    fn name(&mut self, count: &mut impl FnMut(&[u8])) -> Option<()> {
        let (mut at, mut after) = (self.at, None);
        loop {
            let octet = *self.message.get(at)?;
            match usize::from(octet) {
                0 => break count(&[0]),
                label @ 1..=63 => {
                    count(self.message.get(at..=at + label)?);
                    at += 1 + label;
                }
                _ => {
                    let target = usize::from(u16_at(self.message, at)? & 0x3fff);
                    after.get_or_insert(at + 2);
                    // Pointers lead backwards, so the loop ends.
                    at = Some(target).filter(|target| *target < at)?;
                }
            }
        }
        self.at = after.unwrap_or(at + 1);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Question, Response};
    use super::*;
    use crate::dns::sample::{Sample, question, soa, wire};

    /// Returns the payload of a parsed reply.
    fn payload(sample: Sample, qtype: RecordType) -> Payload {
        let asked: Question = question("www.example", qtype);
        *Response::parse(&sample.bytes(), &asked).unwrap().payload()
    }

    #[test]
    fn payload_counts_data_with_uncompressed_names() {
        let addresses = Sample::response("www.example", RecordType::A, 0)
            .record(1, "www.example", RecordType::A, 60, &[8, 8, 8, 8])
            .record(1, "www.example", RecordType::A, 60, &[8, 8, 4, 4]);
        let found = payload(addresses, RecordType::A);
        assert_eq!((found.answer.octets, found.rest.octets, found.addresses.octets), (0, 0, 8));

        // The alias compresses its target: two octets stand for 5 + 13.
        let alias = Sample::response("www.example", RecordType::A, 0)
            .raw(1, b"\xc0\x0c", RecordType::CNAME, 1, 60, b"\x04data\xc0\x0c")
            .record(1, "data.www.example", RecordType::A, 60, &[8, 8, 8, 8]);
        assert_eq!(payload(alias, RecordType::A).answer.octets, 18);

        let text = Sample::response("www.example", RecordType::TXT, 0).record(
            1,
            "www.example",
            RecordType::TXT,
            60,
            b"\x05hello",
        );
        assert_eq!(payload(text, RecordType::TXT).answer.octets, 6);

        // The owner counts, as the sender chooses it: example (9) and the RDATA of the SOA record.
        let none =
            Sample::response("www.example", RecordType::A, 3).record(2, "example", RecordType::SOA, 60, &soa(60));
        let data = u32::try_from(soa(60).len()).unwrap();
        assert_eq!(payload(none, RecordType::A).rest.octets, 9 + data);
    }

    #[test]
    fn content_hash_ignores_ttls_but_not_the_order() {
        let texts = |ttl, order: [&[u8]; 2]| {
            let sample = Sample::response("www.example", RecordType::TXT, 0);
            let sample = sample.record(1, "www.example", RecordType::TXT, ttl, order[0]);
            payload(sample.record(1, "www.example", RecordType::TXT, ttl, order[1]), RecordType::TXT)
        };
        assert_eq!(texts(60, [b"\x01a", b"\x01b"]), texts(5, [b"\x01a", b"\x01b"]));
        assert_ne!(texts(60, [b"\x01a", b"\x01b"]), texts(60, [b"\x01b", b"\x01a"]));
        assert_ne!(texts(60, [b"\x01a", b"\x01b"]), texts(60, [b"\x01a", b"\x01c"]));
        // The case of a target can carry data, too.
        let alias = |target: &str| {
            let sample = Sample::response("www.example", RecordType::CNAME, 0);
            payload(sample.record(1, "www.example", RecordType::CNAME, 60, &wire(target)), RecordType::CNAME)
        };
        assert_ne!(alias("a.test"), alias("A.test"));
    }
}
