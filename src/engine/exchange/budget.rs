//! The budget of a query: counting questions and answers against it, and answering when a limit is spent.

use std::time::Duration;

use super::Exchange;
use crate::dns::answer::{Ede, Negative};
use crate::dns::response::{Question, Response};
use crate::engine::budget::{Account, Given};
use crate::engine::decision_record::Verdict;
use crate::labels::{Action, Origin, Reason};
use crate::policy::{Limit, Mode, Policy};

impl<'a> Exchange<'a> {
    /// Returns what counts against which budget, where anything is counted.
    pub(super) fn account(&self) -> Option<Account<'a>> {
        let (budget, scope) = self.decision.budget(&self.query.qname)?;
        Some(Account { holder: self.holder, budget, scope })
    }

    /// Counts that an upstream is to be asked; returns the limit that is spent, for which it must not be. Where the policy
    /// audits only, it is noted and the question is asked all the same.
    pub(in crate::engine) fn count_question(&mut self, question: &Question, now: Duration) -> Option<Limit> {
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
    pub(super) fn count_answer(&mut self, response: &Response, origin: Origin) -> Option<Limit> {
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
    pub(super) fn audits(&self) -> bool {
        self.decision.audited || self.asker.policy().is_some_and(|policy| policy.mode() == Mode::Audit)
    }

    /// Answers a question that must not be asked upstream, as a limit of the policy's budget is spent.
    pub(in crate::engine) fn answer_spent(&self, spent: Limit, out: &mut Vec<u8>) {
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
    pub(super) fn deny_spent(&self, spent: Limit, negative: Negative, out: &mut Vec<u8>) {
        let text = match (self.account(), self.asker.policy()) {
            (Some(Account { budget, scope, .. }), Some(policy)) => policy.budget_text(budget, spent, scope),
            _ => String::new(),
        };
        self.negative(negative, Some(Ede { code: Ede::BLOCKED, text: &text }), out);
    }
}
