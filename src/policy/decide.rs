//! One query, one decision.

use std::fmt;

use crate::dns::name::{LowerName, Suffixes};
use crate::dns::rtype::RecordType;

use super::name_set::Kind;
use super::rules::Rule;
use super::snapshot::{Asker, Nobody, Policy, Standing};
use super::spec::Mode;

/// Decides what happens to a query of `asker` for `qname` and `qtype`.
///
/// A name is denied if a denied pattern matches it; else allowed if an allowed pattern matches or the policy allows
/// all; else denied. No allocation; a walk of the name's labels with one hash each.
///
/// A question for ANY of an allowed name comes out as [`Action::NoData`], as no policy can allow it: the caller answers
/// it as RFC 8482 says.
#[must_use]
pub fn decide<'s>(asker: &Asker<'s>, qname: &LowerName, qtype: RecordType) -> Decision<'s> {
    let (policy, is_unrestricted) = match asker.standing {
        Standing::Policy(policy) => (policy, false),
        Standing::Unrestricted(policy, _) => (policy, true),
        Standing::Nobody(nobody) => {
            let reason = match nobody {
                Nobody::NoClient => Reason::NoClient,
                Nobody::PolicyGone => Reason::PolicyGone,
            };
            return Decision { action: Action::Deny, reason, rule: None, policy: None, audited: false };
        }
    };
    let audits = policy.spec.mode == Mode::Audit;
    let decision = |action, reason, rule, audited| Decision { action, reason, rule, policy: Some(policy), audited };
    let deny = |reason, rule| decision(if audits { Action::Allow } else { Action::Deny }, reason, rule, audits);
    let (reason, rule) = match decide_name(policy, qname) {
        NameDecision::Allow(rule) => (Reason::Rule, Some(rule)),
        NameDecision::AllowAll if is_unrestricted => (Reason::Unrestricted, None),
        NameDecision::AllowAll => (Reason::AllowAll, None),
        NameDecision::Deny(rule) => return deny(Reason::DeniedRule, Some(rule)),
        NameDecision::Odd(rule) => return deny(Reason::OddName, Some(rule)),
        NameDecision::NotListed => return deny(Reason::NotListed, None),
        // These stay denied while auditing: recording is no reason to let a client around the resolver.
        NameDecision::Bypass => return decision(Action::Deny, Reason::Bypass, None, false),
        NameDecision::Gone => return decision(Action::Deny, Reason::PolicyGone, None, false),
    };
    if policy.spec.query_types.contains(qtype) {
        decision(Action::Allow, reason, rule, false)
    } else if audits && !qtype.is_meta() {
        decision(Action::Allow, Reason::QueryType, rule, true)
    } else {
        decision(Action::NoData, Reason::QueryType, rule, false)
    }
}

/// What happens to a query.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'s> {
    /// What is done.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The pattern that says so, where one does; the most specific one.
    pub rule: Option<Rule<'s>>,
    /// The policy that says so; none when no policy applies.
    pub policy: Option<&'s Policy>,
    /// Whether the query would be denied and is allowed because its policy audits only; `reason` and `rule` say why it
    /// would be.
    pub audited: bool,
}

impl<'s> Decision<'s> {
    /// Returns a short text for the person or agent whose query it is: what was decided and why, and the policy's
    /// message. Without the message at most about 180 bytes.
    #[must_use]
    pub const fn explain(&self) -> Explanation<'_, 's> {
        Explanation(self)
    }
}

/// What is done with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is forwarded.
    Allow,
    /// Its name does not exist.
    Deny,
    /// Its name exists, without records of the type.
    NoData,
}

impl Action {
    /// Returns the word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::NoData => "nodata",
        }
    }
}

/// Why a query is allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An allowed pattern matches.
    Rule,
    /// The policy allows all.
    AllowAll,
    /// The client is not restricted.
    Unrestricted,
    /// A denied pattern matches.
    DeniedRule,
    /// No pattern matches.
    NotListed,
    /// Only a wildcard matches, and the name is no hostname.
    OddName,
    /// The name leads around the resolver, and no pattern names it exactly.
    Bypass,
    /// The type is not among the policy's query types.
    QueryType,
    /// No client holds the address and no policy applies to the rest.
    NoClient,
    /// The policy, or one it includes, went with its file.
    PolicyGone,
}

