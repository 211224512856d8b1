//! Reader of Cilium network policies (<https://docs.cilium.io/en/stable/security/policy/layer3/#dns-based>): `toFQDNs`
//! and the rules of `dns`, with `matchName` for this name only and `matchPattern`, where `*` stands for characters
//! within one label, a first `**` for labels, and `*` alone for everything.

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::{documents, yaml};

/// Reads network policies.
///
/// # Errors
/// Fails if the text is not YAML.
pub(super) fn read(text: &str, out: &mut Collector) -> Result<(), String> {
    let mut policies = 0;
    for document in documents(text, out)? {
        policies += u32::from(document.get("kind").is_some());
        if policies == 2 {
            out.remark(document.line, "policies for different pods: the names of all of them are put together", "kind");
        }
        document.walk(&mut |within, key, value: &yaml::Item<'_>| {
            if !matches!(key, "toFQDNs" | "dns") {
                return;
            }
            let is_denied = within.contains(&"egressDeny");
            let effect = if is_denied { Effect::Deny } else { Effect::Allow };
            for selector in value.elements() {
                for (kind, name) in selector.pairs() {
                    if let Some(name) = name.text() {
                        read_selector((selector.line, effect), kind, name, out);
                    }
                }
            }
        });
    }
    Ok(())
}

/// Reads one selector of a policy.
fn read_selector((number, effect): (u32, Effect), kind: &str, name: &str, out: &mut Collector) {
    let effect = Some(effect);
    match kind {
        "matchName" => out.take(number, effect, Scope::Exact, name),
        "matchPattern" => match (name.strip_prefix("**."), name.strip_prefix("*.")) {
            _ if matches!(name, "*" | "**") => out.leave_out(number, EVERYTHING, name),
            (Some(base), _) if !base.contains('*') => out.take(number, effect, Scope::Below, base),
            (_, Some(base)) if !base.contains('*') => out.take(number, effect, Scope::OneLabel, base),
            _ if !name.contains('*') => out.take(number, effect, Scope::Exact, name),
            _ => out.leave_out(number, "wildcards that are not the whole first label", name),
        },
        _ => out.leave_out(number, "selectors of an unknown kind", kind),
    }
}
