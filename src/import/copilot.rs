//! Reader of the allow list for the firewall of GitHub Copilot's agent
//! (<https://docs.github.com/en/copilot/how-tos/use-copilot-agents/coding-agent/customize-the-agent-firewall>):
//! domains, which cover themselves and all names below, and URLs, which stand for their host and path. Entries are
//! separated by commas or lines, as in the variable `COPILOT_AGENT_FIREWALL_ALLOW_LIST_ADDITIONS`, or form the lists of
//! GitHub's documentation (Markdown, names in backticks:
//! <https://docs.github.com/en/copilot/reference/copilot-allowlist-reference>).

use super::collect::{Collector, Effect, Scope};
use super::{address, lines};

/// Reads one allow list.
pub(super) fn read(text: &str, out: &mut Collector) {
    let is_markdown = lines(text).any(|(_, line)| line.starts_with(['*', '-', '|']) && line.contains('`'));
    for (number, line) in lines(text) {
        if is_markdown {
            // In tables and lists the name comes first; further code on the line explains it.
            let is_entry = line.starts_with(['*', '-', '|']);
            if let Some(code) = line.split('`').nth(1).filter(|_| is_entry) {
                read_entry(number, code, out);
            }
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let value = match line.split_once(['=', ':']) {
            Some((key, value)) if key.trim().starts_with("COPILOT_AGENT_FIREWALL_ALLOW_LIST") => value.trim(),
            _ => super::without_comment(line),
        };
        let entries = super::domains::unquoted(value).split([',', ' ', '\t']).map(super::domains::unquoted);
        entries.filter(|entry| !entry.is_empty()).for_each(|entry| read_entry(number, entry, out));
    }
}

/// Reads one domain or URL.
fn read_entry(number: u32, entry: &str, out: &mut Collector) {
    if entry.contains(char::is_whitespace) {
        out.leave_out(number, "code that is no name", entry);
    } else if entry.contains('/') {
        address::take(number, Some(Effect::Allow), Scope::Exact, entry, out);
    } else {
        address::take(number, Some(Effect::Allow), Scope::Both, entry, out);
    }
}
