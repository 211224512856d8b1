//! Near misses: entries of a policy that do not match a denied name although their author probably expected it. Denials
//! in `hostgate explain` name the entry, as the difference between `x` and `*.x` is the most common mistake.

use std::fmt;

use crate::dns::name::{DisplayWire, LowerName, Suffixes};

use super::{Decision, Reason};
use crate::policy::matching::pattern_kind::PatternKind;
use crate::policy::matching::rules::Rule;

/// An entry of `allowed_hostnames` that is a near miss for a denied name.
#[derive(Clone, Copy, Debug)]
pub struct NearMiss<'p> {
    /// The entry that nearly matches.
    pub rule: Rule<'p>,
}

impl<'p> NearMiss<'p> {
    /// Returns the near miss of a denial: the wildcard on the denied name itself, or an exact entry above it.
    #[must_use]
    pub fn of(decision: &Decision<'p>, name: &LowerName) -> Option<Self> {
        let policy = decision.policy.filter(|_| decision.reason == Reason::NotListed)?;
        let labels = Suffixes::of(name.as_wire()).count();
        let below = || policy.allowed.find(PatternKind::Below, name.as_wire(), labels, &mut None);
        let above = || {
            let above = name.suffixes().enumerate().skip(1);
            above
                // A top-level domain above the name is no near miss: nobody expects `com` to match all below it.
                .filter(|(above, _)| labels - above > 1)
                .find_map(|(above, suffix)| policy.allowed.find(PatternKind::Exact, suffix, labels - above, &mut None))
        };
        below().or_else(above).map(|rule| Self { rule })
    }
}

/// Writes that the entry is listed, and which names it matches.
impl fmt::Display for NearMiss<'_> {
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
    fn near_misses_are_the_wildcard_of_the_name_and_exact_entries_above() {
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
            let near = NearMiss::of(&decision, &name(asked)).map(|near| near.to_string()).unwrap_or_default();
            assert!(near.starts_with(expected) && near.is_empty() == expected.is_empty(), "{asked}: {near}");
        }
    }
}
