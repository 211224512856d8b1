//! Text output for objects: one line for each, starting with the id.

use serde_json::Value;

use super::ObjectKind;
use crate::cli::output::Output;
use crate::document::escaped;

/// Writes a new object: only its id on standard output, and a summary on standard error.
pub(super) fn created(kind: ObjectKind, object: &Value, json: bool, output: &mut Output) {
    if json {
        return output.json(object);
    }
    output.line(text(&object["id"]));
    if kind != ObjectKind::Policy {
        output.error(format!("{}: {}", kind.as_str(), line(kind, object)));
    }
}

/// Writes one object with its details, one a line.
pub(super) fn one(kind: ObjectKind, object: &Value, json: bool, output: &mut Output) {
    if json {
        return output.json(object);
    }
    output.line(line(kind, object));
    if kind != ObjectKind::Policy {
        let metadata = object["metadata"].as_object().into_iter().flatten();
        for (key, value) in metadata.filter(|(key, _)| *key != ADDRESS) {
            output.line(format!("  metadata {}={}", escaped(key), text(value)));
        }
        return;
    }
    if let Some(description) = object["description"].as_str().filter(|text| !text.is_empty()) {
        output.line(format!("  description {}", escaped(description)));
    }
    let egress = &object["egress"];
    for name in egress["allowed_hostnames"].as_array().into_iter().flatten() {
        output.line(format!("  allow {}", text(name)));
    }
    for prefix in egress["allowed_cidrs"].as_array().into_iter().flatten() {
        output.line(format!("  cidr {} (not enforced by DNS)", cidr(prefix)));
    }
}

/// Formats a prefix with its ports.
pub(super) fn cidr(cidr: &Value) -> String {
    let ports = cidr["ports"].as_array().filter(|ports| !ports.is_empty());
    let ports = ports.map_or_else(String::new, |ports| ports.iter().map(port).collect());
    format!("{}{ports}", text(&cidr["cidr"]))
}

/// Writes objects, one a line.
pub(super) fn many(kind: ObjectKind, objects: &[Value], output: &mut Output) {
    for object in objects {
        output.line(line(kind, object));
    }
}

/// Writes that an object was deleted or shut down.
pub(super) fn deleted(kind: ObjectKind, id: &str, object: &Value, json: bool, output: &mut Output) {
    if json {
        return output.json(object);
    }
    output.line(format!("{} {}", escaped(id), if kind == ObjectKind::Devbox { "shut down" } else { "deleted" }));
}

/// Formats an object as one line.
pub(super) fn line(kind: ObjectKind, object: &Value) -> String {
    let mut words = vec![text(&object["id"])];
    let name = object["name"].as_str().filter(|name| !name.is_empty());
    words.extend(name.map(|name| format!("\"{}\"", escaped(name))));
    let mut tell = |word: &str, value: &Value| match value {
        Value::Null => {}
        value => words.push(format!("{word} {}", text(value))),
    };
    match kind {
        ObjectKind::Policy => {
            let egress = &object["egress"];
            let names = egress["allowed_hostnames"].as_array().map_or(0, Vec::len);
            words.push(match (egress["allow_all"].as_bool(), names) {
                (Some(true), _) => "allows everything".to_owned(),
                (_, 0) => "denies everything".to_owned(),
                (_, 1) => "allows 1 hostname".to_owned(),
                (_, names) => format!("allows {names} hostnames"),
            });
            if egress["allow_devbox_to_devbox"] == true {
                words.push("devbox to devbox".to_owned());
            }
        }
        ObjectKind::Blueprint => {
            let parameters = &object["parameters"];
            tell("status", &object["status"]);
            tell("build", &parameters["network_policy_id"]);
            tell("runtime", &parameters["launch_parameters"]["network_policy_id"]);
            tell("address", &object["metadata"][ADDRESS]);
        }
        ObjectKind::Devbox => {
            tell("status", &object["status"]);
            tell("address", &object["metadata"][ADDRESS]);
            tell("policy", &object["launch_parameters"]["network_policy_id"]);
            tell("blueprint", &object["blueprint_id"]);
            if let Some(why) = object["hostgate_policy"]["reason"].as_str() {
                let what = match object["hostgate_policy"]["id"].as_str() {
                    None => "denied everything".to_owned(),
                    Some("unrestricted") => "unrestricted".to_owned(),
                    Some(policy) => format!("policy {}", escaped(policy)),
                };
                words.push(format!("{what} ({})", escaped(why)));
            }
        }
    }
    words.join("  ")
}

/// Formats ports, as in ` tcp/443 8000-8080`.
fn port(rule: &Value) -> String {
    let protocol =
        rule["protocol"].as_str().map_or_else(String::new, |word| escaped(&word.to_lowercase()).into_owned() + "/");
    let last = rule["end_port"].as_u64().map_or_else(String::new, |last| format!("-{last}"));
    format!(" {protocol}{}{last}", text(&rule["port"]))
}

/// Formats a value without quotation marks.
fn text(value: &Value) -> String {
    escaped(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str()).into_owned()
}

/// The metadata key of an object's address.
const ADDRESS: &str = "hostgate.address";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn line_begins_with_the_id_and_summarises_the_object() {
        let egress =
            json!({ "allow_all": false, "allowed_hostnames": ["a.test", "b.test"], "allow_devbox_to_devbox": true });
        let cases = [
            (
                ObjectKind::Policy,
                json!({ "id": "npol_1", "name": "n", "egress": egress }),
                "npol_1  \"n\"  allows 2 hostnames  devbox to devbox",
            ),
            (
                ObjectKind::Policy,
                json!({ "id": "npol_1", "name": "n\u{1b}[2J\nx", "egress": { "allow_all": true } }),
                "npol_1  \"n\\u{1b}[2J\\nx\"  allows everything",
            ),
            (ObjectKind::Policy, json!({ "id": "npol_1", "egress": {} }), "npol_1  denies everything"),
            (
                ObjectKind::Blueprint,
                json!({
                    "id": "bpt_1", "name": "b", "status": "building", "metadata": { ADDRESS: "10.89.0.2" },
                    "parameters": { "network_policy_id": "npol_1", "launch_parameters": { "network_policy_id": "npol_2" } },
                }),
                "bpt_1  \"b\"  status building  build npol_1  runtime npol_2  address 10.89.0.2",
            ),
            (
                ObjectKind::Devbox,
                json!({
                    "id": "dbx_1", "name": null, "status": "running", "metadata": { ADDRESS: "10.88.0.2" },
                    "launch_parameters": { "network_policy_id": "npol_2" }, "blueprint_id": "bpt_1",
                }),
                "dbx_1  status running  address 10.88.0.2  policy npol_2  blueprint bpt_1",
            ),
        ];
        for (kind, object, expected) in cases {
            assert_eq!(line(kind, &object), expected);
        }
        assert_eq!(port(&json!({ "port": 1, "end_port": 9, "protocol": "TCP" })), " tcp/1-9");
        assert_eq!(port(&json!({ "port": 443 })), " 443");
    }
}
