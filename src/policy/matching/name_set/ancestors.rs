//! The ancestors of an allow list: the names above its patterns in the domain name tree, which no entry lists.
//!
//! A validating resolver behind hostgate asks for their DS and DNSKEY records to validate a listed name (RFC 4035 §5).
//! Queries of these two types are therefore allowed for them.

use hashbrown::HashTable;

use super::NameSet;
use crate::dns::name::Suffixes;
use crate::policy::matching::pattern_kind::PatternKind;

/// The hashes of the names above the patterns of a set. The root is left out, as it is above every pattern.
///
/// Each name is stored as a keyed 64-bit hash, so it takes 8 octets. An unlisted name with the same hash as an ancestor
/// would have its DS and DNSKEY queries allowed too. That is improbable (about 10⁻¹³ for a name and a million
/// patterns), and a client that does not know the key cannot search for such a name.
#[derive(Debug, Default)]
pub(crate) struct Ancestors {
    /// The sorted hashes of the names above the patterns of each kind, indexed by [`PatternKind::index`]. The `x` of a
    /// wildcard `*.x` counts as above it, as the wildcard does not match `x`.
    hashes: [Box<[u64]>; 2],
}

impl Ancestors {
    /// Collects the names above the patterns of `set`.
    ///
    /// Costs about one look-up for each pattern: the walk up from a pattern stops at the first name that is already
    /// known, as then everything above that is known too.
    pub(crate) fn of(set: &NameSet) -> Self {
        let mut found = [HashTable::new(), HashTable::new()];
        let mut last: [&[u8]; 2] = [&[]; 2];
        for pattern in set.iter() {
            let index = pattern.kind().index();
            // `x` is above all names that `*.x` matches, so the suffixes of a wildcard include its own name. An exact
            // name is not above itself.
            let above = Suffixes::of(pattern.wire()).skip(usize::from(pattern.kind() == PatternKind::Exact));
            // In a sorted list, neighbours often have the same parent. Comparing it with the last one saves the hash.
            let mut above = above.peekable();
            if above.peek().is_none_or(|parent| *parent == last[index]) {
                continue;
            }
            last[index] = above.peek().copied().unwrap_or_default();
            for name in above {
                let hash = set.hash(name);
                if found[index].find(hash, |other| *other == hash).is_some() {
                    break;
                }
                found[index].insert_unique(hash, hash, |other| *other);
            }
        }
        // A sorted slice is smaller than a hash table, which has free slots. Its search is slower, but only DS and
        // DNSKEY queries for unlisted names need it.
        let sorted = |hashes: HashTable<u64>| {
            let mut hashes: Box<[u64]> = hashes.into_iter().collect();
            hashes.sort_unstable();
            hashes
        };
        Self { hashes: found.map(sorted) }
    }

    /// Returns whether the name with this hash is above a pattern of this kind.
    pub(crate) fn has(&self, kind: PatternKind, hash: u64) -> bool {
        self.hashes[kind.index()].binary_search(&hash).is_ok()
    }

