//! The decision about a query: a pure function of the snapshot, the client, the name and the type.
//!
//! [`decide()`] applies a policy. Before that, [`devbox`] answers names of devboxes. [`scope`] decides which budget an
//! allowed query counts against. All of this runs for every query, so it allocates nothing, and texts are formatted
//! only on request.

pub(crate) mod devbox;
pub(crate) mod near_miss;
pub(crate) mod owned;
mod scope;

use std::borrow::Cow;
use std::fmt;

use crate::dns::name::{LowerName, Suffixes};
use crate::dns::rtype::RecordType;
pub use crate::labels::{Action, Reason};

use super::matching::pattern_kind::PatternKind;
use super::matching::rules::Rule;
use super::matching::special_use::{SpecialUse, is_localhost, loopback};
use super::model::spec::Mode;
use super::snapshot::{Asker, EffectivePolicy, NoPolicyReason, Policy};

/// Decides what happens to a query of `asker` for `qname` and `qtype` by its policy alone; [`super::Snapshot::decide`]
/// also knows the names of devboxes.
///
/// A name is denied if a denied pattern matches it; else allowed if an allowed pattern matches or the policy allows
/// all; else denied. No allocation; a walk of the name's labels with one hash each.
///
/// A question for ANY of an allowed name results in [`Action::NoData`], as no policy can allow that type: the caller
/// answers it as RFC 8482 says.
#[must_use]
pub fn decide<'s>(asker: &Asker<'s>, qname: &LowerName, qtype: RecordType) -> Decision<'s> {
    let (policy, is_unrestricted) = match asker.effective {
        EffectivePolicy::Policy(policy) => (policy, false),
        EffectivePolicy::Unrestricted(policy, _) => (policy, true),
        EffectivePolicy::None(reason) => {
            let reason = match reason {
                NoPolicyReason::NoClient => Reason::NoClient,
                NoPolicyReason::PolicyGone => Reason::PolicyGone,
                NoPolicyReason::NoPolicy => Reason::NoPolicy,
            };
            return Decision { action: Action::Deny, reason, rule: None, policy: None, audited: false };
        }
    };
    let audits = policy.spec.mode == Mode::Audit;
    let decision = |action, reason, rule, audited| Decision { action, reason, rule, policy: Some(policy), audited };
    let deny = |reason, rule| {
        if audits {
            record_denial(policy, qname, qtype, (reason, rule))
        } else {
            decision(Action::Deny, reason, rule, false)
        }
    };
    let (reason, rule) = match decide_name(policy, qname) {
        NameDecision::Allow(rule) => (Reason::Rule, Some(rule)),
        NameDecision::AllowAll if is_unrestricted => (Reason::Unrestricted, None),
        NameDecision::AllowAll => (Reason::AllowAll, None),
        NameDecision::Deny(rule) => return deny(Reason::DeniedRule, Some(rule)),
        NameDecision::NotHostname(rule) => return deny(Reason::OddName, rule),
        NameDecision::NotListed
            if matches!(qtype, RecordType::DS | RecordType::DNSKEY) && proves_listed(policy, qname) =>
        {
            if !policy.spec.query_types.contains(qtype) {
                return deny(Reason::NotListed, None);
            }
            (Reason::DnssecChain, None)
        }
        NameDecision::NotListed => return deny(Reason::NotListed, None),
        NameDecision::Special(special) => return decide_special(policy, special, qtype),
        // Both are denied in audit mode too: a client must not get around the resolver, and without one of its includes
        // a policy's own decision is unknown.
        NameDecision::Bypass => return decision(Action::Deny, Reason::Bypass, None, false),
        NameDecision::Gone => return decision(Action::Deny, Reason::PolicyGone, None, false),
    };
    if policy.spec.query_types.contains(qtype) {
        decision(Action::Allow, reason, rule, false)
    } else if audits && !qtype.is_meta() {
        // Audit mode forwards other types, but no meta type (RFC 6895 §3.1): no record has one.
        decision(Action::Allow, Reason::QueryType, rule, true)
    } else {
        decision(Action::NoData, Reason::QueryType, rule, false)
    }
}

