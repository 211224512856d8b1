//! What a policy lists close to a name that it does not list: the entry that was probably thought to match.

use std::fmt;

use crate::dns::name::{DisplayWire, LowerName, Suffixes};

use super::{Decision, Reason};
use crate::policy::matching::name_set::Kind;
use crate::policy::matching::rules::Rule;

/// An entry of `allowed_hostnames` that does not match a name, though people may expect it to.
#[derive(Clone, Copy, Debug)]
pub struct Near<'p> {
    /// The entry.
    pub rule: Rule<'p>,
}

impl<'p> Near<'p> {
    /// Looks for the entry that a denial may be due to: a name above the one asked for, or the wildcard below it.
    #[must_use]
    pub fn of(decision: &Decision<'p>, name: &LowerName) -> Option<Self> {
        let policy = decision.policy.filter(|_| decision.reason == Reason::NotListed)?;
        let labels = Suffixes::of(name.as_wire()).count();
        let below = || policy.allowed.find(Kind::Below, name.as_wire(), labels, &mut None);
        let above = || {
            let above = name.suffixes().enumerate().skip(1);
            above
                .filter(|(above, _)| labels - above > 1)
                .find_map(|(above, suffix)| policy.allowed.find(Kind::Exact, suffix, labels - above, &mut None))
        };
        below().or_else(above).map(|rule| Self { rule })
    }
}

/// Writes that the entry is listed and what it matches.
impl fmt::Display for Near<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule;
        if rule.is_wildcard() {
            write!(f, "`{rule}` is listed and matches the names below `{}`, not itself", DisplayWire(rule.wire()))
        } else {
            write!(f, "`{rule}` is listed and matches itself alone, no name below it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Directory, ask, name};

    #[test]
    fn denials_that_look_like_a_mistake_name_the_entry_next_to_it() {
        const CASES: &[(&str, &str)] = &[
            ("api.github.com", "`github.com` is listed and matches itself alone, no name below it"),
            ("a.b.github.com", "`github.com` is listed"),
            ("npmjs.org", "`*.npmjs.org` is listed and matches the names below `npmjs.org`, not itself"),
            ("example.com", ""),
            ("evilgithub.com", ""),
            ("d.github.com", ""),
            ("github.com", ""),
            ("x.npmjs.org", ""),
        ];
        let text = "[policy.p]\nallowed_hostnames = [\"github.com\", \"*.npmjs.org\", \"com\"]\ndenied_hostnames = [\"d.github.com\"]\n";
        let library = Directory::of(&[("p.toml", text)]).default_policy("p").library();
        for (asked, expected) in CASES {
            let decision = ask(library.snapshot(), "192.0.2.1", asked);
            let near = Near::of(&decision, &name(asked)).map(|near| near.to_string()).unwrap_or_default();
            assert!(near.starts_with(expected) && near.is_empty() == expected.is_empty(), "{asked}: {near}");
        }
    }
}
