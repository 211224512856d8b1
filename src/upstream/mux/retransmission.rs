//! Retransmission and timeouts: a question that gets no reply is repeated, and fails at the end of its time.

use std::net::SocketAddr;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::outstanding::{Case, OVERTIME, Outstanding, Try};
use super::ports::Key;
use super::task::lost;
use super::{Ended, Mux, Outcome, Waits};
use crate::upstream::pool::REVIEW_EVERY;
use crate::upstream::probe::{FOUND_AFTER, search};
use crate::upstream::race::hash;
use crate::upstream::reply::TryError;
use crate::upstream::schedule::{Progress, interval};
use crate::upstream::scope::Shown;
use crate::upstream::{Event, Failure, FailureKind, STALE_AFTER, Transport, Unanswered};

/// The time since the last try after which a client that asks again gets a further one.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// The number of further tries that a question gets because clients ask again.
const MAX_REPEATED: usize = 2;

/// The least time between a question's last try and the next one when an upstream is heard again: the reply to the last
/// one may be on the way.
const RETURNED_AFTER: Duration = Duration::from_millis(100);

/// The time between two questions of a thread that are asked again when an upstream is heard again, so that it is not silent
/// once more for their number.
const RETURN_PACE: Duration = Duration::from_micros(250);

/// The longest delay that this pace comes to: of more questions than that, the rest is asked at once.
const MAX_RETURN_DELAY: Duration = Duration::from_millis(500);

impl<W: Waits, C> Mux<W, C> {
    /// Asks again what was silent too long, and gives up what had all its time or what nobody is left to answer.
    pub(super) fn expire(&mut self, on_end: &mut impl FnMut(Ended<W, C>)) {
        let now = Instant::now();
        let mut expired = std::mem::take(&mut self.expired);
        self.deadlines.expire(now.duration_since(self.epoch), &mut expired);
        for place in expired.drain(..) {
            let Some(asked) = self.outstanding[place].as_mut() else { continue };
            let is_over = now.duration_since(asked.since) >= asked.time;
            match &asked.claim {
                // It has ended, and no late answer came.
                None => drop(self.remove(place)),
                // The task keeps to the question's time, so it has been lost.
                Some(_) if asked.is_in_task && now >= asked.since + asked.time + OVERTIME => {
                    self.end(place, Outcome::Failed(lost()), on_end);
                }
                Some(_) if asked.is_in_task => self.go_on(place, now, on_end),
                Some(_) if is_over => self.time_out(place, on_end),
                Some(_) => self.go_on(place, now, on_end),
            }
        }
        self.expired = expired;
        // What was asked again leaves at once.
        self.ports.flush();
    }

    /// Does what is due for a question that is silent.
    fn go_on(&mut self, place: usize, now: Instant, on_end: &mut impl FnMut(Ended<W, C>)) {
        let is_due = |asked: &Outstanding<W, C>| asked.is_asked_here() && asked.next_at.is_some_and(|next| next <= now);
        if self.outstanding[place].as_ref().is_some_and(is_due)
            && self.ask_after_pause(place, now).is_continue()
            && self.ask_again(place, now, on_end).is_break()
        {
            return;
        }
        if self.outstanding[place].as_ref().is_some_and(|asked| asked.review_at <= now)
            && self.review(place, now, on_end).is_break()
        {
            return;
        }
        if let Some(asked) = &self.outstanding[place] {
            self.deadlines.set(place, asked.due().duration_since(self.epoch));
        }
    }

    /// Gives a question up if every upstream is known to be dead: then it breaks. One that goes on is no longer waited for by
    /// whom stale data serves.
    fn review(&mut self, place: usize, now: Instant, on_end: &mut impl FnMut(Ended<W, C>)) -> ControlFlow<()> {
        let Some(asked) = self.outstanding[place].as_mut() else { return Break(()) };
        let stale_at = asked.since + STALE_AFTER;
        asked.review_at = now + REVIEW_EVERY;
        if now < stale_at {
            asked.review_at = asked.review_at.min(stale_at);
        } else {
            let waiters: Vec<_> = asked.waiters.extract_if(.., |waiter| waiter.has_stale()).collect();
            if !waiters.is_empty() {
                let (question, outcome) = (Arc::clone(&asked.question), Outcome::Overdue(Failure::overdue()));
                on_end(Ended { question, claim: None, waiters, outcome });
            }
        }
        let Some(asked) = self.outstanding[place].as_mut() else { return Break(()) };
        if asked.is_in_task || asked.waiters.first().is_none_or(|first| !first.upstreams().are_dead()) {
            return Continue(());
        }
        self.time_out(place, on_end);
        Break(())
    }