/// Returns whether DS or DNSKEY records of a name prove something about a listed name, which is below it.
///
/// A validator asks for them from the root down to the zone of each name it validates (RFC 4035 §5). The names above
/// the listed ones were collected when these were loaded.
#[cold]
fn proves_listed(policy: &Policy, qname: &LowerName) -> bool {
    policy.allowed.kind_below(qname.as_wire()).is_some()
}

/// Returns the decision of a policy in audit mode about a query that it denies: allowed and marked as audited, unless
/// the name has a special use, so that no upstream has an answer to it.
#[cold]
fn record_denial<'s>(
    policy: &'s Policy,
    qname: &LowerName,
    qtype: RecordType,
    (reason, rule): (Reason, Option<Rule<'s>>),
) -> Decision<'s> {
    match SpecialUse::of(qname) {
        Some(special) => decide_special(policy, special, qtype),
        None => Decision { action: Action::Allow, reason, rule, policy: Some(policy), audited: true },
    }
}

/// Decides about a special-use name: the host's own name has addresses and no other records, all others do not exist.
#[cold]
fn decide_special(policy: &Policy, special: SpecialUse, qtype: RecordType) -> Decision<'_> {
    let (action, reason) = match (special, loopback(qtype)) {
        (SpecialUse::Local(_), _) => (Action::Deny, Reason::SpecialUse),
        _ if !policy.spec.query_types.contains(qtype) => (Action::NoData, Reason::QueryType),
        (SpecialUse::Localhost, Some(_)) => (Action::Answer, Reason::SpecialUse),
        (SpecialUse::Localhost, None) => (Action::NoData, Reason::SpecialUse),
    };
    Decision { action, reason, rule: None, policy: Some(policy), audited: false }
}

impl Policy {
    /// Returns whether `target` is allowed as the target of an alias, whatever the policy's mode is.
    #[must_use]
    pub fn allows_target(&self, target: &LowerName) -> bool {
        matches!(decide_name(self, target), NameDecision::Allow(_) | NameDecision::AllowAll)
    }
}

/// The decision about a query.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'s> {
    /// The action to take.
    pub action: Action,
    /// The reason for the action; in audit mode the reason for which the query would be denied.
    pub reason: Reason,
    /// The most specific pattern behind the decision; `None` if no pattern decided.
    pub rule: Option<Rule<'s>>,
    /// The policy behind the decision; `None` if no policy applies to the client.
    pub policy: Option<&'s Policy>,
    /// Whether the query would be denied and is allowed only because its policy is in audit mode.
    pub audited: bool,
}

impl<'s> Decision<'s> {
    /// Returns a short text for the person or agent whose query it is: the action, the reason, and the policy's
    /// message. At most about 180 bytes without the message.
    #[must_use]
    pub const fn explain(&self) -> Explanation<'_, 's> {
        Explanation(self)
    }

    /// Returns [`Decision::explain`] as text. The text of the most frequent denial is cached in each policy.
    #[must_use]
    pub fn text(&self) -> Cow<'s, str> {
        let spell_out = || self.explain().to_string();
        match (self.policy, self.action, self.reason) {
            // This text depends on the policy alone, so it is the only one that can be cached there.
            (Some(policy), Action::Deny, Reason::NotListed) => {
                Cow::Borrowed(policy.not_listed.get_or_init(|| spell_out().into()))
            }
            _ => Cow::Owned(spell_out()),
        }
    }
}

/// The text of [`Decision::explain`].
#[derive(Clone, Copy, Debug)]
pub struct Explanation<'d, 's>(&'d Decision<'s>);

