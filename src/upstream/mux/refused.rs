//! The handling of refusals by every upstream, as one refuses that is being restarted: the question waits, and is asked
//! again after short, growing pauses, until an upstream is back or all are known to be dead.

use std::net::SocketAddr;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Instant;

use super::outstanding::{Case, Outstanding, Try};
use super::{Mux, Outcome, Waits};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::reply::TryError;
use crate::upstream::schedule::pause;
use crate::upstream::scope::Shown;
use crate::upstream::{FailureKind, Transport, Upstreams};

/// The most upstreams that a question is sent to at once after a pause.
const AT_ONCE: usize = 3;

/// The refusals that a question has met.
pub(super) struct Refused {
    /// The upstream that refused last.
    server: SocketAddr,
    /// The last refusal.
    error: TryError,
    /// The number of pauses made.
    pauses: u32,
    /// `true` during a pause.
    is_waiting: bool,
}

impl Refused {
    /// Ends a pause, if one is on; returns how many there were.
    fn end_pause(&mut self) -> Option<u32> {
        std::mem::take(&mut self.is_waiting).then_some(self.pauses)
    }
}

impl<W: Waits, C> Mux<W, C> {
    /// Lets a question wait whose try was refused, if every upstream refuses and may soon be back; else gives the error back.
    pub(super) fn wait_for_return(&mut self, place: usize, server: SocketAddr, error: TryError) -> Option<TryError> {
        let Some(asked) = self.outstanding[place].as_mut() else { return Some(error) };
        let upstreams = asked.waiters.first().map(|first| Arc::clone(first.upstreams()));
        let may_return = |upstreams: &Arc<Upstreams>| upstreams.are_refusing() && !upstreams.are_dead();
        if error.kind != FailureKind::Network || !asked.is_asked_here() || !upstreams.as_ref().is_some_and(may_return) {
            return Some(error);
        }
        let pauses = asked.refused.as_ref().map_or(0, |refused| refused.pauses);
        if asked.tries().next().is_none() {
            // A refused query is no lost one: it does not count among the tries that there may be.
            asked.count = 0;
            asked.next_at = Some(Instant::now() + pause(pauses));
            asked.refused = Some(Refused { server, error, pauses: pauses + 1, is_waiting: true });
        } else {
            asked.refused = Some(Refused { server, error, pauses, is_waiting: false });
        }
        let due = asked.due();
        self.deadlines.set(place, due.duration_since(self.epoch));
        None
    }

    /// Asks a question again after a pause, where one is over; breaks if that was what was to be done now.
    pub(super) fn ask_after_pause(&mut self, place: usize, now: Instant) -> ControlFlow<()> {
        let Some(asked) = self.outstanding[place].as_mut() else { return Continue(()) };
        let Some(pauses) = asked.refused.as_mut().and_then(Refused::end_pause) else { return Continue(()) };
        let Some(upstreams) = asked.waiters.first().map(|first| Arc::clone(first.upstreams())) else {
            return Continue(());
        };
        let start = usize::try_from(pauses).unwrap_or(0).saturating_sub(1) * AT_ONCE;
        let next = |offset| &upstreams.endpoints[(start + offset) % upstreams.endpoints.len()];
        let over_udp = |endpoint: &&Arc<Endpoint>| endpoint.server.transport == Transport::Udp;
        for endpoint in (0..AT_ONCE.min(upstreams.endpoints.len())).map(next).filter(over_udp) {
            let Some(key) = self.ports.choose(endpoint, upstreams.around(), asked.holder) else { continue };
            let (patience, edns) = (upstreams.patience(endpoint), endpoint.edns(upstreams.around()));
            let casing = endpoint.casing(|| self.ports.bits(), upstreams.around());
            self.ports.send(key, &asked.question, (casing, edns), place);
            let next_at = now + patience;
            asked.next_at = Some(asked.next_at.filter(|at| *at > now).map_or(next_at, |at| at.min(next_at)));
            asked.count += 1;
            asked.again.push(Try { key, since: now, patience, casing, case: Case::Open, edns, is_garbled: false });
        }
        let has_tries = asked.tries().next().is_some();
        // Without one, the network is gone as well, or there are no sockets.
        if let Some(refused) = asked.refused.as_mut().filter(|_| !has_tries) {
            asked.next_at = Some(now + pause(pauses));
            (refused.pauses, refused.is_waiting) = (pauses + 1, true);
        }
        Break(())
    }

    /// Returns what a question comes to that met nothing but refusals, if it is one.
    pub(super) fn refusal(asked: &mut Outstanding<W, C>) -> Option<Outcome> {
        asked.refused.take().map(|Refused { server, error, .. }| Outcome::Failed(error.at(Shown(server))))
    }
}

impl<W, C> Outstanding<W, C> {
    /// Returns whether a refusal of its question was counted already.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}