impl Reason {
    /// All reasons, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Rule,
        Self::AllowAll,
        Self::Unrestricted,
        Self::DeniedRule,
        Self::NotListed,
        Self::OddName,
        Self::Bypass,
        Self::QueryType,
        Self::NoClient,
        Self::PolicyGone,
    ];

    /// Returns the word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::AllowAll => "allow-all",
            Self::Unrestricted => "unrestricted",
            Self::DeniedRule => "denied-rule",
            Self::NotListed => "not-listed",
            Self::OddName => "odd-name",
            Self::Bypass => "bypass",
            Self::QueryType => "query-type",
            Self::NoClient => "no-client",
            Self::PolicyGone => "policy-gone",
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
            let nobody = if *reason == Reason::PolicyGone { Nobody::PolicyGone } else { Nobody::NoClient };
            return write!(f, "denied: {nobody}");
        };
        let verb = match action {
            Action::Allow if *audited => "would be denied",
            Action::Allow => "allowed",
            Action::Deny => "denied",
            Action::NoData => "no data",
        };
        write!(f, "{verb} by policy {}: ", policy.id())?;
        match (reason, rule) {
            (Reason::Rule, Some(rule)) => write_pattern(f, "allowed by ", rule)?,
            (Reason::DeniedRule, Some(rule)) => write_pattern(f, "denied by ", rule)?,
            (Reason::OddName, Some(rule)) => write_pattern(f, "no hostname, as needed for ", rule)?,
            (Reason::PolicyGone, _) => write!(f, "it includes {}, which is gone", policy.gone().unwrap_or("a policy"))?,
            (reason, _) => f.write_str(match reason {
                Reason::AllowAll | Reason::Unrestricted => "it allows everything",
                Reason::Bypass => "the name leads around this resolver",
                Reason::QueryType => "the type is not in its query_types",
                _ => "the name is not in its allowed_hostnames",
            })?,
        }
        match policy.message() {
            Some(message) if *action != Action::Allow => write!(f, ". {message}"),
            _ => Ok(()),
        }
    }
}

/// Writes a pattern, cut so that the whole text stays short.
fn write_pattern(f: &mut fmt::Formatter<'_>, before: &str, rule: &Rule<'_>) -> fmt::Result {
    /// The most characters of a pattern.
    const SHOWN: usize = 60;
    let text = rule.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => write!(f, "{before}{}…", &text[..end]),
        None => write!(f, "{before}{text}"),
    }
}

/// What a policy says about a name, its mode not counted.
#[derive(Debug)]
pub(super) enum NameDecision<'p> {
    /// A pattern allows it.
    Allow(Rule<'p>),
    /// It is allowed as everything is.
    AllowAll,
    /// A pattern denies it.
    Deny(Rule<'p>),
    /// A wildcard would allow it, but it is no hostname.
    Odd(Rule<'p>),
    /// It leads around the resolver.
    Bypass,
    /// Nothing allows it.
    NotListed,
    /// The policy includes one that is gone.
    Gone,
}

/// Decides about a name.
pub(super) fn decide_name<'p>(policy: &'p Policy, name: &LowerName) -> NameDecision<'p> {
    if policy.gone.is_some() {
        return NameDecision::Gone;
    }
    let labels = name.suffixes().count();
    let (mut allowed, mut denied) = (None, None);
    for (above, suffix) in name.suffixes().enumerate() {
        let kind = if above == 0 { Kind::Exact } else { Kind::Below };
        let mut hash = None;
        denied = policy.denied.find(kind, suffix, labels - above, &mut hash);
        if denied.is_some() {
            break;
        }
        if allowed.is_none() {
            allowed = policy.allowed.find(kind, suffix, labels - above, &mut hash).map(|rule| (kind, rule));
            // Nothing is left to find.
            if allowed.is_some() && policy.denied.is_empty() {
                break;
            }
        }
    }
    if is_bypass(name.as_wire()) && !matches!(allowed, Some((Kind::Exact, _))) {
        return NameDecision::Bypass;
    }
    match (denied, allowed) {
        (Some(rule), _) => NameDecision::Deny(rule),
        (None, Some((Kind::Exact, rule))) => NameDecision::Allow(rule),
        (None, Some((Kind::Below, rule))) if is_hostname(name, labels) => NameDecision::Allow(rule),
        (None, _) if policy.spec.allow_all => NameDecision::AllowAll,
        (None, Some((Kind::Below, rule))) => NameDecision::Odd(rule),
        (None, None) => NameDecision::NotListed,
    }
}

/// Returns whether a name can be of a host or a service: letters, digits, `-` and `_` in not too many labels.
///
/// A wildcard allows nothing else. A NUL, a dot or a `*` within a label has fooled matchers and whatever reads the
/// answer, and a name of a hundred labels is a tunnel.
fn is_hostname(name: &LowerName, labels: usize) -> bool {
    labels <= MOST_LABELS
        && name.labels().flatten().all(|&octet| {
            // `LowerName` has no upper case.
            octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-' || octet == b'_'
        })
}

/// The most labels of a name that a wildcard allows: the longest names of everyday use are those of IPv6 addresses in
/// `ip6.arpa`, 34 labels (RFC 3596 §2.5), with room for a service's labels before them.
const MOST_LABELS: usize = 40;

/// Returns whether a name is how clients find, or are told, another way to resolve names: Firefox's canary for DNS over
/// HTTPS, discovery of designated resolvers (RFC 9462 §4), Apple's private relay.
pub(super) fn is_bypass(wire: &[u8]) -> bool {
    /// Names that are one themselves.
    const NAMES: [&[u8]; 3] =
        [b"\x13use-application-dns\x03net\0", b"\x04mask\x06icloud\x03com\0", b"\x07mask-h2\x06icloud\x03com\0"];
    /// The name that is one with all below it.
    const ABOVE: &[u8] = b"\x08resolver\x04arpa\0";
    NAMES.contains(&wire) || (wire.ends_with(ABOVE) && Suffixes::of(wire).any(|suffix| suffix == ABOVE))
}
