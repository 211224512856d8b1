//! The egress rules of a network policy: fields of requests, and `egress` of views.

use std::collections::HashSet;
use std::num::NonZeroU16;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::api::objects::object_file::Fields;
use crate::api::request::fields::RequestFields;
use crate::policy::matching::pattern::Pattern;
use crate::policy::{Budget, Mode, Policy, Protocol};

/// The names of a policy in a view at most: list files may have millions.
const MOST_SHOWN: usize = 10_000;

/// The flags, and whether the policy engine enforces each; the others are only kept and shown.
pub(in crate::api) const FLAGS: [(&str, bool); 5] = [
    ("allow_all", true),
    ("allow_devbox_to_devbox", true),
    ("allow_agent_gateway", false),
    ("allow_mcp_gateway", false),
    ("allow_runloop_mirrors", false),
];

/// The keys of policy files that requests cannot set.
pub(in crate::api) const FILE_KEYS: [&str; 11] = [
    "denied_hostnames",
    "mode",
    "include",
    "allowed_hostnames_files",
    "denied_hostnames_files",
    "query_types",
    "private_answers",
    "cname",
    "cache",
    "budget",
    "message",
];

/// Other words for the fields of a policy, and the field that is meant.
pub(in crate::api) const SYNONYMS: [(&str, &str); 8] = [
    ("allowed_hosts", "allowed_hostnames"),
    ("allowed_domains", "allowed_hostnames"),
    ("allowlist", "allowed_hostnames"),
    ("hostnames", "allowed_hostnames"),
    ("denied_hosts", "denied_hostnames"),
    ("denied_domains", "denied_hostnames"),
    ("blocked_hostnames", "denied_hostnames"),
    ("denylist", "denied_hostnames"),
];

/// A prefix that a policy allows. A rule with an unknown field is refused: it must not allow more than its author meant.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(in crate::api) struct CidrField {
    cidr: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_empty")]
    ports: Option<Vec<PortField>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct PortField {
    #[serde(deserialize_with = "port")]
    port: NonZeroU16,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_port")]
    end_port: Option<NonZeroU16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<PortProtocol>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum PortProtocol {
    Tcp,
    Udp,
}

/// Reads the ports of a prefix. An empty list means all ports, as none does.
fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<PortField>>, D::Error> {
    Ok(Option::<Vec<PortField>>::deserialize(deserializer)?.filter(|ports| !ports.is_empty()))
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroU16, D::Error> {
    optional_port(deserializer)?.ok_or_else(|| serde::de::Error::missing_field("port"))
}

fn optional_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    let Some(value) = Option::<Value>::deserialize(deserializer)? else { return Ok(None) };
    // Through u64, so that 70000 and -1 have the same message as 0.
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new);
    port.map(Some).ok_or_else(|| serde::de::Error::custom(format!("it must be a port (1 to 65535), not `{value}`")))
}

/// Checks hostnames and returns them without repetitions of a pattern.
pub(in crate::api) fn check_hostnames(names: Vec<String>, fields: &mut RequestFields) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut checked = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        match Pattern::parse(&name) {
            Err(error) => fields.error(format!("allowed_hostnames[{index}]: {error}: {}", error.help)),
            Ok(pattern) => {
                if seen.insert(pattern) {
                    checked.push(name);
                }
            }
        }
    }
    checked
}

/// Checks prefixes: in canonical form, as Runloop's API wants them, with ports in order.
pub(in crate::api) fn check_cidrs(cidrs: &[CidrField], fields: &mut RequestFields) {
    for (index, CidrField { cidr, ports }) in cidrs.iter().enumerate() {
        let at = format!("allowed_cidrs[{index}]");
        match cidr.parse::<IpNet>() {
            // Runloop wants IPv4 prefixes "in canonical form (host bits zero)"; IPv6 ones are accepted here, too.
            Ok(net) if net.trunc() == net => {}
            Ok(net) => {
                let net = net.trunc();
                fields.error(format!("{at}.cidr: `{cidr}` has bits behind its prefix length: write `{net}`"));
            }
            Err(_) => {
                let cidr = cidr.escape_debug();
                fields.error(format!("{at}.cidr: `{cidr}` is no prefix: write one as `10.12.0.0/16`"));
            }
        }
        for (index, rule) in ports.iter().flatten().enumerate() {
            if let (first, Some(last)) = (rule.port, rule.end_port)
                && last < first
            {
                fields.error(format!("{at}.ports[{index}].end_port: {last} is below `port` {first}: swap them"));
            }
        }
    }
}

