//! One hostname or wildcard of a list, in canonical form, and why text is none.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use ipnet::IpNet;

use crate::dns::name::{LowerName, NameError};
use crate::document::quoted;

use super::shared_suffix::{self, Registry};

/// What an entry of a list matches. It is no zone wildcard (RFC 4592): `Below` matches at any depth.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `x`: this name only.
    Exact(LowerName),
    /// `*.x`: every name below `x`, never `x` itself.
    Below(LowerName),
}

impl Pattern {
    /// Parses and canonicalises an entry: lower case, no trailing dot, A-labels (UTS-46).
    ///
    /// # Errors
    /// Whatever is no hostname and no `*.` before one, and a wildcard on an ICANN public suffix; each with its mend.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*'));
        if !plain {
            refuse_foreign_syntax(text)?;
        }
        let (below, base) = match text.strip_prefix("*.") {
            Some(base) => (true, base),
            None => (false, text),
        };
        if base.is_empty() || base.starts_with(['.', '*']) || base.contains('*') {
            return Err(refuse_wildcard(text));
        }
        let name = hostname(base).map_err(|(why, help)| PatternError::new(text, why, help))?;
        if !below {
            return Ok(Self::Exact(name));
        }
        if name.as_wire().len() + 2 > crate::dns::name::MAX_NAME {
            return Err(PatternError::new(text, "no name fits below it (253 characters is the longest)", "shorten it"));
        }
        if shared_suffix::registry(&name) == Some(Registry::Icann) {
            let why = format!("`{name}` is a public suffix, under which anyone can register a name");
            return Err(PatternError::new(
                text,
                why,
                format!("name the domains that are needed, as `*.example.{name}`"),
            ));
        }
        Ok(Self::Below(name))
    }

    /// Returns the name, without the `*.`.
    #[must_use]
    pub const fn name(&self) -> &LowerName {
        match self {
            Self::Exact(name) | Self::Below(name) => name,
        }
    }

    /// Returns whether the pattern matches `qname`. Lists are searched as [`super::name_set::NameSet`]s; this is for
    /// single patterns.
    #[must_use]
    pub fn matches(&self, qname: &LowerName) -> bool {
        match self {
            Self::Exact(name) => qname == name,
            Self::Below(name) => qname != name && qname.is_at_or_below(name),
        }
    }
}

/// Writes the canonical text.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// Why an entry of a list is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern {}: {why}", quoted(text))]
pub struct PatternError {
    /// The entry as it was written.
    text: String,
    /// What is wrong with it.
    why: String,
    /// The mend.
    pub help: String,
    /// Whether the entry stands for everything, which each kind of list mends in its own way.
    pub is_everything: bool,
}

impl PatternError {
    /// Returns what is wrong without anything of the entry.
    pub(super) fn why_unquoted(&self) -> &str {
        // What is quoted stands in backticks.
        if self.why.contains('`') { "it is no hostname or pattern" } else { &self.why }
    }

    /// Makes an error about `text`.
    fn new(text: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self { text: text.to_owned(), why: why.into(), help: help.into(), is_everything: false }
    }
}

