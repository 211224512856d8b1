//! Reader of filter rules for Adblock Plus (<https://help.adblockplus.org/hc/en-us/articles/360062733293>), as far as
//! `AdGuard` applies them and hosts lines to DNS (<https://adguard-dns.io/kb/general/dns-filtering-syntax/>).
//!
//! `||x^` is `x` and everything below; `@@` before a rule makes it an exception, which wins over other rules there.

use std::collections::HashSet;

use super::collect::{Collector, Effect, Scope};
use super::{hosts, lines, regex};
use crate::list_format::{is_address, is_cosmetic, is_name};

/// Reads filter rules, one per line.
pub(super) fn read(text: &str, out: &mut Collector) {
    let rules = || lines(text).filter(|(_, line)| is_rule(line));
    // A cancelling rule may come before or after the rule that it cancels, so these are collected first.
    let cancelled: HashSet<(&str, Vec<&str>)> =
        rules().filter_map(|(_, line)| without(options_of(line)?, CANCELS)).collect();
    for (number, line) in rules() {
        let is_cancelled = !cancelled.is_empty() && cancelled.contains(&sorted(options_of(line).unwrap_or((line, ""))));
        if is_cancelled {
            out.leave_out(number, "rules that another one cancels ($badfilter)", line);
        } else {
            read_rule(number, line, out);
        }
    }
}

/// Returns whether a line is neither blank nor a comment nor a header.
fn is_rule(line: &str) -> bool {
    let is_header = line.starts_with('[') && line.ends_with(']');
    let is_comment = line.starts_with('!') || line.starts_with('#') && !is_cosmetic(line);
    !line.is_empty() && !is_comment && !is_header
}

/// The option that cancels the rule which is otherwise equal.
const CANCELS: &str = "badfilter";

/// Splits a rule from its options, if it has any. A `$` may also be part of a regular expression.
fn options_of(line: &str) -> Option<(&str, &str)> {
    let from = if line.trim_start_matches("@@").starts_with('/') { line.rfind('/')? } else { 0 };
    line[from..].find('$').map(|at| (&line[..from + at], &line[from + at + 1..]))
}

/// Returns a rule with its options sorted, so that equal rules compare as equal.
fn sorted<'l>((rule, options): (&'l str, &'l str)) -> (&'l str, Vec<&'l str>) {
    let mut options: Vec<&str> = options.split(',').map(str::trim).filter(|option| !option.is_empty()).collect();
    options.sort_unstable();
    (rule, options)
}

/// Returns a sorted rule without an option; `None` if the rule does not have the option.
fn without<'l>(rule: (&'l str, &'l str), option: &str) -> Option<(&'l str, Vec<&'l str>)> {
    let (rule, mut options) = sorted(rule);
    let at = options.iter().position(|own| *own == option)?;
    options.remove(at);
    Some((rule, options))
}

/// Reads one filter rule.
fn read_rule(number: u32, line: &str, out: &mut Collector) {
    if is_cosmetic(line) {
        out.leave_out(number, "cosmetic rules, which hide parts of pages", line);
        return;
    }
    let first = line.split_ascii_whitespace().next().unwrap_or_default();
    if is_address(first) && first.len() < line.len() {
        hosts::read_line(number, Some(Effect::Deny), line.split('#').next().unwrap_or(line).trim(), out);
        return;
    }
    let (effect, rule) = match line.strip_prefix("@@") {
        Some(rule) => (Effect::Allow, rule),
        None => (Effect::Deny, line),
    };
    if rule.starts_with('/') && rule.len() > 1 && rule.trim_end_matches(|last| last != '/').len() > 1 {
        let end = rule.rfind('/').unwrap_or(rule.len());
        if end + 1 < rule.len() && !rule[end + 1..].starts_with('$') {
            out.leave_out(number, "rules about paths or parts of addresses, which DNS does not see", line);
        } else if let Some(why) = options_of(rule).and_then(|(_, options)| options.split(',').find_map(refused_option))
        {
            out.leave_out(number, why, line);
        } else {
            regex::take(number, Some(effect), &rule[..=end.min(rule.len() - 1)], out);
        }
        return;
    }
    let (pattern, options) = rule.split_once('$').unwrap_or((rule, ""));
    if let Some(why) = options.split(',').find_map(refused_option) {
        out.leave_out(number, why, line);
        return;
    }
    let (scope, name) = match pattern.strip_prefix("||") {
        Some(rest) => (Scope::Both, rest),
        None => (Scope::Exact, pattern.strip_prefix('|').unwrap_or(pattern)),
    };
    let (name, is_closed) = match name.strip_suffix("^|").or_else(|| name.strip_suffix('^')) {
        Some(name) => (name, true),
        None => (name.strip_suffix('|').unwrap_or(name), name.ends_with('|')),
    };
    let (scope, name) = match name.strip_prefix("*.") {
        Some(base) if scope == Scope::Both => (Scope::Below, base),
        _ => (scope, name),
    };
    if name.contains('/') {
        out.leave_out(number, "rules about paths or parts of addresses, which DNS does not see", line);
    } else if name.contains('*') {
        out.leave_out(number, "wildcards that are not the whole first label", line);
    } else if is_name(name) || is_address(name) {
        if !is_closed && pattern.starts_with("||") {
            out.remark(
                number,
                "rules without `^` at their end match names that begin so there; here the name and what is below",
                line,
            );
        }
        out.take(number, Some(effect), scope, name);
    } else {
        out.leave_out(number, "rules about paths or parts of addresses, which DNS does not see", line);
    }
}

/// Returns the reason to leave out rules with this option; `None` if the option has no effect on DNS.
fn refused_option(option: &str) -> Option<&'static str> {
    /// The options under which a rule still applies to the whole name.
    const FINE: &[&str] = &["", "important", "all", "document", "doc"];
    let key = option.trim().split('=').next().unwrap_or_default();
    if FINE.contains(&key) {
        None
    } else if key == CANCELS {
        Some("rules that cancel another one ($badfilter)")
    } else if matches!(key, "client" | "ctag" | "dnstype" | "dnsrewrite" | "denyallow") {
        Some("rules for some clients, record types or answers")
    } else {
        Some("rules for some kinds of requests or pages, which DNS does not see")
    }
}
