//! Reader of rules for Clash and mihomo (<https://wiki.metacubex.one/en/config/rules/>, rule providers:
//! <https://wiki.metacubex.one/en/config/rule-providers/content/>) and for Surge
//! (<https://manual.nssurge.com/rules/domain.html>), whose text form other programs share.
//!
//! `DOMAIN,x` is this name only, `DOMAIN-SUFFIX,x` is `x` and everything below. In domain lists of Clash `+.x` is `x`
//! and everything below, `.x` is everything below, and `*` is one label; in those of Surge `.x` is `x` and everything
//! below.

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{lines, regex, without_comment, yaml};

/// The program whose rules are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// Clash, and its successor mihomo.
    Clash,
    /// Surge, and programs with its syntax.
    Surge,
}

/// Reads YAML of Clash (`payload`, `rules`), or rules or domains, one per line.
///
/// # Errors
/// Fails if the text looks like YAML and is malformed.
pub(super) fn read_clash(text: &str, out: &mut Collector) -> Result<(), String> {
    let is_yaml = lines(text).any(|(_, line)| {
        ["payload:", "rules:", "rule-providers:"].iter().any(|key| line.starts_with(key)) || line.starts_with("- ")
    });
    if !is_yaml {
        read_lines(text, Program::Clash, out);
        return Ok(());
    }
    for document in super::documents(text, out)? {
        for (number, rule) in document.texts() {
            read_rule(number, rule, Program::Clash, out);
        }
        document.walk(&mut |_, key, value: &yaml::Item<'_>| {
            if matches!(key, "payload" | "rules" | "prepend" | "append") {
                for (number, rule) in value.texts() {
                    read_rule(number, rule, Program::Clash, out);
                }
            }
        });
    }
    Ok(())
}

/// Reads rules and domains of Surge.
pub(super) fn read_surge(text: &str, out: &mut Collector) {
    read_lines(text, Program::Surge, out);
}

/// Reads rules or domains, one per line.
fn read_lines(text: &str, program: Program, out: &mut Collector) {
    let mut is_rules = true;
    for (number, line) in lines(text) {
        let content = without_comment(line);
        if content.starts_with('[') && content.ends_with(']') {
            is_rules = content.eq_ignore_ascii_case("[rule]");
        } else if is_rules && !content.is_empty() && !content.starts_with("//") && !content.starts_with(';') {
            let item = content.strip_prefix("- ").map_or(content, super::domains::unquoted);
            read_rule(number, item, program, out);
        }
    }
}

/// Reads a rule, or an entry of a domain list.
fn read_rule(number: u32, rule: &str, program: Program, out: &mut Collector) {
    let rule = rule.trim();
    let mut parts = rule.split(',').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let Some(value) = parts.next() else {
        read_domain(number, rule, program, out);
        return;
    };
    let effect = parts.next().filter(|policy| !is_parameter(policy)).map(|policy| {
        let denies = policy.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("reject"));
        if denies { Effect::Deny } else { Effect::Allow }
    });
    match &*kind.to_ascii_uppercase() {
        "DOMAIN" | "HOST" => out.take(number, effect, Scope::Exact, value),
        "DOMAIN-SUFFIX" | "HOST-SUFFIX" => out.take(number, effect, Scope::Both, value.trim_start_matches('.')),
        "DOMAIN-KEYWORD" | "HOST-KEYWORD" => out.leave_out(number, "keywords, which match within names", rule),
        "DOMAIN-REGEX" => regex::take(number, effect, value, out),
        "DOMAIN-WILDCARD" | "HOST-WILDCARD" => match value.strip_prefix("*.") {
            Some(base) if !base.contains(['*', '?', '[']) => out.take(number, effect, Scope::Below, base),
            None if !value.contains(['*', '?', '[']) => out.take(number, effect, Scope::Exact, value),
            _ => out.leave_out(number, "wildcards that are not the whole first label", rule),
        },
        "MATCH" | "FINAL" => out.leave_out(number, EVERYTHING, rule),
        "RULE-SET" | "DOMAIN-SET" | "GEOSITE" | "SUB-RULE" => {
            out.leave_out(number, "other lists that are referred to: import them as well", rule);
        }
        "AND" | "OR" | "NOT" => out.leave_out(number, "rules that combine others", rule),
        _ => out.leave_out(number, "rules about something else than names", rule),
    }
}

/// Returns whether the word after a rule's value is a parameter and not the rule's policy.
fn is_parameter(word: &str) -> bool {
    matches!(
        &*word.to_ascii_lowercase(),
        "" | "no-resolve" | "extended-matching" | "pre-matching" | "src" | "force-remote-dns"
    )
}

/// Reads an entry of a domain list.
fn read_domain(number: u32, entry: &str, program: Program, out: &mut Collector) {
    if matches!(entry, "*" | "+.*" | ".") {
        out.leave_out(number, EVERYTHING, entry);
    } else if let Some(base) = entry.strip_prefix("+.") {
        out.take(number, None, Scope::Both, base);
    } else if let Some(base) = entry.strip_prefix('.') {
        let scope = if program == Program::Clash { Scope::Below } else { Scope::Both };
        out.take(number, None, scope, base);
    } else if let Some(base) = entry.strip_prefix("*.").filter(|base| !base.contains('*')) {
        out.take(number, None, Scope::OneLabel, base);
    } else if entry.contains('*') {
        out.leave_out(number, "wildcards that are not the whole first label", entry);
    } else {
        out.take(number, None, Scope::Exact, entry);
    }
}