/// Reads a hostname as people write it, internationalised or not; for names that are asked for.
///
/// # Errors
/// Text that is no hostname: what is wrong and the mend.
pub fn hostname(text: &str) -> Result<LowerName, (String, String)> {
    let why_and_help = |why: &str, help: &str| Err((why.to_owned(), help.to_owned()));
    let base = text.strip_suffix('.').unwrap_or(text);
    if base.is_empty() {
        return why_and_help("it is empty", "write a hostname, or remove the entry");
    }
    if base.ends_with('.') {
        return why_and_help("a label is empty", "write one dot between labels");
    }
    let ascii = if base.is_ascii() && !has_a_label(base) {
        std::borrow::Cow::Borrowed(base)
    } else {
        // `_` is fine (`_acme-challenge`), so not STD3; what else is no hostname is refused below.
        let converted = Uts46::new().to_ascii(base.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore);
        match converted {
            Ok(ascii) => ascii,
            Err(_) => {
                return why_and_help("it is no valid internationalised name (UTS-46)", "check its spelling");
            }
        }
    };
    let odd = |character: &char| !(character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.'));
    if let Some(character) = ascii.chars().find(odd) {
        let why = format!("a hostname cannot hold {}", quoted(&character.to_string()));
        return Err((why, "use letters, digits, `-` and `_` between dots".to_owned()));
    }
    // An IPv4 address ends in a digit; with the colons of IPv6 it would not have come this far.
    if ascii.ends_with(|last: char| last.is_ascii_digit()) && ascii.parse::<IpAddr>().is_ok() {
        return why_and_help(IS_ADDRESS, ADDRESS_HELP);
    }
    LowerName::from_text(&ascii).map_err(|error| {
        let help = match error {
            NameError::EmptyLabel => "write one dot between labels",
            _ => "shorten it",
        };
        (error.to_string(), help.to_owned())
    })
}

/// Refuses what other systems take and DNS cannot tell: schemes, paths, ports, users, addresses, spaces.
fn refuse_foreign_syntax(text: &str) -> Result<(), PatternError> {
    let refuse = |why: &str, mended: &str| {
        let mended = Some(mended).filter(|mended| *mended != text).and_then(|mended| Pattern::parse(mended).ok());
        let help = match mended {
            Some(pattern) => format!("write `{pattern}`"),
            None => "write the hostname alone, as `example.com`".to_owned(),
        };
        Err(PatternError::new(text, why, help))
    };
    if text.contains(char::is_whitespace) {
        return refuse("it holds a space", text.trim());
    }
    if is_address(text) {
        return Err(PatternError::new(text, IS_ADDRESS, ADDRESS_HELP));
    }
    let rest = match text.split_once("://") {
        Some((_, rest)) => rest,
        None => text,
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host_and_port.split_once(':').map_or(host_and_port, |(host, _)| host);
    if rest.len() < text.len() {
        return refuse("it is a URL with a scheme", host);
    }
    if authority.len() < rest.len() {
        return refuse("it holds a path", host);
    }
    if host_and_port.len() < authority.len() {
        return refuse("it holds a user", host);
    }
    if host.len() < host_and_port.len() {
        return refuse("it holds a port, which DNS does not know", host);
    }
    Ok(())
}

/// Says what is wrong with a `*` or a dot that is not of the form `*.x`.
fn refuse_wildcard(text: &str) -> PatternError {
    let error = |why: &str, help: String| PatternError::new(text, why, help);
    let base = text.trim_start_matches(['*', '.']);
    let wildcard = |base: &str| {
        let name = hostname(base).ok()?;
        (shared_suffix::registry(&name) != Some(Registry::Icann)).then_some(Pattern::Below(name))
    };
    let below = wildcard(base);
    match text {
        "" => error("it is empty", "write a hostname, or remove the entry".to_owned()),
        "." => error("the root is no hostname", "write a hostname".to_owned()),
        "*" | "**" | "*." | "**." | "*.*" | "**.**" | "*.*." => PatternError {
            is_everything: true,
            ..error("it stands for every name", "to allow everything, write `allow_all = true`".to_owned())
        },
        _ if text.contains("..") => error("a label is empty", "write one dot between labels".to_owned()),
        _ if text.starts_with("**") => match below {
            Some(below) => error("`**` is no wildcard here", format!("`{below}` matches names at every depth")),
            None => {
                error("`**` is no wildcard here", "write `*.example.com`: it matches names at every depth".to_owned())
            }
        },
        _ if text.starts_with('.') => match below {
            Some(below) => error("it begins with a dot", format!("write `{below}`, and `{base}` for the name itself")),
            None => error("it begins with a dot", "write `*.example.com`".to_owned()),
        },
        _ if text.ends_with(".*") => {
            error("the last label cannot be `*`", "name each domain in full, as `example.com`".to_owned())
        }
        _ => {
            let after = text.rfind('*').and_then(|star| text[star..].split_once('.')).map_or("", |(_, rest)| rest);
            match wildcard(after) {
                Some(wider) => error(
                    "only the whole first label may be `*`",
                    format!("name each host, or write `{wider}`, which matches every name below `{after}`"),
                ),
                None => error("only the whole first label may be `*`", "name each host".to_owned()),
            }
        }
    }
}

/// Returns whether `text` is an address or a prefix in one of the ways people write them.
fn is_address(text: &str) -> bool {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

/// Returns whether a label begins with `xn--` and so has to be a valid A-label.
fn has_a_label(text: &str) -> bool {
    text.split('.').any(|label| label.as_bytes().get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--")))
}

/// Why an address is refused.
const IS_ADDRESS: &str = "it is an address, not a hostname";

/// What to do with an address.
const ADDRESS_HELP: &str = "DNS sees names only: put addresses under `allowed_cidrs`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_canonical_once_parsed() {
        const CASES: &[(&str, &str)] = &[
            ("GitHub.com", "github.com"),
            ("github.com.", "github.com"),
            ("*.NPMjs.org", "*.npmjs.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("_acme-challenge.example.com", "_acme-challenge.example.com"),
            ("ｇｉｔｈｕｂ。com", "github.com"),
            ("localhost", "localhost"),
            ("*.internal", "*.internal"),
            ("*.test", "*.test"),
            ("*.lan", "*.lan"),
            ("a--b.example", "a--b.example"),
            ("*.github.io", "*.github.io"),
            ("*.10.in-addr.arpa", "*.10.in-addr.arpa"),
        ];
        for (text, canonical) in CASES {
            assert_eq!(Pattern::parse(text).map(|pattern| pattern.to_string()).as_deref(), Ok(*canonical), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_mend() {
        const CASES: &[(&str, &str, &str)] = &[
            ("*", "stands for every name", "allow_all = true"),
            ("**", "stands for every name", "allow_all = true"),
            ("*.", "stands for every name", "allow_all = true"),
            ("**.example.com", "`**` is no wildcard", "`*.example.com` matches names at every depth"),
            (".example.com", "begins with a dot", "write `*.example.com`, and `example.com`"),
            ("example.*", "last label", "name each domain in full"),
            ("a*.example.com", "whole first label", "`*.example.com`"),
            ("*a.example.com", "whole first label", "`*.example.com`"),
            ("a.*.example.com", "whole first label", "`*.example.com`"),
            ("*.*.example.com", "whole first label", "`*.example.com`"),
            ("a*.com", "whole first label", "name each host"),
            ("*.com", "public suffix", "`*.example.com`"),
            ("*.co.uk", "public suffix", "`*.example.co.uk`"),
            ("*.CO.UK.", "public suffix", "`*.example.co.uk`"),
            ("*.xn--p1ai", "public suffix", "`*.example.xn--p1ai`"),
            ("*.рф", "public suffix", "`*.example.xn--p1ai`"),
            ("*.in-addr.arpa", "public suffix", "`*.example.in-addr.arpa`"),
            ("*.kawasaki.jp", "public suffix", "`*.example.kawasaki.jp`"),
            ("*.ck", "public suffix", "`*.example.ck`"),
            ("https://example.com", "scheme", "write `example.com`"),
            ("https://u:p@example.com:8443/x?y", "scheme", "write `example.com`"),
            ("example.com/path", "path", "write `example.com`"),
            ("example.com:443", "port", "write `example.com`"),
            ("user@example.com", "user", "write `example.com`"),
            (" example.com", "space", "write `example.com`"),
            ("example.com\n", "space", "write `example.com`"),
            ("exa mple.com", "space", "write the hostname alone"),
            ("192.0.2.1", "is an address", "allowed_cidrs"),
            ("10.0.0.0/8", "is an address", "allowed_cidrs"),
            ("2001:db8::1", "is an address", "allowed_cidrs"),
            ("[2001:db8::1]:53", "is an address", "allowed_cidrs"),
            ("192.0.2.1:53", "is an address", "allowed_cidrs"),
            ("１92.0.2.1", "is an address", "allowed_cidrs"),
            ("", "is empty", "write a hostname"),
            (".", "root", "write a hostname"),
            ("a..example.com", "label is empty", "one dot"),
            ("*..example.com", "label is empty", "one dot"),
            ("example.com..", "label is empty", "one dot"),
            ("exa$mple.com", "cannot hold `$`", "letters"),
            ("exa\u{0}mple.com", "cannot hold `\\u{0}`", "letters"),
            ("xn--a.example", "internationalised", "spelling"),
            ("a\u{301}\u{fffd}.example", "internationalised", "spelling"),
        ];
        for (text, why, help) in CASES {
            let error = Pattern::parse(text).expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.help.contains(help), "{text}: {}", error.help);
        }
    }

    #[test]
    fn lengths_end_at_63_and_253_octets() {
        let label = "a".repeat(63);
        let longest = [&label[..], &label, &label, &"d".repeat(61)].join(".");
        assert!(Pattern::parse(&longest).is_ok());
        assert!(Pattern::parse(&format!("{longest}d")).unwrap_err().to_string().contains("253"));
        assert!(Pattern::parse(&format!("*.{longest}")).unwrap_err().to_string().contains("253"));
        assert!(Pattern::parse(&format!("a{label}.test")).unwrap_err().to_string().contains("63"));
    }

    #[test]
    fn below_is_below_and_exact_is_exact() {
        const CASES: &[(&str, &str, bool)] = &[
            ("github.com", "github.com", true),
            ("github.com", "GITHUB.com.", true),
            ("github.com", "api.github.com", false),
            ("*.github.com", "a.b.github.com", true),
            ("*.github.com", "github.com", false),
            ("*.github.com", "evilgithub.com", false),
            ("bar.foo.test", "bar.foo.test.evil.test", false),
        ];
        for (pattern, name, expected) in CASES {
            let matches = Pattern::parse(pattern).unwrap().matches(&LowerName::from_text(name).unwrap());
            assert_eq!(matches, *expected, "{pattern} {name}");
        }
    }
}
