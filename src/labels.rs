//! Labels: what was done with a query and why, as closed sets of words. Decisions, metrics, the decision log and
//! `hostgate explain` use the same ones.

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
                self as usize
            }
        }
    };
}

/// What is done with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Answers with what the upstream says, or would say if it could be reached.
    Allow,
    /// Answers with records of our own, as if the query were allowed: those of a devbox, or of the host itself.
    Answer,
    /// Answers NXDOMAIN by policy.
    Deny,
    /// Answers that the name has no such records, by policy.
    NoData,
    /// Answers with an error about the query itself, before there is a decision: no policy refuses.
    Refuse,
}

impl Action {
    /// The actions that have a label of their own, by index.
    pub const ALL: &'static [Self] = &[Self::Allow, Self::Deny, Self::NoData, Self::Refuse];

    /// Returns whether the client gets the records that there are.
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
    /// Why it was done.
    pub enum Reason {
        /// An allowed entry of the policy matches.
        Rule = "rule",
        /// The policy allows all that it does not deny.
        AllowAll = "allow-all",
        /// The operator lets the client do as it likes: `unrestricted`, or `without_policy`.
        Unrestricted = "unrestricted",
        /// A denied entry of the policy matches.
        DeniedRule = "denied-rule",
        /// No allowed entry of the policy matches.
        NotListed = "not-listed",
        /// Only a wildcard matches, and the name is no hostname.
        OddName = "odd-name",
        /// The name is one that leads around the resolver.
        Bypass = "bypass",
        /// A validator needs it to check a listed name that is below this one.
        DnssecChain = "dnssec-chain",
        /// The name means something here alone: no upstream is asked for it.
        SpecialUse = "special-use",
        /// The type is not among the policy's query types.
        QueryType = "query-type",
        /// The source address belongs to no client, listener or default policy.
        NoClient = "no-client",
        /// The client's policy went away with its file.
        PolicyGone = "policy-gone",
        /// No policy is named for the client, and there is no default one.
        NoPolicy = "no-policy",
        /// The name is a devbox's, or the one all of theirs are below.
        Devbox = "devbox",
        /// No devbox has the name.
        NoDevbox = "no-devbox",
        /// The name is for devboxes, which the policy does not let look one another up.
        DevboxToDevbox = "devbox-to-devbox",
        /// A target of the answer's CNAME chain is not allowed.
        CnameTarget = "cname-target",
        /// What the policy lets a client look up that is new has been used up.
        Budget = "budget",
        /// Nothing but addresses that are not globally reachable came back.
        Rebinding = "rebinding",
        /// A question for all types, answered as RFC 8482 says.
        AnyType = "any-type",
        /// Not a well-formed query of one question.
        FormErr = "formerr",
        /// An opcode other than QUERY.
        NotImp = "notimp",
        /// A class other than IN.
        Class = "class",
        /// A zone transfer.
        Transfer = "transfer",
        /// An EDNS version above 0.
        BadVers = "badvers",
        /// The query made us panic; it was answered SERVFAIL.
        Panic = "panic",
    }
}

labels! {
    /// Where an answer's data came from.
    pub enum Origin {
        /// Nothing was looked up.
        None = "none",
        /// The cache.
        Hit = "hit",
        /// An upstream.
        Miss = "miss",
        /// The cache, past its time, because no upstream could answer (RFC 8767).
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