    /// Returns the size of the index in bytes.
    pub(crate) const fn memory(&self) -> usize {
        (self.hashes[0].len() + self.hashes[1].len()) * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Origin;
    use super::*;
    use crate::dns::rtype::RecordType;
    use crate::policy::decide::Decision;
    use crate::policy::load::preset::shared_hasher;
    use crate::policy::matching::pattern::Pattern;
    use crate::policy::testing::{Directory, name};

    /// Returns the action and the reason of a query of a client whose policy has these lines.
    fn decided(lines: &str, qname: &str, qtype: RecordType) -> String {
        let client = "[client.c]\nsources = [\"2001:db8::1\"]\npolicy = \"p\"\n[policy.other]\nallowed_hostnames = ['www.c.example']\n";
        let files = [("p.toml", format!("[policy.p]\n{lines}\n{client}")), ("list.txt", "www.d.example\n".to_owned())];
        let library = Directory::of(&files.each_ref().map(|(path, text)| (*path, text.as_str()))).library();
        let snapshot = library.snapshot();
        let decision: Decision<'_> =
            snapshot.decide(&snapshot.asker("2001:db8::1".parse().unwrap(), 0), &name(qname), qtype);
        format!(
            "{} {}{}",
            decision.action.as_str(),
            decision.reason.as_str(),
            if decision.audited { " audited" } else { "" }
        )
    }

    /// A policy that lists one name, and all names below another.
    const LISTS: &str = "allowed_hostnames = ['www.a.example', '*.x.b.example']\n";

    #[test]
    fn ds_and_dnskey_of_names_above_listed_ones_are_allowed() {
        for above in ["a.example", "example", ".", "x.b.example", "b.example", "A.Example"] {
            for qtype in [RecordType::DS, RecordType::DNSKEY] {
                for mode in ["", "mode = 'audit'", "cname = 'inspect'"] {
                    assert_eq!(
                        decided(&format!("{LISTS}{mode}"), above, qtype),
                        "allow dnssec-chain",
                        "{mode} {above}"
                    );
                }
            }
            // No validator has to ask for another type at these names, not even for RRSIG (46), NSEC (47) or CDS (59).
            for qtype in [1, 2, 5, 6, 12, 15, 16, 28, 33, 46, 47, 50, 51, 59, 60, 65, 255, 257, 32769] {
                let found = decided(LISTS, above, RecordType(qtype));
                assert_eq!(found, "deny not-listed", "{above} {qtype}");
            }
        }
        // Listed names and names below a listed wildcard are allowed by their rule, as for any other type.
        for listed in ["www.a.example", "n.x.b.example", "m.n.x.b.example"] {
            assert_eq!(decided(LISTS, listed, RecordType::DS), "allow rule", "{listed}");
        }
    }

    #[test]
    fn ds_of_names_above_no_listed_one_is_denied() {
        for other in ["x.www.a.example", "b.a.example", "other.example", "test", "y.b.example", "ww.a.example", "com"] {
            assert_eq!(decided(LISTS, other, RecordType::DS), "deny not-listed", "{other}");
            assert_eq!(decided(LISTS, other, RecordType::DNSKEY), "deny not-listed", "{other}");
        }
        for lines in ["", "allowed_hostnames = []", "denied_hostnames = ['www.a.example']"] {
            for name in [".", "example", "a.example"] {
                assert_eq!(decided(lines, name, RecordType::DS), "deny not-listed", "{lines}: {name}");
            }
        }
    }

    #[test]
    fn a_denied_pattern_and_query_types_win_over_the_dnssec_chain() {
        for denied in ["'a.example'", "'*.example'"] {
            let lines = format!("{LISTS}denied_hostnames = [{denied}]");
            assert_eq!(decided(&lines, "a.example", RecordType::DS), "deny denied-rule", "{denied}");
            assert_eq!(decided(&lines, ".", RecordType::DNSKEY), "allow dnssec-chain", "{denied}");
        }
        let types = format!("{LISTS}query_types = ['A']");
        assert_eq!(decided(&types, "a.example", RecordType::DS), "deny not-listed");
    }

    #[test]
    fn names_above_included_and_list_file_entries_are_allowed() {
        let lines = "include = ['other']\nallowed_hostnames_files = ['list.txt']";
        for above in ["c.example", "d.example", "example", "."] {
            assert_eq!(decided(lines, above, RecordType::DNSKEY), "allow dnssec-chain", "{above}");
        }
        assert_eq!(decided(lines, "e.example", RecordType::DNSKEY), "deny not-listed");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn ancestors_agree_with_a_naive_search(
            patterns in prop::collection::vec("(\\*\\.)?([ab]{1,2}\\.){0,3}[xy]\\.test", 0..12),
            above in "([ab]{1,2}\\.){0,3}([xy]\\.)?test",
        ) {
            let mut set = NameSet::with_capacity(shared_hasher(), 0);
            set.add_origin(Origin { path: std::path::Path::new("p").into(), via: std::sync::Arc::new([]), is_list: false });
            let patterns: Vec<_> = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            for pattern in &patterns {
                let _ = set.insert(pattern, 1, 1);
            }
            let above = name(&above);
            let naive = |kind: PatternKind| patterns.iter().any(|pattern| match pattern {
                Pattern::Exact(listed) => kind == PatternKind::Exact && *listed != above && listed.is_at_or_below(&above),
                Pattern::Below(listed) => kind == PatternKind::Below && listed.is_at_or_below(&above),
            });
            for kind in [PatternKind::Exact, PatternKind::Below] {
                prop_assert_eq!(set.ancestors().has(kind, set.hash(above.as_wire())), naive(kind), "{:?} {}", kind, above);
            }
        }
    }
}
