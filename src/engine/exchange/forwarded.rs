//! Answers made from upstreams' responses, fresh or cached: filtered for the client, cut to size; and failures.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Exchange;
use crate::dns::answer::{self, Ede, EdeTexts, Negative, TtlMode};
use crate::dns::name::LowerName;
use crate::dns::response::{Filtered, Response, ResponseRules, filter_response};
use crate::dns::rtype::RecordType;
use crate::engine::budget::{Budgets, Given};
use crate::engine::decision_record::Verdict;
use crate::labels::{Action, Origin, Reason};
use crate::policy::Limit;
use crate::upstream::{Failure, FailureKind};

/// The TTL of a stale answer, in seconds (RFC 8767 §4).
const STALE_TTL: u32 = 30;

impl<'a> Exchange<'a> {
    /// Answers with data past its time (RFC 8767 §4).
    pub(in crate::engine) fn answer_stale(&mut self, response: &Arc<Response>, out: &mut Vec<u8>) {
        self.answer_from(response, TtlMode::Fixed(STALE_TTL), Origin::Stale, None, out);
    }

    /// Answers with an upstream's data, filtered for this client.
    pub(in crate::engine) fn answer_from(
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
    pub(in crate::engine) fn answer_failure(&mut self, failure: &Failure, origin: Origin, out: &mut Vec<u8>) {
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

    /// Returns the text for whoever asks that says what was done by which policy and why, and the policy's message.
    fn policy_text(&self, done: &str, why: &str) -> String {
        self.asker.policy().map_or_else(String::new, |policy| policy.text(done, why))
    }
}

/// The policy's say on what came back for one query.
struct Rules<'a> {
    exchange: &'a Exchange<'a>,
    /// `true` if CNAME targets pass although the policy inspects them, as in audit mode.
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
