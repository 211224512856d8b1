//! Asking the resolvers we forward to: over UDP and TCP, several of them, by how they have been doing.

pub mod server;
pub mod system;

mod capability;
mod endpoint;
mod health;
pub(crate) mod local_address;
pub(crate) mod mux;
mod pool;
mod probe;
mod race;
pub(crate) mod random;
mod reply;
mod schedule;
pub(crate) mod scope;
mod stream;
mod udp;
mod wheel;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use pool::STALE_AFTER;
pub use pool::{Settings, Status, Upstreams};
pub use server::{Server, ServerError, Transport};

use crate::dns::answer::Ede;
use crate::dns::response::Response;

/// An answer of an upstream, of any RCODE that is an answer, NXDOMAIN included.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer, checked and normalised.
    pub response: Response,
    /// The upstream that gave it.
    pub upstream: SocketAddr,
    /// The transport that it came over; TCP also if the reply over UDP was truncated.
    pub transport: Transport,
    /// The time since the question was asked, over all tries.
    pub elapsed: Duration,
}

/// The tries at a question that a receiving thread made itself, for the task that makes the further ones.
#[derive(Debug)]
pub(crate) struct PreviousTries {
    /// The upstream of the last try that ended.
    server: SocketAddr,
    /// The reason why that try brought no answer.
    unanswered: Unanswered,
    /// The other upstreams that were asked and have not answered.
    silent: Vec<SocketAddr>,
    /// The number of tries made.
    tries: usize,
    /// The part of the question's time that is over.
    spent: Duration,
}

/// The reason why a try brought no answer.
#[derive(Debug)]
enum Unanswered {
    /// Silence, longer than it is given; and the next upstream is not asked over UDP.
    Silent,
    /// An answer that did not fit: it is to be asked for over TCP.
    Truncated,
    /// Floods of wrong replies at each port it was sent from: it is to be asked over TCP.
    Flooded,
    /// A failure.
    Failed(reply::TryError),
}

/// The failure of a question that no upstream answered in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// The kind of failure that says most.
    pub kind: FailureKind,
    /// Whether an upstream that was asked was silent, unreachable or down, so that the failure ends when it is back.
    pub is_passing: bool,
    /// The response of the last upstream with that failure, if it gave one: its Extended DNS Errors are passed on.
    pub response: Option<Box<Response>>,
    /// The upstream and the reason, for the decision record and the EXTRA-TEXT; empty if `kind` says it all.
    pub detail: String,
}

/// Why no upstream answered; where several failed in several ways, the last of these that occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// There is no upstream to ask.
    NoUpstream,
    /// We are out of sockets, or the system is.
    Busy,
    /// Silence until the deadline.
    Timeout,
    /// The network says that nobody is there, or a connection broke.
    Network,
    /// A reply that cannot be read.
    Malformed,
    /// A reply that is no answer, of a server that does not resolve names for us.
    Lame,
    /// REFUSED, NOTIMP, FORMERR or another RCODE that is no answer: this upstream does not answer us, or not this question.
    Refused,
    /// SERVFAIL.
    ServFail,
}

impl Failure {
    /// Returns the failure of a question that was not even asked.
    #[must_use]
    pub fn busy(detail: &str) -> Self {
        Self { kind: FailureKind::Busy, is_passing: false, response: None, detail: detail.to_owned() }
    }

    /// Returns that no answer came for as long as one is worth more than stale data.
    #[must_use]
    pub(crate) fn overdue() -> Self {
        let detail = format!("no reply in {} ms", STALE_AFTER.as_millis());
        Self { kind: FailureKind::Timeout, is_passing: true, response: None, detail }
    }

    /// Returns that all of these were silent for as long as they were waited for.
    fn timed_out(servers: &[String], waited: Duration) -> Self {
        let detail = format!("{}: no reply in {} ms", servers.join(", "), waited.as_millis());
        Self { kind: FailureKind::Timeout, is_passing: true, response: None, detail }
    }

    /// Returns the INFO-CODE that tells a client of it: 23 when the network failed, 22 when nobody answered
    /// (RFC 8914 §4.23, §4.24).
    #[must_use]
    pub const fn ede_code(&self) -> u16 {
        match self.kind {
            FailureKind::Network => Ede::NETWORK_ERROR,
            _ => Ede::NO_REACHABLE_AUTHORITY,
        }
    }
}

impl FailureKind {
    /// Returns whether the upstream was not heard: it may be heard again any moment.
    #[must_use]
    pub const fn is_absence(self) -> bool {
        matches!(self, Self::Timeout | Self::Network)
    }

    /// Returns the name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoUpstream => "no-upstream",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Malformed => "malformed",
            Self::Lame => "lame",
            Self::Refused => "refused",
            Self::ServFail => "servfail",
        }
    }
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoUpstream => "no upstream",
            Self::Busy => "busy",
            Self::Timeout => "upstream timed out",
            Self::Network => "upstream unreachable",
            Self::Malformed => "upstream reply malformed",
            Self::Lame => "upstream does not resolve names for us",
            Self::Refused => "upstream refused",
            Self::ServFail => "upstream failed",
        })
    }
}

/// A receiver of the events at upstreams, with one call for each; the metrics are made of them.
///
/// Called on the path of a query: it must not wait.
pub trait Observer: Send + Sync {
    /// Notes an event.
    fn observe(&self, event: Event);
}

/// Nobody watches.
impl Observer for () {
    fn observe(&self, _: Event) {}
}

/// One thing that happened at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A query was sent.
    Sent(Transport),
    /// An answer came, this long after its query was sent: the latency histogram.
    Answered(Transport, Duration),
    /// A question was sent again over UDP, because its answer took long.
    Retransmitted,
    /// A try failed; a question may have several.
    Failed(FailureKind),
    /// A datagram was not the reply to the query sent from its socket (another ID or question) and was ignored.
    Ignored,
    /// A reply had the name in another case than the query: forged, or of an upstream that does not keep it.
    OtherCase,
    /// UDP truncated an answer, so it is asked for over TCP.
    Truncated,
    /// The system had no descriptor for a socket.
    NoDescriptor,
}
