//! One query and its answer: what the policy says, what came back, what is written and what is recorded.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::budget::{Account, Budgets, Given};
use super::decision_record::{Record, Verdict};
use super::{Asked, Engine, View};
use crate::dns::answer::{self, Ede, EdeTexts, Negative, TtlMode};
use crate::dns::name::LowerName;
use crate::dns::query::Query;
use crate::dns::rcode::Rcode;
use crate::dns::response::{Filtered, Question, Response, ResponseRules, filter_response};
use crate::dns::rtype::RecordType;
use crate::fair_share::Holder;
use crate::labels::{Action, Origin, Reason};
use crate::policy::{Asker, Decision, Limit, Mode, Policy};
use crate::upstream::{Failure, FailureKind};

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
    /// Whose share it counts in.
    pub(super) holder: Holder,
    /// The limit of the policy's budget that is spent, where the policy audits only: it is recorded, and no more.
    pub(super) over: Option<Limit>,
}

/// Returns whether an upstream's data is the answer to a question of this type.
pub(super) fn is_forwarded(decision: &Decision<'_>, qtype: RecordType) -> bool {
    decision.action == Action::Allow && qtype != RecordType::ANY
}

impl<'a> Exchange<'a> {
    /// Answers what takes no upstream: a denial, a type the policy does not let through, a question for all types, a
    /// devbox, the host itself.
    pub(super) fn answer_here(&self, out: &mut Vec<u8>) {
        let verdict = match self.decision.action {
            Action::Deny | Action::Refuse => {
                self.deny(Negative::NxDomain, out);
                self.verdict()
            }
            // RFC 8482 §4.2: the name may be asked for, its types are the upstream's business.
            _ if self.query.qtype == RecordType::ANY => {
                answer::any(self.query, out);
                Verdict { action: Action::Allow, reason: Reason::AnyType, ..self.verdict() }
            }
            Action::Answer => {
                self.answer_ourselves(out);
                self.verdict()
            }
            Action::NoData | Action::Allow => {
                self.deny(Negative::NoData, out);
                self.verdict()
            }
        };
        self.record(verdict, out, Origin::None, None, None);
    }

    /// Writes the records that are ours: of the devbox that was asked for, or of the host itself.
    fn answer_ourselves(&self, out: &mut Vec<u8>) {
        let records = self.view.snapshot.own_records(&self.query.qname, self.query.qtype);
        answer::local_data(self.query, records, self.view.denied_ttl, self.limit(), out);
    }

    /// Writes a denial that says why.
    fn deny(&self, negative: Negative, out: &mut Vec<u8>) {
        let code = match self.decision.reason {
            Reason::NoClient | Reason::PolicyGone | Reason::NoPolicy => Ede::PROHIBITED,
            // The name is ours, and this is all there is to it.
            Reason::Devbox | Reason::NoDevbox => return self.negative(negative, None, out),
            Reason::SpecialUse if negative == Negative::NoData => return self.negative(negative, None, out),
            _ => Ede::BLOCKED,
        };
        let text = if self.query.edns.is_some() { self.decision.text() } else { Cow::Borrowed("") };
        self.negative(negative, Some(Ede { code, text: &text }), out);
    }

    /// Writes a negative answer of our own.
    fn negative(&self, negative: Negative, ede: Option<Ede<'_>>, out: &mut Vec<u8>) {
        answer::negative(self.query, negative, self.view.denied_ttl, ede, self.limit(), out);
    }

