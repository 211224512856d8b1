//! One query and its answer: what the policy says, what came back, what is written and what is recorded.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use super::outcome::{Action, Origin, Reason};
use super::record::{Record, Verdict};
use super::{Asked, Engine, View};
use crate::dns::answer::{self, Ede, Negative, TtlMode};
use crate::dns::name::LowerName;
use crate::dns::query::Query;
use crate::dns::rcode::Rcode;
use crate::dns::response::{Judgement, Response, ResponseRules, judge};
use crate::dns::rtype::RecordType;
use crate::policy::{self, Asker, Decision, Mode, Policy};
use crate::upstream::{Failure, FailureKind};

/// EXTRA-TEXT of an answer of which nothing is left.
const REBINDING_TEXT: &str =
    "only addresses that are not globally reachable came back, and the policy's private_answers does not have the name";
/// The TTL of a stale answer, in seconds (RFC 8767 §4).
const STALE_TTL: u32 = 30;

/// One query with all that its answer depends on.
pub(super) struct Exchange<'a> {
    /// The engine, for counting and recording.
    pub(super) engine: &'a Engine,
    /// What the answer depends on.
    pub(super) view: &'a Arc<View>,
    /// The parsed query.
    pub(super) query: &'a Query<'a>,
    /// Where it came from.
    pub(super) asked: Asked,
    /// Whose policy applies.
    pub(super) asker: Asker<'a>,
    /// What the policy says.
    pub(super) decision: Decision<'a>,
}

