//! Squid's `dstdomain` (<https://www.squid-cache.org/Doc/config/acl/>): `.x` is `x` and every name below, `x` is this name
//! only; a file with one a line, or `acl` lines of squid.conf. The files of tinyproxy's and other programs' domain lists are
//! the same.

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
                out.leave(number, "lines that are no domain and no `acl` of them", content);
            } else {
                read_domain(number, content, out);
            }
            continue;
        }
        match words.nth(2) {
            Some("dstdomain") => {
                for word in words.filter(|word| !matches!(*word, "-n" | "-i" | "-m")) {
                    if word.starts_with('"') {
                        out.leave(number, "files that an `acl` includes: import them as well", word);
                    } else {
                        read_domain(number, word, out);
                    }
                }
            }
            Some("dstdom_regex" | "url_regex") => out.leave(number, "regular expressions", content),
            _ => out.leave(number, "`acl` lines about something else than domains", content),
        }
    }
}

/// Reads a domain.
fn read_domain(number: u32, word: &str, out: &mut Collector) {
    let word = super::domains::unquoted(word);
    if word.contains('*') {
        out.leave(number, "wildcards with `*`, which dstdomain does not have", word);
        return;
    }
    match word.strip_prefix('.') {
        Some(base) => out.take(number, None, Scope::Both, base),
        None => out.take(number, None, Scope::Exact, word),
    }
}