/// Returns `egress` of a policy that the API created, from the tables of its file. If a person added includes or lists,
/// it shows their hostnames, too.
pub(in crate::api) fn view(in_force: &Policy, policy: &Fields, api: &Fields) -> Value {
    let flag = |key| {
        let table = if FLAGS.contains(&(key, true)) { policy } else { api };
        table.get(key).and_then(Value::as_bool).unwrap_or_default()
    };
    let list = |key| match policy.get(key) {
        Some(Value::Array(values)) => values.clone(),
        _ => Vec::new(),
    };
    // A person may write a prefix without a table.
    let cidr = |value: Value| if value.is_string() { json!({ "cidr": value }) } else { value };
    let cidrs: Vec<Value> = list("allowed_cidrs").into_iter().map(cidr).collect();
    let mut names = list("allowed_hostnames");
    if is_extended(policy) {
        let own: HashSet<String> = names.iter().filter_map(Value::as_str).filter_map(canonical).collect();
        let all = in_force.allowed().iter().map(|rule| rule.to_string());
        names.extend(all.filter(|name| !own.contains(name)).take(MOST_SHOWN).map(Value::from));
    }
    json!({
        "allow_all": flag("allow_all"),
        // Runloop: "If allow_all is true, this is automatically set to true."
        "allow_devbox_to_devbox": flag("allow_devbox_to_devbox") || flag("allow_all"),
        "allow_agent_gateway": flag("allow_agent_gateway"),
        "allow_mcp_gateway": flag("allow_mcp_gateway"),
        "allow_runloop_mirrors": flag("allow_runloop_mirrors"),
        "allowed_hostnames": names,
        "allowed_cidrs": cidrs,
    })
}

/// Returns `egress` of a policy that a person wrote: the rules in force, with those of includes.
pub(in crate::api) fn view_by_hand(policy: &Policy) -> Value {
    let names: Vec<String> = policy.allowed().iter().take(MOST_SHOWN).map(|rule| rule.to_string()).collect();
    let cidrs = policy.allowed_cidrs().iter().map(|allowed| {
        let ports = allowed.ports.iter().filter_map(|rule| {
            let protocol = rule.protocol.map(|protocol| match protocol {
                Protocol::Tcp => PortProtocol::Tcp,
                Protocol::Udp => PortProtocol::Udp,
            });
            let end_port = NonZeroU16::new(rule.last).filter(|_| rule.last != rule.first);
            Some(PortField { port: NonZeroU16::new(rule.first)?, end_port, protocol })
        });
        let ports = Some(ports.collect::<Vec<_>>()).filter(|ports| !ports.is_empty());
        CidrField { cidr: allowed.prefix.to_string(), ports }
    });
    json!({
        "allow_all": policy.allow_all(),
        "allow_devbox_to_devbox": policy.allows_devboxes(),
        "allow_agent_gateway": false,
        "allow_mcp_gateway": false,
        "allow_runloop_mirrors": false,
        "allowed_hostnames": names,
        "allowed_cidrs": cidrs.collect::<Vec<_>>(),
    })
}

/// Returns whether a policy has hostnames from includes or list files.
pub(in crate::api) fn is_extended(policy: &Fields) -> bool {
    ["include", "allowed_hostnames_files"].iter().any(|key| policy.contains_key(*key))
}

/// Removes the hostnames that a policy has from includes or list files, and not in its own table `policy`.
pub(in crate::api) fn leave_out_included(names: &mut Vec<String>, in_force: &Policy, policy: &Fields) {
    if !is_extended(policy) {
        return;
    }
    let own = policy.get("allowed_hostnames").and_then(Value::as_array).into_iter().flatten();
    let own: HashSet<String> = own.filter_map(Value::as_str).filter_map(canonical).collect();
    let sent: HashSet<String> =
        names.iter().filter_map(|name| canonical(name)).filter(|name| !own.contains(name)).collect();
    let rules = in_force.allowed().iter().map(|rule| rule.to_string());
    let included: HashSet<String> = rules.filter(|rule| sent.contains(rule)).collect();
    names.retain(|name| canonical(name).is_none_or(|name| !included.contains(&name)));
}

/// Returns the canonical form of a hostname pattern.
fn canonical(name: &str) -> Option<String> {
    Some(Pattern::parse(name).ok()?.to_string())
}

/// Returns the settings in force that Runloop's policies do not have, by their key in files, unless they are defaults.
pub(in crate::api) fn beyond_runloop(policy: &Policy) -> Fields {
    let mut beyond = Fields::new();
    let denied: Vec<Value> = policy.denied().iter().take(MOST_SHOWN).map(|rule| rule.to_string().into()).collect();
    let include: Vec<Value> = policy.include().map(Value::from).collect();
    for (key, list) in [("denied_hostnames", denied), ("include", include)] {
        if !list.is_empty() {
            beyond.insert(key.to_owned(), list.into());
        }
    }
    if policy.mode() == Mode::Audit {
        beyond.insert("mode".to_owned(), "audit".into());
    }
    let budget = match policy.budget() {
        None => Some("off".into()),
        Some(budget) if *budget != Budget::default() => Some(json!(budget)),
        Some(_) => None,
    };
    beyond.extend(budget.map(|budget| ("budget".to_owned(), budget)));
    beyond
}