    /// Returns what counts against which budget, where anything is counted.
    fn account(&self) -> Option<Account<'a>> {
        let (budget, scope) = self.decision.budget(&self.query.qname)?;
        Some(Account { holder: self.holder, budget, scope })
    }

    /// Counts that an upstream is to be asked; returns the limit that is spent, for which it must not be. Where the policy
    /// audits only, it is noted and the question is asked all the same.
    pub(super) fn count_question(&mut self, question: &Question, now: Duration) -> Option<Limit> {
        let account = self.account()?;
        // Nothing is sent for a question that is on its way already.
        if self.engine.in_flight.holds(question) {
            return None;
        }
        let spent = self.engine.budgets.ask(account, &self.query.qname, self.query.qtype, now).err()?;
        self.log_spent(account, spent, now);
        if self.audits() {
            self.over = Some(spent);
            return None;
        }
        Some(spent)
    }

    /// Counts an answer that is to be given; returns the limit that is spent, for which it must not be.
    fn count_answer(&mut self, response: &Response, origin: Origin) -> Option<Limit> {
        let account = self.account()?;
        let now = self.engine.now();
        let (qname, payload, is_fresh) = (&self.query.qname, response.payload(), origin == Origin::Miss);
        let given = Given { qname, payload, addresses: response.addresses(), is_fresh };
        let spent = self.engine.budgets.answer(account, &given, now).err()?;
        self.log_spent(account, spent, now);
        if self.audits() {
            self.over = Some(spent);
            return None;
        }
        Some(spent)
    }

    /// Logs that a budget is spent, unless that was logged a moment ago.
    fn log_spent(&self, account: Account<'_>, spent: Limit, now: Duration) {
        if !self.engine.budgets.is_to_be_logged(account, spent, now) {
            return;
        }
        let client = self.asker.client.map_or_else(|| self.asked.source.to_string(), |client| client.id().to_owned());
        let policy = self.asker.policy().map_or("", Policy::id);
        let names = account.scope.to_string();
        tracing::warn!(client, policy, names, limit = spent.key(), "budget spent; going on with what is known");
    }

    /// Returns whether the policy only records what it would deny.
    fn audits(&self) -> bool {
        self.decision.audited || self.asker.policy().is_some_and(|policy| policy.mode() == Mode::Audit)
    }

    /// Answers a question that must not be asked upstream, as a limit of the policy's budget is spent.
    pub(super) fn answer_spent(&self, spent: Limit, out: &mut Vec<u8>) {
        // A known name exists, or may: NXDOMAIN would be for all of its types.
        let (action, negative) = match spent {
            Limit::Repeats => (Action::NoData, Negative::NoData),
            _ => (Action::Deny, Negative::NxDomain),
        };
        let verdict = Verdict { action, reason: Reason::Budget, limit: Some(spent), audited: false };
        self.deny_spent(spent, negative, out);
        self.record(verdict, out, Origin::None, None, None);
    }

    /// Writes a negative answer that says which limit of the budget is spent.
    fn deny_spent(&self, spent: Limit, negative: Negative, out: &mut Vec<u8>) {
        let text = match (self.account(), self.asker.policy()) {
            (Some(Account { budget, scope, .. }), Some(policy)) => policy.budget_text(budget, spent, scope),
            _ => String::new(),
        };
        self.negative(negative, Some(Ede { code: Ede::BLOCKED, text: &text }), out);
    }

    /// Returns the text for whoever asks that says what was done by which policy and why, and the policy's message.
    fn policy_text(&self, done: &str, why: &str) -> String {
        self.asker.policy().map_or_else(String::new, |policy| policy.text(done, why))
    }

    /// Answers with data past its time (RFC 8767 §4).
    pub(super) fn answer_stale(&mut self, response: &Arc<Response>, out: &mut Vec<u8>) {
        self.answer_from(response, TtlMode::Fixed(STALE_TTL), Origin::Stale, None, out);
    }

    /// Answers with an upstream's data, after judging it for this client.
    pub(super) fn answer_from(
        &mut self,
        response: &Arc<Response>,
        ttl: TtlMode,
        origin: Origin,
        upstream: Option<SocketAddr>,
        out: &mut Vec<u8>,
    ) {
        if Budgets::counts(response, origin != Origin::Miss)
            && let Some(spent) = self.count_answer(response, origin)
        {
            return self.answer_without_payload(spent, response, origin, upstream, out);
        }
        let ttl = self.coarse(ttl, response);
        let stale = (origin == Origin::Stale).then_some(Ede { code: Ede::STALE_ANSWER, text: "" });
        let mut verdict = self.verdict();
        let mut filtered = filter_response(response, &Rules { exchange: self, lets_pass: false });
        if let Filtered::Denied { .. } = &filtered {
            verdict.reason = Reason::CnameTarget;
            if self.audits() {
                verdict.audited = true;
                filtered = filter_response(response, &Rules { exchange: self, lets_pass: true });
            } else {
                verdict.action = Action::Deny;
            }
        }
        match filtered {
            Filtered::Unchanged => answer::from_response(self.query, response, ttl, stale, self.limit(), out),
            Filtered::Rewritten(rewritten) => {
                answer::from_response(self.query, rewritten, ttl, stale, self.limit(), out);
            }
            Filtered::NoData => {
                verdict.action = Action::NoData;
                verdict.reason = Reason::Rebinding;
                let text = self.policy_text(
                    "no data by",
                    "only addresses that are not globally reachable came back, and its private_answers does not have the name",
                );
                self.negative(Negative::NoData, Some(Ede { code: Ede::FILTERED, text: &text }), out);
            }
            Filtered::Denied { target } => {
                let text =
                    self.policy_text("denied by", &format!("the answer leads to {target}, which is not allowed"));
                self.negative(Negative::NxDomain, Some(Ede { code: Ede::BLOCKED, text: &text }), out);
            }
        }
        self.engine.metrics.origin(origin);
        self.record(verdict, out, origin, upstream, Some(response));
    }

    /// Returns what becomes of the TTLs: where a budget counts what answers carry, they carry nothing. One for all records,
    /// and above ten minutes no more of it than its first four bits.
    fn coarse(&self, ttl: TtlMode, response: &Response) -> TtlMode {
        /// The longest TTL that is given to the second, in seconds.
        const EXACT: u32 = 600;
        match ttl {
            TtlMode::Aged(age) if self.decision.is_budgeted() => {
                let left = response.ttl().saturating_sub(age);
                let dropped = if left > EXACT { left.ilog2() - 3 } else { 0 };
                TtlMode::Fixed(left >> dropped << dropped)
            }
            ttl => ttl,
        }
    }

    /// Answers with the addresses of what the upstream said, and nothing else of it: what is spent is for data, and who
    /// needs an address has to get it. Without addresses it is NODATA: other types of the name may go on.
    fn answer_without_payload(
        &self,
        spent: Limit,
        response: &Arc<Response>,
        origin: Origin,
        upstream: Option<SocketAddr>,
        out: &mut Vec<u8>,
    ) {
        response.note_withheld();
        let allowed = match filter_response(response, &Rules { exchange: self, lets_pass: false }) {
            Filtered::Unchanged => Some(&**response),
            Filtered::Rewritten(rest) => Some(rest),
            Filtered::NoData | Filtered::Denied { .. } => None,
        };
        let addresses = allowed.map_or_else(Vec::new, |allowed| self.least_addresses(allowed));
        let action = if addresses.is_empty() { Action::NoData } else { Action::Allow };
        if addresses.is_empty() {
            self.deny_spent(spent, Negative::NoData, out);
        } else {
            answer::addresses_only(self.query, &addresses, self.view.denied_ttl, self.limit(), out);
        }
        self.engine.metrics.origin(origin);
        let verdict = Verdict { action, reason: Reason::Budget, limit: Some(spent), audited: false };
        self.record(verdict, out, origin, upstream, Some(response));
    }

    /// Returns the addresses of a response that the budget has room for, where it has none for all of it.
    fn least_addresses<'r>(&self, response: &'r Response) -> Vec<&'r [u8]>
    where
        'a: 'r,
    {
        let is_address = matches!(self.query.qtype, RecordType::A | RecordType::AAAA);
        let Some(account) = self.account().filter(|_| is_address) else { return Vec::new() };
        let (qname, payload) = (&self.query.qname, response.payload());
        let given = Given { qname, payload, addresses: response.addresses(), is_fresh: false };
        self.engine.budgets.addresses(account, &given, self.engine.now())
    }

    /// Answers SERVFAIL, saying why (RFC 8914 §4.23, §4.24), with what an upstream itself said of it; from the cache,
    /// also that it is (§4.14).
    pub(super) fn answer_failure(&mut self, failure: &Failure, origin: Origin, out: &mut Vec<u8>) {
        self.engine.metrics.failed();
        let cached = (origin == Origin::Hit).then_some(Ede { code: Ede::CACHED_ERROR, text: "" });
        if cached.is_some() {
            self.engine.metrics.cached_failure();
        }
        match &failure.response {
            // What all upstreams fail at is theirs to explain.
            Some(response) if failure.kind == FailureKind::ServFail => {
                let is_counted = self.count_answer(response, origin).is_none();
                let texts = if is_counted { EdeTexts::Keep } else { EdeTexts::Remove };
                answer::servfail_as(self.query, response, cached.as_slice(), texts, out);
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
