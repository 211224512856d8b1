//! Why text is no pattern, and the help for it. No help widens: it proposes no pattern that would be warned about, nor one
//! that matches more than what was written, unless it says so.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::super::shared_suffix;
use super::{Pattern, PatternError, Purpose};

/// Refuses what other systems take and DNS cannot tell: schemes, paths, ports, users, addresses, spaces.
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
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host_and_port.len() < text.len() && is_address(host_and_port) {
        return Err(address());
    }
    let host = host_and_port.split_once(':').map_or(host_and_port, |(host, _)| host);
    let why = if rest.len() < text.len() {
        "it is a URL with a scheme"
    } else if authority.len() < rest.len() {
        "it holds a path"
    } else if host_and_port.len() < authority.len() {
        "it holds a user"
    } else if host.len() < host_and_port.len() {
        "it holds a port, which DNS does not know"
    } else {
        return Ok(());
    };
    refuse(why, host, true)
}

/// Says what is wrong with a `*` or a dot that is not of the form `*.x`.
pub(super) fn wildcard(text: &str, purpose: Purpose) -> PatternError {
    let error = |why: &str, help: String| PatternError::new(text, why, help);
    let base = text.trim_start_matches(['*', '.']);
    let below = || proposable(&format!("*.{base}"), purpose);
    match text {
        "" => error("it is empty", "write a hostname, or remove the entry".to_owned()),
        "." => error("the root is no hostname", "write a hostname".to_owned()),
        "*" | "**" | "*." | "**." | "*.*" | "**.**" | "*.*." => PatternError {
            is_everything: true,
            ..error("it stands for every name", everything_help(purpose).to_owned())
        },
        _ if text.contains("..") => error("a label is empty", "write one dot between labels".to_owned()),
        _ if text.starts_with("**") => match below() {
            Some(below) => error("`**` is no wildcard here", format!("`{below}` matches names at every depth")),
            None => error("`**` is no wildcard here", NAME_HOSTS.to_owned()),
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

/// Returns the pattern of a text if help may propose it: it is one, and nothing would be said against it.
fn proposable(text: &str, purpose: Purpose) -> Option<Pattern> {
    let pattern = Pattern::parse_for(text, purpose).ok()?;
    let is_fine = !purpose.opens() || purpose == Purpose::Question || shared_suffix::of_pattern(&pattern).is_none();
    is_fine.then_some(pattern)
}

/// Returns whether `text` is an address or a prefix in one of the ways people write them.
pub(super) fn is_address(text: &str) -> bool {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

/// Why an address is refused.
pub(super) const IS_ADDRESS: &str = "it is an address, not a hostname";

/// What to do where no pattern can be proposed.
const NAME_HOSTS: &str = "name each host";

/// Returns what to do with an address.
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

/// Returns what to do with an entry that stands for everything.
const fn everything_help(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Allow => "to allow everything, write `allow_all = true`",
        Purpose::Deny => "what is not allowed is denied as it is",
        Purpose::PrivateAnswers => "write `private_answers = [\"*\"]`, alone",
        Purpose::Question => "ask for one name",
    }
}
