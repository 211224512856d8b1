//! What of a response a client may see: the rebinding filter and the CNAME inspection.

use super::parse::{Message, Record, Section};
use super::rebuild::rebuild;
use super::stored::{Parts, Stored};
use super::svcb::{Hints, address};
use super::{Body, Response, ResponseError};
use crate::dns::name::LowerName;
use crate::dns::rebinding::is_globally_reachable;
use crate::dns::rtype::RecordType;
use crate::dns::wire::flag;

/// What a client's policy says about responses.
pub trait ResponseRules {
    /// Returns whether the name that was asked for may answer with addresses that are not globally reachable.
    fn allows_private(&self) -> bool;

    /// Returns whether every target of the CNAME chain must be allowed itself.
    fn inspects_cname(&self) -> bool;

    /// Returns whether `target` is allowed as a hop of the chain.
    fn allows_target(&self, target: &LowerName) -> bool;
}

/// What becomes of a response for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack; a target that is denied is rare")]
pub enum Judgement {
    /// It is sent as it is.
    AsIs,
    /// This is sent in its place: some addresses are gone.
    Rewritten(Response),
    /// None of the addresses asked for is left: NODATA with EDE 17.
    Filtered,
    /// A hop is not allowed.
    Denied {
        /// The hop.
        target: LowerName,
    },
}

/// Judges a response by the rules of the client's policy.
///
/// Without a private address and without inspection it costs two comparisons; else it is linear in the response.
/// Hops are CNAME targets, and the target names of SVCB and HTTPS records, which clients follow in the same way.
#[must_use]
pub fn judge(response: &Response, rules: &impl ResponseRules) -> Judgement {
    if rules.inspects_cname() {
        let denied = response.targets().chain(response.service_targets()).find(|target| !rules.allows_target(target));
        if let Some(target) = denied {
            return Judgement::Denied { target };
        }
    }
    if !response.private_address || rules.allows_private() {
        return Judgement::AsIs;
    }
    // The message was read and written by us, so it can be read again; if not, nothing of it is sent.
    without_private(response).unwrap_or(Judgement::Filtered)
}

/// Takes the addresses that are not globally reachable out of a response.
fn without_private(response: &Response) -> Result<Judgement, ResponseError> {
    let mut message = Message::read(response.message())?;
    let keep: Vec<bool> = message.records.iter().map(|record| !holds_private_address(&message, record)).collect();
    let asked_for = |record: &Record| {
        matches!(response.qtype, RecordType::A | RecordType::AAAA)
            && record.section == Section::Answer
            && record.rtype == response.qtype
    };
    let mut answers = message.records.iter().zip(&keep).filter(|(record, _)| asked_for(record)).peekable();
    if answers.peek().is_some() && answers.all(|(_, keep)| !keep) {
        return Ok(Judgement::Filtered);
    }
    drop(answers);
    // What is missing now was part of what had been validated.
    let flags = message.header.flags & !flag::AD;
    let Body { message, ttl_offsets } = rebuild(&mut message, &keep, Hints::KeepReachable, flags, response.qtype)?;
    let stored = Stored::new(Parts {
        message,
        ttl_offsets: &ttl_offsets,
        ede_options: response.stored.ede_options(),
        targets: response.stored.targets(),
        service_targets: response.stored.service_targets(),
    });
    let Response { stored: _, ttl, rcode, qtype, private_address: _ } = *response;
    Ok(Judgement::Rewritten(Response { stored, ttl, rcode, qtype, private_address: false }))
}

/// Returns whether a record is an address that is not globally reachable.
pub(super) fn holds_private_address(message: &Message<'_>, record: &Record) -> bool {
    matches!(record.rtype, RecordType::A | RecordType::AAAA)
        && address(message.rdata(record)).is_none_or(|address| !is_globally_reachable(address))
}
