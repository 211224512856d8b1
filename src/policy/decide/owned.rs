//! A decision that is kept while an upstream is asked.

use super::{Action, Decision, Reason};
use crate::policy::matching::rules::{RuleId, Rules};
use crate::policy::snapshot::Policy;

/// A [`Decision`] without its borrow of the snapshot: whoever keeps the snapshot as well gets it back by
/// [`OwnedDecision::of`], without deciding again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnedDecision {
    /// What is done.
    action: Action,
    /// Why.
    reason: Reason,
    /// The position of the pattern that says so, in the list that `reason` names.
    rule: Option<RuleId>,
    /// Whether the query would be denied but for `mode = "audit"`.
    audited: bool,
}

impl OwnedDecision {
    /// Returns what is to be kept of a decision.
    pub(crate) fn new(decision: &Decision<'_>) -> Self {
        let Decision { action, reason, rule, policy, audited } = *decision;
        let rule = policy.zip(rule).and_then(|(policy, rule)| list(policy, reason).id(rule));
        Self { action, reason, rule, audited }
    }

    /// Returns the decision again, of the `policy` that made it.
    pub(crate) fn of<'s>(&self, policy: Option<&'s Policy>) -> Decision<'s> {
        let Self { action, reason, rule, audited } = *self;
        let rule = policy.zip(rule).and_then(|(policy, id)| list(policy, reason).get(id));
        Decision { action, reason, rule, policy, audited }
    }
}

/// Returns the list of a policy that the pattern of a decision is in.
fn list(policy: &Policy, reason: Reason) -> &Rules {
    if reason == Reason::DeniedRule { &policy.denied } else { &policy.allowed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::rtype::RecordType;
    use crate::policy::testing::{Directory, name};

    #[test]
    fn kept_decision_is_the_one_that_was_made() {
        let lines =
            "allowed_hostnames = ['a.test', '*.b.test', '*.x.b.test']\ndenied_hostnames = ['c.b.test', '*.d.test']";
        let other = "[policy.other]\nallowed_hostnames = ['*.other.test']\ndenied_hostnames = ['no.other.test']";
        for mode in ["enforce", "audit"] {
            let text = format!(
                "{other}\n[policy.p]\ninclude = ['other']\nmode = '{mode}'\n{lines}\n\
                 [client.c]\nsources = ['192.0.2.1']\npolicy = 'p'\n"
            );
            let library = Directory::of(&[("p.toml", &text)]).library();
            let snapshot = library.snapshot();
            let mut rules = 0;
            for source in ["192.0.2.1", "192.0.2.2"] {
                for qname in [
                    "a.test",
                    "y.b.test",
                    "y.x.b.test",
                    "c.b.test",
                    "y.d.test",
                    "z.other.test",
                    "no.other.test",
                    "free.test",
                    r"a\.b.b.test",
                ] {
                    for qtype in [RecordType::A, RecordType::DNSKEY, RecordType(10)] {
                        let asker = snapshot.asker(source.parse().unwrap(), 0);
                        let decision = snapshot.decide(&asker, &name(qname), qtype);
                        let kept = OwnedDecision::new(&decision).of(asker.policy());
                        assert_eq!(format!("{kept:?}"), format!("{decision:?}"), "{mode}: {qname}");
                        rules += usize::from(kept.rule.is_some());
                    }
                }
            }
            assert!(rules > 12, "{mode}: only {rules} rules were kept");
        }
    }
}
