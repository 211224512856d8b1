//! Classification of a single line of a list: the formats in which such a line occurs.
//!
//! A line is classified by itself; `detect` in the parent module weighs the lines of a whole file.

use std::net::IpAddr;

use super::Format;

/// The classification of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A blank line or a comment.
    Nothing,
    /// A hostname, alone or after `*.`, which many formats have.
    Common,
    /// A hostname followed by a word after `@`: an attribute of v2fly, or a schedule of dnscrypt-proxy.
    Attributed,
    /// An entry that only this format and its relatives have.
    Of(Format),
    /// An entry that no format explains.
    Unknown,
}

/// Classifies one line.
pub(super) fn line(whole: &str) -> Line {
    let content = whole.trim();
    if is_comment(content) {
        return Line::Nothing;
    }
    if let Some(format) = by_start(content) {
        return Line::Of(format);
    }
    if is_cosmetic(content) || content.ends_with('^') || content.contains("^$") && content.starts_with('|') {
        return Line::Of(Format::Adblock);
    }
    // In most formats a comment may follow the entry.
    let content = content.split_once(" #").map_or(content, |(before, _)| before.trim_end());
    let mut words = content.split_ascii_whitespace();
    let Some(first) = words.next() else { return Line::Nothing };
    match words.next() {
        Some(second) => of_words(content, first, second),
        None => of_word(first),
    }
}

/// Returns whether a line is blank or a comment in any of the formats.
pub(super) fn is_comment(content: &str) -> bool {
    let is_cosmetic = content.starts_with("##") && content.len() > 2 && !content[2..].starts_with(['#', ' ']);
    content.is_empty()
        || content.starts_with(['!', ';'])
        || content.starts_with("//")
        || content.starts_with('#') && !(is_cosmetic && content[2..].starts_with(['.', '[']))
        || matches!(content, "---" | "..." | "[" | "]" | "],")
}

/// Returns whether a line is a cosmetic rule, which hides parts of web pages and says nothing about DNS.
pub(crate) fn is_cosmetic(content: &str) -> bool {
    content.contains(['#', '$'])
        && ["##", "#@#", "#?#", "#$#", "#%#", "#@?#", "#@$#", "#@%#", "$$", "$@$"].iter().any(|mark| {
            content.find(mark).is_some_and(|at| {
                let after = &content[at + mark.len()..];
                !content[..at].contains(char::is_whitespace) && !after.is_empty() && !after.starts_with([' ', '#'])
            })
        })
}

/// Returns the format that the first characters of a line identify.
fn by_start(content: &str) -> Option<Format> {
    /// Prefixes that identify a format.
    const STARTS: &[(&str, Format)] = &[
        ("||", Format::Adblock),
        ("@@", Format::Adblock),
        ("[adblock", Format::Adblock),
        ("local-zone:", Format::Unbound),
        ("local-data:", Format::Unbound),
        ("local-data-ptr:", Format::Unbound),
        ("local-zone-override:", Format::Unbound),
        ("address=/", Format::Dnsmasq),
        ("server=/", Format::Dnsmasq),
        ("local=/", Format::Dnsmasq),
        ("rev-server=", Format::Dnsmasq),
        ("ipset=/", Format::Dnsmasq),
        ("nftset=/", Format::Dnsmasq),
        ("bogus-nxdomain=", Format::Dnsmasq),
        ("full:", Format::V2fly),
        ("domain:", Format::V2fly),
        ("keyword:", Format::V2fly),
        ("regexp:", Format::V2fly),
        ("regex:", Format::V2fly),
        ("include:", Format::V2fly),
        ("$origin", Format::Rpz),
        ("$ttl", Format::Rpz),
        ("acl ", Format::Squid),
        ("sbx ", Format::Docker),
        ("+.", Format::Clash),
        ("'+.", Format::Clash),
        ("\"+.", Format::Clash),
        ("- +.", Format::Clash),
        ("- '+.", Format::Clash),
        ("- \"+.", Format::Clash),
        ("- domain", Format::Clash),
        ("- 'domain", Format::Clash),
        ("- ip-cidr", Format::Clash),
        ("domain,", Format::Surge),
        ("domain-suffix,", Format::Surge),
        ("domain-keyword,", Format::Surge),
        ("domain-wildcard,", Format::Surge),
        ("domain-set,", Format::Surge),
        ("host,", Format::Surge),
        ("host-suffix,", Format::Surge),
        ("host-keyword,", Format::Surge),
        ("ip-cidr,", Format::Surge),
        ("ip-cidr6,", Format::Surge),
        ("rule-set,", Format::Surge),
        ("url-regex,", Format::Surge),
        ("user-agent,", Format::Surge),
        ("process-name,", Format::Surge),
        ("geoip,", Format::Surge),
        ("geosite,", Format::Surge),
        ("final,", Format::Surge),
        ("match,", Format::Surge),
        ("[rule]", Format::Surge),
    ];
    let first = content.as_bytes().first().map(u8::to_ascii_lowercase);
    // Comparing the first letter alone comes first: every entry of a list gets here, and most start with another one.
    let starts = |start: &str| {
        start.as_bytes().first() == first.as_ref()
            && content.get(..start.len()).is_some_and(|from| from.eq_ignore_ascii_case(start))
    };
    STARTS.iter().find(|(start, _)| starts(start)).map(|(_, format)| *format)
}

