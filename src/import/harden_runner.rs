//! Reader of GitHub Actions workflows with harden-runner
//! (<https://docs.stepsecurity.io/harden-runner/filter-outbound-network-traffic-to-allowed-endpoints>):
//! `allowed-endpoints` is text with `host:port` separated by white space; `*.x` is everything below.

use super::collect::{Collector, Effect, Scope};
use super::{address, documents, words_with_lines, yaml};

/// Reads a workflow, with the endpoints of all its jobs together.
///
/// # Errors
/// Fails if the text is not YAML.
pub(super) fn read(text: &str, out: &mut Collector) -> Result<(), String> {
    let mut lists = 0;
    for document in documents(text, out)? {
        document.walk(&mut |_, key, value: &yaml::Item<'_>| match (key, value.text()) {
            ("allowed-endpoints", Some(endpoints)) => {
                lists += 1;
                if lists == 2 {
                    let what = "jobs have lists of their own: the names of all of them are put together";
                    out.remark(value.line, what, "allowed-endpoints");
                }
                for (number, endpoint) in words_with_lines(text, value.line, endpoints) {
                    address::take(number, Some(Effect::Allow), Scope::Exact, endpoint, out);
                }
            }
            ("egress-policy", Some("audit")) => {
                out.remark(value.line, "egress-policy is audit: nothing was blocked there", "egress-policy: audit");
            }
            _ => {}
        });
    }
    Ok(())
}
