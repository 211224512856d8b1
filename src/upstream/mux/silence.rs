//! What a thread does about silence: it asks again, and in the end gives up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::flight::{Case, Flight, Try};
use super::{Fate, Landed, Mux, Waits};
use crate::upstream::race::interval;
use crate::upstream::{Event, Failure, Transport, Trial};

impl<W: Waits, C> Mux<W, C> {
    /// Asks again what was silent too long, and gives up what had all its time.
    pub(super) fn expire(&mut self, landed: &mut impl FnMut(Landed<W, C>)) {
        let now = Instant::now();
        let mut expired = std::mem::take(&mut self.expired);
        self.deadlines.expire(now.duration_since(self.epoch), &mut expired);
        for place in expired.drain(..) {
            let Some(flight) = self.flights[place].as_mut() else { continue };
            let is_over = now.duration_since(flight.since) >= flight.timeout;
            match &flight.claim {
                // Handed on before, and no late answer came.
                None => drop(self.remove(place)),
                Some(_) if is_over => self.time_out(place, landed),
                Some(_) => self.ask_again(place, now, landed),
            }
        }
        self.expired = expired;
        // What was asked again leaves at once.
        self.ports.flush();
    }

    /// Asks a silent flight's question once more: whoever had the fewest turns, the best of them.
    fn ask_again(&mut self, place: usize, now: Instant, landed: &mut impl FnMut(Landed<W, C>)) {
        let last = self.note_silence(place);
        let Some(flight) = self.flights[place].as_mut() else { return };
        let Some(upstreams) = flight.waiters.first().map(|first| Arc::clone(first.upstreams())) else { return };
        let left = flight.timeout.saturating_sub(now.duration_since(flight.since));
        let mut until = left;
        let most = upstreams.max_tries();
        if flight.count < most {
            let turns = |server| {
                let tries = flight.tries().filter(|one| {
                    self.ports.get(one.key.port).is_some_and(|port| port.endpoint.server.address == server)
                });
                u32::try_from(tries.count()).unwrap_or(u32::MAX)
            };
            let next = upstreams.next_try(turns).filter(|(next, _)| next.server.transport == Transport::Udp);
            let next = next.and_then(|(next, turns)| {
                let patience = interval(next.health().patience(flight.timeout), turns, flight.timeout);
                let key = self.ports.choose(next, upstreams.around())?;
                Some((key, patience, next.casing(|| self.ports.bits(), upstreams.around())))
            });
            // Nobody else over UDP: the general way knows more.
            let Some((key, patience, casing)) = next else {
                if let Some(server) = last {
                    self.hand_over(place, server, Trial::Silent, landed);
                }
                return;
            };
            self.ports.send(key, &flight.question, casing, place);
            upstreams.around().observer.observe(Event::Retransmitted);
            flight.again.push(Try { key, since: now, patience, casing, case: Case::Open });
            flight.count += 1;
            // After the last try there is only waiting, until the question's time is over.
            if flight.count < most {
                until = patience.min(left);
            }
        }
        self.deadlines.set(place, now.duration_since(self.epoch) + until);
    }

    /// Notes the silence of the try made last; returns who was asked.
    fn note_silence(&mut self, place: usize) -> Option<SocketAddr> {
        let last = *self.flights[place].as_ref()?.tries().last()?;
        let port = self.ports.get(last.key.port)?;
        port.endpoint.note_silent(last.patience, &port.around);
        Some(port.endpoint.server.address)
    }

    /// Ends a flight that nobody answered in its time.
    fn time_out(&mut self, place: usize, landed: &mut impl FnMut(Landed<W, C>)) {
        self.note_silence(place);
        let servers = self.asked(place).map(|server| server.to_string());
        let servers: Vec<String> = servers.collect();
        let Some(Flight { question, claim, waiters, timeout, .. }) = self.remove(place) else { return };
        landed(Landed { question, claim, waiters, fate: Fate::Failed(Failure::timed_out(&servers, timeout)) });
    }

    /// Returns who was asked the question of a flight and has not answered, each once.
    pub(super) fn asked(&self, place: usize) -> impl Iterator<Item = SocketAddr> {
        let tries = self.flights[place].iter().flat_map(Flight::tries);
        let mut servers: Vec<SocketAddr> = Vec::new();
        for port in tries.filter_map(|one| self.ports.get(one.key.port)) {
            if !servers.contains(&port.endpoint.server.address) {
                servers.push(port.endpoint.server.address);
            }
        }
        servers.into_iter()
    }
}
