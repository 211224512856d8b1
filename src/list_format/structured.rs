//! Detection of structured formats (JSON, YAML, shell commands) by the keys of the whole file.

use super::Format;

/// Returns the formats that keys of the text identify, without repetition.
pub(super) fn formats(text: &str) -> Vec<Format> {
    let mut found = Vec::new();
    let mut add = |format| {
        if !found.contains(&format) {
            found.push(format);
        }
    };
    let start = text.trim_start();
    let is_json = start.starts_with('{') || start.starts_with('[') && !starts_with_section(start);
    let has = |word: &str| text.contains(word);
    if is_json {
        if has("\"allowedDomains\"") || has("\"deniedDomains\"") || has("\"WebFetch(domain:") {
            add(Format::SandboxRuntime);
        }
        if has("\"resources\"") && has("\"decision\"") || has("\"allowedHosts\"") || has("\"blockedHosts\"") {
            add(Format::Docker);
        }
        if has("\"toFQDNs\"") {
            add(Format::Cilium);
        }
        if has("\"network_policies\"") {
            add(Format::OpenShell);
        }
        return found;
    }
    let (mut in_network, mut in_rules, mut in_permissions) = (false, false, false);
    for line in text.lines() {
        let content = line.trim_start();
        let is_top = content.len() == line.len();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if is_top && !content.starts_with('-') {
            in_network = key_of(content) == Some("network");
            in_rules = key_of(content) == Some("rules");
            in_permissions = key_of(content) == Some("permissions");
            // The forms without a nested block: `network: defaults` and `network: { allowed: [...] }`.
            let value = content.strip_prefix("network:").map_or("", str::trim);
            if value == "defaults"
                || value.starts_with('{') && ["allowed:", "blocked:"].iter().any(|key| value.contains(key))
            {
                add(Format::GhAw);
            }
            if content.starts_with("COPILOT_AGENT_FIREWALL_ALLOW_LIST") {
                add(Format::Copilot);
            }
        }
        let item = content.strip_prefix("- ").unwrap_or(content).trim_start();
        match key_of(item) {
            Some("payload") if is_top => add(Format::Clash),
            Some("toFQDNs") => add(Format::Cilium),
            Some("kind")
                if content.contains("CiliumNetworkPolicy") || content.contains("CiliumClusterwideNetworkPolicy") =>
            {
                add(Format::Cilium);
            }
            Some("network_policies") if is_top => add(Format::OpenShell),
            Some("allowed-endpoints") => add(Format::HardenRunner),
            Some("allowed" | "blocked") if in_network && !is_top => add(Format::GhAw),
            Some("allowedDomains" | "deniedDomains") if in_network && !is_top => add(Format::Docker),
            // Kits of the second version nest `network` below `permissions`.
            Some("network") if in_permissions && !is_top => add(Format::Docker),
            Some("type") if content.contains("com.docker.sandbox/network-policy") => add(Format::Docker),
            _ => {}
        }
        let rule = item.trim_start_matches(['\'', '"']);
        if in_rules
            && content.starts_with('-')
            && ["DOMAIN", "IP-CIDR", "GEOIP", "GEOSITE", "RULE-SET", "MATCH"].iter().any(|kind| rule.starts_with(kind))
        {
            add(Format::Clash);
        }
        if ["policy allow network", "policy deny network", "sandbox network proxy"]
            .iter()
            .any(|command| content.contains(command))
        {
            add(Format::Docker);
        }
    }
    found
}

/// Returns the key of a line of YAML; `None` if the line has none.
pub(crate) fn key_of(content: &str) -> Option<&str> {
    let (key, rest) = content.split_once(':')?;
    let is_key =
        !key.is_empty() && key.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
    (is_key && (rest.is_empty() || rest.starts_with([' ', '\t']))).then_some(key)
}

/// Returns whether a text starts with a section in brackets, as lists of adblock rules and files of Surge do.
fn starts_with_section(start: &str) -> bool {
    let line = start.lines().next().unwrap_or_default().trim();
    line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|name| {
        !name.is_empty()
            && name.starts_with(|first: char| first.is_ascii_alphabetic())
            && !name.contains(['"', '{', ','])
    })
}
