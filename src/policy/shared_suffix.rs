//! Suffixes under which strangers can get names: the public suffix list and our own list of hosting and storage.
//! This module is the home of the crate `psl`.

use std::collections::HashSet;
use std::sync::LazyLock;

use psl::Type;

use crate::dns::name::{LowerName, MAX_NAME};

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
    registry_of_wire(base.as_wire())
}

/// Returns the same for a wire name; a list may have a million of them, so nothing is allocated.
pub(super) fn registry_of_wire(base: &[u8]) -> Option<Registry> {
    // A rule `*.x` of the list makes each name below `x` a public suffix, so strangers have names two labels below
    // `x`; the list does not call `x` itself one. So a name below is looked up, too.
    let mut text = [0; MAX_NAME + 1];
    let below = &mut text[..base.len()];
    below[0] = b'0';
    below[1..].copy_from_slice(&base[..base.len() - 1]);
    let mut at = 1;
    while at < below.len() {
        let length = usize::from(below[at]);
        below[at] = b'.';
        at += 1 + length;
    }
    let below = &*below;
    let name = below.get(2..).unwrap_or_default();
    // Where the suffix of the name below is shorter than the name, so is the name's own.
    let is_suffix = psl::suffix(below).is_some_and(|suffix| suffix.as_bytes().len() >= name.len());
    let typed = |text: &[u8]| {
        let suffix = psl::suffix(text)?;
        (suffix.as_bytes().len() >= name.len()).then(|| suffix.typ()).flatten()
    };
    match is_suffix.then(|| typed(name).or_else(|| typed(below))).flatten() {
        Some(Type::Icann) => Some(Registry::Icann),
        Some(Type::Private) => Some(Registry::Provider),
        None => OWN_SET.contains(name).then_some(Registry::Provider),
    }
}

/// Returns the registrable domain that `name` is at or below: the name one label below its public suffix, in wire format;
/// `name` itself where there is none.
pub(super) fn registrable(name: &LowerName) -> &[u8] {
    let wire = name.as_wire();
    let mut text = [0; MAX_NAME + 1];
    let text = &mut text[..wire.len()];
    text.copy_from_slice(wire);
    let mut at = 0;
    while let Some(length) = wire.get(at).filter(|length| **length > 0) {
        text[at] = b'.';
        at += 1 + usize::from(*length);
    }
    // A dot before each label, and the root's octet behind the last.
    let text = text.get(1..wire.len() - 1).unwrap_or_default();
    let domain = psl::domain(text).map_or(wire.len(), |domain| domain.as_bytes().len() + 2);
    &wire[wire.len().saturating_sub(domain)..]
}

/// Our own list: a suffix a line, `#` comments.
const OWN: &str = include_str!("shared_suffixes.txt");

/// The suffixes of [`OWN`] and the names above them: a wildcard there spans them.
static OWN_SET: LazyLock<HashSet<&'static [u8]>> = LazyLock::new(|| {
    let suffixes = OWN.lines().map(|line| line.split('#').next().unwrap_or(line).trim());
    let above =
        |suffix: &'static str| std::iter::successors(Some(suffix), |name| name.split_once('.').map(|(_, up)| up));
    suffixes.flat_map(above).filter(|name| name.contains('.')).map(str::as_bytes).collect()
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
            let suffix = std::str::from_utf8(suffix).unwrap();
            assert_eq!(LowerName::from_text(suffix).unwrap().to_string(), suffix);
        }
    }
}
