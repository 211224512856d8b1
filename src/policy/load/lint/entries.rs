//! Warnings about a policy's own entries and list files: entries that another entry covers, list files whose entries
//! are all in another one, and denied wildcards `*.x` without `x` itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dns::name::{DisplayWire, Suffixes};
use crate::document::{At, Code, Diagnostic, Findings, Placed, Severity, quoted};

use super::super::list::{ListFile, more};
use super::contradictions::{MAX_COMPARED, contradictions};
use crate::policy::matching::name_set::{Match, NameSet};
use crate::policy::matching::pattern_kind::PatternKind;
use crate::policy::matching::rules::Rules;
use crate::policy::matching::shared_suffix::{self, Registry};
use crate::policy::model::spec::{Covers, ListUse};
use crate::policy::snapshot::Policy;

/// Returns the warnings about a policy's own lists. `allowed_lists` and `denied_lists` are the list files that the
/// policy itself names.
pub(crate) fn policy(
    policy: &Policy,
    allowed_lists: &[Arc<ListFile>],
    denied_lists: &[Arc<ListFile>],
) -> Vec<Diagnostic> {
    let spec = &policy.spec;
    let mut findings = Findings::of(spec.source.accepts());
    for (own, lists) in [(&spec.allowed, allowed_lists), (&spec.denied, denied_lists)] {
        let sets: Vec<&NameSet> = std::iter::once(&**own).chain(lists.iter().map(|list| &*list.set)).collect();
        let most = MAX_COMPARED / sets.len();
        covered(policy, own.iter().take(most), &sets, &mut findings);
        if own.len() > most {
            findings.warn(Code::NotCompared, spec.id.span, || {
                let message =
                    format!("only the first {most} entries were compared with the {} list files", lists.len());
                spec.source.warning(spec.id.span, message).help("put what the list files hold into fewer files")
            });
        }
    }
    lists_in_lists(policy, (&spec.allowed_lists, allowed_lists), &mut findings);
    lists_in_lists(policy, (&spec.denied_lists, denied_lists), &mut findings);
    // A preset omits the `x` of `*.x` on purpose: the tools that the preset is for do not look it up.
    if !spec.is_preset() {
        spec.denied.iter().for_each(|entry| denied_without_its_name(policy, entry, &mut findings));
    }
    contradictions(policy, &mut findings);
    findings.into_diagnostics(spec.source.path())
}

/// Warns about entries that another entry covers. Entries that are covered by the same list file share a warning.
fn covered<'p>(
    policy: &Policy,
    entries: impl Iterator<Item = Match<'p>>,
    sets: &[&'p NameSet],
    findings: &mut Findings,
) {
    // By the index of a list: the first entry that it covers, the covering entry, and the number of covered entries.
    let mut by_lists: BTreeMap<usize, (Match<'p>, Match<'p>, usize)> = BTreeMap::new();
    for entry in entries {
        // A bypass, which leads clients to another way of resolving names, is allowed only by an exact entry, so a
        // wildcard above it does not make that entry superfluous.
        if entry.kind() == PatternKind::Exact && crate::policy::decide::is_bypass(entry.wire()) {
            continue;
        }
        let twin = (1..).zip(&sets[1..]).find_map(|(index, set)| {
            Some((index, set.find_match(entry.kind(), entry.wire(), set.hash(entry.wire()))?))
        });
        let wider = || (0..).zip(sets).find_map(|(index, set)| Some((index, set.wider(entry.wire())?)));
        match twin.or_else(wider) {
            None => {}
            Some((0, other)) => warn(
                policy,
                (Code::Covered, entry),
                findings,
                |it| it.help("remove it").related(other.place(), format!("`{other}` is here")),
                || format!("`{entry}` is covered by `{other}`"),
            ),
            Some((list, other)) => by_lists.entry(list).or_insert((entry, other, 0)).2 += 1,
        }
    }
    for (entry, other, count) in by_lists.into_values() {
        let more = more(count - 1);
        warn(
            policy,
            (Code::Covered, entry),
            findings,
            |diagnostic| {
                // Readers of the log and the status may not be allowed to read the list file.
                let message = format!("`{entry}` is covered by an entry of a list file{more}");
                let diagnostic = diagnostic.help("remove it").related(other.place(), format!("`{other}` is here"));
                diagnostic.unquoted(message, Some("remove it"))
            },
            || format!("`{entry}` is covered by `{other}`{more}"),
        );
    }
}

