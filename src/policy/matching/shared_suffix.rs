//! Suffixes below which several owners have names: the public suffix list, and a list of our own.
//!
//! A wildcard on such a suffix allows names of strangers, so it is refused (registries) or warned about (providers).
//! The public suffix list often names a suffix at another level than the one at which customers get names, or does not
//! have it; `shared_suffixes.txt` has those of hosting and storage, each line with its reason. This module is the home
//! of the crate `psl`.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::LazyLock;

use psl::Type;

use crate::dns::name::{LowerName, MAX_LABELS, MAX_NAME, Suffixes};
use crate::document::Code;

use super::pattern_kind::PatternKind;

/// The kind of organisation that lets others have names below a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// A registry of domains: the public suffix list's ICANN section.
    Icann,
    /// A provider of hosting, storage or the like: the public suffix list's private section, or our own list.
    Provider,
}

/// The way a pattern matches something that several owners share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// A wildcard that matches names of several owners.
    Names,
    /// A single host on which each owner has a path.
    Host,
}

impl Shared {
    /// Returns the code of the warning about such a pattern.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::Names => Code::SharedSuffix,
            Self::Host => Code::SharedHost,
        }
    }

    /// Returns the message of the warning about such a pattern.
    pub(crate) fn message(self, pattern: impl Display, name: &LowerName) -> String {
        match self {
            Self::Names => {
                format!("`{pattern}` matches names that strangers can have: `{name}` is shared by many owners")
            }
            Self::Host => {
                format!("`{pattern}` holds what strangers put there: its owners differ by path, which DNS does not see")
            }
        }
    }

    /// Returns the same message without the pattern, for entries of list files, which logs and status do not quote.
    pub(crate) const fn unquoted(self) -> &'static str {
        match self {
            Self::Names => "the entry matches names that strangers can have",
            Self::Host => "the entry is a host that holds what strangers put there",
        }
    }

    /// Returns the help of the warning about such a pattern.
    pub(crate) const fn help(self) -> &'static str {
        match self {
            Self::Names => "name the hosts that are needed",
            Self::Host => "use a name of your own bucket or project, where there is one",
        }
    }
}

/// Returns how a pattern, given as its kind and wire name, matches something that several owners share; `None` if it
/// does not. Allocates nothing, as a list may have a million patterns.
pub(crate) fn of_wire(kind: PatternKind, wire: &[u8]) -> Option<Shared> {
    match kind {
        PatternKind::Exact => is_shared_host(wire).then_some(Shared::Host),
        PatternKind::Below => (registry_of_wire(wire) == Some(Registry::Provider)).then_some(Shared::Names),
    }
}

/// Returns whether a pattern may be warned about or refused. `false` spares the pattern all further checks of a load.
pub(crate) fn may_be_warned_about(kind: PatternKind, wire: &[u8]) -> bool {
    match kind {
        PatternKind::Exact => is_shared_host(wire),
        PatternKind::Below => registry_of_wire(wire).is_some(),
    }
}

/// Returns who lets others have names right below `base`, or at a level below that; `None` if nobody is known to.
#[must_use]
pub fn registry(base: &LowerName) -> Option<Registry> {
    registry_of_wire(base.as_wire())
}

/// Returns [`registry`] of a wire name.
pub(crate) fn registry_of_wire(base: &[u8]) -> Option<Registry> {
    // A rule `*.x` of the list makes each name below `x` a public suffix, so strangers have names two labels below
    // `x`; the list does not call `x` itself one. So a name below is looked up, too.
    let mut text = [0; MAX_NAME + 1];
    let below = &mut text[..base.len()];
    // Any label will do: `0` stands for an arbitrary name below `base`. Turning each length octet into a dot makes the
    // wire name the text that `psl` takes, without an allocation.
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
    // If the suffix of the name below is shorter than `name`, then so is the suffix of `name` itself.
    let suffix = psl::suffix(below);
    let is_suffix = suffix.is_some_and(|suffix| suffix.as_bytes().len() >= name.len());
    let typed = |text: &[u8]| {
        let suffix = psl::suffix(text)?;
        (suffix.as_bytes().len() >= name.len()).then(|| suffix.typ()).flatten()
    };
    let listed = is_suffix.then(|| typed(name).or_else(|| typed(below))).flatten();
    if listed == Some(Type::Icann) {
        return Some(Registry::Icann);
    }
    // A name below a suffix of the private section belongs to one owner.
    let is_owned = !is_suffix && suffix.and_then(|suffix| suffix.typ()) == Some(Type::Private);
    let is_provider = match look_up_in_own_list(base, is_owned) {
        OwnListAnswer::Shared => true,
        OwnListAnswer::OneOwner => false,
        OwnListAnswer::Unknown => listed == Some(Type::Private),
    };
    is_provider.then_some(Registry::Provider)
}