/// Classifies a line of several words.
fn of_words(content: &str, first: &str, second: &str) -> Line {
    if is_address(first) {
        return Line::Of(Format::Hosts);
    }
    if content
        .split_ascii_whitespace()
        .any(|word| ["cname", "soa", "rpz-passthru.", "rpz-drop."].iter().any(|mark| word.eq_ignore_ascii_case(mark)))
    {
        return Line::Of(Format::Rpz);
    }
    if content.strip_prefix("- ").is_some_and(|item| is_name(unquoted(item))) {
        return Line::Common;
    }
    if let Some(item) =
        content.strip_prefix("* ").or_else(|| content.strip_prefix("- ")).or_else(|| content.strip_prefix("| "))
    {
        let item = item.trim_start();
        return if item.starts_with('`') { Line::Of(Format::Copilot) } else { Line::Unknown };
    }
    if second.starts_with('@') && is_name(first) {
        let is_attribute = second.len() > 1
            && second[1..].bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'!'));
        return if is_attribute { Line::Attributed } else { Line::Unknown };
    }
    let mut words = content.split_ascii_whitespace();
    if words.all(is_host_port) {
        return Line::Of(Format::HostPort);
    }
    if content.starts_with(['"', '\'']) || content.starts_with("[\"") || content.starts_with("['") {
        return if is_list_of_names(content) { Line::Of(Format::Domains) } else { Line::Unknown };
    }
    if content.contains(',') && is_list_of_names(content) {
        return Line::Common;
    }
    Line::Unknown
}

