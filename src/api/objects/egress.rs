//! What a network policy lets out: the fields of requests, and `egress` of views.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::api::objects::object_file::Fields;
use crate::api::request::error::Wrongs;
use crate::api::request::fields;
use crate::policy::matching::pattern::Pattern;
use crate::policy::{Budget, Mode, Policy, Protocol};

/// The flags, and whether the policy engine knows them; what it does not know is kept and shown.
pub(in crate::api) const FLAGS: [(&str, bool); 5] = [
    ("allow_all", true),
    ("allow_devbox_to_devbox", true),
    ("allow_agent_gateway", false),
    ("allow_mcp_gateway", false),
    ("allow_runloop_mirrors", false),
];

/// Takes `allowed_hostnames` out of a request; the same pattern twice is one.
pub(in crate::api) fn hostnames(given: &mut Fields, wrongs: &mut Wrongs) -> Option<Value> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for (index, value) in fields::array(given, "allowed_hostnames", wrongs)?.into_iter().enumerate() {
        match value.as_str().map(Pattern::parse) {
            None => wrongs.add(fields::not(&format!("allowed_hostnames[{index}]"), "a string", &value)),
            Some(Err(error)) => wrongs.add(format!("allowed_hostnames[{index}]: {error}: {}", error.help)),
            Some(Ok(pattern)) => {
                if seen.insert(pattern) {
                    names.push(value);
                }
            }
        }
    }
    Some(names.into())
}

/// Takes `allowed_cidrs` out of a request.
pub(in crate::api) fn cidrs(given: &mut Fields, wrongs: &mut Wrongs) -> Option<Value> {
    let values = fields::array(given, "allowed_cidrs", wrongs)?;
    let cidrs = values.into_iter().enumerate().filter_map(|(index, value)| {
        let at = format!("allowed_cidrs[{index}]");
        let Value::Object(mut given) = value else {
            wrongs.add(fields::not(&at, "an object", &value));
            return None;
        };
        given.retain(|_, value| !value.is_null());
        let cidr = cidr(&at, given.remove("cidr"), wrongs);
        let mut ports = Vec::new();
        match given.remove("ports") {
            None => {}
            Some(Value::Array(rules)) => {
                let rules = rules.into_iter().enumerate();
                ports
                    .extend(rules.filter_map(|(index, rule)| port_rule(&format!("{at}.ports[{index}]"), rule, wrongs)));
            }
            Some(other) => wrongs.add(fields::not(&format!("{at}.ports"), "an array", &other)),
        }
        unknown(&at, &given, wrongs);
        Some(if ports.is_empty() { json!({ "cidr": cidr? }) } else { json!({ "cidr": cidr?, "ports": ports }) })
    });
    Some(cidrs.collect())
}

/// Checks a prefix.
fn cidr(at: &str, value: Option<Value>, wrongs: &mut Wrongs) -> Option<Value> {
    let Some(value) = value else {
        wrongs.add(format!("{at}.cidr: it is missing: write a prefix, as `10.12.0.0/16`"));
        return None;
    };
    let Some(text) = value.as_str() else {
        wrongs.add(fields::not(&format!("{at}.cidr"), "a string", &value));
        return None;
    };
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => return Some(value),
        Ok(net) => {
            let net = net.trunc();
            wrongs.add(format!("{at}.cidr: `{text}` has bits behind its prefix length: write `{net}`"));
        }
        Err(_) => {
            let text = text.escape_debug();
            wrongs.add(format!("{at}.cidr: `{text}` is no prefix: write one as `10.12.0.0/16`"));
        }
    }
    None
}

/// Checks a rule about ports.
fn port_rule(at: &str, rule: Value, wrongs: &mut Wrongs) -> Option<Value> {
    let Value::Object(mut given) = rule else {
        wrongs.add(fields::not(at, "an object", &rule));
        return None;
    };
    given.retain(|_, value| !value.is_null());
    let mut port = |key: &str, wrongs: &mut Wrongs| {
        let value = given.remove(key)?;
        let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
        if port.is_none() {
            wrongs.add(format!("{at}.{key}: `{value}` is no port: write a number from 1 to 65535"));
        }
        Some(port)
    };
    let (first, last) = (port("port", wrongs), port("end_port", wrongs));
    let mut taken = Fields::new();
    match first {
        None => wrongs.add(format!("{at}.port: it is missing: write a number from 1 to 65535")),
        Some(first) => {
            taken.insert("port".to_owned(), json!(first));
        }
    }
    if let Some(last) = last {
        if let (Some(first), Some(last)) = (first.flatten(), last)
            && last < first
        {
            wrongs.add(format!("{at}.end_port: {last} is below `port` {first}: swap them"));
        }
        taken.insert("end_port".to_owned(), json!(last));
    }
    match given.remove("protocol") {
        None => {}
        Some(Value::String(protocol)) if matches!(&*protocol, "TCP" | "UDP") => {
            taken.insert("protocol".to_owned(), protocol.into());
        }
        Some(other) => wrongs.add(format!("{at}.protocol: {other} is none: write \"TCP\" or \"UDP\"")),
    }
    unknown(at, &given, wrongs);
    Some(taken.into())
}

/// Refuses fields of a rule that are not known: a rule that says more than is understood must not let out more.
fn unknown(at: &str, rest: &Fields, wrongs: &mut Wrongs) {
    for key in rest.keys() {
        wrongs.add(format!("{at}.{}: it is not known here: remove it", key.escape_debug()));
    }
}

