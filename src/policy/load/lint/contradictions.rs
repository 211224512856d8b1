//! Warnings about names that a policy both allows and denies. Denying wins, so the entry that allows has no effect.

use std::collections::BTreeMap;
use std::path::Path;

use crate::dns::name::Suffixes;
use crate::document::{At, Code, Findings, Severity, Span, quoted};

use super::super::list::more;
use crate::policy::matching::pattern_kind::PatternKind;
use crate::policy::matching::rules::{Rule, Rules};
use crate::policy::snapshot::Policy;

/// The number of entries from list files and includes up to which all of them are compared with the denied patterns.
/// Presets and usual lists have fewer. Among more entries, only exact copies of the policy's own denied entries are
/// looked for, so that a changed entry does not take a walk over a million others.
const MAX_FOREIGN: usize = 1 << 16;

/// The most look-ups of a policy's entries in its lists, so that a load takes a bounded time: those of a million own
/// entries if there is one list file, or of fewer entries if there are more.
pub(super) const MAX_COMPARED: usize = 2 << 20;

/// The allowed entries without effect that one warning is about.
struct DeadEntry<'p> {
    /// The first allowed entry.
    allowed: Rule<'p>,
    /// The pattern that denies the first entry.
    denied: Rule<'p>,
    /// The number of allowed entries.
    count: usize,
}

/// The source of an entry: the policy it was included from, its file, and whether that is a list.
type EntrySource<'p> = (Option<&'p str>, &'p Path, bool);

/// Warns about entries that allow a denied name, with both places.
///
/// If the policy's own list denies the name, each of the policy's own allowed entries gets a warning, and each other
/// source of allowed entries gets one. Denied entries from list files and includes get one warning for each pair of
/// sources.
pub(super) fn contradictions<'p>(policy: &'p Policy, findings: &mut Findings) {
    if policy.denied.is_empty() {
        return;
    }
    let mut dead: BTreeMap<(EntrySource<'p>, EntrySource<'p>, (u32, u32)), DeadEntry<'p>> = BTreeMap::new();
    let mut add = |allowed: Rule<'p>, denied: Rule<'p>| {
        // If both come from the same included policy, that policy has the warning.
        if let (Some(one), Some(two)) = (allowed.via().next(), denied.via().next())
            && one == two
        {
            return;
        }
        // Each of the policy's own entries can be removed or accepted on its own; a list file is reported once.
        let own = match (is_own(&allowed), is_own(&denied)) {
            (true, true) => Some(allowed.position()),
            (_, true) => Some(denied.position()),
            (_, false) => None,
        };
        let key = (origin(&allowed), origin(&denied), own.map_or((0, 0), |(_, line, column)| (line, column)));
        dead.entry(key).or_insert(DeadEntry { allowed, denied, count: 0 }).count += 1;
    };
    let foreign = policy.allowed.len() - policy.spec.allowed.len();
    for allowed in policy.allowed.iter().take(MAX_COMPARED) {
        if !is_own(&allowed) && foreign > MAX_FOREIGN {
            break;
        }
        if let Some(denied) = wider_or_same(&policy.denied, kind(&allowed), allowed.wire()) {
            add(allowed, denied);
        }
    }
    if foreign > MAX_FOREIGN {
        // Only exact copies of the policy's own denied entries.
        for denied in policy.denied.iter().take_while(is_own) {
            let labels = Suffixes::of(denied.wire()).count();
            let allowed = policy.allowed.find(kind(&denied), denied.wire(), labels, &mut None);
            allowed.filter(|allowed| !is_own(allowed)).into_iter().for_each(|allowed| add(allowed, denied));
        }
    }
    for dead in dead.into_values() {
        dead.warn(policy, findings);
    }
}

impl DeadEntry<'_> {
    /// Reports the warning at the policy's own entry, or else where the policy names the source of the denied pattern.
    fn warn(&self, policy: &Policy, findings: &mut Findings) {
        let Self { allowed, denied, count } = self;
        let source = &policy.spec.source;
        let more = more(count - 1);
        let (at, place) = if is_own(allowed) {
            let (_, line, column) = allowed.position();
            (At::Line(line), Ok((line, column)))
        } else if is_own(denied) {
            let (_, line, column) = denied.position();
            (At::Line(line), Ok((line, column)))
        } else {
            let span = reference(policy, denied);
            (At::Offset(span.start), Err(span))
        };
        findings.warn(Code::AllowedAndDenied, at, || {
            let (what, by) = (source_words(allowed), source_words(denied));
            let message = if denied.to_string() == allowed.to_string() {
                format!("`{allowed}` is allowed{what} and denied{by}: denying wins{more}")
            } else {
                format!("`{allowed}`, which is allowed{what}, is denied by `{denied}`{by}{more}")
            };
            let warning = match place {
                Ok((line, column)) => source.diagnostic_at(Severity::Warning, line, column, message),
                Err(span) => source.warning(span, message),
            };
            let mut warning = warning.help(HELP);
            for (rule, word) in [(allowed, "allowed"), (denied, "denied")] {
                let is_here = place == Ok((rule.position().1, rule.position().2)) && is_own(rule);
                if !is_here {
                    warning = warning.related(rule.place(), format!("{word} here"));
                }
            }
            // Readers of the log and the status may not be allowed to read a list file.
            if !allowed.is_of_list() && !denied.is_of_list() {
                return warning;
            }
            warning.unquoted(format!("an entry is allowed{what} and denied{by}: denying wins{more}"), Some(HELP))
        });
    }
}

/// Returns the most specific rule that matches every name that a pattern matches.
pub(super) fn wider_or_same<'r>(rules: &'r Rules, kind: PatternKind, wire: &[u8]) -> Option<Rule<'r>> {
    let labels = Suffixes::of(wire).count();
    Suffixes::of(wire).enumerate().find_map(|(above, suffix)| {
        let kind = if above == 0 { kind } else { PatternKind::Below };
        rules.find(kind, suffix, labels - above, &mut None)
    })
}

/// Returns the kind of a rule's pattern.
fn kind(rule: &Rule<'_>) -> PatternKind {
    if rule.is_wildcard() { PatternKind::Below } else { PatternKind::Exact }
}

/// Returns whether an entry is in the policy's own table.
fn is_own(rule: &Rule<'_>) -> bool {
    !rule.is_of_list() && rule.via().next().is_none()
}

/// Returns the source of an entry.
fn origin<'p>(rule: &Rule<'p>) -> EntrySource<'p> {
    (rule.via().next(), rule.position().0, rule.is_of_list())
}

/// Returns the source of an entry as words after a verb ("denied by …"); empty for the policy's own entries.
fn source_words(rule: &Rule<'_>) -> String {
    match rule.via().next() {
        Some(id) => format!(" by {}", quoted(id)),
        None if rule.is_of_list() => " by a list file".to_owned(),
        None => String::new(),
    }
}

/// Returns the place where a policy names the list file or the include that an entry comes from.
fn reference(policy: &Policy, rule: &Rule<'_>) -> Span {
    let spec = &policy.spec;
    let found = if let Some(id) = rule.via().next() {
        spec.include.iter().find(|include| *include.value == *id).map(|include| include.span)
    } else {
        let mut lists = spec.denied_lists.iter().chain(&spec.allowed_lists);
        lists.find(|list| list.value.path == rule.position().0).map(|list| list.span)
    };
    found.unwrap_or(spec.id.span)
}

/// The help about an entry that is both allowed and denied.
const HELP: &str = "remove one of them";
