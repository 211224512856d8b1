//! The escape of a thread from floods: a port at which somebody guesses at replies is left, and who had questions on it is
//! set apart.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Instant;

use super::outstanding::{Case, Try};
use super::{Ended, Mux, Waits};
use crate::dns::response::Casing;
use crate::upstream::Unanswered;

impl<W: Waits, C> Mux<W, C> {
    /// Counts a datagram that answers nothing asked from its port; breaks when the port is left, because somebody guesses.
    pub(super) fn ignore(
        &mut self,
        token: usize,
        bytes: &[u8],
        on_end: &mut impl FnMut(Ended<W, C>),
    ) -> ControlFlow<()> {
        if self.ports.is_late(token, bytes) {
            // It came too late for its question, but who sends it is there: the next one is waited for.
            if let Some(port) = self.ports.get(token) {
                port.endpoint.note_heard(&port.around);
            }
            return Continue(());
        }
        if !self.ports.ignore(token) {
            return Continue(());
        }
        self.leave_port(token, on_end);
        Break(())
    }

    /// Leaves a flooded port: each question in flight on it is asked again with a new ID from a new port, which is its client's
    /// own, or over TCP if it has been before. Nothing of that is the upstream's failure (RFC 5452 §9.2).
    fn leave_port(&mut self, token: usize, on_end: &mut impl FnMut(Ended<W, C>)) {
        let Some(port) = self.ports.get(token) else { return };
        let (endpoint, around) = (Arc::clone(&port.endpoint), Arc::clone(&port.around));
        let in_flight = self.ports.in_flight_on(token);
        for (key, _) in &in_flight {
            self.ports.release(*key);
        }
        self.ports.close(token);
        let now = Instant::now();
        for (key, place) in in_flight {
            let Some(asked) = self.outstanding[place].as_mut() else { continue };
            let Some(one) = asked.take(key) else { continue };
            // Two tries of it were on this port: one new one is enough.
            if asked.is_moved && asked.tries().any(|other| other.since == now) {
                continue;
            }
            self.ports.set_apart(asked.holder, endpoint.server.address);
            let is_asked_again = asked.is_asked_here() && !asked.is_moved;
            let key = is_asked_again.then(|| self.ports.choose(&endpoint, &around, asked.holder)).flatten();
            let Some(key) = key else {
                self.ask_on_or_fail(place, endpoint.server.address, Unanswered::Flooded, on_end);
                continue;
            };
            let casing = match one.case {
                Case::Tested => Casing::LOWER,
                Case::Open | Case::Doubted => endpoint.casing(|| self.ports.bits(), &around),
            };
            self.ports.send(key, &asked.question, (casing, one.edns), place);
            asked.is_moved = true;
            let again = Try { key, since: now, casing, is_garbled: false, ..one };
            match &mut asked.first {
                first @ None => *first = Some(again),
                Some(_) => asked.again.push(again),
            }
        }
        // Nobody knows when the next batch is: these have been waiting.
        self.ports.flush();
    }
}