/// Returns `egress` of a policy that the API made, from the tables of its file; where a person added includes or lists,
/// with what these add, up to [`MOST_SHOWN`] names.
pub(in crate::api) fn view(in_force: &Policy, policy: &Fields, kept: &Fields) -> Value {
    let flag = |key| {
        let table = if FLAGS.contains(&(key, true)) { policy } else { kept };
        table.get(key).and_then(Value::as_bool).unwrap_or_default()
    };
    let list = |key| match policy.get(key) {
        Some(Value::Array(values)) => values.clone(),
        _ => Vec::new(),
    };
    // People may write a prefix alone.
    let cidr = |value: Value| if value.is_string() { json!({ "cidr": value }) } else { value };
    let cidrs: Vec<Value> = list("allowed_cidrs").into_iter().map(cidr).collect();
    let mut names = list("allowed_hostnames");
    if is_extended(policy) {
        let own: HashSet<String> = names.iter().filter_map(canonical).collect();
        let all = in_force.allowed().iter().map(|rule| rule.to_string());
        names.extend(all.filter(|name| !own.contains(name)).take(MOST_SHOWN).map(Value::from));
    }
    json!({
        "allow_all": flag("allow_all"),
        "allow_devbox_to_devbox": flag("allow_devbox_to_devbox") || flag("allow_all"),
        "allow_agent_gateway": flag("allow_agent_gateway"),
        "allow_mcp_gateway": flag("allow_mcp_gateway"),
        "allow_runloop_mirrors": flag("allow_runloop_mirrors"),
        "allowed_hostnames": names,
        "allowed_cidrs": cidrs,
    })
}

/// Returns whether a policy has names from elsewhere besides those that its table lists.
pub(in crate::api) fn is_extended(policy: &Fields) -> bool {
    ["include", "allowed_hostnames_files"].iter().any(|key| policy.contains_key(*key))
}

/// Takes out of a list what a policy has from elsewhere and not in its own table, which holds `policy`.
pub(in crate::api) fn leave_out_included(names: &mut Vec<Value>, in_force: &Policy, policy: &Fields) {
    if !is_extended(policy) {
        return;
    }
    let own = policy.get("allowed_hostnames").and_then(Value::as_array).into_iter().flatten();
    let own: HashSet<String> = own.filter_map(canonical).collect();
    let wanted: HashSet<String> = names.iter().filter_map(canonical).filter(|name| !own.contains(name)).collect();
    let rules = in_force.allowed().iter().map(|rule| rule.to_string());
    let included: HashSet<String> = rules.filter(|rule| wanted.contains(rule)).collect();
    names.retain(|name| canonical(name).is_none_or(|name| !included.contains(&name)));
}

/// Returns the canonical form of an entry of a list.
fn canonical(name: &Value) -> Option<String> {
    Some(Pattern::parse(name.as_str()?).ok()?.to_string())
}

/// Returns what else of a policy is in force that Runloop's have not, by its key in files; nothing where it is not set.
pub(in crate::api) fn beyond(policy: &Policy) -> Fields {
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

/// Refuses what is enforced where a file says it and would be nothing but kept where a request does.
pub(in crate::api) fn of_files(given: &mut Fields, wrongs: &mut Wrongs) {
    for key in OF_FILES {
        if given.remove(key).is_some() {
            wrongs.add(format!("{key}: it cannot be set here: write it into the policy's file, api/ID.toml"));
        }
    }
}

/// Returns `egress` of a policy that a person wrote: what is in force, includes expanded, up to [`MOST_SHOWN`] names.
pub(in crate::api) fn written(policy: &Policy) -> Value {
    let names: Vec<String> = policy.allowed().iter().take(MOST_SHOWN).map(|rule| rule.to_string()).collect();
    let cidrs = policy.allowed_cidrs().iter().map(|allowed| {
        let ports = allowed.ports.iter().map(|rule| {
            let mut shown = Fields::new();
            shown.insert("port".to_owned(), rule.first.into());
            if rule.last != rule.first {
                shown.insert("end_port".to_owned(), rule.last.into());
            }
            let protocol = rule.protocol.map(|protocol| match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            });
            shown.extend(protocol.map(|protocol| ("protocol".to_owned(), protocol.into())));
            Value::Object(shown)
        });
        let ports: Vec<Value> = ports.collect();
        let cidr = allowed.prefix.to_string();
        if ports.is_empty() { json!({ "cidr": cidr }) } else { json!({ "cidr": cidr, "ports": ports }) }
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

/// Keys of policies in files that requests have not.
pub(in crate::api) const OF_FILES: [&str; 11] = [
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

/// Other words that people use for the fields of a policy, and the fields that are meant.
pub(in crate::api) const OTHER_WORDS: [(&str, &str); 8] = [
    ("allowed_hosts", "allowed_hostnames"),
    ("allowed_domains", "allowed_hostnames"),
    ("allowlist", "allowed_hostnames"),
    ("hostnames", "allowed_hostnames"),
    ("denied_hosts", "denied_hostnames"),
    ("denied_domains", "denied_hostnames"),
    ("blocked_hostnames", "denied_hostnames"),
    ("denylist", "denied_hostnames"),
];

/// How many names of a policy that a person wrote are shown: its lists may have millions.
const MOST_SHOWN: usize = 10_000;
