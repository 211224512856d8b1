//! Reader of settings for Anthropic's sandbox-runtime (<https://github.com/anthropic-experimental/sandbox-runtime>) and
//! Claude Code (<https://code.claude.com/docs/en/settings>): JSON with `allowedDomains` and `deniedDomains`, at the top
//! level, in `network` or in `sandbox.network`. `x` is this name only, `*.x` is everything below; a port may follow; a
//! denial wins.

use super::collect::{Collector, Effect, Scope};
use super::{address, documents, yaml};

/// Reads one settings file.
///
/// # Errors
/// Fails if the text is not JSON.
pub(super) fn read(text: &str, out: &mut Collector) -> Result<(), String> {
    for document in documents(text, out)? {
        document.walk(&mut |_, key, value: &yaml::Item<'_>| {
            let effect = match key {
                "allowedDomains" => Effect::Allow,
                "deniedDomains" => Effect::Deny,
                "allow" | "deny" => {
                    let effect = if key == "allow" { Effect::Allow } else { Effect::Deny };
                    read_permissions(effect, value, out);
                    return;
                }
                _ => return,
            };
            for (number, domain) in value.texts() {
                address::take(number, Some(effect), Scope::Exact, domain, out);
            }
        });
    }
    Ok(())
}

/// Reads permissions of Claude Code, of which only `WebFetch(domain:x)` concern names.
fn read_permissions(effect: Effect, value: &yaml::Item<'_>, out: &mut Collector) {
    for (number, permission) in value.texts() {
        let domain = permission.strip_prefix("WebFetch(domain:").and_then(|rest| rest.strip_suffix(')'));
        match domain {
            Some(domain) => address::take(number, Some(effect), Scope::Exact, domain, out),
            None => out.leave_out(number, "permissions that are not about names", permission),
        }
    }
}
