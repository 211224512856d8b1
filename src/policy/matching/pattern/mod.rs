//! A hostname or wildcard of a list in canonical form, and the reason if a text is neither.

use std::fmt;
use std::net::IpAddr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::dns::name::{LowerName, NameError};
use crate::document::quoted;

use super::pattern_kind::PatternKind;
use super::shared_suffix::{self, Registry, Shared};
use super::special_use;

mod refusal;

/// The use of a list's names or of a single name. The purpose decides which patterns are too broad, and which help is
/// right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The names may be looked up.
    Allow,
    /// The names may not be looked up. Denying may be broader than allowing: a wildcard on any suffix is accepted.
    Deny,
    /// The names may have private addresses.
    PrivateAnswers,
    /// A single name to ask for, not a pattern.
    Question,
}

impl Purpose {
    /// Returns whether a pattern that is too broad lets something through.
    const fn opens(self) -> bool {
        !matches!(self, Self::Deny)
    }
}

/// The names that an entry of a list matches. `Below` is not a zone wildcard (RFC 4592): it matches at any depth.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `x`: this name only.
    Exact(LowerName),
    /// `*.x`: every name below `x`, never `x` itself.
    Below(LowerName),
}

impl Pattern {
    /// Returns the kind of the pattern and its name in wire format.
    pub(crate) fn kind_and_wire(&self) -> (PatternKind, &[u8]) {
        match self {
            Self::Exact(name) => (PatternKind::Exact, name.as_wire()),
            Self::Below(name) => (PatternKind::Below, name.as_wire()),
        }
    }

    /// Returns how the pattern matches names, or a host, that several owners share; `None` if no other owner is known.
    pub(crate) fn shared(&self) -> Option<Shared> {
        let (kind, wire) = self.kind_and_wire();
        shared_suffix::of_wire(kind, wire)
    }

