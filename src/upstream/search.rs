//! Finding an upstream that answers among many that do not: while none is known to answer, all are asked aside at once, instead
//! of one after the other by questions that clients wait for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::endpoint::{Attempt, Endpoint, Surroundings};
use super::stream::STALLED_AFTER;
use crate::dns::response::Question;

/// How long a question waits for the search before it is asked again: whoever is found gets it.
pub(super) const FOUND_AFTER: Duration = Duration::from_millis(50);

/// Upstreams with which a search is worth while: of two, the other one is asked next anyway.
const WORTH_WHILE: usize = 3;

/// Asks all of these upstreams aside if none is known to answer, each once a second at most; returns whether it asked any.
pub(super) fn search(endpoints: &[Arc<Endpoint>], question: &Arc<Question>, around: &Arc<Surroundings>) -> bool {
    if endpoints.len() < WORTH_WHILE || endpoints.iter().any(|endpoint| endpoint.health().is_answering()) {
        return false;
    }
    let now = around.epoch.elapsed();
    let due: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.health().claim_search(now)).collect();
    for endpoint in &due {
        probe(endpoint, question, around);
    }
    !due.is_empty()
}

/// Asks one upstream aside: nobody waits for what it says.
///
/// # Panics
/// Outside of a tokio runtime.
pub(super) fn probe(endpoint: &Arc<Endpoint>, question: &Arc<Question>, around: &Arc<Surroundings>) {
    let (endpoint, question, around) = (Arc::clone(endpoint), Arc::clone(question), Arc::clone(around));
    let attempt = Attempt {
        over: endpoint.server.transport,
        patience: around.timeout / 2,
        stalled: STALLED_AFTER,
        is_further: false,
    };
    tokio::spawn(async move {
        // The result is in the endpoint's health.
        drop(timeout(around.question_time(), endpoint.ask(&question, attempt, &around)).await);
    });
}
