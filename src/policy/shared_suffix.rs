//! Suffixes under which strangers can get names: the public suffix list and our own list of hosting and storage.
//! This module is the home of the crate `psl`.

use std::collections::HashSet;
use std::sync::LazyLock;

use psl::Type;

use crate::dns::name::LowerName;

/// Who lets strangers have names below a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// A registry of domains: the public suffix list's ICANN section.
    Icann,
    /// A provider of hosting, storage or the like: the list's private section, or our own list.
    Provider,
}

/// Returns who lets strangers have names right below `base`, if that is known of anyone.
#[must_use]
pub fn registry(base: &LowerName) -> Option<Registry> {
    let text = base.to_string();
    // A rule `*.x` of the list makes each name below `x` a public suffix, so strangers have names two labels below
    // `x`; the list does not call `x` itself one.
    let below = format!("0.{text}");
    let found = [text.as_str(), &below].into_iter().find_map(|name| {
        let suffix = psl::suffix(name.as_bytes())?;
        (suffix.as_bytes().len() >= text.len()).then(|| suffix.typ()).flatten()
    });
    match found {
        Some(Type::Icann) => Some(Registry::Icann),
        Some(Type::Private) => Some(Registry::Provider),
        None => OWN_SET.contains(text.as_str()).then_some(Registry::Provider),
    }
}

/// Our own list: a suffix a line, `#` comments.
const OWN: &str = include_str!("shared_suffixes.txt");

/// The suffixes of [`OWN`] and the names above them: a wildcard there spans them.
static OWN_SET: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let suffixes = OWN.lines().map(|line| line.split('#').next().unwrap_or(line).trim());
    let above =
        |suffix: &'static str| std::iter::successors(Some(suffix), |name| name.split_once('.').map(|(_, up)| up));
    suffixes.flat_map(above).filter(|name| name.contains('.')).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_strangers_are_known() {
        const CASES: &[(&str, Option<Registry>)] = &[
            ("com", Some(Registry::Icann)),
            ("co.uk", Some(Registry::Icann)),
            ("ck", Some(Registry::Icann)),
            ("kawasaki.jp", Some(Registry::Icann)),
            ("github.io", Some(Registry::Provider)),
            ("s3.amazonaws.com", Some(Registry::Provider)),
            ("amazonaws.com", Some(Registry::Provider)),
            ("run.app", Some(Registry::Provider)),
            ("storage.tigris.dev", None),
            ("blob.core.windows.net", Some(Registry::Provider)),
            ("example.com", None),
            ("www.ck", None),
            ("npmjs.org", None),
            ("test", None),
            ("internal", None),
            ("lan", None),
        ];
        for (name, expected) in CASES {
            assert_eq!(registry(&LowerName::from_text(name).unwrap()), *expected, "{name}");
        }
    }

    #[test]
    fn our_own_list_is_canonical() {
        for suffix in OWN_SET.iter() {
            assert_eq!(LowerName::from_text(suffix).unwrap().to_string(), *suffix);
        }
    }
}
