//! The errors of text that is not a pattern, each with its help.
//!
//! The help never widens a policy by accident: it proposes no pattern that would be warned about, nor one that matches
//! more than what was written, unless it says so.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Pattern, PatternError, Purpose};
use crate::dns::name::LowerName;
use crate::document::quoted;

/// Refuses syntax of other systems that DNS cannot express: schemes, paths, ports, users, addresses, spaces.
pub(super) fn foreign_syntax(text: &str, purpose: Purpose) -> Result<(), PatternError> {
    let refuse = |why: &str, host: &str, loses: bool| {
        let proposed = Some(host).filter(|host| *host != text).and_then(|host| proposable(host, purpose));
        let help = match proposed {
            Some(pattern) if purpose == Purpose::Question => format!("ask for `{pattern}`"),
            Some(pattern) if loses => {
                format!("write `{pattern}`, for the whole host: DNS sees no scheme, port or path")
            }
            Some(pattern) => format!("write `{pattern}`"),
            None => "write the hostname alone, as `example.com`".to_owned(),
        };
        Err(PatternError::new(text, why, help))
    };
    // Lists come first: they hold spaces and quotes, which the next checks would name as the error.
    if let Some((why, names)) = listed(text, purpose) {
        return Err(PatternError::new(text, why, format!("write {names}")));
    }
    if text.contains(char::is_whitespace) {
        return refuse("it holds a space", text.trim(), false);
    }
    let address = || PatternError::new(text, IS_ADDRESS, address_help(purpose));
    if is_address(text) {
        return Err(address());
    }
    let rest = match text.split_once("://") {
        Some((_, rest)) => rest,
        None => text,
    };
    // Browsers take a backslash in a URL for a slash (URL standard).
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    // The last `@`, as the user's part may hold one itself.
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host_and_port.len() < text.len() && is_address(host_and_port) {
        return Err(address());
    }
    let (host, has_port) = match host_and_port.split_once(':') {
        None => (host_and_port, false),
        Some((host, port)) if is_port(host, port) => (host, true),
        // The text before the colon is not a host then, but a kind of entry in another system's list.
        Some((_, name)) => (if name.contains(':') { "" } else { name }, false),
    };
    let why = if rest.len() < text.len() {
        "it is a URL with a scheme"
    } else if authority.len() < rest.len() {
        "it holds a path"
    } else if host_and_port.len() < authority.len() {
        "it holds a user"
    } else if has_port {
        "it holds a port, which DNS does not know"
    } else if host.len() < host_and_port.len() {
        return refuse("it holds a `:`, which no hostname does", host, false);
    } else {
        return Ok(());
    };
    refuse(why, host, true)
}

/// Returns whether the text after a colon is a port of the host before it: a number, `*`, or, if the host has a dot,
/// the name of a service or empty.
fn is_port(host: &str, port: &str) -> bool {
    let is_number = !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit());
    is_number || port == "*" || host.contains('.') && port.bytes().all(|octet| octet.is_ascii_alphanumeric())
}

/// Returns the reason and the proposed entries for a text that consists of patterns in the punctuation of a list.
fn listed(text: &str, purpose: Purpose) -> Option<(&'static str, String)> {
    /// The most names that the help shows.
    const SHOWN: usize = 3;
    let is_between = |character: char| {
        character.is_whitespace() || matches!(character, ',' | ';' | '|' | '"' | '\'' | '`' | '[' | ']')
    };
    if !text.contains(is_between) {
        return None;
    }
    let (is_hosts, rest) = match text.split_once([' ', '\t']) {
        Some((address, rest)) if is_address(address) => (true, rest),
        _ => (false, text),
    };
    // The first part decides for most texts, as most that hold one of these characters are something else from there
    // on.
    let parts = || rest.split(is_between).filter(|part| !part.is_empty());
    let is_name = |part: &str| part.contains('.') && Pattern::parse_for(part, purpose).is_ok();
    let (first, is_one) = (parts().next()?, parts().nth(1).is_none());
    // Each part is shorter than the text, so the recursion through `parse_for` ends.
    if is_one && !is_hosts && text.trim() == first || !parts().all(is_name) {
        return None;
    }
    let why = match (is_hosts, is_one) {
        (true, _) => "it is a line of a hosts file",
        (false, true) => "it holds quotes or the like around the name",
        (false, false) => "it holds several names",
    };
    if is_one {
        return proposable(first, purpose).map(|pattern| (why, quoted(&pattern.to_string())));
    }
    let shown: Vec<_> = parts().take(SHOWN).map(quoted).collect();
    let rest = if parts().nth(SHOWN).is_some() { " and so on" } else { "" };
    Some((why, format!("{}{rest} as entries of their own", shown.join(", "))))
}

