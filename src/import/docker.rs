//! Reader of network rules for Docker's sandboxes: the commands `sbx policy allow|deny network`
//! (<https://docs.docker.com/reference/cli/sbx/policy/>) and `docker sandbox network proxy`
//! (<https://docs.docker.com/reference/cli/docker/sandbox/network/proxy/>), the rules of the governance API (JSON:
//! <https://docs.docker.com/reference/api/ai-governance/>), kits (YAML:
//! <https://docs.docker.com/ai/sandboxes/author-kits/>), or one pattern per line. `x` is this name only, `*.x` one
//! label below, `**.x` every depth (<https://docs.docker.com/ai/sandboxes/governance/concepts/>); a port may follow; a
//! denial wins.

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{address, documents, lines, without_comment, yaml};
use crate::list_format::key_of;

/// Reads commands, rules, a kit or patterns.
///
/// # Errors
/// Fails if the text looks like JSON or YAML and is malformed.
pub(super) fn read(text: &str, out: &mut Collector) -> Result<(), String> {
    let is_commands = text.contains(" network ") && (text.contains("sbx ") || text.contains("docker sandbox"));
    // Once a text has keys it is only read as a tree: words below an unknown key are not patterns.
    let is_tree = text.trim_start().starts_with(['{', '[']) || lines(text).any(|(_, line)| key_of(line).is_some());
    if is_commands {
        read_commands(text, out);
    } else if is_tree {
        for document in documents(text, out)? {
            read_tree(&document, out);
        }
    } else {
        for (number, line) in lines(text) {
            let words = without_comment(line).split([',', ' ', '\t']).map(super::domains::unquoted);
            words.filter(|word| !word.is_empty()).for_each(|word| take_as(number, None, word, out));
        }
    }
    Ok(())
}

/// Adds a pattern that allows or denies.
pub(super) fn take(number: u32, effect: Effect, pattern: &str, out: &mut Collector) {
    take_as(number, Some(effect), pattern, out);
}

/// Adds a pattern, whose effect may be unknown.
fn take_as(number: u32, effect: Option<Effect>, pattern: &str, out: &mut Collector) {
    let (host, port) = match pattern.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit() || octet == b'*') => {
            (host, Some(port))
        }
        _ => (pattern, None),
    };
    let base = host.strip_prefix("**.").or_else(|| host.strip_prefix("*.")).unwrap_or(host);
    if matches!(host, "*" | "**") {
        out.leave_out(number, EVERYTHING, pattern);
        return;
    }
    if base.contains('*') {
        out.leave_out(number, "wildcards that are not the whole first label", pattern);
        return;
    }
    if port.is_some() && effect == Some(Effect::Deny) {
        out.leave_out(number, "ports that are denied on a host: DNS could deny only the whole host", pattern);
        return;
    }
    if port.is_some() {
        out.remark(number, "ports are not seen by DNS: every port is meant here", pattern);
    }
    let scope = if host.starts_with("**.") {
        Scope::Below
    } else if host.starts_with("*.") {
        Scope::OneLabel
    } else {
        Scope::Exact
    };
    out.take(number, effect, scope, base);
}

/// Reads rules in JSON and YAML.
fn read_tree(document: &yaml::Item<'_>, out: &mut Collector) {
    if let Some(resources) = document.get("resources") {
        read_rule(document, resources, out);
    }
    for element in document.elements() {
        read_tree(element, out);
    }
    for (key, value) in document.pairs() {
        match &**key {
            "resources" => {}
            // Keys of kits of the second version, and of the proxy's own file.
            "allowedDomains" | "allowedHosts" | "allow" => read_list(Effect::Allow, value, out),
            "deniedDomains" | "blockedHosts" | "blockedDomains" | "deny" => read_list(Effect::Deny, value, out),
            _ => read_tree(value, out),
        }
    }
}

/// Reads a list of patterns with one effect.
fn read_list(effect: Effect, value: &yaml::Item<'_>, out: &mut Collector) {
    value.texts().for_each(|(number, pattern)| take(number, effect, pattern, out));
}

/// Reads a rule of the governance API.
fn read_rule(rule: &yaml::Item<'_>, resources: &yaml::Item<'_>, out: &mut Collector) {
    let decision = rule.get("decision").and_then(yaml::Item::text).unwrap_or_default();
    let is_network = rule.get("actions").is_none_or(|actions| {
        actions.texts().any(|(_, action)| action.starts_with("connect") || action.starts_with("network"))
    });
    let effect = match decision {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        _ => {
            out.leave_out(rule.line, "rules that neither allow nor deny", decision);
            return;
        }
    };
    if is_network {
        read_list(effect, resources, out);
    } else {
        out.leave_out(rule.line, "rules about files", decision);
    }
}

/// Reads shell commands. A backslash at the end of a line continues the command.
fn read_commands(text: &str, out: &mut Collector) {
    let (mut first, mut command) = (0, String::new());
    for (number, line) in lines(text) {
        if command.is_empty() {
            first = number;
        }
        let content = without_comment(line);
        let goes_on = content.strip_suffix('\\');
        command.push_str(goes_on.unwrap_or(content));
        if goes_on.is_some() {
            command.push(' ');
        } else {
            read_command(first, &command, out);
            command.clear();
        }
    }
    read_command(first, &command, out);
}

/// Reads one shell command.
fn read_command(number: u32, command: &str, out: &mut Collector) {
    let mut words = command.split_ascii_whitespace().map(super::domains::unquoted).peekable();
    if let Some(at) = command.find("policy allow network").or_else(|| command.find("policy deny network")) {
        let effect = if command[at..].starts_with("policy allow") { Effect::Allow } else { Effect::Deny };
        let is_partial = ["--method", "--path"].iter().any(|option| command.contains(option));
        if is_partial && effect == Effect::Deny {
            out.leave_out(
                number,
                "rules for some methods or paths: DNS could deny only the whole host",
                command.trim(),
            );
            return;
        }
        if is_partial {
            out.remark(number, "methods and paths are not seen by DNS: the whole host is meant here", command.trim());
        }
        let mut words = command[at..].split_ascii_whitespace().map(super::domains::unquoted).skip(3);
        while let Some(word) = words.next() {
            if word.starts_with("--") {
                if !word.contains('=') {
                    words.next();
                }
                continue;
            }
            for pattern in word.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()) {
                take(number, effect, pattern, out);
            }
        }
    } else if command.contains("sandbox network proxy") {
        while let Some(word) = words.next() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (word, None),
            };
            let effect = match option {
                "--allow-host" | "--bypass-host" => Effect::Allow,
                "--block-host" => Effect::Deny,
                "--allow-cidr" | "--block-cidr" | "--bypass-cidr" => {
                    let value = value.or_else(|| words.next()).unwrap_or_default();
                    out.leave_out(
                        number,
                        "addresses and prefixes: hostgate decides by name (`allowed_cidrs` takes them)",
                        value,
                    );
                    continue;
                }
                "--policy" => {
                    let value = value.or_else(|| words.next()).unwrap_or_default();
                    if value == "allow" {
                        out.leave_out(number, EVERYTHING, "--policy allow");
                    }
                    continue;
                }
                _ => continue,
            };
            let Some(pattern) = value.or_else(|| words.next()) else { continue };
            // A wildcard of `docker sandbox` covers every depth, unlike in rules of `sbx`.
            let pattern = super::domains::unquoted(pattern);
            if pattern.starts_with("*.") && !(effect == Effect::Deny && pattern.contains(':')) {
                address::take(number, Some(effect), Scope::Exact, pattern, out);
            } else {
                take(number, effect, pattern, out);
            }
        }
    }
}