impl fmt::Display for Explanation<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decision { action, reason, rule, policy, audited } = self.0;
        let Some(policy) = policy else {
            let reason = match reason {
                Reason::PolicyGone => NoPolicyReason::PolicyGone,
                Reason::NoPolicy => NoPolicyReason::NoPolicy,
                _ => NoPolicyReason::NoClient,
            };
            return write!(f, "denied: {reason}");
        };
        let verb = match action {
            Action::Allow | Action::Answer if *audited => "would be denied",
            Action::Allow | Action::Answer => "allowed",
            Action::Deny | Action::Refuse => "denied",
            Action::NoData => "no data",
        };
        write!(f, "{verb} by policy {}: ", policy.id())?;
        match (reason, rule) {
            (Reason::Rule, Some(rule)) => write_pattern(f, "allowed by ", rule)?,
            (Reason::DeniedRule, Some(rule)) => write_pattern(f, "denied by ", rule)?,
            (Reason::OddName, Some(rule)) => write_pattern(f, "not a hostname, as required by ", rule)?,
            (Reason::PolicyGone, _) => write!(f, "it includes {}, which is gone", policy.gone().unwrap_or("a policy"))?,
            (reason, _) => f.write_str(match reason {
                Reason::AllowAll | Reason::Unrestricted => "it allows everything",
                Reason::OddName => "a label of the name holds a dot or a NUL",
                Reason::Bypass => "the name leads around this resolver",
                Reason::DnssecChain => "a validator needs this to check names below it that are listed",
                Reason::SpecialUse if action.is_allow() => "it is the host itself, and no upstream is asked",
                Reason::SpecialUse if *action == Action::NoData => "it is the host itself, which has only addresses",
                Reason::SpecialUse => "the name is for local use, and no upstream is asked unless an entry names it",
                Reason::QueryType => "the type is not in its query_types",
                Reason::Devbox if action.is_allow() => "it may look up devboxes",
                Reason::Devbox => "hostgate has no record of this type for the name",
                Reason::NoDevbox => "no devbox has this name",
                Reason::DevboxToDevbox => {
                    "names of devboxes need allow_devbox_to_devbox, whatever allowed_hostnames says"
                }
                _ => "the name is not in its allowed_hostnames",
            })?,
        }
        match policy.message() {
            Some(message) if !action.is_allow() => write!(f, ". {message}"),
            _ => Ok(()),
        }
    }
}

/// Writes a pattern, shortened so that the whole text fits its place in an answer.
fn write_pattern(f: &mut fmt::Formatter<'_>, before: &str, rule: &Rule<'_>) -> fmt::Result {
    /// The most characters of a pattern that are written.
    const SHOWN: usize = 60;
    let text = rule.to_string();
    // By characters, as a cut within one would not be valid UTF-8.
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => write!(f, "{before}{}…", &text[..end]),
        None => write!(f, "{before}{text}"),
    }
}

/// The decision of a policy about a name, before mode and type are considered.
#[derive(Debug)]
pub(super) enum NameDecision<'p> {
    /// An allowed pattern matches.
    Allow(Rule<'p>),
    /// No pattern matches, and the policy has `allow_all`.
    AllowAll,
    /// A denied pattern matches.
    Deny(Rule<'p>),
    /// The name is not a hostname: only a wildcard matches it (which is given), or the policy has `allow_all` and the
    /// name reads as another one.
    NotHostname(Option<Rule<'p>>),
    /// The name leads clients to another way of resolving names.
    Bypass,
    /// The name has a special use, and no pattern was written for that.
    Special(SpecialUse),
    /// No pattern matches.
    NotListed,
    /// A policy or list file that the policy includes is gone, so it denies everything.
    Gone,
}

/// Decides about a name. One walk over its suffixes serves both lists, so each suffix is hashed at most once.
pub(super) fn decide_name<'p>(policy: &'p Policy, name: &LowerName) -> NameDecision<'p> {
    if policy.gone.is_some() {
        return NameDecision::Gone;
    }
    let labels = name.suffixes().count();
    let (mut allowed, mut denied) = (None, None);
    for (above, suffix) in name.suffixes().enumerate() {
        let kind = if above == 0 { PatternKind::Exact } else { PatternKind::Below };
        let mut hash = None;
        denied = policy.denied.find(kind, suffix, labels - above, &mut hash);
        if denied.is_some() {
            break;
        }
        if allowed.is_none() {
            allowed = policy.allowed.find(kind, suffix, labels - above, &mut hash).map(|rule| (kind, rule));
            // Only a denied pattern could change the result, and there is none.
            if allowed.is_some() && policy.denied.is_empty() {
                break;
            }
        }
    }
    // An exact entry shows that the policy's author means the name; a wildcard above it or `allow_all` does not.
    if is_bypass(name.as_wire()) && !matches!(allowed, Some((PatternKind::Exact, _))) {
        return NameDecision::Bypass;
    }
    match (denied, allowed) {
        (Some(rule), _) => NameDecision::Deny(rule),
        // A listed localhost is still answered here, as RFC 6761 §6.3 asks.
        (None, Some((PatternKind::Exact, _))) if policy.lists_localhost && is_localhost(name) => {
            NameDecision::Special(SpecialUse::Localhost)
        }
        (None, Some((PatternKind::Exact, rule))) => NameDecision::Allow(rule),
        (None, Some((PatternKind::Below, rule))) if is_hostname(name, labels) => match SpecialUse::of(name) {
            Some(special) if !special.is_opened_by(rule.wire()) => NameDecision::Special(special),
            _ => NameDecision::Allow(rule),
        },
        (None, _) if policy.spec.allow_all && reads_as_another(name) => NameDecision::NotHostname(None),
        (None, _) if policy.spec.allow_all => {
            SpecialUse::of(name).map_or(NameDecision::AllowAll, NameDecision::Special)
        }
        (None, Some((PatternKind::Below, rule))) => NameDecision::NotHostname(Some(rule)),
        (None, None) if is_localhost(name) => NameDecision::Special(SpecialUse::Localhost),
        (None, None) => NameDecision::NotListed,
    }
}

