//! Reader of domain lists for Squid's `dstdomain` (<https://www.squid-cache.org/Doc/config/acl/>), one domain per line,
//! and of `acl` lines in squid.conf. `.x` is `x` and every name below, `x` is this name only. Domain lists of tinyproxy
//! and other programs have the same form.

use super::collect::{Collector, Scope};
use super::{lines, without_comment};

/// Reads a list of domains, or the `acl` lines of a configuration.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = without_comment(line);
        if content.is_empty() {
            continue;
        }
        let mut words = content.split_ascii_whitespace();
        if words.clone().next() != Some("acl") {
            if content.contains(char::is_whitespace) {
                out.leave_out(number, "lines that are no domain and no `acl` of them", content);
            } else {
                read_domain(number, content, out);
            }
            continue;
        }
        match words.nth(2) {
            Some("dstdomain") => {
                for word in words.filter(|word| !matches!(*word, "-n" | "-i" | "-m")) {
                    if word.starts_with('"') {
                        out.leave_out(number, "files that an `acl` includes: import them as well", word);
                    } else {
                        read_domain(number, word, out);
                    }
                }
            }
            Some("dstdom_regex" | "url_regex") => out.leave_out(number, "regular expressions", content),
            _ => out.leave_out(number, "`acl` lines about something else than domains", content),
        }
    }
}

/// Reads one domain of a list or an `acl` line.
fn read_domain(number: u32, word: &str, out: &mut Collector) {
    let word = super::domains::unquoted(word);
    if word.contains('*') {
        out.leave_out(number, "wildcards with `*`, which dstdomain does not have", word);
        return;
    }
    match word.strip_prefix('.') {
        Some(base) => out.take(number, None, Scope::Both, base),
        None => out.take(number, None, Scope::Exact, word),
    }
}
