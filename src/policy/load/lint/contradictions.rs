//! What a policy allows and denies at once: denying wins, so the entry that allows is dead.

use std::collections::BTreeMap;
use std::path::Path;

use crate::dns::name::Suffixes;
use crate::document::{At, Code, Findings, Severity, Span, quoted};

use super::super::list::more;
use super::entries::MAX_COMPARED;
use crate::policy::matching::name_set::Kind;
use crate::policy::matching::rules::{Rule, Rules};
use crate::policy::snapshot::Policy;

/// Entries from list files and includes that are compared with what a policy denies: more than presets and lists of
/// hosts have. Of longer lists, only what the policy's own entries deny exactly is looked for, so that a change of one
/// entry costs no walk over a million others.
const MAX_FOREIGN: usize = 1 << 16;

/// The entries that allow from one place, and are denied from one other.
struct Dead<'p> {
    /// The first entry that allows.
    allowed: Rule<'p>,
    /// What denies it.
    denied: Rule<'p>,
    /// How many there are.
    count: usize,
}

/// The file of an entry and the policy by which it was included.
type Origin<'p> = (Option<&'p str>, &'p Path, bool);

/// Warns of entries that allow what is denied as well, naming both places: of those of the policy itself each, of those
/// from elsewhere once for each pair of places they are from.
pub(super) fn contradictions<'p>(policy: &'p Policy, findings: &mut Findings) {
    if policy.denied.is_empty() {
        return;
    }
    let mut dead: BTreeMap<(Origin<'p>, Origin<'p>, (u32, u32)), Dead<'p>> = BTreeMap::new();
    let mut add = |allowed: Rule<'p>, denied: Rule<'p>| {
        // One that both are included by is warned of by itself.
        if let (Some(one), Some(two)) = (allowed.via().next(), denied.via().next())
            && one == two
        {
            return;
        }
        // Each entry of one's own can be removed or accepted by itself; a list file is told of once.
        let own = match (is_own(&allowed), is_own(&denied)) {
            (true, true) => Some(allowed.position()),
            (_, true) => Some(denied.position()),
            (_, false) => None,
        };
        let key = (origin(&allowed), origin(&denied), own.map_or((0, 0), |(_, line, column)| (line, column)));
        dead.entry(key).or_insert(Dead { allowed, denied, count: 0 }).count += 1;
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

impl Dead<'_> {
    /// Warns at the policy's own entry, else where it names what denies.
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
            let (what, by) = (whose(allowed), whose(denied));
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
            if !allowed.is_of_list() && !denied.is_of_list() {
                return warning;
            }
            warning.unquoted(format!("an entry is allowed{what} and denied{by}: denying wins{more}"), Some(HELP))
        });
    }
}

/// Returns the most specific of the rules that match all that a pattern matches.
pub(super) fn wider_or_same<'r>(rules: &'r Rules, kind: Kind, wire: &[u8]) -> Option<Rule<'r>> {
    let labels = Suffixes::of(wire).count();
    Suffixes::of(wire).enumerate().find_map(|(above, suffix)| {
        let kind = if above == 0 { kind } else { Kind::Below };
        rules.find(kind, suffix, labels - above, &mut None)
    })
}

/// Returns the kind of a rule's pattern.
fn kind(rule: &Rule<'_>) -> Kind {
    if rule.is_wildcard() { Kind::Below } else { Kind::Exact }
}

/// Returns whether an entry is in the policy's own table.
fn is_own(rule: &Rule<'_>) -> bool {
    !rule.is_of_list() && rule.via().next().is_none()
}

/// Returns where an entry is from.
fn origin<'p>(rule: &Rule<'p>) -> Origin<'p> {
    (rule.via().next(), rule.position().0, rule.is_of_list())
}

/// Returns whose entry it is, in words that follow on what is done with it; nothing for the policy's own.
fn whose(rule: &Rule<'_>) -> String {
    match rule.via().next() {
        Some(id) => format!(" by {}", quoted(id)),
        None if rule.is_of_list() => " by a list file".to_owned(),
        None => String::new(),
    }
}

/// Returns where a policy names the list file or the include that an entry is from.
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

/// What is to be done about it.
const HELP: &str = "remove one of them";
