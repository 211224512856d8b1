//! The filter of a response for one client: the DNS rebinding filter and the inspection of targets.
//!
//! The work that depends on the response alone is done when it is parsed ([`Reachable::of`]), so that a cache hit only
//! picks a result. The policy comes in through [`ResponseRules`], as this folder knows no policies.

use super::order::drop_signatures;
use super::packed::{Packed, Parts};
use super::parse::{Message, Record, Section};
use super::payload::Withheld;
use super::rebuild::rebuild;
use super::svcb::{Hints, address, params, summarise};
use super::{KeptMessage, Response, ResponseError};
use crate::dns::name::LowerName;
use crate::dns::rebinding::Reach;
use crate::dns::rtype::RecordType;
use crate::dns::wire::flag;

/// The rules of a client's policy about responses.
pub trait ResponseRules {
    /// Returns whether the QNAME may resolve to addresses that are not globally reachable.
    fn allows_private(&self) -> bool;

    /// Returns the serial number of the policy if it requires every target to be allowed itself; `None` if it trusts
    /// targets. For one serial number [`ResponseRules::allows_target`] must always give the same result, as results are
    /// cached.
    fn inspects_by(&self) -> Option<u64>;

    /// Returns whether `target` is allowed as a name that an answer leads to.
    fn allows_target(&self, target: &LowerName) -> bool;
}

/// The result of filtering a response for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack; a target that is denied is rare")]
pub enum Filtered<'r> {
    /// The response may be sent unchanged.
    Unchanged,
    /// Some addresses were removed; this response is sent instead.
    Rewritten(&'r Response),
    /// None of the requested addresses may be sent: the answer is NODATA with EDE 17.
    NoData,
    /// A target is not allowed by the policy.
    Denied {
        /// The first such target.
        target: LowerName,
    },
}

/// Filters a response by the rules of one client's policy.
///
/// The cost does not depend on the records: addresses were examined when the response was parsed, and a policy's result
/// for many targets is cached. Targets are those of the CNAME chain and the names that MX, NAPTR, SRV, SVCB and HTTPS
/// records lead to, because clients connect to these in the same way.
#[must_use]
pub fn filter_response<'r>(response: &'r Response, rules: &impl ResponseRules) -> Filtered<'r> {
    if let Some(target) = rules.inspects_by().and_then(|serial| first_denied(response, serial, rules)) {
        return Filtered::Denied { target };
    }
    match response.reachable.as_deref() {
        None => Filtered::Unchanged,
        Some(_) if rules.allows_private() => Filtered::Unchanged,
        Some(Reachable::Nothing) => Filtered::NoData,
        Some(Reachable::Rest(rest)) => Filtered::Rewritten(rest),
    }
}

/// Returns the first target that the rules of policy `serial` do not allow.
fn first_denied(response: &Response, serial: u64, rules: &impl ResponseRules) -> Option<LowerName> {
    let mut targets = response.targets().chain(response.service_targets());
    match &response.inspections {
        None => targets.find(|target| !rules.allows_target(target)),
        Some(inspections) => {
            let find = || {
                response.targets().chain(response.service_targets()).position(|target| !rules.allows_target(&target))
            };
            // The cache stores the index of the denied target. Its name is read from the response, only for denials.
            targets.nth(inspections.first_denied(serial, find)?)
        }
    }
}

/// A response after the addresses that are not globally reachable have been removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reachable {
    /// No address that was asked for is left.
    Nothing,
    /// The response with the remaining records.
    Rest(Response),
}

impl Reachable {
    /// Removes the addresses that are not globally reachable from a response.
    pub(super) fn of(response: &Response, reach: &Reach) -> Self {
        // The message was written by this code, so it parses again. If it does not, sending no address is the safe
        // result.
        without_private(response, reach).unwrap_or(Self::Nothing)
    }
}

/// Removes the addresses for [`Reachable::of`], which handles the error.
fn without_private(response: &Response, reach: &Reach) -> Result<Reachable, ResponseError> {
    let mut message = Message::read(response.message())?;
    let mut keep: Vec<bool> =
        message.records.iter().map(|record| !holds_private_address(&message, record, reach)).collect();
    // Only the requested addresses decide on NODATA; a response may carry other private addresses beside them.
    let asked_for = |record: &Record| {
        matches!(response.qtype, RecordType::A | RecordType::AAAA)
            && record.section == Section::Answer
            && record.rtype == response.qtype
    };
    let mut answers = message.records.iter().zip(&keep).filter(|(record, _)| asked_for(record)).peekable();
    if answers.peek().is_some() && answers.all(|(_, keep)| !keep) {
        return Ok(Reachable::Nothing);
    }
    drop(answers);
    drop_signatures(&message, &mut keep, |record| holds_private_hint(&message, record, reach));
    // The AD bit was set for the sections as validated, and they are not complete any more.
    let flags = message.header.flags & !flag::AD;
    let KeptMessage { message, ttl_offsets } =
        rebuild(&mut message, &keep, Hints::KeepReachable(*reach), flags, response.qtype)?;
    let packed = Packed::new(Parts {
        message,
        ttl_offsets: &ttl_offsets,
        ede_options: response.packed.ede_options(),
        targets: response.packed.targets(),
        service_targets: response.packed.service_targets(),
    });
    let Response { ttl, rcode, qtype, payload, .. } = *response;
    let required = Response::count_required(packed.message(), qtype, packed.ttl_offsets());
    // The original response is filtered and inspected; this one is only sent.
    let (reachable, inspections, withheld) = (None, None, Withheld::default());
    Ok(Reachable::Rest(Response { packed, ttl, rcode, qtype, required, reachable, inspections, payload, withheld }))
}

/// Returns whether an SVCB or HTTPS record has a hint that is not globally reachable.
fn holds_private_hint(message: &Message<'_>, record: &Record, reach: &Reach) -> bool {
    matches!(record.rtype, RecordType::SVCB | RecordType::HTTPS)
        && summarise(params(message.rdata(record)), reach).is_some_and(|summary| summary.has_private_hint)
}

/// Returns whether a record is an address record whose address is not globally reachable. A malformed address counts as
/// one that is not.
pub(super) fn holds_private_address(message: &Message<'_>, record: &Record, reach: &Reach) -> bool {
    matches!(record.rtype, RecordType::A | RecordType::AAAA)
        && address(message.rdata(record)).is_none_or(|address| !reach.is_global(address))
}
