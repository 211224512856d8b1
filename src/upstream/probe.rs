//! The schedule of probes: an upstream that may be gone is probed once a second, whether clients ask or not, until it answers.
//! While all work, nothing is sent but one probe to each upstream after its first answer, which shows whether it answers
//! probes in good times.
//!
//! A client's question takes the place of a probe where one is at hand (see [`Upstreams::probe_others`] and [`search`]): either
//! way an upstream is asked as often. A probe is a query like any other, and its reply is checked like any other.
//!
//! [`Upstreams::probe_others`]: super::Upstreams::probe_others

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::endpoint::{Attempt, Endpoint, Surroundings, random_bits};
use super::health::{Health, Probe};
use super::stream::STALLED_AFTER;
use crate::dns::name::LowerName;
use crate::dns::response::Question;
use crate::dns::rtype::RecordType;
use crate::fair_share::Holder;

/// How long a question waits for the search before it is asked again: whoever is found gets it.
pub(super) const FOUND_AFTER: Duration = Duration::from_millis(50);

/// Upstreams with which a search is worth while: of two, the other one is asked next anyway.
const WORTH_WHILE: usize = 3;

/// The time between two probes of an upstream, in milliseconds, where there are no more than [`MAX_PROBES`] to probe.
const PROBE_EVERY: u64 = 1000;

/// Probes a second over all upstreams: where there are more to probe, each is probed less often.
const MAX_PROBES: usize = 10;

/// The first label of the name of a probe, for those who read an upstream's log. The second one is random: no such
/// top-level domain exists, and no cache holds the answer.
const PROBE_LABEL: &[u8] = b"hostgate-probe";

/// The length of the random label of a probe: 64 bits in hexadecimal.
const RANDOM_LABEL: usize = 16;

/// Probes those of these upstreams that may be gone and are due.
///
/// # Panics
/// Outside of a tokio runtime, as all functions here.
pub(super) fn probe_doubted(endpoints: &[Arc<Endpoint>], around: &Arc<Surroundings>) {
    let is_meant = |health: &Health| health.wanted_probe().is_some();
    for endpoint in claim_due(endpoints, around, is_meant, Health::claim_wanted_probe) {
        let wanted = endpoint.health().wanted_probe();
        if let Some(probe) = wanted {
            ask_aside(endpoint, &question_of(probe), Holder::NOBODY, around);
        }
    }
}

/// Returns the question of a probe.
fn question_of(probe: Probe) -> Arc<Question> {
    let (qname, qtype) = match probe {
        Probe::Root => (LowerName::root(), RecordType::NS),
        Probe::Name => {
            let name = format!("{}.{:0RANDOM_LABEL$x}", String::from_utf8_lossy(PROBE_LABEL), random_bits());
            (LowerName::from_text(&name).unwrap_or_else(|_| LowerName::root()), RecordType::A)
        }
    };
    Arc::new(Question {
        qname,
        qtype,
        dnssec_ok: false,
        checking_disabled: false,
        authentic_data: false,
        recursion_desired: true,
        partition: 0,
    })
}

/// Returns the kind of probe that a question is; `None` for the name of a client.
pub(super) fn probe_of(question: &Question) -> Option<Probe> {
    let mut labels = question.qname.labels();
    match (labels.next(), labels.next(), labels.next()) {
        (None, ..) => Some(Probe::Root),
        (Some(PROBE_LABEL), Some(random), None) if is_random(random) => Some(Probe::Name),
        _ => None,
    }
}

/// Returns whether a label has the form of a probe's random one.
fn is_random(label: &[u8]) -> bool {
    label.len() == RANDOM_LABEL && label.iter().all(u8::is_ascii_hexdigit)
}

/// Asks all of these upstreams that are due a client's question aside if none is known to answer; returns whether it asked any.
/// So one that answers among many that do not is found at once, and not one after the other by questions that clients wait for.
///
/// A probe would not do: an upstream that refuses to answer for the root may well answer clients.
pub(super) fn search(
    endpoints: &[Arc<Endpoint>],
    question: &Arc<Question>,
    client: Holder,
    around: &Arc<Surroundings>,
) -> bool {
    let is_worth_while = endpoints.len() >= WORTH_WHILE;
    if !is_worth_while || endpoints.iter().any(|endpoint| endpoint.health().is_answering()) {
        return false;
    }
    claim_due(endpoints, around, |_| true, Health::claim_probe)
        .map(|endpoint| ask_aside(endpoint, question, client, around))
        .count()
        > 0
}

/// Returns how often an upstream is probed.
pub(super) fn probe_every(around: &Surroundings) -> Duration {
    Duration::from_millis(around.probe_every.load(Ordering::Relaxed).max(PROBE_EVERY))
}

/// Returns the upstreams of this kind that are due to be asked aside; they are not for a while then.
fn claim_due<'a>(
    endpoints: &'a [Arc<Endpoint>],
    around: &Surroundings,
    is_meant: impl Fn(&Health) -> bool,
    claim: impl Fn(&mut Health, Duration, Duration) -> bool,
) -> impl Iterator<Item = &'a Arc<Endpoint>> {
    let meant: Vec<_> = endpoints.iter().filter(|endpoint| is_meant(&endpoint.health())).collect();
    let times = u64::try_from(meant.len().div_ceil(MAX_PROBES)).unwrap_or(u64::MAX);
    around.probe_every.store(PROBE_EVERY.saturating_mul(times), Ordering::Relaxed);
    let (now, every) = (around.epoch.elapsed(), probe_every(around));
    meant.into_iter().filter(move |endpoint| claim(&mut endpoint.health(), every, now))
}

/// Asks one upstream aside: nobody waits for what it says, which is noted in its health. Several seconds are enough for one that
/// is back and slow.
pub(super) fn ask_aside(
    endpoint: &Arc<Endpoint>,
    question: &Arc<Question>,
    client: Holder,
    around: &Arc<Surroundings>,
) {
    let (endpoint, question, around) = (Arc::clone(endpoint), Arc::clone(question), Arc::clone(around));
    let attempt = Attempt {
        over: endpoint.server.transport,
        patience: around.timeout / 2,
        stalled: STALLED_AFTER,
        // Clients' questions come first where sockets are short.
        is_further: true,
        client,
    };
    tokio::spawn(async move { drop(timeout(around.question_time(), endpoint.ask(&question, attempt, &around)).await) });
}
