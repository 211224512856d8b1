//! Responses of a scripted upstream, built with hickory-proto.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::upstream::Seen;

/// A response under construction.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The message; ID and question are filled in when it is sent.
    message: Message,
    /// The TTL of the records to come.
    ttl: u32,
    /// Whether an OPT record goes with it when the query had one.
    edns: Edns,
}

impl Answer {
    /// Starts a NOERROR response without records; TTL 300 for the records to come.
    pub(crate) fn new() -> Self {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        Self { message, ttl: 300, edns }
    }

    /// Starts a response with this RCODE and no records.
    pub(crate) fn rcode(rcode: ResponseCode) -> Self {
        let mut answer = Self::new();
        answer.message.metadata.response_code = rcode;
        answer.edns.set_rcode_high(rcode.high());
        answer
    }

    /// Starts an NXDOMAIN response with the SOA of `zone`, TTL and MINIMUM 300.
    pub(crate) fn nxdomain(zone: &str) -> Self {
        Self::rcode(ResponseCode::NXDomain).soa(zone, 300, 300)
    }

    /// Sets the TTL of the records to come.
    pub(crate) fn ttl(mut self, ttl: u32) -> Self {
        self.ttl = ttl;
        self
    }

    /// Adds an A record to the answer section.
    pub(crate) fn a(self, owner: &str, address: Ipv4Addr) -> Self {
        self.answer(owner, RData::A(A(address)))
    }

    /// Adds an AAAA record to the answer section.
    pub(crate) fn aaaa(self, owner: &str, address: Ipv6Addr) -> Self {
        self.answer(owner, RData::AAAA(AAAA(address)))
    }

    /// Adds a CNAME record to the answer section.
    pub(crate) fn cname(self, owner: &str, target: &str) -> Self {
        self.answer(owner, RData::CNAME(CNAME(name(target))))
    }

    /// Adds a record to the answer section.
    pub(crate) fn answer(mut self, owner: &str, data: RData) -> Self {
        self.message.answers.push(Record::from_rdata(name(owner), self.ttl, data));
        self
    }

    /// Adds a record of any type to the answer section, its RDATA as bytes.
    pub(crate) fn raw(self, owner: &str, rtype: u16, data: &[u8]) -> Self {
        self.answer(owner, raw_rdata(rtype, data))
    }

    /// Adds a record to the authority section.
    pub(crate) fn authority(mut self, owner: &str, data: RData) -> Self {
        self.message.authorities.push(Record::from_rdata(name(owner), self.ttl, data));
        self
    }

    /// Adds a record to the additional section.
    pub(crate) fn additional(mut self, owner: &str, data: RData) -> Self {
        self.message.additionals.push(Record::from_rdata(name(owner), self.ttl, data));
        self
    }

    /// Adds a SOA record to the authority section.
    pub(crate) fn soa(mut self, zone: &str, ttl: u32, minimum: u32) -> Self {
        let soa = SOA::new(name("ns.test"), name("hostmaster.test"), 1, 3600, 600, 86_400, minimum);
        self.message.authorities.push(Record::from_rdata(name(zone), ttl, RData::SOA(soa)));
        self
    }

    /// Adds an Extended DNS Error (RFC 8914).
    pub(crate) fn ede(mut self, code: u16, text: &str) -> Self {
        let data = [&code.to_be_bytes(), text.as_bytes()].concat();
        self.edns.options_mut().insert(EdnsOption::Unknown(15, data));
        self
    }

    /// Sets AD.
    pub(crate) fn authentic(mut self) -> Self {
        self.message.metadata.authentic_data = true;
        self
    }

    /// Sets AA.
    pub(crate) fn authoritative(mut self) -> Self {
        self.message.metadata.authoritative = true;
        self
    }

    /// Sets TC.
    pub(crate) fn truncated(mut self) -> Self {
        self.message.metadata.truncation = true;
        self
    }

    /// Returns the wire form of the response to `seen`.
    pub(crate) fn to(&self, seen: &Seen) -> Vec<u8> {
        let mut message = self.message.clone();
        message.metadata.id = seen.message.metadata.id;
        message.metadata.recursion_desired = seen.message.metadata.recursion_desired;
        message.metadata.checking_disabled = seen.message.metadata.checking_disabled;
        message.queries.clone_from(&seen.message.queries);
        if let Some(edns) = &seen.message.edns {
            let mut own = self.edns.clone();
            own.set_dnssec_ok(edns.flags().dnssec_ok);
            message.edns = Some(own);
        }
        message.to_vec().unwrap()
    }
}

/// Returns RDATA of any type given by its bytes.
pub(crate) fn raw_rdata(rtype: u16, data: &[u8]) -> RData {
    // hickory asserts that RDATA given to `with` is not empty.
    let rdata = if data.is_empty() { NULL::new() } else { NULL::with(data.to_vec()) };
    RData::Unknown { code: RecordType::from(rtype), rdata }
}

/// Returns a name as hickory-proto has it.
pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}