    /// Parses and canonicalises an entry of a list that allows names: [`Pattern::parse_for`] with [`Purpose::Allow`].
    ///
    /// # Errors
    /// As [`Pattern::parse_for`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Self::parse_for(text, Purpose::Allow)
    }

    /// Parses and canonicalises an entry: lower case, no trailing dot, A-labels (UTS-46).
    ///
    /// # Errors
    /// Fails for text that is neither a hostname nor `*.` and a hostname. Unless the purpose is to deny, also fails for
    /// a wildcard on an ICANN public suffix. Each error has its help.
    pub fn parse_for(text: &str, purpose: Purpose) -> Result<Self, PatternError> {
        let has_only_usual_octets =
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*'));
        // Most entries have no other characters, and need no search for syntax of other systems.
        if !has_only_usual_octets {
            refuse_foreign_format(text)?;
            refusal::foreign_syntax(text, purpose)?;
        }
        let (below, base) = match text.strip_prefix("*.") {
            Some(base) => (true, base),
            None => (false, text),
        };
        if base.is_empty() || base.starts_with(['.', '*']) || base.contains('*') {
            return Err(refusal::wildcard(text, purpose));
        }
        let name = hostname_for(base, purpose).map_err(|(why, help)| PatternError::new(text, why, help))?;
        if !below {
            return Ok(Self::Exact(name));
        }
        // A label of one octet with its length octet has to fit below the name.
        if name.as_wire().len() + 2 > crate::dns::name::MAX_NAME {
            return Err(PatternError::new(text, "no name fits below it (253 characters is the longest)", "shorten it"));
        }
        // The public suffix list also has zones of local networks and of other systems, such as `local` and `onion`, in
        // which nobody can register names.
        let is_registry =
            || shared_suffix::registry(&name) == Some(Registry::Icann) && !special_use::is_zone(name.as_wire());
        if purpose.opens() && is_registry() {
            return Err(refusal::public_suffix(text, &name));
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

    /// Returns whether the pattern matches `qname`. To search a list, use a [`super::name_set::NameSet`].
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

/// The error of an entry of a list that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern {}: {why}", quoted(text))]
pub struct PatternError {
    /// The entry as it was written.
    text: String,
    /// The reason, without the entry.
    why: String,
    /// The help, which tells how to fix the entry.
    pub help: String,
    /// Whether the entry stands for every name. List files and imports have another help for that.
    pub is_everything: bool,
}

impl PatternError {
    /// Returns the reason without any part of the entry, for list files, which logs and status do not quote.
    pub(crate) fn why_unquoted(&self) -> &str {
        // A part of an entry is always in backticks.
        if self.why.contains('`') { "it is not a hostname or pattern" } else { &self.why }
    }

    /// Makes an error about `text`.
    fn new(text: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self { text: text.to_owned(), why: why.into(), help: help.into(), is_everything: false }
    }
}

/// Parses a name that a person wants to look up. A URL, a port or an address gets the help that it gets in a list.
///
/// # Errors
/// The reason and the help, for text that is not a hostname.
pub fn question(text: &str) -> Result<LowerName, (String, String)> {
    // Reverse names may have a `/` in a label (RFC 2317), which would read as a path.
    if !text.trim_end_matches('.').to_ascii_lowercase().ends_with(".arpa") {
        refusal::foreign_syntax(text, Purpose::Question).map_err(|error| (error.why, error.help))?;
    }
    hostname(text)
}

/// Parses a name as [`question`] does, and also names that DNS can hold although no host has them: a client may ask for
/// those.
///
/// # Errors
/// The reason and the help, for text that is not a name.
pub fn any_question(text: &str) -> Result<LowerName, (String, String)> {
    // The excluded characters are signs of a URL, a port, a user or an address, for which `question` has a better help.
    let is_of_names = |byte: u8| byte.is_ascii_graphic() && !b":@[]?#".contains(&byte);
    question(text).or_else(|refused| {
        let is_reverse = text.trim_end_matches('.').to_ascii_lowercase().ends_with(".arpa");
        let may_be = text.bytes().all(is_of_names) && (is_reverse || !text.contains('/')) && !refusal::is_address(text);
        if may_be { LowerName::from_text(text).map_err(|_| refused) } else { Err(refused) }
    })
}

/// Parses a single hostname as people write it, internationalised or not.
///
/// # Errors
/// The reason and the help, for text that is not a hostname.
pub fn hostname(text: &str) -> Result<LowerName, (String, String)> {
    hostname_for(text, Purpose::Question)
}

/// Parses the hostname of a pattern, or a single name.
fn hostname_for(text: &str, purpose: Purpose) -> Result<LowerName, (String, String)> {
    let why_and_help = |why: &str, help: &str| Err((why.to_owned(), help.to_owned()));
    let base = text.strip_suffix('.').unwrap_or(text);
    if base.is_empty() {
        return why_and_help("it is empty", "write a hostname, or remove the entry");
    }
    if base.ends_with('.') {
        return why_and_help("a label is empty", "write one dot between labels");
    }
    if base.bytes().all(|octet| matches!(octet, b'-' | b'_' | b'.')) {
        return why_and_help("it has no letter and no digit", "write a hostname, or remove the entry");
    }
    let ascii = if base.is_ascii() && !has_a_label(base) {
        std::borrow::Cow::Borrowed(base)
    } else {
        // Not STD3, which would refuse `_` (`_acme-challenge`). Other characters that no hostname has are refused
        // below.
        let converted = Uts46::new().to_ascii(base.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore);
        match converted {
            Ok(ascii) => ascii,
            Err(_) => {
                return why_and_help("it is not a valid internationalised name (UTS-46)", "check its spelling");
            }
        }
    };
    let is_foreign = |character: &char| !(character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.'));
    if let Some(character) = ascii.chars().find(is_foreign) {
        let why = format!("a hostname cannot hold {}", quoted(&character.to_string()));
        return Err((why, "use letters, digits, `-` and `_` between dots".to_owned()));
    }
    // An IPv4 address ends in a digit; the colons of an IPv6 address were refused before.
    if ascii.ends_with(|last: char| last.is_ascii_digit()) && ascii.parse::<IpAddr>().is_ok() {
        return why_and_help(refusal::IS_ADDRESS, refusal::address_help(purpose));
    }
    // A client may ask for a name with any last label, though no host has such a name.
    if let Some((why, help)) = refusal::last_label(&ascii, purpose).filter(|_| purpose != Purpose::Question) {
        return why_and_help(why, help);
    }
    LowerName::from_text(&ascii).map_err(|error| {
        let help = match error {
            NameError::EmptyLabel => "write one dot between labels",
            _ => "shorten it",
        };
        (error.to_string(), help.to_owned())
    })
}

/// Refuses an entry in another system's format whose characters would lead to a wrong help: `full:x` is not a host with
/// a port, and `||x^` is not a hostname with two wrong characters.
fn refuse_foreign_format(text: &str) -> Result<(), PatternError> {
    use crate::list_format::{Format, of_entry};
    match of_entry(text) {
        // `refusal` has a help of its own for a port, a URL and a leading dot.
        None | Some(Format::HostPort | Format::Url) => Ok(()),
        Some(Format::Squid) if text.starts_with('.') => Ok(()),
        Some(format) => {
            let why = format!("it is an entry of another system's list ({})", format.entries());
            let help = format!("write the hostname alone, or convert the list: `hostgate import --as {format} FILE`");
            Err(PatternError::new(text, why, help))
        }
    }
}

/// Returns whether a label begins with `xn--` and so has to be a valid A-label.
fn has_a_label(text: &str) -> bool {
    text.split('.').any(|label| label.as_bytes().get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--")))
}

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
            // Labels before the last one may break the rules for hostnames, as those of real names do.
            ("-sso.example.com", "-sso.example.com"),
            ("*.-a-.example", "*.-a-.example"),
            ("r3---sn-x.example.com", "r3---sn-x.example.com"),
            ("1.2.3.example", "1.2.3.example"),
            ("lan2", "lan2"),
            ("x.xn--90a3ac", "x.xn--90a3ac"),
            ("0xa.example", "0xa.example"),
            ("*.onion", "*.onion"),
            ("*.home.arpa", "*.home.arpa"),
            ("*.168.192.in-addr.arpa", "*.168.192.in-addr.arpa"),
        ];
        for (text, canonical) in CASES {
            assert_eq!(Pattern::parse(text).map(|pattern| pattern.to_string()).as_deref(), Ok(*canonical), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_pattern_is_refused_with_a_reason_and_help() {
        const CASES: &[(&str, &str, &str)] = &[
            ("*", "stands for every name", "allow_all = true"),
            ("**", "stands for every name", "allow_all = true"),
            ("*.", "stands for every name", "allow_all = true"),
            ("**.example.com", "`**` is not a wildcard", "`*.example.com` matches names at every depth"),
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
            ("*.in-addr.arpa", "reverse names of all networks", "`*.2.0.192.in-addr.arpa`"),
            ("*.ip6.arpa", "reverse names of all networks", "`*.8.b.d.0.1.0.0.2.ip6.arpa`"),
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
            ("-", "no letter and no digit", "remove the entry"),
            ("_.-", "no letter and no digit", "remove the entry"),
            ("*.-", "no letter and no digit", "remove the entry"),
            ("-n", "option of a command", "remove the entry"),
            ("--allow", "option of a command", "remove the entry"),
            ("*.-n", "option of a command", "remove the entry"),
            ("example.-com", "last label begins or ends with `-`", "spelling"),
            ("example.com-", "last label begins or ends with `-`", "spelling"),
            ("443", "like a port", "DNS knows no ports"),
            ("*.443", "like a port", "DNS knows no ports"),
            ("2130706433", "part of an address", "allowed_cidrs"),
            ("0x7F000001", "part of an address", "allowed_cidrs"),
            ("010.0.0.1", "part of an address", "allowed_cidrs"),
            ("127.1", "part of an address", "allowed_cidrs"),
            ("1.2.3.0-1.2.3.255", "part of an address", "allowed_cidrs"),
            ("example.123", "last label is a number", "no ports"),
            ("example.0x1f.", "last label is a number", "no ports"),
            ("fe80::1%eth0", "is an address", "allowed_cidrs"),
            ("[fe80::1%eth0]:53", "is an address", "allowed_cidrs"),
            ("acl x dstdomain .example.com", "Squid dstdomain", "--as squid"),
            ("\"*.example.com\",", "holds quotes or the like", "write `*.example.com`"),
            ("'example.com'", "holds quotes or the like", "write `example.com`"),
            ("[\"a.example\", \"b.example\"]", "holds several names", "write `a.example`, `b.example` as entries"),
            ("0.0.0.0 ads.example", "line of a hosts file", "write `ads.example`"),
            ("::1 a.example b.example", "line of a hosts file", "write `a.example`, `b.example` as entries"),
            ("a.example,b.example", "holds several names", "write `a.example`, `b.example` as entries"),
            ("a.example;\t*.b.example", "holds several names", "write `a.example`, `*.b.example` as entries"),
            ("a.test\nb.test\nc.test\nd.test\n", "holds several names", "`a.test`, `b.test`, `c.test` and so on"),
            ("host:x.example", "holds a `:`", "write `x.example`"),
            ("site:*.example.com", "holds a `:`", "write `*.example.com`"),
            ("geosite:category-ads:x", "holds a `:`", "write the hostname alone"),
            ("404:", "holds a `:`", "write the hostname alone"),
            ("server:", "unbound local-zone", "--as unbound"),
            ("zone:", "holds a `:`", "write the hostname alone"),
            ("localhost:8080", "port", "write `localhost`"),
            ("example.com:", "port", "write `example.com`"),
            ("example.com:https", "port", "write `example.com`"),
            ("full:api.example.com", "v2fly domain-list entries", "--as v2fly"),
            ("domain:example.com", "v2fly domain-list entries", "--as v2fly"),
            ("||example.com^", "adblock rules", "--as adblock"),
            ("@@||example.com^", "adblock rules", "--as adblock"),
            ("address=/example.com/0.0.0.0", "dnsmasq directives", "--as dnsmasq"),
            ("local-zone: \"example.com\" static", "unbound local-zone", "--as unbound"),
            ("example.com CNAME .", "response policy zone", "--as rpz"),
            ("^ads\\.example\\.com$", "regular expressions", "--as regex"),
            ("DOMAIN-SUFFIX,example.com", "Surge rules", "--as surge"),
            ("+.example.com", "Clash rules", "--as clash"),
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
    fn help_proposes_no_broader_pattern_and_none_that_is_warned_about() {
        const CASES: &[&str] = &[
            "prod-*.s3.amazonaws.com",
            "s3.*.amazonaws.com",
            "a*.github.io",
            "**.github.io",
            ".github.io",
            "https://*.github.io/x",
            "https://storage.googleapis.com/my-bucket",
            "*.blob.core.windows.net:443",
            "x@*.run.app",
            "*.*.web.core.windows.net",
            "a*.com",
            ".com",
            "**.co.uk",
        ];
        for purpose in [Purpose::Allow, Purpose::PrivateAnswers] {
            for text in CASES {
                let error = Pattern::parse_for(text, purpose).expect_err(text);
                let quoted = error.help.split('`').skip(1).step_by(2);
                let proposed: Vec<_> = quoted.filter(|it| it.contains('.') && *it != "example.com").collect();
                assert!(proposed.is_empty(), "{text}: {}", error.help);
            }
        }
        for (text, help) in [
            ("https://example.com/a/b", "write `example.com`, for the whole host: DNS sees no scheme, port or path"),
            ("example.com:443", "write `example.com`, for the whole host: DNS sees no scheme, port or path"),
            ("https://*.example.com", "write `*.example.com`, for the whole host: DNS sees no scheme, port or path"),
            (
                "prod-*.example.com",
                "name each host, or write the broader `*.example.com`, which matches every name below `example.com`",
            ),
            ("example.com ", "write `example.com`"),
        ] {
            assert_eq!(Pattern::parse(text).expect_err(text).help, help, "{text}");
        }
    }

    #[test]
    fn denied_patterns_may_be_any_wildcard_except_the_one_for_every_name() {
        for text in ["*.zip", "*.net.kg", "*.co.uk", "*.github.io", "*.s3.amazonaws.com", "zip", "*.xn--p1ai"] {
            assert_eq!(Pattern::parse_for(text, Purpose::Deny).map(|it| it.to_string()).as_deref(), Ok(text));
        }
        for (text, help) in [
            ("*", "what is not allowed is denied as it is"),
            (".zip", "write `*.zip`, and `zip` for the name itself"),
            ("192.0.2.1", "addresses are not denied by name"),
            ("10.0.0.0/8", "addresses are not denied by name"),
            ("https://192.0.2.1:8080/x", "addresses are not denied by name"),
            ("[2001:db8::1]:443", "addresses are not denied by name"),
        ] {
            let error = Pattern::parse_for(text, Purpose::Deny).expect_err(text);
            assert!(error.help.starts_with(help) && !error.help.contains("allowed_"), "{text}: {}", error.help);
        }
    }

    #[test]
    fn questions_get_the_same_help_as_patterns() {
        const CASES: &[(&str, Result<&str, &str>)] = &[
            ("GitHub.com", Ok("github.com")),
            ("github.com.", Ok("github.com")),
            ("bücher.example", Ok("xn--bcher-kva.example")),
            ("_dmarc.example.com", Ok("_dmarc.example.com")),
            ("0/25.2.0.192.in-addr.arpa", Ok("0/25.2.0.192.in-addr.arpa")),
            ("https://github.com/x", Err("it is a URL with a scheme: ask for `github.com`")),
            ("github.com:443", Err("it holds a port, which DNS does not know: ask for `github.com`")),
            ("github.com/x", Err("it holds a path: ask for `github.com`")),
            ("https://storage.googleapis.com/x", Err("it is a URL with a scheme: ask for `storage.googleapis.com`")),
            ("git@github.com:x/y", Err("it holds a path: ask for `github.com`")),
            ("a*b.example", Ok("a*b.example")),
            ("user@", Err("it holds a user: write the hostname alone")),
            (
                "1.2.3.4",
                Err("it is an address, not a hostname: DNS sees names only: give the hostname that leads there"),
            ),
            ("2001:db8::1", Err("it is an address, not a hostname: DNS sees names only")),
            ("http://1.2.3.4/", Err("it is an address, not a hostname")),
            ("", Err("it is empty")),
        ];
        for (text, expected) in CASES {
            match (any_question(text), expected) {
                (Ok(name), Ok(expected)) => assert_eq!(name.to_string(), *expected, "{text}"),
                (Err((why, help)), Err(expected)) => {
                    assert!(format!("{why}: {help}").starts_with(expected), "{text}: {why}: {help}");
                }
                (read, _) => panic!("{text}: {read:?}"),
            }
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
    fn exact_patterns_match_one_name_and_wildcards_only_names_below() {
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
