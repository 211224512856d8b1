//! The budget of a policy: how much of what nobody named a client may look up, so that an allowed wildcard is a narrow
//! channel to the owner of the names below it.
//!
//! A wildcard (or `allow_all`) lets a client choose names, and whoever owns them choose answers: that carries any data in
//! both directions. What real work looks up below one wildcard is little that is new: names and answers come again.
//! So what is new is counted, with its octets; [`crate::engine`] keeps the accounts.

use super::decide::{Action, Decision, Reason};
use super::shared_suffix::registrable;
use crate::dns::name::LowerName;

/// What a client may look up below one wildcard (or, under `allow_all`, one registrable domain) that is new, a minute.
///
/// [`BURST`] minutes' worth of names and their octets may be used at once, [`ANSWER_BURST`] of answers, [`ADDRESS_BURST`] of
/// addresses and [`REPEAT_BURST`] of repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Budget {
    /// New names.
    pub names: u32,
    /// Octets of the labels of new names, as far as these are below the wildcard; a label of more than 16 octets counts as
    /// the square of its length by 16.
    pub octets: u32,
    /// Questions about known names that have to be asked again, as their answers are no longer kept.
    pub repeats: u32,
    /// Octets of new answers: data of types other than A, AAAA and DNSSEC's.
    pub answers: u32,
    /// Octets of new addresses, less where their prefixes are known, and of DNSSEC records.
    pub addresses: u32,
    /// Octets of the labels of one name, as far as these are below the wildcard.
    pub longest: u32,
    /// Labels of one name below the wildcard; names of IPv6 addresses in `ip6.arpa` are excepted.
    pub deepest: u32,
}

/// The minutes' worth of a budget that may be used at once.
pub const BURST: u32 = 5;

/// The minutes' worth of octets of answers that may be used at once.
pub const ANSWER_BURST: u32 = 3;

/// The minutes' worth of octets of addresses that may be used at once by whole answers; one more is kept for answers that are
/// cut down to an address.
pub const ADDRESS_BURST: u32 = 4;

/// The minutes' worth of repeats that may be used at once.
pub const REPEAT_BURST: u32 = 1;

/// How many times the budget of one domain a client under `allow_all` has over all domains.
pub const DOMAINS: u32 = 16;

impl Default for Budget {
    /// Returns what real work never uses up and a tunnel cannot live on: below one wildcard, 4 KiB out and 5 KiB in within the
    /// first minute, 1 KiB in each one after it.
    fn default() -> Self {
        Self { names: 64, octets: 960, repeats: 200, answers: 384, addresses: 640, longest: 128, deepest: 10 }
    }
}

/// What a budget is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// What is below the wildcard of an entry.
    Wildcard(&'a [u8]),
    /// What is at or below a registrable domain, under `allow_all`.
    Domain(&'a [u8]),
}

impl<'a> Scope<'a> {
    /// Returns the name it is called by, in wire format.
    #[must_use]
    pub const fn wire(self) -> &'a [u8] {
        match self {
            Self::Wildcard(wire) | Self::Domain(wire) => wire,
        }
    }
}

impl<'s> Decision<'s> {
    /// Returns whether the query counts against a budget: what [`Decision::budget`] says, at no cost.
    #[must_use]
    pub fn is_budgeted(&self) -> bool {
        let is_listed = self.reason == Reason::Rule && self.rule.is_some_and(|rule| !rule.is_wildcard());
        self.action == Action::Allow && !is_listed && self.policy.is_some_and(|policy| policy.budget().is_some())
    }

    /// Returns the budget that a query for `qname` counts against, and what for; `None` where nothing is counted, as of names
    /// that are listed one by one: their owner may choose answers, but nobody chose them for that, and the client no names.
    #[must_use]
    pub fn budget<'a>(&self, qname: &'a LowerName) -> Option<(&'s Budget, Scope<'a>)>
    where
        's: 'a,
    {
        let budget = self.policy?.budget().filter(|_| self.is_budgeted())?;
        let scope = match (self.reason, &self.rule) {
            (Reason::Rule, Some(rule)) => Scope::Wildcard(rule.wire()),
            // Under `allow_all`, and what `mode = "audit"` lets through.
            _ => Scope::Domain(registrable(qname)),
        };
        Some((budget, scope))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Directory, ask, name};
    use super::*;

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
    fn a_query_counts_for_its_entry_or_its_registrable_domain() {
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
    fn a_budget_is_what_is_written_and_the_default_for_the_rest() {
        let found = budget("allow_all = true\nbudget = { names = 1000, answers = 0 }", "a.test").unwrap().0;
        assert_eq!(found, Budget { names: 1000, answers: 0, ..Budget::default() });
    }
}