/// Classifies a line of one word.
fn of_word(word: &str) -> Line {
    if matches!(word, "server:" | "view:") {
        return Line::Of(Format::Unbound);
    }
    // The line below the header of a Markdown table.
    if word.len() > 2 && word.starts_with('|') && word.bytes().all(|octet| matches!(octet, b'|' | b'-' | b':')) {
        return Line::Nothing;
    }
    // The header of a section in a configuration file.
    if word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(is_section) {
        return Line::Unknown;
    }
    if word.starts_with(['"', '\'']) || word.starts_with("[\"") || word.starts_with("['") {
        return if is_list_of_names(word) { Line::Of(Format::Domains) } else { Line::Unknown };
    }
    if is_name(word.strip_prefix("*.").unwrap_or(word)) {
        return Line::Common;
    }
    if is_address(word) || word.split_once('/').is_some_and(|(address, _)| is_address(address)) {
        return Line::Unknown;
    }
    if is_regex(word) {
        return Line::Of(Format::Regex);
    }
    if word.contains("://") && !word.starts_with("://") {
        return Line::Of(Format::Url);
    }
    if word.contains(',') && !word.contains(':') {
        return if is_list_of_names(word) { Line::Common } else { Line::Unknown };
    }
    if is_host_port(word) {
        return Line::Of(Format::HostPort);
    }
    if let Some(base) = word.strip_prefix("**.") {
        return if is_name(base) { Line::Of(Format::Docker) } else { Line::Unknown };
    }
    if let Some(base) = word.strip_prefix('.') {
        return if is_name(base) { Line::Of(Format::Squid) } else { Line::Unknown };
    }
    if let Some(base) = word.strip_prefix('=') {
        return if is_name(base) { Line::Of(Format::Dnscrypt) } else { Line::Unknown };
    }
    if word.len() > 1 && word.contains(['*', '?', '[']) && word.bytes().all(is_glob_octet) {
        return Line::Of(Format::Dnscrypt);
    }
    if word.starts_with('|') || word.starts_with('/') || word.contains('^') {
        return Line::Of(Format::Adblock);
    }
    if word.split_once('/').is_some_and(|(host, _)| host.contains('.') && is_name(host)) {
        return Line::Of(Format::Url);
    }
    Line::Unknown
}

/// Returns whether a text in brackets is a section name, as opposed to a hostname or a character class.
fn is_section(name: &str) -> bool {
    name.len() > 2 && name.bytes().all(|octet| octet.is_ascii_alphabetic() || matches!(octet, b'_' | b' '))
}

/// Returns whether a text is a comma-separated list of hostnames and wildcards, possibly in quotes and brackets.
fn is_list_of_names(text: &str) -> bool {
    let names = text.split(',').map(unquoted).filter(|part| !part.is_empty());
    names.map(|part| part.strip_prefix("*.").unwrap_or(part)).all(|name| is_name(name) && name.contains('.'))
}

/// Returns a word without surrounding spaces, quotes and brackets.
fn unquoted(part: &str) -> &str {
    part.trim_matches(['"', '\'', '`', '[', ']', ' ', '\t'])
}

/// Returns whether a word has the characters of a hostname. Whether it is valid is left to the pattern parser.
pub(crate) fn is_name(word: &str) -> bool {
    let word = word.strip_suffix('.').unwrap_or(word);
    let is_octet =
        |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.') || !octet.is_ascii();
    !word.is_empty()
        && word.bytes().all(is_octet)
        && !word.starts_with('.')
        && !word.contains("..")
        && !is_address(word)
}

/// Returns whether a word is a hostname or wildcard with a port.
fn is_host_port(word: &str) -> bool {
    word.rsplit_once(':').is_some_and(|(host, port)| {
        let is_port =
            !port.is_empty() && port.len() <= 5 && (port == "*" || port.bytes().all(|octet| octet.is_ascii_digit()));
        let host = host.strip_prefix("**.").or_else(|| host.strip_prefix("*.")).unwrap_or(host);
        is_port && (is_name(host) || is_address(host.trim_matches(['[', ']'])))
    })
}

/// Returns whether a word is an IPv4 or IPv6 address, with or without a zone.
pub(crate) fn is_address(word: &str) -> bool {
    let may_be = word.as_bytes().first().is_some_and(u8::is_ascii_hexdigit) || word.starts_with(':');
    may_be && word.split('%').next().unwrap_or(word).parse::<IpAddr>().is_ok()
}

/// Returns whether a word looks like a regular expression.
fn is_regex(word: &str) -> bool {
    let slashed = word.len() > 2 && word.starts_with('/') && word.ends_with('/');
    slashed && word.contains(['\\', '^', '$', '(', '['])
        || word.starts_with('^') && word.len() > 1
        || word.contains("\\.")
        || word.starts_with('(') && word.contains(')')
}

/// Returns whether an octet may occur in a name pattern of dnscrypt-proxy.
fn is_glob_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'*' | b'?' | b'[' | b']')
}
