//! Test messages: built by hand and read back with hickory, so that a mistake in our code does not cancel itself out.

use hickory_proto::op::Message;

use super::name::LowerName;
use super::query::{Parsed, Query, parse};
use super::response::Question;
use super::rtype::RecordType;
use super::wire::{CLASS_IN, HEADER, flag};

/// A message under construction, with uncompressed names.
pub(super) struct Sample(Vec<u8>);

impl Sample {
    /// Starts a query with ID 0x1234 and RD.
    pub(super) fn query(qname: &str, qtype: RecordType) -> Self {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(wire(qname));
        bytes.extend(qtype.0.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        Self(bytes)
    }

    /// Starts the response to the query of [`Sample::query`]: QR, RD, RA and `flags`.
    pub(super) fn response(qname: &str, qtype: RecordType, flags: u16) -> Self {
        let mut sample = Self::query(qname, qtype);
        sample.0[2..4].copy_from_slice(&(flag::QR | flag::RD | flag::RA | flags).to_be_bytes());
        sample
    }

    /// Adds a record to section 1, 2 or 3. Sections must be filled in this order.
    pub(super) fn record(self, section: usize, owner: &str, rtype: RecordType, ttl: u32, rdata: &[u8]) -> Self {
        self.raw(section, &wire(owner), rtype, CLASS_IN, ttl, rdata)
    }

    /// Adds a record whose owner is given in wire format, so that it can be compressed or malformed.
    pub(super) fn raw(
        mut self,
        section: usize,
        owner: &[u8],
        rtype: RecordType,
        class: u16,
        ttl: u32,
        rdata: &[u8],
    ) -> Self {
        let count = u16::from_be_bytes([self.0[4 + 2 * section], self.0[5 + 2 * section]]) + 1;
        self.0[4 + 2 * section..6 + 2 * section].copy_from_slice(&count.to_be_bytes());
        self.0.extend(owner);
        self.0.extend(rtype.0.to_be_bytes());
        self.0.extend(class.to_be_bytes());
        self.0.extend(ttl.to_be_bytes());
        self.0.extend(u16::try_from(rdata.len()).unwrap().to_be_bytes());
        self.0.extend(rdata);
        self
    }

    /// Adds an OPT record: payload size, TTL field (RCODE bits, version, flags), options.
    pub(super) fn opt(self, payload: u16, ttl: u32, options: &[u8]) -> Self {
        self.raw(3, &[0], RecordType::OPT, payload, ttl, options)
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Returns the wire format of a name, in the case it is written in.
pub(super) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Returns the RDATA of a SOA record with the given MINIMUM.
pub(super) fn soa(minimum: u32) -> Vec<u8> {
    let mut rdata = [wire("ns.example"), wire("admin.example")].concat();
    for number in [1, 2, 3, 4, minimum] {
        rdata.extend(u32::to_be_bytes(number));
    }
    rdata
}

/// Returns the RDATA of an RRSIG record over `covered`.
pub(super) fn rrsig(covered: RecordType, signer: &str) -> Vec<u8> {
    [&covered.0.to_be_bytes()[..], &[0; 16], &wire(signer), b"sig"].concat()
}

/// Returns the RDATA of an SVCB or HTTPS record.
pub(super) fn svcb(priority: u16, target: &str, params: &[(u16, &[u8])]) -> Vec<u8> {
    let mut rdata = priority.to_be_bytes().to_vec();
    rdata.extend(wire(target));
    for (key, value) in params {
        rdata.extend(key.to_be_bytes());
        rdata.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        rdata.extend(*value);
    }
    rdata
}

/// Returns the question for `qname` with RD and AD set.
pub(super) fn question(qname: &str, qtype: RecordType) -> Question {
    Question {
        qname: LowerName::from_text(qname).unwrap(),
        qtype,
        dnssec_ok: false,
        checking_disabled: false,
        authentic_data: true,
        recursion_desired: true,
        partition: 0,
    }
}

/// Parses bytes that must be a query.
pub(super) fn parsed(bytes: &[u8]) -> Query<'_> {
    match parse(bytes) {
        Parsed::Query(query) => query,
        other => panic!("no query: {other:?}"),
    }
}

/// Reads a message with hickory.
pub(super) fn read(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"))
}

/// Returns the records of a message as hickory reads them, without OPT: section, owner, TTL, type.
pub(super) fn records(bytes: &[u8]) -> Vec<String> {
    let message = read(bytes);
    let sections = [("an", &message.answers), ("ns", &message.authorities), ("ar", &message.additionals)];
    let lines = sections.iter().flat_map(|(section, records)| {
        records.iter().map(move |record| format!("{section} {} {} {}", record.name, record.ttl, record.record_type()))
    });
    lines.collect()
}

/// Returns the section counts of the header.
pub(super) fn counts(bytes: &[u8]) -> Vec<u16> {
    bytes[4..HEADER].chunks(2).map(|count| u16::from_be_bytes([count[0], count[1]])).collect()
}
