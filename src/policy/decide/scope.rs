//! The budget that a query counts against, and its scope: the wildcard or the registrable domain that it is kept for.

use crate::dns::name::LowerName;
use crate::policy::matching::pattern_kind::PatternKind;
use crate::policy::matching::shared_suffix::{Registry, registrable, registry_of_wire};
use crate::policy::model::budget::{Budget, Scope};

use super::{Action, Decision, Reason};

impl<'s> Decision<'s> {
    /// Returns whether the query counts against a budget, at the cost of a few comparisons. [`Decision::budget`], which
    /// is exact, still returns `None` for some DS and DNSKEY queries.
    #[must_use]
    pub fn is_budgeted(&self) -> bool {
        let is_listed = self.reason == Reason::Rule && self.rule.is_some_and(|rule| !rule.is_wildcard());
        self.action == Action::Allow && !is_listed && self.policy.is_some_and(|policy| policy.budget().is_some())
    }

    /// Returns the budget that a query for `qname` counts against, and its scope.
    ///
    /// Returns `None` if nothing is counted, as for names that are listed one by one: the client cannot choose such a
    /// name, and the policy author trusts its owner.
    #[must_use]
    pub fn budget<'a>(&self, qname: &'a LowerName) -> Option<(&'s Budget, Scope<'a>)>
    where
        's: 'a,
    {
        let budget = self.policy?.budget().filter(|_| self.is_budgeted())?;
        let scope = match (self.reason, &self.rule) {
            (Reason::Rule, Some(rule)) => Scope::Wildcard(rule.wire()),
            (Reason::DnssecChain, _) if self.is_chain_of_listed(qname) => return None,
            // A name under `allow_all`, one that `mode = "audit"` lets through, or one above a wildcard for DNSSEC.
            _ => Scope::Domain(registrable(qname)),
        };
        Some((budget, scope))
    }

    /// Returns whether a DS or DNSKEY query is no channel to the owner of a wildcard: the name is above a name that is
    /// listed without a wildcard, as for the validation of that name, or a domain registry or the root answers for it.
    fn is_chain_of_listed(&self, qname: &LowerName) -> bool {
        let wire = qname.as_wire();
        let is_above_exact =
            self.policy.is_some_and(|policy| policy.allowed.kind_below(wire) == Some(PatternKind::Exact));
        is_above_exact || wire == [0] || registry_of_wire(wire) == Some(Registry::Icann)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::rtype::RecordType;
    use crate::policy::testing::{Directory, ask, name};

    /// Returns the budget and the scope of a query for `qname` under a policy with these lines.
    fn budget(lines: &str, qname: &str) -> Option<(Budget, String)> {
        let client = "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n";
        let library = Directory::of(&[("p.toml", &format!("[policy.p]\n{lines}\n{client}"))]).library();
        let decision = ask(library.snapshot(), "192.0.2.1", qname);
        let qname = name(qname);
        let (budget, scope) = decision.budget(&qname)?;
        let kind = match scope {
            Scope::Wildcard(_) => "wildcard",
            Scope::Domain(_) => "domain",
        };
        let wire = LowerName::from_uncompressed(scope.wire()).unwrap().0;
        Some((*budget, format!("{kind} {wire}")))
    }

    #[test]
    fn queries_count_against_their_wildcard_or_registrable_domain() {
        let cases = [
            ("allowed_hostnames = [\"a.test\"]", "a.test", None),
            ("allowed_hostnames = [\"*.b.test\"]", "x.y.b.test", Some("wildcard b.test")),
            ("allowed_hostnames = [\"*.b.test\", \"*.y.b.test\"]", "x.y.b.test", Some("wildcard y.b.test")),
            ("allow_all = true", "a.b.example.co.uk", Some("domain example.co.uk")),
            ("allow_all = true", "x.someone.github.io", Some("domain someone.github.io")),
            ("allow_all = true", "com", Some("domain com")),
            ("mode = \"audit\"", "a.b.example.com", Some("domain example.com")),
            ("allow_all = true\nbudget = \"off\"", "a.test", None),
            ("", "a.test", None),
        ];
        for (lines, qname, expected) in cases {
            let found = budget(lines, qname).map(|(_, scope)| scope);
            assert_eq!(found.as_deref(), expected, "{lines}: {qname}");
        }
    }

    #[test]
    fn dnssec_queries_count_only_if_a_wildcards_owner_answers_them() {
        let lines = "allowed_hostnames = ['*.b.example.com', 'www.example.org', '*.a.example.org', 'www.test']";
        let client = "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n";
        let library = Directory::of(&[("p.toml", &format!("[policy.p]\n{lines}\n{client}"))]).library();
        let snapshot = library.snapshot();
        for (qname, expected) in [
            (".", None),
            ("com", None),
            ("org", None),
            ("test", None),
            ("example.org", None),
            ("example.com", Some("example.com")),
            ("b.example.com", Some("example.com")),
            ("a.example.org", Some("example.org")),
        ] {
            let qname = name(qname);
            let asker = snapshot.asker("192.0.2.1".parse().unwrap(), 0);
            let decision = snapshot.decide(&asker, &qname, RecordType::DNSKEY);
            assert_eq!(decision.reason, Reason::DnssecChain, "{qname}");
            let scope = decision.budget(&qname).map(|(_, scope)| scope);
            let expected = expected.map(name);
            assert_eq!(scope, expected.as_ref().map(|name| Scope::Domain(name.as_wire())), "{qname}");
        }
    }

    #[test]
    fn limits_not_written_have_their_default() {
        let found = budget("allow_all = true\nbudget = { names = 1000, answers = 0 }", "a.test").unwrap().0;
        assert_eq!(found, Budget { names: 1000, answers: 0, ..Budget::default() });
    }
}
