//! Which records of a response belong to the question: its chain, what proves it, and the addresses it names.
//!
//! Everything else an upstream may add is a way to slip in data nobody asked for, so it goes.

use super::names::NameId;
use super::parse::{Message, Record, Section};
use super::{ResponseError, order, svcb};
use crate::dns::rebinding::Reach;
use crate::dns::rtype::RecordType;
use crate::dns::wire::CLASS_IN;

/// How many CNAME records are followed.
const MAX_HOPS: usize = 32;

/// How many different names the MX, NAPTR, SRV, SVCB and HTTPS records of a response may lead to.
const MAX_SERVICE_TARGETS: usize = 512;

/// What of a response belongs to the question.
pub(super) struct Selection {
    /// Whether each record is kept.
    pub(super) keep: Vec<bool>,
    /// The targets of the CNAME chain, in order.
    pub(super) targets: Vec<NameId>,
    /// The last name of the chain: QNAME itself when there is no CNAME.
    pub(super) final_name: NameId,
    /// The names that the kept MX, NAPTR, SRV, SVCB and HTTPS records of the answer lead to.
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

/// What is known about a name of the message.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// Where it is, seen from the chain.
    place: Place,
    /// It is the apex of a zone: the owner of a kept SOA or NS, the signer of a kept answer.
    apex: bool,
    /// A kept record names it as where to go on.
    named: bool,
}

/// Where a name is, seen from the chain.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Neither on it nor above.
    #[default]
    Elsewhere,
    /// Above one of its names.
    Above,
    /// One of its names.
    On,
}

impl Place {
    /// Returns whether the name is at or above a name of the chain.
    fn is_at_or_above(self) -> bool {
        self != Self::Elsewhere
    }
}

/// A selection under construction.
struct Selector<'a> {
    /// The response.
    message: &'a Message<'a>,
    /// What is known of each name, by its number.
    marks: Vec<Marks>,
    /// What is selected so far.
    selection: Selection,
}

impl Selector<'_> {
    /// Follows the CNAME records from QNAME and keeps those followed. A loop ends the chain, and so does its length.
    ///
    /// Of several CNAME records at one name (which RFC 2181 §10.1 forbids) the first is followed and the others go:
    /// a target nobody looks at must not reach the client.
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
            // The CNAME record itself was asked for: it is the answer, not a way to it (RFC 1034 §3.6.2).
            if qtype == RecordType::CNAME || self.marks[here.index()].place == Place::On {
                break;
            }
            self.enter_chain(here);
        }
    }

    /// Makes `name` the last name of the chain.
    fn enter_chain(&mut self, name: NameId) {
        self.selection.final_name = name;
        for above in self.message.names.at_and_above(name) {
            let place = &mut self.marks[above.index()].place;
            // What is above this one has been marked with it.
            if place.is_at_or_above() {
                break;
            }
            *place = Place::Above;
        }
        self.marks[name.index()].place = Place::On;
    }

    /// Keeps the records of the chain's names that were asked for, and the DNAME records above them that made it (RFC 6672
    /// §3.1). Records of other types would be a way to carry what the policy does not let through.
    fn keep_answer(&mut self, qtype: RecordType) {
        for (index, record) in self.message.records.iter().enumerate() {
            if record.section != Section::Answer || record.rtype == RecordType::CNAME {
                continue;
            }
            let place = self.marks[record.owner.index()].place;
            let is_signature = record.rtype == RecordType::RRSIG && qtype != RecordType::RRSIG;
            let covers = if is_signature { self.covered(record) } else { record.rtype };
            let makes_chain = covers == RecordType::DNAME && place.is_at_or_above();
            if record.class == CLASS_IN && (place == Place::On && answers(covers, qtype) || makes_chain) {
                self.keep(index, record);
            }
        }
    }

    /// Keeps what says who answers or proves that there is nothing, at or above the chain; the proofs also elsewhere in the
    /// zones these name (an NSEC record stands at the name before, RFC 4034 §4; an NSEC3 record at a hash, RFC 5155 §3).
    fn keep_authority(&mut self) {
        for proofs in [false, true] {
            for (index, record) in self.message.records.iter().enumerate() {
                if record.section != Section::Authority || record.class != CLASS_IN {
                    continue;
                }
                let (above, in_zone) = match record.rtype {
                    RecordType::SOA | RecordType::NS | RecordType::DS => (!proofs, false),
                    RecordType::NSEC | RecordType::NSEC3 => (proofs, proofs),
                    RecordType::RRSIG => {
                        let covered = self.covered(record);
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

    /// Keeps addresses and services of names that kept records name.
    fn keep_additional(&mut self) {
        for (index, record) in self.message.records.iter().enumerate() {
            if record.section != Section::Additional || record.class != CLASS_IN {
                continue;
            }
            let covers = if record.rtype == RecordType::RRSIG { self.covered(record) } else { record.rtype };
            let owner = match covers {
                RecordType::A | RecordType::AAAA | RecordType::SVCB | RecordType::HTTPS => record.owner,
                // Two labels, port and protocol, stand before the name (RFC 6698 §3).
                RecordType::TLSA => self.message.names.parent(self.message.names.parent(record.owner)),
                _ => continue,
            };
            if self.marks[owner.index()].named {
                self.keep(index, record);
            }
        }
    }

    /// Keeps a record, and notes what it says about other names.
    fn keep(&mut self, index: usize, record: &Record) {
        match record.rtype {
            RecordType::SVCB | RecordType::HTTPS => {
                // A malformed one makes clients reject all of them (RFC 9460 §2.2), and cannot be judged.
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
            // The proof that a wildcard made the answer is in the signer's zone (RFC 4035 §3.1.3.3), which the other
            // records need not name.
            (Section::Answer, RecordType::RRSIG) if self.marks[record.target.index()].place.is_at_or_above() => {
                self.marks[record.target.index()].apex = true;
            }
            _ => {}
        }
        self.selection.keep[index] = true;
    }

    /// Collects the names that the kept MX, NAPTR, SRV, SVCB and HTTPS records lead to, each once.
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

    /// Returns whether `name` is at or below the apex of a zone that answers.
    fn is_in_zone(&self, name: NameId) -> bool {
        self.message.names.at_and_above(name).any(|name| self.marks[name.index()].apex)
    }

    /// Returns the type that an RRSIG record covers.
    fn covered(&self, record: &Record) -> RecordType {
        order::covered(self.message, record)
    }
}

/// Returns whether records of type `rtype`, or signatures that cover it, belong to the answer of a question of type `qtype`:
/// they are what was asked for, or lead there.
pub(super) fn answers(rtype: RecordType, qtype: RecordType) -> bool {
    rtype == qtype || qtype == RecordType::ANY || matches!(rtype, RecordType::CNAME | RecordType::DNAME)
}

/// Returns whether a record is of class IN and of this type.
fn is_in(record: &Record, rtype: RecordType) -> bool {
    record.class == CLASS_IN && record.rtype == rtype
}