    /// Lets a client that asks again for what is silent have the next try at once, or buy one more after the last: all of those
    /// before may have been lost.
    pub(super) fn ask_for_repeat(&mut self, place: usize) {
        let now = Instant::now();
        let Some(asked) = self.outstanding[place].as_mut() else { return };
        let is_old = asked.last_try().is_none_or(|last| now.duration_since(last) >= REPEAT_AFTER);
        let is_planned = asked.next_at.is_some();
        if is_old && (is_planned || asked.repeated < MAX_REPEATED) {
            asked.repeated += usize::from(!is_planned);
            asked.next_at = Some(now);
            self.deadlines.set(place, now.duration_since(self.epoch));
        }
    }

    /// Makes the next try of questions that wait for a silent upstream due now if one is heard again, instead of when it is
    /// planned: an upstream that is silent every other second is then asked while it answers.
    pub(super) fn note_returns(&mut self) {
        let Some(returns) = self.returns.as_ref().map(|returns| returns.from_silence.load(Ordering::Relaxed)) else {
            return;
        };
        if std::mem::replace(&mut self.returns_seen, returns) == returns {
            return;
        }
        let (now, mut due) = (Instant::now(), Duration::ZERO);
        for (place, asked) in self.outstanding.iter_mut().enumerate() {
            let Some(asked) = asked.as_mut().filter(|asked| asked.is_asked_here()) else { continue };
            let Some(last) = asked.last_try() else { continue };
            let at = (now + due).max(last + RETURNED_AFTER);
            if asked.next_at.is_some_and(|next| next > at) {
                asked.next_at = Some(at);
                self.deadlines.set(place, asked.due().duration_since(self.epoch));
                due = (due + RETURN_PACE).min(MAX_RETURN_DELAY);
            }
        }
    }

    /// Asks a silent flight's question once more: whoever had the fewest turns, the best of them. Breaks when it is handed on.
    fn ask_again(&mut self, place: usize, now: Instant, on_end: &mut impl FnMut(Ended<W, C>)) -> ControlFlow<()> {
        let last = self.note_silence(place);
        let Some(asked) = self.outstanding[place].as_mut() else { return Break(()) };
        // After the last try there is only waiting, until the question's time is over.
        asked.next_at = None;
        let Some(upstreams) = asked.waiters.first().map(|first| Arc::clone(first.upstreams())) else {
            return Continue(());
        };
        let most = upstreams.max_tries() + asked.repeated;
        if asked.count >= most {
            return Continue(());
        }
        let turns = |server| {
            let tries = asked
                .tries()
                .filter(|one| self.ports.get(one.key.port).is_some_and(|port| port.endpoint.server.address == server));
            u32::try_from(tries.count()).unwrap_or(u32::MAX)
        };
        let timeout = upstreams.around().timeout;
        let next = upstreams.next_try(turns).filter(|(next, _)| next.server.transport == Transport::Udp);
        let next = next.and_then(|(next, turns)| {
            let patience = interval(upstreams.patience(next), turns, timeout);
            let key = self.ports.choose(next, upstreams.around(), asked.holder)?;
            let casing = next.casing(|| self.ports.bits(), upstreams.around());
            Some((key, patience, casing, next.edns(upstreams.around())))
        });
        // Nobody else over UDP: the general way knows more.
        let Some((key, patience, casing, edns)) = next else {
            let Some(server) = last else { return Continue(()) };
            self.ask_on_or_fail(place, server, Unanswered::Silent, on_end);
            return Break(());
        };
        self.ports.send(key, &asked.question, (casing, edns), place);
        upstreams.around().observer.observe(Event::Retransmitted);
        asked.again.push(Try { key, since: now, patience, casing, case: Case::Open, edns, is_garbled: false });
        asked.count += 1;
        let progress = Progress { made: asked.count, most, since: asked.since, time: asked.time };
        asked.next_at = progress.next_at(now, patience);
        if asked.next_at.is_some() && search(&upstreams.endpoints, &asked.question, asked.holder, upstreams.around()) {
            asked.next_at = Some(now + FOUND_AFTER.min(patience));
        }
        Continue(())
    }