/// Returns the registrable domain that `name` is at or below, in wire format: the name one label below its public
/// suffix. Returns `name` itself if it has none.
pub(crate) fn registrable(name: &LowerName) -> &[u8] {
    let wire = name.as_wire();
    let mut text = [0; MAX_NAME + 1];
    let text = &mut text[..wire.len()];
    text.copy_from_slice(wire);
    let mut at = 0;
    while let Some(length) = wire.get(at).filter(|length| **length > 0) {
        text[at] = b'.';
        at += 1 + usize::from(*length);
    }
    // `text` has a dot before each label now, and the root's octet after the last label; neither is part of the name as
    // text.
    let text = text.get(1..wire.len() - 1).unwrap_or_default();
    let domain = psl::domain(text).map_or(wire.len(), |domain| domain.as_bytes().len() + 2);
    &wire[wire.len().saturating_sub(domain)..]
}

/// The answer of our own list about a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnListAnswer {
    /// The wildcard matches names of several owners.
    Shared,
    /// All names that the wildcard matches belong to one owner, whatever the public suffix list says.
    OneOwner,
    /// Our own list has no rule for the wildcard.
    Unknown,
}

/// Looks a wildcard on `base` up in our own list. `is_owned` tells that the public suffix list has `base` below a
/// suffix, so that it belongs to one owner.
fn look_up_in_own_list(base: &[u8], is_owned: bool) -> OwnListAnswer {
    let mut buffer = [&[][..]; MAX_LABELS];
    let (labels, rules) = candidates(base, &mut buffer);
    let (mut is_in_shared_tree, mut is_below_level) = (false, is_owned);
    for rule in rules {
        let common = rule.labels.len().min(labels.len());
        if !rule.labels[..common].iter().zip(labels).all(|(pattern, label)| matches(pattern, label)) {
            continue;
        }
        let is_above = labels.len() < rule.labels.len();
        match rule.kind {
            RuleKind::OneOwner if !is_above => return OwnListAnswer::OneOwner,
            RuleKind::Level if labels.len() == rule.labels.len() => return OwnListAnswer::Shared,
            // A rule about a name below `base`: the wildcard is above the level of the customers, and matches all of
            // them.
            RuleKind::Level | RuleKind::Host | RuleKind::Tree if is_above => return OwnListAnswer::Shared,
            RuleKind::Level => is_below_level = true,
            RuleKind::Tree => is_in_shared_tree = true,
            RuleKind::OneOwner | RuleKind::Host => {}
        }
    }
    if is_in_shared_tree && !is_below_level { OwnListAnswer::Shared } else { OwnListAnswer::Unknown }
}

/// Returns whether our own list has a host on which each owner has a path.
fn is_shared_host(wire: &[u8]) -> bool {
    let mut buffer = [&[][..]; MAX_LABELS];
    let (labels, rules) = candidates(wire, &mut buffer);
    rules.iter().any(|rule| {
        rule.kind == RuleKind::Host
            && rule.labels.len() == labels.len()
            && rule.labels.iter().zip(labels).all(|(pattern, label)| matches(pattern, label))
    })
}

