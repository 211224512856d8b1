//! The record of one decision: put together where the query is answered, spelled out where it is written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::outcome::{Action, Origin, Reason};
use super::{Asked, View};
use crate::dns::name::LowerName;
use crate::dns::rcode::Rcode;
use crate::dns::response::Response;
use crate::dns::rtype::RecordType;
use crate::policy::{self, Client, Policy};

/// The hops of a CNAME chain that a record names; of more, their number: a long chain of escaped names would make a line
/// of 40 KB for a query of 33 octets.
const MAX_HOPS: usize = 8;

/// What became of a query: the policy's decision, or what judging the answer made of it.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// What was done.
    pub(crate) action: Action,
    /// Why.
    pub(crate) reason: Reason,
    /// Whether it would have been denied but for `mode = "audit"`.
    pub(crate) audited: bool,
    /// The CNAME target that is not allowed.
    pub(crate) target: Option<LowerName>,
}

/// One line of the decision log.
///
/// It holds the view rather than names taken from it: the writer's thread decides again, which gives the same client,
/// policy and rule, so that the query path does not pay for spelling them out.
pub(crate) struct Record {
    /// When it was answered.
    pub(crate) time: jiff::Timestamp,
    /// What it was answered from.
    pub(crate) view: Arc<View>,
    /// Who asked.
    pub(crate) asked: Asked,
    /// The name asked for.
    pub(crate) qname: LowerName,
    /// The type asked for.
    pub(crate) qtype: RecordType,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// The response code given.
    pub(crate) rcode: Rcode,
    /// Where the data came from.
    pub(crate) origin: Origin,
    /// Who gave it, when it was asked for this query.
    pub(crate) upstream: Option<SocketAddr>,
    /// From the query's arrival to its answer.
    pub(crate) elapsed: Duration,
    /// What the upstream said, for the CNAME chain.
    pub(crate) response: Option<Arc<Response>>,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let asker = self.view.snapshot.asker(self.asked.source, self.asked.listener);
        let decision = policy::decide(&asker, &self.qname, self.qtype);
        let chain = || self.response.iter().flat_map(|response| response.targets());
        let mut hops: Vec<String> = chain().take(MAX_HOPS).map(|target| target.to_string()).collect();
        let more = chain().count() - hops.len();
        if more > 0 {
            hops.push(format!("+{more}"));
        }
        let mut line = serializer.serialize_struct("Record", 18)?;
        line.serialize_field("time", &format_args!("{:.6}", self.time))?;
        line.serialize_field("client", &asker.client.map(Client::id))?;
        line.serialize_field("source", &self.asked.source)?;
        line.serialize_field("transport", self.asked.transport.as_str())?;
        line.serialize_field("qname", &format_args!("{}", self.qname))?;
        line.serialize_field("qtype", &format_args!("{}", self.qtype))?;
        line.serialize_field("policy", &asker.policy().map(Policy::id))?;
        line.serialize_field("generation", &self.view.snapshot.generation)?;
        line.serialize_field("action", self.verdict.action.as_str())?;
        line.serialize_field("audited", &self.verdict.audited)?;
        line.serialize_field("reason", self.verdict.reason.as_str())?;
        line.serialize_field("rule", &decision.rule.map(|rule| rule.to_string()))?;
        line.serialize_field("place", &decision.rule.map(|rule| rule.place().to_string()))?;
        line.serialize_field("rcode", &format_args!("{}", self.rcode))?;
        line.serialize_field("cache", self.origin.as_str())?;
        line.serialize_field("upstream", &self.upstream)?;
        line.serialize_field("elapsed_us", &u64::try_from(self.elapsed.as_micros()).unwrap_or(u64::MAX))?;
        line.serialize_field("chain", &hops)?;
        line.end()
    }
}