/// Returns the reason and the help for a name whose last label no hostname has. `ascii` is canonical except for its
/// case.
///
/// RFC 952 lets labels begin and end with letters and digits; by RFC 1123 §2.1 and RFC 3696 §2 the last one is not all
/// numeric, and clients take a name that ends in a number for an IPv4 address (the URL standard's ends-in-a-number
/// checker). Earlier labels may break these rules, as those of real names do.
pub(super) fn last_label(ascii: &str, purpose: Purpose) -> Option<(&'static str, &'static str)> {
    let last = ascii.rsplit('.').next().unwrap_or(ascii);
    let is_alone = last.len() == ascii.len();
    if last.starts_with('-') || last.ends_with('-') {
        return Some(if is_alone && ascii.starts_with('-') {
            ("it looks like an option of a command, not like a hostname", "remove the entry")
        } else {
            ("its last label begins or ends with `-`, which no hostname's does", "check its spelling")
        });
    }
    if !is_number(last) {
        return None;
    }
    Some(if is_alone && last.parse::<u16>().is_ok() {
        ("it is a number, like a port, not a hostname", "DNS knows no ports: write the hostname, or remove the entry")
    } else if ascii.split(['.', '-']).all(is_number) {
        ("it is a number or part of an address, not a hostname", address_help(purpose))
    } else {
        ("its last label is a number, which no hostname's is", "check its spelling; DNS knows no ports")
    })
}

/// Returns whether a label is a number as parts of addresses are written: decimal, or hexadecimal with `0x`.
fn is_number(label: &str) -> bool {
    let is_hex = |digits: &str| digits.bytes().all(|octet| octet.is_ascii_hexdigit());
    !label.is_empty() && label.bytes().all(|octet| octet.is_ascii_digit())
        || label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")).is_some_and(is_hex)
}

/// Returns the error of a text in which a `*` or a dot is not in the form `*.x`.
pub(super) fn wildcard(text: &str, purpose: Purpose) -> PatternError {
    let error = |why: &str, help: String| PatternError::new(text, why, help);
    let base = text.trim_start_matches(['*', '.']);
    let below = || proposable(&format!("*.{base}"), purpose);
    match text {
        "" => error("it is empty", "write a hostname, or remove the entry".to_owned()),
        "." => error("the root is not a hostname", "write a hostname".to_owned()),
        "*" | "**" | "*." | "**." | "*.*" | "**.**" | "*.*." => PatternError {
            is_everything: true,
            ..error("it stands for every name", everything_help(purpose).to_owned())
        },
        _ if text.contains("..") => error("a label is empty", "write one dot between labels".to_owned()),
        _ if text.starts_with("**") => match below() {
            Some(below) => error("`**` is not a wildcard here", format!("`{below}` matches names at every depth")),
            None => error("`**` is not a wildcard here", NAME_HOSTS.to_owned()),
        },
        _ if text.starts_with('.') => match below() {
            Some(below) => error("it begins with a dot", format!("write `{below}`, and `{base}` for the name itself")),
            None => error("it begins with a dot", NAME_HOSTS.to_owned()),
        },
        _ if text.ends_with(".*") => {
            error("the last label cannot be `*`", "name each domain in full, as `example.com`".to_owned())
        }
        _ => {
            let after = text.rfind('*').and_then(|star| text[star..].split_once('.')).map_or("", |(_, rest)| rest);
            match proposable(&format!("*.{after}"), purpose) {
                Some(wider) => error(
                    "only the whole first label may be `*`",
                    format!("name each host, or write the broader `{wider}`, which matches every name below `{after}`"),
                ),
                None => error("only the whole first label may be `*`", NAME_HOSTS.to_owned()),
            }
        }
    }
}

/// Returns the error of a wildcard on a public suffix.
pub(super) fn public_suffix(text: &str, name: &LowerName) -> PatternError {
    let networks = match &*name.to_string() {
        "in-addr.arpa" => Some("*.2.0.192.in-addr.arpa"),
        "ip6.arpa" => Some("*.8.b.d.0.1.0.0.2.ip6.arpa"),
        _ => None,
    };
    if let Some(example) = networks {
        let help = format!("name the networks that are needed, as `{example}`");
        return PatternError::new(text, format!("`{name}` has the reverse names of all networks"), help);
    }
    let why = format!("`{name}` is a public suffix, under which anyone can register a name");
    PatternError::new(text, why, format!("name the domains that are needed, as `*.example.{name}`"))
}

/// Returns the pattern of a text if a help text may propose it: the text is a pattern, and no warning is about it.
fn proposable(text: &str, purpose: Purpose) -> Option<Pattern> {
    let pattern = Pattern::parse_for(text, purpose).ok()?;
    let is_fine = !purpose.opens() || purpose == Purpose::Question || pattern.shared().is_none();
    is_fine.then_some(pattern)
}

/// Returns whether `text` is an address or a prefix in one of the ways people write them.
pub(super) fn is_address(text: &str) -> bool {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    // A link-local address may have its interface after a `%` (RFC 4007 §11).
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    bare.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

/// The reason for which an address is refused.
pub(super) const IS_ADDRESS: &str = "it is an address, not a hostname";

/// The help if no pattern can be proposed.
const NAME_HOSTS: &str = "name each host";

/// Returns the help for an address.
pub(super) const fn address_help(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Allow => "DNS sees names only: put addresses under `allowed_cidrs`",
        Purpose::Deny => {
            "addresses are not denied by name: deny the names that lead there, and the address in a firewall"
        }
        Purpose::PrivateAnswers => "name the hosts that may have such addresses",
        Purpose::Question => "DNS sees names only: give the hostname that leads there",
    }
}

/// Returns the help for an entry that stands for every name.
const fn everything_help(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Allow => "to allow everything, write `allow_all = true`",
        Purpose::Deny => "what is not allowed is denied as it is",
        Purpose::PrivateAnswers => "write `private_answers = [\"*\"]`, alone",
        Purpose::Question => "ask for one name",
    }
}
