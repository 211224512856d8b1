//! The actions and reasons of queries as closed sets of labels, which decisions, metrics, the decision log and
//! `hostgate explain` share. The labels are part of the interface: dashboards and alerts depend on them, so a label is
//! never changed.

use crate::dns::query::RefusalReason;

/// Declares an enum with a label for each variant, and a dense index for counters.
macro_rules! labels {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$doc])* $variant),+
        }

        impl $name {
            /// All variants, by index.
            $vis const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the label, as metrics and records have it.
            #[must_use]
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }

            /// Returns the position in [`Self::ALL`].
            #[must_use]
            $vis const fn index(self) -> usize {
                // The discriminants count from 0 in the order of `ALL`.
                self as usize
            }
        }
    };
}

/// The action taken on a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The upstream's answer, or SERVFAIL if no upstream can be reached.
    Allow,
    /// An answer with records of our own: those of a devbox, or of the host itself. Counted as [`Self::Allow`].
    Answer,
    /// An NXDOMAIN answer by policy.
    Deny,
    /// An answer by policy that the name has no records of the type.
    NoData,
    /// An error about the query itself, before there is a decision: no policy refuses.
    Refuse,
}

impl Action {
    /// The actions that have a label of their own, by index.
    pub const ALL: &'static [Self] = &[Self::Allow, Self::Deny, Self::NoData, Self::Refuse];

    /// Returns whether the client gets the records that exist.
    #[must_use]
    pub const fn is_allow(self) -> bool {
        matches!(self, Self::Allow | Self::Answer)
    }

    /// Returns the label in metrics, records and `explain`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow | Self::Answer => "allow",
            Self::Deny => "deny",
            Self::NoData => "nodata",
            Self::Refuse => "refuse",
        }
    }

    /// Returns the position in [`Self::ALL`] of the action with this label.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Allow | Self::Answer => 0,
            Self::Deny => 1,
            Self::NoData => 2,
            Self::Refuse => 3,
        }
    }
}

labels! {
    /// The reason for an action.
    pub enum Reason {
        /// An allowed entry of the policy matches.
        Rule = "rule",
        /// The policy allows all that it does not deny.
        AllowAll = "allow-all",
        /// The client is unrestricted, by the policy `unrestricted` or by `without_policy`.
        Unrestricted = "unrestricted",
        /// A denied entry of the policy matches.
        DeniedRule = "denied-rule",
        /// No allowed entry of the policy matches.
        NotListed = "not-listed",
        /// Only a wildcard matches, and the name is not a hostname.
        OddName = "odd-name",
        /// The name leads clients to another way of resolving names.
        Bypass = "bypass",
        /// A validator needs the record to check a listed name below this one.
        DnssecChain = "dnssec-chain",
        /// The name has a special use, and no upstream is asked for it.
        SpecialUse = "special-use",
        /// The type is not among the policy's query types.
        QueryType = "query-type",
        /// The source address belongs to no client, listener or default policy.
        NoClient = "no-client",
        /// The file of the client's policy was deleted.
        PolicyGone = "policy-gone",
        /// No policy is named for the client, and there is no default policy.
        NoPolicy = "no-policy",
        /// The name is a devbox's, or the suffix of their names.
        Devbox = "devbox",
        /// No devbox has the name.
        NoDevbox = "no-devbox",
        /// The name is a devbox's, and the policy does not let its clients look up devboxes.
        DevboxToDevbox = "devbox-to-devbox",
        /// A target of the answer's CNAME chain is not allowed.
        CnameTarget = "cname-target",
        /// The client's budget of new names and answers is used up.
        Budget = "budget",
        /// The answer held no addresses but those that are not globally reachable.
        Rebinding = "rebinding",
        /// A question for all types, answered as RFC 8482 says.
        AnyType = "any-type",
        /// The message is not a well-formed query of one question.
        FormErr = "formerr",
        /// The opcode is not QUERY.
        NotImp = "notimp",
        /// The class is not IN.
        Class = "class",
        /// The query asks for a zone transfer.
        Transfer = "transfer",
        /// The EDNS version is above 0.
        BadVers = "badvers",
        /// The query caused a panic, and was answered with SERVFAIL.
        Panic = "panic",
    }
}

labels! {
    /// The source of an answer's data.
    pub enum Origin {
        /// No data was looked up.
        None = "none",
        /// The cache.
        Hit = "hit",
        /// An upstream.
        Miss = "miss",
        /// The cache, although the data has expired, because no upstream could answer (RFC 8767).
        Stale = "stale",
    }
}

impl From<RefusalReason> for Reason {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::QuestionCount
            | RefusalReason::Question
            | RefusalReason::Records
            | RefusalReason::Additional
            | RefusalReason::Edns => Self::FormErr,
            RefusalReason::Opcode => Self::NotImp,
            RefusalReason::EdnsVersion => Self::BadVers,
            RefusalReason::Class => Self::Class,
            RefusalReason::Transfer => Self::Transfer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_book() {
        let page = include_str!("../docs/src/answers.md");
        for reason in Reason::ALL {
            assert!(page.contains(&format!("\n| `{}` | ", reason.as_str())), "{}", reason.as_str());
        }
    }

    #[test]
    fn indexes_are_positions_and_labels_differ() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(Reason::ALL.iter().all(|other| other == reason || other.as_str() != reason.as_str()));
        }
    }
}