/// Returns whether a name can be of a host or a service: letters, digits, `-` and `_` in not too many labels.
///
/// A wildcard allows no other names. A NUL, a dot or a `*` within a label has fooled matchers and programs that read
/// the answer, and a name of a hundred labels is a tunnel.
fn is_hostname(name: &LowerName, labels: usize) -> bool {
    labels <= MOST_LABELS && name.labels().all(|label| label.iter().all(|&octet| OF_HOSTNAMES[usize::from(octet)]))
}

/// Returns whether a label contains a dot or a NUL: written as text, and so for programs that read the answer, the name
/// is another one, which a denied pattern may match.
fn reads_as_another(name: &LowerName) -> bool {
    name.labels().any(|label| label.iter().any(|octet| matches!(octet, b'.' | 0)))
}

/// Whether each octet can be in a hostname. A table, as comparing each octet with ranges took longer than finding the
/// rule. Names are in lower case here.
const OF_HOSTNAMES: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < table.len() {
        table[octet] = matches!(octet, 0x61..=0x7a | 0x30..=0x39 | 0x2d | 0x5f);
        octet += 1;
    }
    table
};

/// The most labels of a name that a wildcard allows. The longest names in everyday use are those of IPv6 addresses in
/// `ip6.arpa`, 34 labels (RFC 3596 §2.5); the rest is for a service's labels before them.
const MOST_LABELS: usize = 40;