/// Returns the labels of a name, the last one first, and the rules that end in its last two labels.
fn candidates<'b, 'n>(wire: &'n [u8], labels: &'b mut [&'n [u8]; MAX_LABELS]) -> (&'b [&'n [u8]], &'static [Rule]) {
    let (mut last, mut before) = (&[][..], &[][..]);
    for suffix in Suffixes::of(wire) {
        (before, last) = (last, suffix);
    }
    let Some(rules) = RULES.get(if before.is_empty() { last } else { before }) else { return (&[], &[]) };
    let mut count = 0;
    for (slot, suffix) in labels.iter_mut().zip(Suffixes::of(wire)) {
        *slot = &suffix[1..=usize::from(suffix[0])];
        count += 1;
    }
    labels[..count].reverse();
    (&labels[..count], rules)
}

/// Returns whether a label matches a label of a rule, in which one `*` stands for any octets.
fn matches(pattern: &str, label: &[u8]) -> bool {
    match pattern.split_once('*') {
        None => pattern.as_bytes() == label,
        Some((start, end)) => {
            label.len() >= start.len() + end.len()
                && label.starts_with(start.as_bytes())
                && label.ends_with(end.as_bytes())
        }
    }
}

/// A line of our own list.
#[derive(Debug)]
struct Rule {
    /// The labels of the name, the last one first.
    labels: Box<[&'static str]>,
    kind: RuleKind,
}

/// The statement of a line of our own list about its name `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleKind {
    /// `x`: each label right below `x` belongs to another owner.
    Level,
    /// `**.x`: names at every level below `x` belong to different owners, except below a name that has a level of its
    /// own.
    Tree,
    /// `=x`: the single host `x` serves all owners.
    Host,
    /// `!x`: everything at or below `x` belongs to one owner.
    OneOwner,
}

impl Rule {
    /// Parses a line; returns `None` if it holds only a comment.
    fn read(line: &'static str) -> Option<Self> {
        let text = line.split('#').next().unwrap_or(line).trim();
        let kinds = [("**.", RuleKind::Tree), ("=", RuleKind::Host), ("!", RuleKind::OneOwner)];
        let marked = kinds.into_iter().find_map(|(mark, kind)| Some((text.strip_prefix(mark)?, kind)));
        let (name, kind) = marked.unwrap_or((text, RuleKind::Level));
        (!name.is_empty()).then(|| Self { labels: name.rsplit('.').collect(), kind })
    }
}

/// The text of our own list.
const OWN_LIST: &str = include_str!("shared_suffixes.txt");

/// The rules of our own list by the last two labels of their names, in wire format. No rule is about a top-level
/// domain.
static RULES: LazyLock<HashMap<Box<[u8]>, Vec<Rule>>> = LazyLock::new(|| {
    let mut rules: HashMap<Box<[u8]>, Vec<Rule>> = HashMap::new();
    for rule in OWN_LIST.lines().filter_map(Rule::read) {
        let tail = rule.labels.iter().take(2).rev();
        let wire = tail.flat_map(|label| [&[u8::try_from(label.len()).unwrap_or(0)], label.as_bytes()].concat());
        rules.entry(wire.chain([0]).collect()).or_default().push(rule);
    }
    rules
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::matching::pattern::Pattern;

    #[test]
    fn registries_and_providers_are_recognised() {
        const CASES: &[(&str, Option<Registry>)] = &[
            ("com", Some(Registry::Icann)),
            ("co.uk", Some(Registry::Icann)),
            ("ck", Some(Registry::Icann)),
            ("kawasaki.jp", Some(Registry::Icann)),
            ("github.io", Some(Registry::Provider)),
            ("iot.eu-west-1.amazonaws.com", Some(Registry::Provider)),
            ("prod-07.westeurope.logic.azure.com", None),
            ("westeurope.logic.azure.com", Some(Registry::Provider)),
            ("logic.azure.com", Some(Registry::Provider)),
            ("stackblitz.io", Some(Registry::Provider)),
            ("substack.com", Some(Registry::Provider)),
            ("s3.amazonaws.com", Some(Registry::Provider)),
            ("amazonaws.com", Some(Registry::Provider)),
            ("run.app", Some(Registry::Provider)),
            ("storage.tigris.dev", Some(Registry::Provider)),
            ("blob.core.windows.net", Some(Registry::Provider)),
            ("example.com", None),
            ("www.ck", None),
            ("npmjs.org", None),
            ("test", None),
            ("internal", None),
            ("lan", None),
            ("in-addr.arpa", Some(Registry::Icann)),
        ];
        for (name, expected) in CASES {
            assert_eq!(registry(&LowerName::from_text(name).unwrap()), *expected, "{name}");
        }
    }

    #[test]
    fn wildcards_are_shared_at_and_above_the_level_of_customers_not_below() {
        const CASES: &[(&str, bool)] = &[
            ("github.dev", true),
            ("app.github.dev", true),
            ("name-8080.app.github.dev", false),
            ("vercel-storage.com", true),
            ("blob.vercel-storage.com", true),
            ("public.blob.vercel-storage.com", true),
            ("store.public.blob.vercel-storage.com", false),
            ("proxy.runpod.net", true),
            ("ingest.sentry.io", true),
            ("ingest.us.sentry.io", true),
            ("o1.ingest.us.sentry.io", false),
            ("pkgs.visualstudio.com", true),
            ("database.windows.net", true),
            ("server.database.windows.net", false),
            ("openai.azure.com", true),
            ("azure.com", true),
            ("portal.azure.com", false),
            ("scm.azurewebsites.net", true),
            ("fsn1.your-objectstorage.com", true),
            ("google.com", false),
            ("microsoft.com", false),
            ("dkr.ecr.us-east-1.amazonaws.com", true),
            ("ecr.us-east-1.amazonaws.com", true),
            ("us-east-1.amazonaws.com", true),
            ("1.dkr.ecr.us-east-1.amazonaws.com", false),
            ("bucket.s3.amazonaws.com", false),
            ("some-service.eu-west-1.amazonaws.com", true),
            ("z13.web.core.windows.net", true),
            ("a.run.app", true),
            ("us-central1.run.app", true),
            ("googleapis.com", true),
            ("s3.us-west-004.backblazeb2.com", true),
            ("bucket.s3.us-west-004.backblazeb2.com", false),
            ("fra1.digitaloceanspaces.com", true),
            ("account.r2.cloudflarestorage.com", false),
            // One owner's, whatever the public suffix list says.
            ("githubusercontent.com", false),
            ("raw.githubusercontent.com", false),
        ];
        for (name, expected) in CASES {
            let pattern = Pattern::Below(LowerName::from_text(name).unwrap());
            assert_eq!(pattern.shared(), expected.then_some(Shared::Names), "{pattern}");
        }
    }

    #[test]
    fn hosts_whose_owners_differ_by_path_are_shared() {
        const CASES: &[(&str, bool)] = &[
            ("storage.googleapis.com", true),
            ("firebasestorage.googleapis.com", true),
            ("bucket.storage.googleapis.com", false),
            ("s3.amazonaws.com", true),
            ("s3.eu-central-1.amazonaws.com", true),
            ("s3-us-west-2.amazonaws.com", true),
            ("s3.dualstack.us-east-1.amazonaws.com", true),
            ("bucket.s3.eu-central-1.amazonaws.com", false),
            ("f004.backblazeb2.com", true),
            ("fra1.digitaloceanspaces.com", true),
            ("bucket.fra1.digitaloceanspaces.com", false),
            ("objectstorage.us-ashburn-1.oraclecloud.com", true),
            ("pastebin.com", true),
            ("transfer.sh", true),
            ("bore.pub", true),
            ("githubusercontent.com", false),
            ("github.com", false),
            ("com", false),
        ];
        for (name, expected) in CASES {
            let pattern = Pattern::Exact(LowerName::from_text(name).unwrap());
            assert_eq!(pattern.shared(), expected.then_some(Shared::Host), "{pattern}");
        }
    }

    #[test]
    fn our_own_list_is_canonical_and_each_line_has_its_reason() {
        let mut seen = std::collections::HashSet::new();
        for line in OWN_LIST.lines().filter(|line| !line.starts_with('#')) {
            let (rule, reason) = line.split_once('#').unwrap_or_else(|| panic!("no reason: {line}"));
            assert!(!reason.trim().is_empty() && seen.insert(rule.trim()), "{line}");
            let labels = Rule::read(line).unwrap_or_else(|| panic!("no rule: {line}")).labels;
            assert!(labels.len() > 1 && !labels[..2].iter().any(|label| label.contains('*')), "{line}");
            let name = labels.iter().rev().copied().collect::<Vec<_>>().join(".").replace('*', "x");
            assert_eq!(LowerName::from_text(&name).unwrap().to_string(), name);
        }
    }
}
