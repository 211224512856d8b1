//! What of a response a client may see: the rebinding filter and the CNAME inspection.

use super::order::drop_signatures;
use super::parse::{Message, Record, Section};
use super::payload::Withheld;
use super::rebuild::rebuild;
use super::stored::{Parts, Stored};
use super::svcb::{Hints, address, params, summarise};
use super::{Body, Response, ResponseError};
use crate::dns::name::LowerName;
use crate::dns::rebinding::Reach;
use crate::dns::rtype::RecordType;
use crate::dns::wire::flag;

/// What a client's policy says about responses.
pub trait ResponseRules {
    /// Returns whether the name that was asked for may answer with addresses that are not globally reachable.
    fn allows_private(&self) -> bool;

    /// Returns the serial number of the policy by which every target must be allowed itself; `None` where it trusts them.
    /// What [`ResponseRules::allows_target`] says depends on nothing else.
    fn inspects_by(&self) -> Option<u64>;

    /// Returns whether `target` is allowed as a name that an answer leads to.
    fn allows_target(&self, target: &LowerName) -> bool;
}

/// What becomes of a response for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack; a target that is denied is rare")]
pub enum Judgement<'r> {
    /// It is sent as it is.
    AsIs,
    /// This is sent in its place: some addresses are gone.
    Rewritten(&'r Response),
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
/// The cost does not depend on what the response holds: the addresses were judged when it came, and what a policy says of
/// many targets is remembered. Targets are those of the CNAME chain, and the names that MX, NAPTR, SRV, SVCB and HTTPS
/// records lead to, which clients follow in the same way.
#[must_use]
pub fn judge<'r>(response: &'r Response, rules: &impl ResponseRules) -> Judgement<'r> {
    if let Some(target) = rules.inspects_by().and_then(|serial| first_denied(response, serial, rules)) {
        return Judgement::Denied { target };
    }
    match response.reachable.as_deref() {
        None => Judgement::AsIs,
        Some(_) if rules.allows_private() => Judgement::AsIs,
        Some(Reachable::Nothing) => Judgement::Filtered,
        Some(Reachable::Rest(rest)) => Judgement::Rewritten(rest),
    }
}

/// Returns the first target that the rules of policy `serial` do not allow.
fn first_denied(response: &Response, serial: u64, rules: &impl ResponseRules) -> Option<LowerName> {
    let mut targets = response.targets().chain(response.service_targets());
    match &response.inspected {
        None => targets.find(|target| !rules.allows_target(target)),
        Some(inspected) => {
            let find = || {
                response.targets().chain(response.service_targets()).position(|target| !rules.allows_target(&target))
            };
            targets.nth(inspected.first_denied(serial, find)?)
        }
    }
}

/// What is left of a response without the addresses that are not globally reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reachable {
    /// None of the addresses that were asked for.
    Nothing,
    /// This.
    Rest(Response),
}

impl Reachable {
    /// Takes the addresses that are not globally reachable out of a response.
    pub(super) fn of(response: &Response, reach: &Reach) -> Self {
        // The message was read and written by us, so it can be read again; if not, nothing of it is sent.
        without_private(response, reach).unwrap_or(Self::Nothing)
    }
}

/// Does the work of [`Reachable::of`].
fn without_private(response: &Response, reach: &Reach) -> Result<Reachable, ResponseError> {
    let mut message = Message::read(response.message())?;
    let mut keep: Vec<bool> =
        message.records.iter().map(|record| !holds_private_address(&message, record, reach)).collect();
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
    // What is missing now was part of what had been validated.
    let flags = message.header.flags & !flag::AD;
    let Body { message, ttl_offsets } =
        rebuild(&mut message, &keep, Hints::KeepReachable(*reach), flags, response.qtype)?;
    let stored = Stored::new(Parts {
        message,
        ttl_offsets: &ttl_offsets,
        ede_options: response.stored.ede_options(),
        targets: response.stored.targets(),
        service_targets: response.stored.service_targets(),
    });
    let Response { ttl, rcode, qtype, payload, .. } = *response;
    let required = Response::count_required(stored.message(), qtype, stored.ttl_offsets());
    let (reachable, inspected, withheld) = (None, None, Withheld::default());
    Ok(Reachable::Rest(Response { stored, ttl, rcode, qtype, required, reachable, inspected, payload, withheld }))
}

/// Returns whether a record hints at an address that is not globally reachable.
fn holds_private_hint(message: &Message<'_>, record: &Record, reach: &Reach) -> bool {
    matches!(record.rtype, RecordType::SVCB | RecordType::HTTPS)
        && summarise(params(message.rdata(record)), reach).is_some_and(|summary| summary.has_private_hint)
}

/// Returns whether a record is an address that is not globally reachable.
pub(super) fn holds_private_address(message: &Message<'_>, record: &Record, reach: &Reach) -> bool {
    matches!(record.rtype, RecordType::A | RecordType::AAAA)
        && address(message.rdata(record)).is_none_or(|address| !reach.is_global(address))
}