impl Exchange<'_> {
    /// Returns whether an upstream's data is the answer.
    pub(super) fn is_forwarded(&self) -> bool {
        self.decision.action == policy::Action::Allow && self.query.qtype != RecordType::ANY
    }

    /// Answers what takes no upstream: a denial, a type the policy does not let through, a question for all types, a
    /// devbox.
    pub(super) fn answer_here(&self, out: &mut Vec<u8>) {
        let verdict = match self.decision.action {
            policy::Action::Deny => {
                self.deny(Negative::NxDomain, out);
                self.verdict()
            }
            // RFC 8482 §4.2: the name may be asked for, its types are the upstream's business.
            _ if self.query.qtype == RecordType::ANY => {
                answer::any(self.query, out);
                Verdict { action: Action::Allow, reason: Reason::AnyType, ..self.verdict() }
            }
            policy::Action::Answer => {
                self.answer_devbox(out);
                self.verdict()
            }
            policy::Action::NoData | policy::Action::Allow => {
                self.deny(Negative::NoData, out);
                self.verdict()
            }
        };
        self.record(verdict, out, Origin::None, None, None);
    }

    /// Writes the records of the devbox that was asked for.
    fn answer_devbox(&self, out: &mut Vec<u8>) {
        let records = self.view.snapshot.devbox_records(&self.query.qname, self.query.qtype);
        answer::own(self.query, records, self.view.denied_ttl, self.limit(), out);
    }

    /// Writes a denial that says why.
    fn deny(&self, negative: Negative, out: &mut Vec<u8>) {
        let code = match self.decision.reason {
            policy::Reason::NoClient | policy::Reason::PolicyGone => Ede::PROHIBITED,
            // The name is ours, and this is all there is to it.
            policy::Reason::Devbox | policy::Reason::NoDevbox => return self.negative(negative, None, out),
            _ => Ede::BLOCKED,
        };
        let text = if self.query.edns.is_some() { self.decision.text() } else { Cow::Borrowed("") };
        self.negative(negative, Some(Ede { code, text: &text }), out);
    }

    /// Writes a negative answer of our own.
    fn negative(&self, negative: Negative, ede: Option<Ede<'_>>, out: &mut Vec<u8>) {
        answer::negative(self.query, negative, self.view.denied_ttl, ede, self.limit(), out);
    }

    /// Answers with data past its time (RFC 8767 §4).
    pub(super) fn answer_stale(&self, response: &Arc<Response>, out: &mut Vec<u8>) {
        self.answer_from(response, TtlMode::Fixed(STALE_TTL), Origin::Stale, None, out);
    }

    /// Answers with an upstream's data, after judging it for this client.
    pub(super) fn answer_from(
        &self,
        response: &Arc<Response>,
        ttl: TtlMode,
        origin: Origin,
        upstream: Option<SocketAddr>,
        out: &mut Vec<u8>,
    ) {
        let stale = (origin == Origin::Stale).then_some(Ede { code: Ede::STALE_ANSWER, text: "" });
        let mut verdict = self.verdict();
        let mut judgement = judge(response, &Rules { exchange: self, lets_pass: false });
        if let Judgement::Denied { .. } = &judgement {
            verdict.reason = Reason::CnameTarget;
            if self.decision.audited || self.asker.policy().is_some_and(|policy| policy.mode() == Mode::Audit) {
                verdict.audited = true;
                judgement = judge(response, &Rules { exchange: self, lets_pass: true });
            } else {
                verdict.action = Action::Deny;
            }
        }
        match judgement {
            Judgement::AsIs => answer::from_response(self.query, response, ttl, stale, self.limit(), out),
            Judgement::Rewritten(rewritten) => {
                answer::from_response(self.query, rewritten, ttl, stale, self.limit(), out);
            }
            Judgement::Filtered => {
                verdict.action = Action::NoData;
                verdict.reason = Reason::Rebinding;
                let ede = Ede { code: Ede::FILTERED, text: REBINDING_TEXT };
                self.negative(Negative::NoData, Some(ede), out);
            }
            Judgement::Denied { target } => {
                let policy = self.asker.policy().map_or("", Policy::id);
                let text = format!("denied by policy {policy}: the answer leads to {target}, which is not allowed");
                self.negative(Negative::NxDomain, Some(Ede { code: Ede::BLOCKED, text: &text }), out);
            }
        }
        self.engine.metrics.origin(origin);
        self.record(verdict, out, origin, upstream, Some(response));
    }

    /// Answers SERVFAIL, saying why (RFC 8914 §4.23, §4.24), with what an upstream itself said of it; from the cache,
    /// also that it is (§4.14).
    pub(super) fn answer_failure(&self, failure: &Failure, origin: Origin, out: &mut Vec<u8>) {
        self.engine.metrics.failed();
        let cached = (origin == Origin::Hit).then_some(Ede { code: Ede::CACHED_ERROR, text: "" });
        if cached.is_some() {
            self.engine.metrics.cached_failure();
        }
        match &failure.response {
            // What all upstreams fail at is theirs to explain.
            Some(response) if failure.kind == FailureKind::ServFail => {
                answer::servfail_as(self.query, response, cached.as_slice(), out);
            }
            _ => {
                // Whom we ask and what the system says of it is not for code that nobody trusts.
                let text = failure.kind.to_string();
                let own = Ede { code: failure.ede_code(), text: &text };
                match cached {
                    Some(cached) => answer::servfail(self.query, &[own, cached], out),
                    None => answer::servfail(self.query, &[own], out),
                }
            }
        }
        self.record(self.verdict(), out, origin, None, None);
    }

    /// Returns the longest answer this client takes over this transport.
    fn limit(&self) -> usize {
        self.query.payload_limit(self.asked.transport)
    }

    /// Returns what the policy says, as records and metrics put it.
    fn verdict(&self) -> Verdict {
        Verdict {
            action: self.decision.action.into(),
            reason: self.decision.reason.into(),
            audited: self.decision.audited,
        }
    }

    /// Counts the query and logs its record.
    fn record(
        &self,
        verdict: Verdict,
        answer: &[u8],
        origin: Origin,
        upstream: Option<SocketAddr>,
        response: Option<&Arc<Response>>,
    ) {
        self.engine.metrics.query(verdict.action, verdict.reason, self.asked.transport);
        let Some(log) = &self.engine.decisions else { return };
        let record = Record {
            generation: self.view.snapshot.generation,
            asker: self.asker,
            asked: self.asked,
            qname: &self.query.qname,
            qtype: self.query.qtype,
            decision: self.decision,
            verdict,
            rcode: Rcode(answer.get(3).map_or(0, |flags| u16::from(flags & 0x0f))),
            origin,
            upstream,
            response: response.map(|response| &**response),
        };
        log.record(|moment, line| record.write(moment, line));
    }
}

/// The policy's say on what came back for one query.
struct Rules<'a> {
    /// The query.
    exchange: &'a Exchange<'a>,
    /// Whether CNAME targets are let through although the policy inspects them: it only audits.
    lets_pass: bool,
}

impl ResponseRules for Rules<'_> {
    fn allows_private(&self) -> bool {
        self.exchange.asker.policy().is_some_and(|policy| policy.allows_private(&self.exchange.query.qname))
    }

    fn inspects_by(&self) -> Option<u64> {
        let policy = self.exchange.asker.policy().filter(|policy| !self.lets_pass && policy.inspects_cname())?;
        Some(policy.serial())
    }

    fn allows_target(&self, target: &LowerName) -> bool {
        self.exchange.asker.policy().is_none_or(|policy| policy.allows_target(target))
    }
}
