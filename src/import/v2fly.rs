//! Reader of v2fly's domain-list-community files (<https://github.com/v2fly/domain-list-community>): `full:x` is this
//! name only, `domain:x` and `x` are `x` and everything below; further `keyword:`, `regexp:` and `include:`. Attributes
//! follow `@`, and after `&` come other lists that an entry belongs to.

use super::collect::{Collector, Scope};
use super::{lines, regex};

/// Reads a file of the data folder. The format does not define whether names are allowed or denied.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content.split_ascii_whitespace();
        let Some(rule) = words.next() else { continue };
        // In published lists, attributes follow a colon: `domain:x:@ads`.
        let (rule, attribute) = rule.split_once(":@").map_or((rule, None), |(rule, attribute)| (rule, Some(attribute)));
        let mut attributes = attribute.map(|_| "@").into_iter().chain(words).peekable();
        if attributes.peek().is_some() {
            if attributes.any(|attribute| !attribute.starts_with(['@', '&'])) {
                out.leave_out(number, "lines of several words", content.trim());
                continue;
            }
            out.remark(number, "attributes do not exist here: entries are taken whatever they have", content.trim());
        }
        match rule.split_once(':') {
            None => out.take(number, None, Scope::Both, rule),
            Some(("domain", name)) => out.take(number, None, Scope::Both, name),
            Some(("full", name)) => out.take(number, None, Scope::Exact, name),
            Some(("keyword", _)) => out.leave_out(number, "keywords, which match within names", rule),
            Some(("regexp" | "regex", expression)) => regex::take(number, None, expression, out),
            Some(("include", _)) => out.leave_out(number, "other files that are included: import them as well", rule),
            Some(_) => out.leave_out(number, "rules of an unknown kind", rule),
        }
    }
}
