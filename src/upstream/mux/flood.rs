//! The escape of a thread from floods: a port at which somebody guesses at replies is left, and who had questions on it is
//! set apart.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Instant;

use super::flight::{Case, Try};
use super::{Landed, Mux, Waits};
use crate::dns::response::Casing;
use crate::upstream::Trial;

impl<W: Waits, C> Mux<W, C> {
    /// Counts a datagram that answers nothing asked from its port; breaks when the port is left, because somebody guesses.
    pub(super) fn ignore(
        &mut self,
        token: usize,
        bytes: &[u8],
        landed: &mut impl FnMut(Landed<W, C>),
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
        self.leave_port(token, landed);
        Break(())
    }

    /// Leaves a flooded port: each question in flight on it is asked again with a new ID from a new port, which is its client's
    /// own, or over TCP if it has been before. Nothing of that is the upstream's failure (RFC 5452 §9.2).
    fn leave_port(&mut self, token: usize, landed: &mut impl FnMut(Landed<W, C>)) {
        let Some(port) = self.ports.get(token) else { return };
        let (endpoint, around) = (Arc::clone(&port.endpoint), Arc::clone(&port.around));
        let in_flight = self.ports.in_flight_on(token);
        for (key, _) in &in_flight {
            self.ports.land(*key);
        }
        self.ports.close(token);
        let now = Instant::now();
        for (key, place) in in_flight {
            let Some(flight) = self.flights[place].as_mut() else { continue };
            let Some(one) = flight.take(key) else { continue };
            // Two tries of it were on this port: one new one is enough.
            if flight.is_moved && flight.tries().any(|other| other.since == now) {
                continue;
            }
            self.ports.set_apart(flight.holder, endpoint.server.address);
            let is_asked_again = flight.is_asked_here() && !flight.is_moved;
            let key = is_asked_again.then(|| self.ports.choose(&endpoint, &around, flight.holder)).flatten();
            let Some(key) = key else {
                self.hand_over(place, endpoint.server.address, Trial::Flooded, landed);
                continue;
            };
            let casing = match one.case {
                Case::Tested => Casing::LOWER,
                Case::Open | Case::Doubted => endpoint.casing(|| self.ports.bits(), &around),
            };
            self.ports.send(key, &flight.question, (casing, one.edns), place);
            flight.is_moved = true;
            let again = Try { key, since: now, casing, is_garbled: false, ..one };
            match &mut flight.first {
                first @ None => *first = Some(again),
                Some(_) => flight.again.push(again),
            }
        }
        // Nobody knows when the next batch is: these have been waiting.
        self.ports.flush();
    }
}
