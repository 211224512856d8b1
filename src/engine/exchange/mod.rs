//! One query with all that its answer depends on, and the answers to it: written, counted and recorded.

mod budget;
mod forwarded;
mod own;

use std::net::SocketAddr;
use std::sync::Arc;

use super::decision_record::{Record, Verdict};
use super::pending::{Counted, Pending};
use super::{Asked, Engine, View};
use crate::dns::answer::{self, Ede, Negative};
use crate::dns::query::{OwnedQuery, Query};
use crate::dns::rcode::Rcode;
use crate::dns::response::{Question, Response};
use crate::dns::rtype::RecordType;
use crate::fair_share::Holder;
use crate::labels::{Action, Origin, Reason};
use crate::policy::{Asker, Decision, Limit, OwnedDecision};

/// One query with all that its answer depends on.
pub(super) struct Exchange<'a> {
    /// The engine, for counting and recording.
    pub(super) engine: &'a Engine,
    /// The view that the answer depends on.
    pub(super) view: &'a Arc<View>,
    pub(super) query: &'a Query<'a>,
    /// The source of the query and its transport.
    pub(super) asked: Asked,
    /// The client by configuration, with its policy.
    pub(super) asker: Asker<'a>,
    /// The policy's decision on the question.
    pub(super) decision: Decision<'a>,
    /// The holder of the share that the query counts in.
    pub(super) holder: Holder,
    /// The limit of the policy's budget that is spent, where the policy audits only: it is recorded, and no more.
    pub(super) over: Option<Limit>,
}

/// Returns whether an upstream's data is the answer to a question of this type.
pub(super) fn is_forwarded(decision: &Decision<'_>, qtype: RecordType) -> bool {
    decision.action == Action::Allow && qtype != RecordType::ANY
}

impl<'a> Exchange<'a> {
    /// Returns the exchange that a pending query, here as `query`, was when it began to wait.
    pub(super) fn resume(engine: &'a Engine, pending: &'a Pending, query: &'a Query<'a>) -> Self {
        let Pending { asked, ref view, ref decision, holder, over, .. } = *pending;
        // Who has an address is looked up, not decided: the view says the same as before.
        let asker = view.snapshot.asker(asked.source, asked.listener);
        let decision = decision.of(asker.policy());
        Self { engine, view, query, asked, asker, decision, holder, over }
    }

    /// Returns the query to wait with for the answer to `question`, which is what it asks.
    pub(super) fn pend(&self, question: Question, has_stale: bool, counted: Counted) -> Box<Pending> {
        let Self { view, query, asked, decision, holder, over, .. } = self;
        Box::new(Pending {
            query: OwnedQuery::new(query, question),
            asked: *asked,
            view: Arc::clone(view),
            decision: OwnedDecision::new(decision),
            holder: *holder,
            has_stale,
            over: *over,
            _counted: counted,
        })
    }

    /// Writes a negative answer of our own.
    fn negative(&self, negative: Negative, ede: Option<Ede<'_>>, out: &mut Vec<u8>) {
        answer::negative(self.query, negative, self.view.denied_ttl, ede, self.limit(), out);
    }

    /// Returns the longest answer this client takes over this transport.
    fn limit(&self) -> usize {
        self.query.payload_limit(self.asked.transport)
    }

    /// Returns what the policy says, as records and metrics put it.
    fn verdict(&self) -> Verdict {
        if self.over.is_some() {
            return Verdict { action: Action::Allow, reason: Reason::Budget, limit: self.over, audited: true };
        }
        Verdict {
            action: self.decision.action,
            reason: self.decision.reason,
            limit: None,
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