/// Warns about list files whose entries are all covered by another list file. Lists often overlap, so the comparison of
/// two lists ends at the first entry that is not covered.
fn lists_in_lists(policy: &Policy, (named, lists): (&[Placed<ListUse>], &[Arc<ListFile>]), findings: &mut Findings) {
    let mut left = MAX_COMPARED;
    for (index, list) in lists.iter().enumerate() {
        let adds_nothing = |(other_index, other): &(usize, &Arc<ListFile>)| {
            // Of two lists with the same contents, the second one is reported.
            let may_be = *other_index != index
                && (list.set.len() < other.set.len() || list.set.len() == other.set.len() && *other_index < index);
            may_be
                && list.set.iter().all(|entry| {
                    left = left.saturating_sub(1);
                    let (wire, hash) = (entry.wire(), other.set.hash(entry.wire()));
                    left > 0
                        && (other.set.find_match(entry.kind(), wire, hash).is_some() || other.set.wider(wire).is_some())
                })
        };
        let Some((_, other)) = lists.iter().enumerate().find(adds_nothing) else { continue };
        let Some(reference) = named.iter().find(|named| named.value == list.named) else { continue };
        findings.warn(Code::Covered, reference.span, || {
            let shown = |list: &ListFile| quoted(&list.named.path.to_string_lossy());
            let names = match list.named.covers {
                Covers::AsWritten => list.set.len(),
                // Each name is in the set twice, as `x` and as `*.x`.
                Covers::Subdomains => list.set.len() / 2,
            };
            let message =
                format!("list file {} adds nothing: all {names} entries are in {} too", shown(list), shown(other));
            policy.spec.source.warning(reference.span, message).help("remove one of them")
        });
    }
}

/// Warns about a denied `*.x` if `x` itself is not denied and may have been forgotten.
fn denied_without_its_name(policy: &Policy, entry: Match<'_>, findings: &mut Findings) {
    let wire = entry.wire();
    let labels = Suffixes::of(wire).count();
    // An exact allowed entry shows that the name was left out on purpose. No host has the name of a public suffix such
    // as `com`, so it does not have to be denied.
    if entry.kind() == PatternKind::Exact
        || matches_name(&policy.denied, wire)
        || policy.allowed.find(PatternKind::Exact, wire, labels, &mut None).is_some()
        || shared_suffix::registry_of_wire(wire) == Some(Registry::Icann)
    {
        return;
    }
    let name = DisplayWire(wire);
    warn(
        policy,
        (Code::WildcardAlone, entry),
        findings,
        |diagnostic| diagnostic.help(format!("add \"{name}\" if it is to be denied too")),
        || format!("`{entry}` does not deny `{name}` itself"),
    );
}

/// Returns whether one of the rules matches a name.
fn matches_name(rules: &Rules, wire: &[u8]) -> bool {
    super::contradictions::wider_or_same(rules, PatternKind::Exact, wire).is_some()
}

/// Adds a warning at an entry of the policy's own lists.
pub(super) fn warn(
    policy: &Policy,
    (code, entry): (Code, Match<'_>),
    findings: &mut Findings,
    add: impl FnOnce(Diagnostic) -> Diagnostic,
    message: impl FnOnce() -> String,
) {
    let (line, column) = entry.line_and_column();
    findings.warn(code, At::Line(line), || {
        add(policy.spec.source.diagnostic_at(Severity::Warning, line, column, message()))
    });
}
