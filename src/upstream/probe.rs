//! The schedule of probes: an upstream that may be gone is asked for the root's name servers once a second, whether clients ask
//! or not, until it answers. While all work, nothing is sent.
//!
//! A client's question takes the place of a probe where one is at hand (see [`Upstreams::probe_others`] and [`search`]): either
//! way an upstream is asked as often. A probe is a query like any other, and its reply is checked like any other.
//!
//! [`Upstreams::probe_others`]: super::Upstreams::probe_others

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::endpoint::{Attempt, Endpoint, Surroundings};
use super::health::Health;
use super::stream::STALLED_AFTER;
use crate::dns::name::LowerName;
use crate::dns::response::Question;
use crate::dns::rtype::RecordType;

/// How long a question waits for the search before it is asked again: whoever is found gets it.
pub(super) const FOUND_AFTER: Duration = Duration::from_millis(50);

/// Upstreams with which a search is worth while: of two, the other one is asked next anyway.
const WORTH_WHILE: usize = 3;

/// The time between two probes of an upstream, in milliseconds, where there are no more than [`MAX_PROBES`] to probe.
const PROBE_EVERY: u64 = 1000;

/// Probes a second over all upstreams: where there are more to probe, each is probed less often.
const MAX_PROBES: usize = 10;

/// Probes those of these upstreams that may be gone and are due.
///
/// # Panics
/// Outside of a tokio runtime, as all functions here.
pub(super) fn probe_doubted(endpoints: &[Arc<Endpoint>], around: &Arc<Surroundings>) {
    let root = Question {
        qname: LowerName::root(),
        qtype: RecordType::NS,
        dnssec_ok: false,
        checking_disabled: false,
        authentic_data: false,
        recursion_desired: true,
        partition: 0,
    };
    probe_those(endpoints, &Arc::new(root), around, Health::is_doubted);
}

/// Asks all of these upstreams that are due a client's question aside if none is known to answer; returns whether it asked any.
/// So one that answers among many that do not is found at once, and not one after the other by questions that clients wait for.
///
/// A probe would not do: an upstream that refuses to answer for the root may well answer clients.
pub(super) fn search(endpoints: &[Arc<Endpoint>], question: &Arc<Question>, around: &Arc<Surroundings>) -> bool {
    endpoints.len() >= WORTH_WHILE
        && endpoints.iter().all(|endpoint| !endpoint.health().is_answering())
        && probe_those(endpoints, question, around, |_| true)
}

/// Returns how often an upstream is probed.
pub(super) fn probe_every(around: &Surroundings) -> Duration {
    Duration::from_millis(around.probe_every.load(Ordering::Relaxed).max(PROBE_EVERY))
}

/// Asks the upstreams of this kind that are due `question` aside; returns whether there were any.
fn probe_those(
    endpoints: &[Arc<Endpoint>],
    question: &Arc<Question>,
    around: &Arc<Surroundings>,
    is_meant: impl Fn(&Health) -> bool,
) -> bool {
    let meant: Vec<_> = endpoints.iter().filter(|endpoint| is_meant(&endpoint.health())).collect();
    let times = u64::try_from(meant.len().div_ceil(MAX_PROBES)).unwrap_or(u64::MAX);
    around.probe_every.store(PROBE_EVERY.saturating_mul(times), Ordering::Relaxed);
    let (now, every) = (around.epoch.elapsed(), probe_every(around));
    let due = meant.into_iter().filter(|endpoint| {
        let mut health = endpoint.health();
        // Where clients ask, one of their questions says more of one that is there and fails.
        let is_measured = health.is_failing() && endpoints.len() > 1;
        health.claim_probe(if is_measured { every * 3 / 2 } else { every }, now)
    });
    due.map(|endpoint| ask_aside(endpoint, question, around)).count() > 0
}

/// Asks one upstream aside: nobody waits for what it says, which is noted in its health. Several seconds are enough for one that
/// is back and slow.
pub(super) fn ask_aside(endpoint: &Arc<Endpoint>, question: &Arc<Question>, around: &Arc<Surroundings>) {
    let (endpoint, question, around) = (Arc::clone(endpoint), Arc::clone(question), Arc::clone(around));
    let attempt = Attempt {
        over: endpoint.server.transport,
        patience: around.timeout / 2,
        stalled: STALLED_AFTER,
        // Clients' questions come first where sockets are short.
        is_further: true,
    };
    tokio::spawn(async move { drop(timeout(around.question_time(), endpoint.ask(&question, attempt, &around)).await) });
}
