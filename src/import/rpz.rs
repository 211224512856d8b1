//! Reader of response policy zones in zone file form (RFC 1035 §5;
//! <https://datatracker.ietf.org/doc/html/draft-vixie-dnsop-dns-rpz-00>). The owner, relative to the zone, is the name
//! that a rule is about; `CNAME .` and `CNAME *.` deny, `CNAME rpz-passthru.` allows; a wildcard owner covers all names
//! below.

use std::net::IpAddr;

use super::collect::{Collector, EVERYTHING, Effect, Scope};
use super::hosts;

/// Reads the records of a zone.
pub(super) fn read(text: &str, out: &mut Collector) {
    // The origin completes relative names. The zone's own name, a suffix of every rule's name, is the first one
    // mentioned.
    let (mut origin, mut zone, mut owner) = (String::new(), None::<String>, String::new());
    let mut records = Records { text, number: 0 };
    while let Some((number, line, words, is_indented)) = records.next() {
        let first = words.first().copied().unwrap_or_default();
        match &*first.to_ascii_uppercase() {
            "$ORIGIN" => {
                origin = absolute(words.get(1).copied().unwrap_or_default(), &origin);
                zone.get_or_insert_with(|| origin.clone());
                continue;
            }
            "$TTL" => continue,
            "$INCLUDE" | "$GENERATE" => {
                out.leave_out(number, "directives that stand for other records", line);
                continue;
            }
            _ => {}
        }
        let rest = if is_indented {
            &words[..]
        } else {
            first.clone_into(&mut owner);
            &words[1..]
        };
        // TTL and class precede the type, in any order (RFC 1035 §5.1).
        let is_head = |word: &&str| {
            word.as_bytes().first().is_some_and(u8::is_ascii_digit)
                || matches!(&*word.to_ascii_uppercase(), "IN" | "CH" | "HS")
        };
        let name = absolute(&owner, &origin);
        let mut data = rest.iter().copied().skip_while(is_head);
        let Some(kind) = data.next() else { continue };
        let target = data.next().unwrap_or_default();
        match &*kind.to_ascii_uppercase() {
            "SOA" => {
                if origin.is_empty() {
                    origin.clone_from(&name);
                }
                zone = Some(name);
            }
            // Name servers of the zone itself are no rule.
            "NS" if zone.as_ref() == Some(&name) => {}
            "CNAME" => read_alias(number, (line, rule_name(&name, zone.as_deref())), target, out),
            "A" | "AAAA" if target.parse::<IpAddr>().is_ok_and(hosts::is_null) => {
                take(number, Effect::Deny, line, rule_name(&name, zone.as_deref()), out);
            }
            _ => out.leave_out(number, "names that the zone gives data to", line),
        }
    }
}

/// Reads a rule that is a CNAME record.
fn read_alias(number: u32, (line, owner): (&str, &str), target: &str, out: &mut Collector) {
    let is_own_name = target.strip_suffix('.').is_some_and(|target| target.eq_ignore_ascii_case(owner));
    let effect = match &*target.to_ascii_lowercase() {
        "." | "*." | "rpz-drop." => Effect::Deny,
        "rpz-passthru." => Effect::Allow,
        // The older form of `rpz-passthru`.
        _ if is_own_name => Effect::Allow,
        _ => {
            out.leave_out(number, "names that lead to another name, or to TCP", line);
            return;
        }
    };
    take(number, effect, line, owner, out);
}

/// Adds the rule about an owner.
fn take(number: u32, effect: Effect, line: &str, owner: &str, out: &mut Collector) {
    const TRIGGERS: [&str; 4] = ["rpz-ip", "rpz-client-ip", "rpz-nsip", "rpz-nsdname"];
    let last = owner.rsplit('.').next().unwrap_or_default();
    if TRIGGERS.iter().any(|trigger| last.eq_ignore_ascii_case(trigger)) {
        out.leave_out(number, "rules about addresses, clients or name servers", line);
    } else if owner.is_empty() || owner == "*" {
        out.leave_out(number, EVERYTHING, line);
    } else {
        out.take_pattern(number, Some(effect), Scope::Exact, owner);
    }
}

/// Returns the absolute form of a name in the zone file, without a trailing dot.
fn absolute(name: &str, origin: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.strip_suffix('.') {
        Some(name) => name.to_owned(),
        None if name == "@" => origin.to_owned(),
        None if origin.is_empty() => name,
        None => format!("{name}.{origin}"),
    }
}

/// Returns the name that a rule is about: its owner without the zone's name; empty for the zone's own name.
fn rule_name<'n>(name: &'n str, zone: Option<&str>) -> &'n str {
    match zone {
        Some(zone) if name == zone => "",
        Some(zone) => name.strip_suffix(zone).and_then(|name| name.strip_suffix('.')).unwrap_or(name),
        None => name,
    }
}

/// An iterator over the records of a zone file, each on one line, or on several within parentheses.
struct Records<'t> {
    /// The rest of the text.
    text: &'t str,
    /// The number of lines read.
    number: u32,
}

impl<'t> Records<'t> {
    /// Returns the next record: the number and text of its first line, its words, and whether it inherits its owner.
    fn next(&mut self) -> Option<(u32, &'t str, Vec<&'t str>, bool)> {
        loop {
            let line = self.line()?;
            let (number, mut words) = (self.number, Vec::new());
            let mut depth = add_words(line, &mut words);
            // An unclosed parenthesis ends with the file.
            while depth > 0 {
                let Some(line) = self.line() else { break };
                depth += add_words(line, &mut words);
            }
            if !words.is_empty() {
                return Some((number, line.trim(), words, line.starts_with([' ', '\t'])));
            }
        }
    }

    fn line(&mut self) -> Option<&'t str> {
        if self.text.is_empty() {
            return None;
        }
        let (line, rest) = self.text.split_once('\n').unwrap_or((self.text, ""));
        self.text = rest;
        self.number = self.number.saturating_add(1);
        Some(line)
    }
}

/// Appends the words of a line without its comment. Returns how many more parentheses it opens than it closes.
fn add_words<'t>(line: &'t str, words: &mut Vec<&'t str>) -> i32 {
    let content = line.split(';').next().unwrap_or_default();
    let mut depth = 0;
    for word in content.split_ascii_whitespace() {
        for part in word.split_inclusive(['(', ')']) {
            depth += i32::from(part.ends_with('(')) - i32::from(part.ends_with(')'));
            let part = part.trim_end_matches(['(', ')']);
            if !part.is_empty() {
                words.push(part);
            }
        }
    }
    depth
}
