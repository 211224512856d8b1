//! Reader of network permissions in GitHub Agentic Workflows (<https://github.github.com/gh-aw/reference/network/>):
//! `network.allowed` and `network.blocked` in the front matter of a Markdown file, or in YAML. `x` is `x` and
//! everything below, `*.x` is everything below; words without a dot are groups of names that gh-aw defines; a block
//! wins.

use super::collect::{Collector, Effect, Scope};
use super::{address, documents};

/// Reads one workflow.
///
/// # Errors
/// Fails if the front matter is not YAML.
pub(super) fn read(text: &str, out: &mut Collector) -> Result<(), String> {
    for document in documents(front_matter(text), out)? {
        let Some(network) = document.get("network") else { continue };
        if let Some(group) = network.text() {
            read_entry(network.line, Effect::Allow, group, out);
        }
        for (key, value) in network.pairs() {
            match &**key {
                "allowed" => value.texts().for_each(|(line, entry)| read_entry(line, Effect::Allow, entry, out)),
                "blocked" => value.texts().for_each(|(line, entry)| read_entry(line, Effect::Deny, entry, out)),
                "hosted-web" => {
                    out.leave_out(
                        value.line,
                        "lists of web tools that the provider hosts: their requests are not made here",
                        key,
                    );
                }
                "firewall" if value.get("allow-urls").is_some() => {
                    out.leave_out(value.line, "lists of URLs with paths, which DNS does not see", "allow-urls");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Reads an entry: a name, or the name of a group.
fn read_entry(number: u32, effect: Effect, entry: &str, out: &mut Collector) {
    if entry.contains(['.', ':', '*']) {
        address::take(number, Some(effect), Scope::Both, entry, out);
    } else {
        out.leave_out(
            number,
            "groups of names that only gh-aw knows: a preset may have them (`include = [\"preset:npm\"]`)",
            entry,
        );
    }
}

/// Returns the front matter of a Markdown file with the line before it, or the whole text if it has none.
fn front_matter(text: &str) -> &str {
    let is_fence = |line: &str| line.trim_end() == "---";
    let mut lines = text.split_inclusive('\n');
    if !lines.next().is_some_and(is_fence) {
        return text;
    }
    let mut length = text.split_inclusive('\n').next().map_or(0, str::len);
    for line in lines {
        if is_fence(line) {
            return &text[..length];
        }
        length += line.len();
    }
    text
}