    /// Notes a reply with the ID of a query in flight that cannot be used: bytes that are no message, another question. When
    /// each try came to that, there is nothing left to wait for: the next one is made at once, and with all made the question
    /// has failed.
    pub(super) fn note_garbled(
        &mut self,
        place: usize,
        key: Key,
        bytes: &[u8],
        on_end: &mut impl FnMut(Ended<W, C>),
    ) -> ControlFlow<()> {
        self.ignore(key.port, bytes, on_end)?;
        let Some(asked) = self.outstanding[place].as_mut() else { return Continue(()) };
        if let Some(one) = asked.try_of(key) {
            one.is_garbled = true;
        }
        if !asked.is_asked_here() || !asked.tries().all(|one| one.is_garbled) {
            return Continue(());
        }
        if asked.next_at.is_none() {
            self.end_try(place, key, Err(Unanswered::Failed(TryError::garbled())), on_end);
        } else {
            let now = Instant::now();
            asked.next_at = Some(now);
            self.deadlines.set(place, now.duration_since(self.epoch));
        }
        Continue(())
    }

    /// Notes the silence of the try made last; returns who was asked.
    fn note_silence(&mut self, place: usize) -> Option<SocketAddr> {
        let asked = self.outstanding[place].as_ref()?;
        let last = *asked.tries().last()?;
        let port = self.ports.get(last.key.port)?;
        if last.is_garbled {
            let (kind, waited) = (FailureKind::Malformed, last.patience);
            port.endpoint.note_failed(&asked.question, asked.holder, kind, waited, &port.around);
        } else {
            port.endpoint.note_silent(&asked.question, last.patience, &port.around);
        }
        Some(port.endpoint.server.address)
    }

    /// Notes which upstreams were asked for most of a question's time and have not replied.
    fn note_unanswered(&self, place: usize) {
        let Some(asked) = &self.outstanding[place] else { return };
        let question = hash(&*asked.question);
        for one in asked.tries() {
            let waited = one.since.elapsed();
            if let Some(port) = self.ports.get(one.key.port).filter(|_| waited >= asked.time / 2) {
                port.endpoint.note_unanswered(question, waited, &port.around);
            }
        }
    }

    /// Ends a flight that nobody answered in its time.
    fn time_out(&mut self, place: usize, on_end: &mut impl FnMut(Ended<W, C>)) {
        self.note_silence(place);
        self.note_unanswered(place);
        let servers = self.asked(place).map(|server| Shown(server).to_string());
        let servers: Vec<String> = servers.collect();
        let Some(mut asked) = self.remove(place) else { return };
        let refusal = Self::refusal(&mut asked);
        let failure = if asked.tries().any(|one| one.is_garbled) {
            TryError::garbled().at(servers.join(", "))
        } else {
            Failure::timed_out(&servers, asked.since.elapsed())
        };
        let Outstanding { question, claim, waiters, .. } = asked;
        on_end(Ended { question, claim, waiters, outcome: refusal.unwrap_or(Outcome::Failed(failure)) });
    }

    /// Returns who was asked the question of a flight and has not answered, each once.
    pub(super) fn asked(&self, place: usize) -> impl Iterator<Item = SocketAddr> {
        let tries = self.outstanding[place].iter().flat_map(Outstanding::tries);
        let mut servers: Vec<SocketAddr> = Vec::new();
        for port in tries.filter_map(|one| self.ports.get(one.key.port)) {
            if !servers.contains(&port.endpoint.server.address) {
                servers.push(port.endpoint.server.address);
            }
        }
        servers.into_iter()
    }
}
