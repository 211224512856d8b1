//! Selection of the records that belong to the question: the CNAME chain, its data and proofs, and the addresses these
//! refer to.
//!
//! All other records are removed: they would be a way to slip unrelated data into a client's cache.

use super::names::NameId;
use super::parse::{Message, Record, Section};
use super::{ResponseError, svcb};
use crate::dns::rebinding::Reach;
use crate::dns::rtype::RecordType;
use crate::dns::wire::CLASS_IN;

/// The limit of CNAME records that are followed.
const MAX_HOPS: usize = 32;

/// The limit of different names that the MX, NAPTR, SRV, SVCB and HTTPS records of a response may lead to.
const MAX_SERVICE_TARGETS: usize = 512;

/// The records of a response that belong to the question.
pub(super) struct Selection {
    /// True if each record is kept, by index.
    pub(super) keep: Vec<bool>,
    /// The targets of the CNAME chain in order.
    pub(super) targets: Vec<NameId>,
    /// The last name of the chain; QNAME itself without a CNAME record.
    pub(super) final_name: NameId,
    /// The names that kept MX, NAPTR, SRV, SVCB and HTTPS records of the answer lead to, each once.
    pub(super) service_targets: Vec<NameId>,
}

/// Selects the records of `message` that belong to the question of type `qtype`.
pub(super) fn select(message: &Message<'_>, qtype: RecordType) -> Result<Selection, ResponseError> {
    let mut selector = Selector {
        message,
        marks: vec![Marks::default(); message.names.len()],
        selection: Selection {
            keep: vec![false; message.records.len()],
            targets: Vec::new(),
            final_name: message.qname,
            service_targets: Vec::new(),
        },
    };
    selector.follow_chain(qtype);
    selector.keep_answer(qtype);
    selector.keep_authority();
    selector.keep_additional();
    selector.collect_service_targets()?;
    Ok(selector.selection)
}

/// Facts about a name of the message that decide which records are kept.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// The position relative to the CNAME chain.
    place: Place,
    /// True if the name is the apex of a zone: the owner of a kept SOA or NS record, or the signer of a kept answer.
    apex: bool,
    /// True if a kept record refers to the name, so that its addresses are kept.
    named: bool,
}

/// The position of a name relative to the CNAME chain.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Neither on the chain nor an ancestor of one of its names.
    #[default]
    Elsewhere,
    /// An ancestor of a name on the chain.
    Above,
    /// A name on the chain.
    On,
}

impl Place {
    fn is_at_or_above(self) -> bool {
        self != Self::Elsewhere
    }
}

/// A selection under construction.
struct Selector<'a> {
    message: &'a Message<'a>,
    /// The facts about each name, indexed by [`NameId`].
    marks: Vec<Marks>,
    selection: Selection,
}