/// Returns whether a name leads clients to another way of resolving names: Firefox's canary for DNS over HTTPS,
/// discovery of designated resolvers (RFC 9462 §4), Apple's private relay.
pub(super) fn is_bypass(wire: &[u8]) -> bool {
    /// The names that are bypasses themselves.
    const NAMES: [&[u8]; 3] =
        [b"\x13use-application-dns\x03net\0", b"\x04mask\x06icloud\x03com\0", b"\x07mask-h2\x06icloud\x03com\0"];
    /// The name that is a bypass together with all names below it.
    const ABOVE: &[u8] = b"\x08resolver\x04arpa\0";
    match wire.last_chunk() {
        Some(b"net\0" | b"com\0") => NAMES.contains(&wire),
        Some(b"rpa\0") => Suffixes::of(wire).any(|suffix| suffix == ABOVE),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Directory, ask, name, verdict};
    use super::*;
    use crate::policy::matching::pattern::Pattern;

    /// Returns a directory with a policy of these lines for the client 192.0.2.1.
    fn policy(lines: &str) -> Directory {
        let client = "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n";
        Directory::of(&[("p.toml", &format!("[policy.p]\n{lines}\n{client}"))])
    }

    #[test]
    fn names_are_matched_by_labels() {
        // Allowed pattern, denied pattern, query, expected decision.
        let cases = [
            ("github.com", "", "github.com", "allow rule"),
            ("github.com", "", "GITHUB.com.", "allow rule"),
            ("GitHub.com.", "", "gitHub.Com", "allow rule"),
            ("github.com", "", "api.github.com", "deny not-listed"),
            ("*.github.com", "", "api.github.com", "allow rule"),
            ("*.github.com", "", "a.b.c.github.com", "allow rule"),
            ("*.github.com", "", "github.com", "deny not-listed"),
            ("*.github.com", "", "evilgithub.com", "deny not-listed"),
            ("*.github.com", "", "xgithub.com", "deny not-listed"),
            ("*.github.com", "", "github.com.evil.test", "deny not-listed"),
            ("*.google.com", "", r"evil\000.google.com", "deny odd-name"),
            ("*.google.com", "", r"evil\000google.com", "deny not-listed"),
            ("*.google.com", "", r"evil\.google.com", "deny not-listed"),
            ("*.google.com", "", r"a\.b.google.com", "deny odd-name"),
            ("bar.foo.com", "", "bar.foo.com.evil.com", "deny not-listed"),
            ("*.example.com", "", "*.example.com", "deny odd-name"),
            ("*.example.com", "", "_acme-challenge.example.com", "allow rule"),
            ("bücher.example", "", "xn--bcher-kva.example", "allow rule"),
            ("*.foo.com", "*.int.foo.com", "x.int.foo.com", "deny denied-rule"),
            ("*.foo.com", "*.int.foo.com", "int.foo.com", "allow rule"),
            ("x.int.foo.com", "*.int.foo.com", "x.int.foo.com", "deny denied-rule"),
            ("*.foo.com", "x.foo.com", "x.foo.com", "deny denied-rule"),
            ("*.foo.com", "*.foo.com", r"\000.foo.com", "deny denied-rule"),
            ("", "", "example.com", "deny not-listed"),
            ("", "", ".", "deny not-listed"),
        ];
        for (allowed, denied, query, expected) in &cases {
            let list = |text: &str| if text.is_empty() { "[]".to_owned() } else { format!("[\"{text}\"]") };
            let (allowed, denied) = (list(allowed), list(denied));
            let library = policy(&format!("allowed_hostnames = {allowed}\ndenied_hostnames = {denied}")).library();
            assert_eq!(verdict(library.snapshot(), "192.0.2.1", query), *expected, "{allowed} {denied} {query}");
        }
    }

    #[test]
    fn names_of_any_number_of_labels_are_found() {
        let deep = |labels: usize| "a.".repeat(labels - 1) + "test";
        for labels in [1, 2, 39, 61, 62, 63, 64, 65, 100, 124] {
            let library = policy(&format!("allowed_hostnames = [\"{}\"]", deep(labels))).library();
            assert_eq!(verdict(library.snapshot(), "192.0.2.1", &deep(labels)), "allow rule", "{labels}");
            assert_eq!(verdict(library.snapshot(), "192.0.2.1", &deep(labels + 1)), "deny not-listed", "{labels}");
        }
    }

    #[test]
    fn a_tunnel_of_a_hundred_labels_is_denied_by_a_wildcard_and_a_reverse_name_is_not() {
        let library = policy("allowed_hostnames = [\"*.example.com\", \"*.8.b.d.0.1.0.0.2.ip6.arpa\"]").library();
        let tunnel = "a.".repeat(120) + "example.com";
        assert_eq!(verdict(library.snapshot(), "192.0.2.1", &tunnel), "deny odd-name");
        let reverse = "0.".repeat(24) + "8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(verdict(library.snapshot(), "192.0.2.1", &reverse), "allow rule");
    }

    #[test]
    fn allow_all_allows_all_names_that_are_not_denied() {
        let library = policy("allow_all = true\ndenied_hostnames = [\"*.bad.test\"]").library();
        let cases = [
            ("example.com", "allow allow-all"),
            (".", "allow allow-all"),
            (r"odd\001.test", "allow allow-all"),
            (r"odd\000.test", "deny odd-name"),
            (r"x\.bad.test", "deny odd-name"),
            (r"bad\.test", "deny odd-name"),
            ("x.bad.test", "deny denied-rule"),
            (r"odd\000.bad.test", "deny denied-rule"),
            ("bad.test", "allow allow-all"),
        ];
        for (query, expected) in &cases {
            assert_eq!(verdict(library.snapshot(), "192.0.2.1", query), *expected, "{query}");
        }
    }

    #[test]
    fn bypasses_are_denied_unless_listed_exactly() {
        const POLICIES: &[(&str, bool)] = &[
            ("allow_all = true", false),
            ("allow_all = true\nmode = \"audit\"", false),
            ("allowed_hostnames = [\"*.icloud.com\", \"*.resolver.arpa\"]", false),
            ("mode = \"audit\"", false),
            ("mode = \"audit\"\ndenied_hostnames = [\"*.icloud.com\"]", false),
            (
                "allowed_hostnames = [\"use-application-dns.net\", \"mask.icloud.com\", \"mask-h2.icloud.com\", \"resolver.arpa\", \"_dns.resolver.arpa\"]",
                true,
            ),
        ];
        for (lines, named) in POLICIES {
            let library = policy(lines).library();
            for bypass in [
                "use-application-dns.net",
                "MASK.icloud.com",
                "mask-h2.icloud.com",
                "resolver.arpa",
                "_dns.resolver.arpa",
            ] {
                let expected = if *named { "allow rule" } else { "deny bypass" };
                assert_eq!(verdict(library.snapshot(), "192.0.2.1", bypass), expected, "{lines}: {bypass}");
            }
            let below = verdict(library.snapshot(), "192.0.2.1", "x._dns.resolver.arpa");
            assert_eq!(below, "deny bypass", "{lines}");
        }
        let library = policy("allow_all = true").library();
        for other in ["www.use-application-dns.net", "xresolver.arpa", "a.mask.icloud.com", "icloud.com"] {
            assert_eq!(verdict(library.snapshot(), "192.0.2.1", other), "allow allow-all", "{other}");
        }
    }

    #[test]
    fn queries_of_unlisted_types_get_nodata() {
        let decide_type = |directory: &Directory, qname: &str, qtype: &str| {
            let library = directory.library();
            let asker = library.snapshot().asker("192.0.2.1".parse().unwrap(), 0);
            let decision = decide(&asker, &name(qname), qtype.parse().unwrap());
            format!("{} {} {}", decision.action.as_str(), decision.reason.as_str(), decision.audited)
        };
        let usual = policy("allowed_hostnames = [\"a.test\"]");
        let few = policy("allowed_hostnames = [\"a.test\"]\nquery_types = [\"A\", \"TYPE65400\"]");
        let audit = policy("allowed_hostnames = [\"a.test\"]\nmode = \"audit\"");
        let cases = [
            (&usual, "a.test", "AAAA", "allow rule false"),
            (&usual, "a.test", "HTTPS", "allow rule false"),
            (&usual, "a.test", "NULL", "nodata query-type false"),
            (&usual, "a.test", "TYPE65400", "nodata query-type false"),
            (&usual, "a.test", "ANY", "nodata query-type false"),
            (&usual, "b.test", "NULL", "deny not-listed false"),
            (&few, "a.test", "A", "allow rule false"),
            (&few, "a.test", "TYPE65400", "allow rule false"),
            (&few, "a.test", "AAAA", "nodata query-type false"),
            (&audit, "a.test", "NULL", "allow query-type true"),
            (&audit, "a.test", "TKEY", "nodata query-type false"),
            (&audit, "b.test", "A", "allow not-listed true"),
            (&audit, "a.test", "A", "allow rule false"),
        ];
        for (directory, qname, qtype, expected) in cases {
            assert_eq!(decide_type(directory, qname, qtype), expected, "{qname} {qtype}");
        }
    }

    #[test]
    fn explanations_name_policy_reason_and_message_within_the_size_limit() {
        let library = policy(
            "allowed_hostnames = [\"a.test\"]\ndenied_hostnames = [\"*.b.test\"]\nmessage = \"\"\"Ask\n #net.\"\"\"",
        )
        .library();
        let cases = [
            ("x.test", "denied by policy p: the name is not in its allowed_hostnames. Ask #net."),
            ("x.b.test", "denied by policy p: denied by *.b.test. Ask #net."),
            ("a.test", "allowed by policy p: allowed by a.test"),
            ("resolver.arpa", "denied by policy p: the name leads around this resolver. Ask #net."),
        ];
        for (query, expected) in &cases {
            assert_eq!(ask(library.snapshot(), "192.0.2.1", query).explain().to_string(), *expected, "{query}");
        }
        let nobody = ask(library.snapshot(), "192.0.2.2", "a.test").explain().to_string();
        assert_eq!(nobody, "denied: no policy applies to this address");
        let id = "i".repeat(64);
        let long = format!("[policy.{id}]\ndenied_hostnames = [\"*.{}.test\"]\n", "b".repeat(63));
        let library = Directory::of(&[("p.toml", &long)]).default_policy(&id).library();
        let text = ask(library.snapshot(), "192.0.2.1", &format!("a.{}.test", "b".repeat(63))).explain().to_string();
        assert!(text.len() <= 180, "{text}");
    }

    #[test]
    fn decisions_name_the_most_specific_rule_its_place_and_its_includes() {
        let library = Directory::of(&[
            ("a.toml", "[policy.p]\ninclude = [\"base\"]\nallowed_hostnames = [\n  \"*.example.com\",\n]\n"),
            ("b.toml", "[policy.base]\nallowed_hostnames = [\"*.a.example.com\"]\ninclude = [\"preset:npm\"]\n"),
        ])
        .default_policy("p")
        .library();
        let rule = |qname| {
            let decision = ask(library.snapshot(), "192.0.2.1", qname);
            let rule = decision.rule.unwrap();
            format!("{rule} {} {:?}", rule.place(), rule.via().collect::<Vec<_>>())
        };
        assert_eq!(rule("x.example.com"), "*.example.com p/a.toml:4:3 []");
        assert_eq!(rule("x.a.example.com"), "*.a.example.com p/b.toml:2:22 [\"base\"]");
        assert!(rule("www.npmjs.org").starts_with("*.npmjs.org <built-in>/presets/npm.toml:"));
        assert!(rule("www.npmjs.org").ends_with("[\"base\", \"preset:npm\"]"));
    }

    #[test]
    fn alias_targets_and_private_answers_follow_the_policy() {
        let library = policy("allowed_hostnames = [\"*.a.test\"]\ndenied_hostnames = [\"x.a.test\"]\nprivate_answers = [\"*.a.test\"]\ncname = \"inspect\"\nmode = \"audit\"").library();
        let policy = library.snapshot().policy("p").unwrap();
        assert!(policy.inspects_cname());
        assert!(policy.allows_target(&name("y.a.test")) && !policy.allows_target(&name("x.a.test")));
        assert!(!policy.allows_target(&name("a.test")));
        assert!(policy.allows_private(&name("y.a.test")) && !policy.allows_private(&name("a.test")));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn decisions_agree_with_a_naive_matcher(
            allowed in prop::collection::vec("(\\*\\.)?([ab]\\.){0,3}(test|lan)", 0..12),
            denied in prop::collection::vec("(\\*\\.)?([ab]\\.){0,3}(test|lan)", 0..12),
            included in prop::collection::vec("(\\*\\.)?([ab]\\.){0,3}(test|lan)", 0..12),
            allow_all in any::<bool>(),
            queries in prop::collection::vec("([ab]\\.){0,4}(test|lan|est)", 1..20),
        ) {
            let text = format!(
                "[policy.p]\nallow_all = {allow_all}\nallowed_hostnames = {allowed:?}\ndenied_hostnames = {denied:?}\ninclude = [\"q\"]\n[policy.q]\nallowed_hostnames = {included:?}\n"
            );
            let library = Directory::of(&[("p.toml", &text)]).default_policy("p").library();
            for query in &queries {
                let qname = name(query);
                let any = |list: &[String]| list.iter().any(|text| Pattern::parse(text).unwrap().matches(&qname));
                let expected = !any(&denied) && (allow_all || any(&allowed) || any(&included));
                let decision = ask(library.snapshot(), "192.0.2.1", query);
                prop_assert_eq!(decision.action == Action::Allow, expected, "{}", query);
            }
        }
    }
}
