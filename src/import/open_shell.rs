//! Reader of sandbox policies for NVIDIA `OpenShell`
//! (<https://docs.nvidia.com/openshell/how-it-works/policies/schema>): the `host` of each of
//! `network_policies.*.endpoints`. `x` is this name only, `*.x` one label below, `**.x` every depth.

use super::collect::{Collector, Effect};
use super::{docker, documents, yaml};

/// Reads one policy file.
///
/// # Errors
/// Fails if the text is not YAML.
pub(super) fn read(text: &str, out: &mut Collector) -> Result<(), String> {
    for document in documents(text, out)? {
        let Some(policies) = document.get("network_policies") else { continue };
        for (name, policy) in policies.pairs() {
            for endpoint in policy.get("endpoints").map_or(&[][..], yaml::Item::elements) {
                read_endpoint(name, policy, endpoint, out);
            }
        }
    }
    Ok(())
}

/// Reads one endpoint of a policy.
fn read_endpoint(name: &str, policy: &yaml::Item<'_>, endpoint: &yaml::Item<'_>, out: &mut Collector) {
    let Some(host) = endpoint.get("host") else {
        out.leave_out(endpoint.line, "endpoints that are addresses", name);
        return;
    };
    let text = host.text().unwrap_or_default();
    if policy.get("binaries").is_some() {
        out.remark(host.line, "programs are not seen by DNS: names are meant for all of them here", text);
    }
    if ["access", "rules", "deny_rules"].iter().any(|key| endpoint.get(key).is_some()) {
        out.remark(host.line, "methods and paths are not seen by DNS: the whole host is meant here", text);
    }
    docker::take(host.line, Effect::Allow, text, out);
}