impl Selector<'_> {
    /// Follows the CNAME records from QNAME and keeps them. The chain ends at a loop or after [`MAX_HOPS`].
    ///
    /// If a name has several CNAME records (which RFC 2181 §10.1 forbids), only the first is followed and kept, because
    /// a target that was not inspected must not reach the client.
    fn follow_chain(&mut self, qtype: RecordType) {
        let mut aliases = vec![None; self.marks.len()];
        for (index, record) in self.message.records.iter().enumerate() {
            if record.section == Section::Answer && is_in(record, RecordType::CNAME) {
                aliases[record.owner.index()].get_or_insert(index);
            }
        }
        let mut here = self.message.qname;
        self.enter_chain(here);
        while let Some(index) = aliases[here.index()] {
            if self.selection.targets.len() == MAX_HOPS {
                break;
            }
            self.selection.keep[index] = true;
            here = self.message.records[index].target;
            self.selection.targets.push(here);
            // Asked for itself, a CNAME record is the answer and is not followed (RFC 1034 §3.6.2).
            if qtype == RecordType::CNAME || self.marks[here.index()].place == Place::On {
                break;
            }
            self.enter_chain(here);
        }
    }

    /// Appends `name` to the chain.
    fn enter_chain(&mut self, name: NameId) {
        self.selection.final_name = name;
        for above in self.message.names.at_and_above(name) {
            let place = &mut self.marks[above.index()].place;
            // The ancestors of an ancestor were marked together with it.
            if place.is_at_or_above() {
                break;
            }
            *place = Place::Above;
        }
        self.marks[name.index()].place = Place::On;
    }

    /// Keeps the records of the requested type at names of the chain, and the DNAME records above them that the chain
    /// comes from (RFC 6672 §3.1). Records of other types could carry data past the policy.
    fn keep_answer(&mut self, qtype: RecordType) {
        for (index, record) in self.message.records.iter().enumerate() {
            if record.section != Section::Answer || record.rtype == RecordType::CNAME {
                continue;
            }
            let place = self.marks[record.owner.index()].place;
            let is_signature = record.rtype == RecordType::RRSIG && qtype != RecordType::RRSIG;
            let covers = if is_signature { self.message.covered(record) } else { record.rtype };
            let makes_chain = covers == RecordType::DNAME && place.is_at_or_above();
            if record.class == CLASS_IN && (place == Place::On && answers(covers, qtype) || makes_chain) {
                self.keep(index, record);
            }
        }
    }

    /// Keeps the authority records at or above the chain: name servers, SOA records and proofs. Proofs are also kept
    /// elsewhere in the zones that these name: an NSEC record is at the preceding name (RFC 4034 §4), an NSEC3 record
    /// at a hash (RFC 5155 §3).
    fn keep_authority(&mut self) {
        // Two passes: proofs belong to zones whose apex the other records show.
        for proofs in [false, true] {
            for (index, record) in self.message.records.iter().enumerate() {
                if record.section != Section::Authority || record.class != CLASS_IN {
                    continue;
                }
                let (above, in_zone) = match record.rtype {
                    RecordType::SOA | RecordType::NS | RecordType::DS => (!proofs, false),
                    RecordType::NSEC | RecordType::NSEC3 => (proofs, proofs),
                    RecordType::RRSIG => {
                        let covered = self.message.covered(record);
                        (proofs, proofs && matches!(covered, RecordType::NSEC | RecordType::NSEC3))
                    }
                    _ => continue,
                };
                if above && self.marks[record.owner.index()].place.is_at_or_above()
                    || in_zone && self.is_in_zone(record.owner)
                {
                    self.keep(index, record);
                }
            }
        }
    }

    /// Keeps address and service records of names that kept records refer to.
    fn keep_additional(&mut self) {
        for (index, record) in self.message.records.iter().enumerate() {
            if record.section != Section::Additional || record.class != CLASS_IN {
                continue;
            }
            let covers = if record.rtype == RecordType::RRSIG { self.message.covered(record) } else { record.rtype };
            let owner = match covers {
                RecordType::A | RecordType::AAAA | RecordType::SVCB | RecordType::HTTPS => record.owner,
                // A TLSA record is two labels, port and protocol, below the name (RFC 6698 §3).
                RecordType::TLSA => self.message.names.parent(self.message.names.parent(record.owner)),
                _ => continue,
            };
            if self.marks[owner.index()].named {
                self.keep(index, record);
            }
        }
    }

    /// Keeps a record and marks the names that it refers to.
    fn keep(&mut self, index: usize, record: &Record) {
        match record.rtype {
            RecordType::SVCB | RecordType::HTTPS => {
                // Malformed parameters make clients reject the whole record set (RFC 9460 §2.2), and cannot be
                // filtered.
                if svcb::summarise(svcb::params(self.message.rdata(record)), &Reach::default()).is_none() {
                    return;
                }
                // The root as target stands for the owner (RFC 9460 §2.5).
                let target = if record.target == NameId::ROOT { record.owner } else { record.target };
                self.marks[target.index()].named = true;
            }
            RecordType::NS | RecordType::MX | RecordType::SRV => self.marks[record.target.index()].named = true,
            _ => {}
        }
        match (record.section, record.rtype) {
            (Section::Authority, RecordType::SOA | RecordType::NS) => self.marks[record.owner.index()].apex = true,
            // The proof that a wildcard produced the answer is in the signer's zone (RFC 4035 §3.1.3.3), which no other
            // record needs to name.
            (Section::Answer, RecordType::RRSIG) if self.marks[record.target.index()].place.is_at_or_above() => {
                self.marks[record.target.index()].apex = true;
            }
            _ => {}
        }
        self.selection.keep[index] = true;
    }

    /// Collects the names that kept MX, NAPTR, SRV, SVCB and HTTPS records lead to, each once.
    fn collect_service_targets(&mut self) -> Result<(), ResponseError> {
        let mut is_known = vec![false; self.marks.len()];
        for (record, _) in self.message.records.iter().zip(&self.selection.keep).filter(|(_, keep)| **keep) {
            let leads_on = match record.rtype {
                RecordType::SVCB | RecordType::HTTPS => true,
                RecordType::MX | RecordType::NAPTR | RecordType::SRV => record.section == Section::Answer,
                _ => false,
            };
            if !leads_on
                || record.target == NameId::ROOT
                // The same target in several records counts once.
                || std::mem::replace(&mut is_known[record.target.index()], true)
            {
                continue;
            }
            if self.selection.service_targets.len() == MAX_SERVICE_TARGETS {
                return Err(ResponseError::TooManyRecords);
            }
            self.selection.service_targets.push(record.target);
        }
        Ok(())
    }

    /// Returns whether `name` is at or below a zone apex that was found.
    fn is_in_zone(&self, name: NameId) -> bool {
        self.message.names.at_and_above(name).any(|name| self.marks[name.index()].apex)
    }
}

/// Returns whether records of type `rtype`, or signatures over it, belong in the answer to a question of type `qtype`:
/// records of that type, or aliases.
pub(super) fn answers(rtype: RecordType, qtype: RecordType) -> bool {
    rtype == qtype || qtype == RecordType::ANY || matches!(rtype, RecordType::CNAME | RecordType::DNAME)
}

/// Returns whether a record is of class IN and of type `rtype`.
fn is_in(record: &Record, rtype: RecordType) -> bool {
    record.class == CLASS_IN && record.rtype == rtype
}
