//! The measured state of an upstream, and what follows from it: its place in the order, the time that it is given for a
//! reply, and when it is probed. Pure: every method takes the time since the start of the process.
//!
//! A probe asks an upstream that was silent or unreachable for the root's name servers: any reply shows that it is there
//! again. Whether one that is there and fails at names fails itself is decided in [`names`].

mod hashes;
mod names;
mod round_trip;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::hashes::Hashes;
use self::names::NameFailures;
use self::round_trip::RoundTrip;
use crate::fair_share::Holder;

/// The shortest time an upstream is given before it, or the next, is asked again.
///
/// A round trip within a data centre takes well under a millisecond, but so short a time would mean two queries for every
/// name that the upstream itself has to ask for. The least that unbound (1.17) gives is 50 ms as well.
const MIN_PATIENCE: Duration = Duration::from_millis(50);

/// The time an upstream is given of which nothing is measured: most of the world is closer.
const FIRST_PATIENCE: Duration = Duration::from_millis(300);

/// Failures in a row after which an upstream is asked last.
///
/// One is not enough: a lost datagram, or a name whose DNSSEC is broken (SERVFAIL at every upstream), says little.
const DOWN_AFTER: u32 = 3;

/// The time after which an upstream that others outrank is measured again.
const REMEASURE_AFTER: Duration = Duration::from_secs(30);

/// Round trips are told apart by powers of two of this: less is noise, and the configured order decides.
const RANK_UNIT: Duration = Duration::from_millis(8);

/// Different questions that got no reply in their whole time, after which an upstream is known to be dead. One or two say
/// little: their names may take long, and a client asks for both kinds of address.
const DEAD_AFTER: usize = 3;

/// The time for which the network has to refuse before an upstream is known to be dead: a resolver that is restarted takes
/// less. Half a second is left of the five that a stub resolver waits, to answer SERVFAIL.
const REFUSED_FOR: Duration = Duration::from_millis(4500);

/// The time between the first and the last failure in a row after which an upstream that others stand in for counts as gone:
/// longer than one question takes, so that a single slow name is no outage.
const GONE_AFTER: Duration = Duration::from_secs(6);

/// The conclusion about an upstream from a try that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Silence, longer than it is given.
    Silent,
    /// A reply that is no answer (SERVFAIL, REFUSED), or that cannot be read.
    Failed,
    /// An error of the network: no host has the address, or its port is closed.
    Unreachable,
}

/// The question of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// The root's name servers; any reply shows that the upstream is there.
    Root,
    /// A random name below the root, which no cache holds; an answer shows that the upstream resolves names.
    Name,
}

/// The rank of an upstream: the one with the least is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// True if it failed several times in a row.
    is_down: bool,
    /// True if it has not replied since a try timed out.
    is_silent: bool,
    /// The power of two of its round trip; one never measured ranks as the fastest do, so that the configured
    /// order decides until there is a reason.
    round_trip: u32,
}

/// The measured state of one upstream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    /// The smoothed round-trip time and its variation; `None` before the first answer.
    round_trip: Option<RoundTrip>,
    /// Failures since the last answer.
    failures: u32,
    /// True if the last failure was a silence: the others are asked first until it replies.
    is_silent: bool,
    /// The time of its last reply.
    heard_at: Duration,
    /// The time of the last failure.
    failed_at: Duration,
    /// The time at which it was last probed, or measured by a client's question.
    probed_at: Option<Duration>,
    /// The first questions that got no reply in their whole time, nothing else having been heard either.
    unanswered: Hashes<DEAD_AFTER>,
    /// The names at which it replied without an answer since its last answer.
    names: NameFailures,
    /// The time of the first error of the network; `None` if there was none since its last reply.
    refused_at: Option<Duration>,
    /// The time of the first of the failures in a row; `None` if the last try was answered.
    failing_since: Option<Duration>,
    /// True if it is gone: dead, or failing for long. The next answer ends that.
    is_gone: bool,
    /// The number of times that it was gone.
    outages: u64,
    /// The time from which it has been answering.
    up_since: Duration,
    /// True if it replied after a silence or an error of the network, and nobody has taken note of that yet.
    has_returned: bool,
}

impl Health {
    /// Returns the state of an upstream that nothing is known of.
    pub(super) fn new(now: Duration) -> Self {
        Self { up_since: now, ..Self::default() }
    }

    /// Notes an answer after `round_trip`. NXDOMAIN and NODATA are answers: what does not exist is not the
    /// upstream's failure (hickory-resolver 0.26.3 counts it as one, and slows down for good).
    ///
    /// Every try has an ID of its own, so it is known which one is answered: no measurement is ambiguous (Karn's rule,
    /// RFC 6298 §3).
    pub(super) fn answered(&mut self, round_trip: Duration, now: Duration) {
        self.works(Some(round_trip), now);
    }

    /// Notes an answer for the root. It may come from a cache, so it says nothing of one that fails at names.
    pub(super) fn answered_root(&mut self, round_trip: Duration, now: Duration) {
        if self.is_failing() && (self.is_down() || self.are_names_failing()) {
            self.replied(now);
        } else {
            self.works(Some(round_trip), now);
        }
    }

    /// Notes that it did not answer for the root. Not every server that resolves names does, so a refusal shows that it is
    /// there; SERVFAIL of one that was silent or unreachable shows that and no more.
    pub(super) fn failed_at_root(&mut self, is_refusal: bool, sent: Duration, now: Duration) {
        if !is_refusal
            && !self.is_failing()
            && (self.is_down() || self.is_gone)
            && self.names.probe_failed(now).is_some()
        {
            return self.failed(Trouble::Failed, sent, now);
        }
        self.heard(now);
    }

    /// Notes an answer to a probe for a name that no cache holds: it resolves names.
    pub(super) fn answered_probe(&mut self, round_trip: Duration, now: Duration) {
        let has_failed = self.names.probe_answered();
        if has_failed {
            self.works(Some(round_trip), now);
        } else {
            self.heard(now);
        }
    }

    /// Notes that a probe for a name got a reply that is no answer, or none. That says what such a probe is worth if clients'
    /// names are answered, and else that the upstream fails.
    pub(super) fn failed_at_probe(&mut self, is_reply: bool, sent: Duration, now: Duration) {
        if !is_reply {
            self.failed(Trouble::Silent, sent, now);
        }
        if !self.is_down() && !self.names.is_suspect() {
            self.names.compare_failed();
        } else if self.is_failing()
            && let Some(since) = self.names.probe_failed(now)
        {
            self.failing_since = Some(self.failing_since.map_or(since, |known| known.min(since)));
            self.note_failure(sent, now);
        }
        if is_reply {
            self.heard(now);
        }
    }

    /// Notes a reply that is no answer to a client's question for a name in this zone, known by its hash. Unless a probe fails or
    /// several clients meet the same, it may be the zone's doing, as when its DNSSEC is broken.
    pub(super) fn failed_at_name(&mut self, zone: u64, client: Holder, sent: Duration, now: Duration) {
        self.replied(now);
        self.names.note(zone, client, now);
        if self.names.is_confirmed() {
            self.failed(Trouble::Failed, sent, now);
        }
    }

    /// Notes that it works, as far as is known.
    fn works(&mut self, round_trip: Option<Duration>, now: Duration) {
        // What was measured before it went down, and while, says nothing of how it came back.
        let known = self.round_trip.filter(|_| !self.is_down());
        if self.is_down() || self.round_trip.is_none() && round_trip.is_some() {
            self.up_since = now;
        }
        if let Some(measured) = round_trip {
            self.round_trip = Some(known.map_or_else(|| RoundTrip::first(measured), |known| known.with(measured)));
        }
        self.has_returned |= self.is_gone;
        self.names.clear();
        (self.failures, self.is_gone, self.failing_since) = (0, false, None);
        self.replied(now);
    }

    /// Notes a reply that is no answer and yet no failure of the upstream's: it is over that it was silent or unreachable.
    pub(super) fn heard(&mut self, now: Duration) {
        if self.is_failing() {
            self.replied(now);
        } else {
            self.works(None, now);
        }
    }

    /// Notes a reply of any kind.
    fn replied(&mut self, now: Duration) {
        self.has_returned |= self.is_lost();
        self.unanswered = Hashes::default();
        self.refused_at = None;
        self.is_silent = false;
        self.heard_at = now;
    }

    /// Notes that a question, known by its hash and asked at `sent`, got no reply in its whole time.
    ///
    /// It says nothing when something else was heard since: then its name takes long.
    pub(super) fn unanswered(&mut self, question: u64, sent: Duration) {
        if sent >= self.heard_at {
            self.unanswered.insert(question);
            self.note_outage();
        }
    }

    /// Returns whether it is known to answer nothing: the network has said so for [`REFUSED_FOR`], or several questions got no
    /// reply and nothing was heard since the first of them.
    pub(super) fn is_dead(&self) -> bool {
        let has_refused = |since| self.failed_at.saturating_sub(since) >= REFUSED_FOR;
        self.refused_at.is_some_and(has_refused) || self.unanswered.is_full()
    }

    /// Returns whether the network said that nobody is there, and nothing was heard since.
    pub(super) fn is_refusing(&self) -> bool {
        self.refused_at.is_some()
    }

    /// Returns whether the last try was met with silence and nothing was heard since.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Returns whether it is known to answer.
    pub(super) fn is_answering(&self) -> bool {
        self.round_trip.is_some() && !self.is_silent && !self.is_down()
    }

    /// Returns whether it is gone, as operators are told.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Returns how often it was gone.
    pub(super) fn outages(&self) -> u64 {
        self.outages
    }

    /// Returns since when it has been failing, or else answering.
    pub(super) fn since(&self) -> Duration {
        self.failing_since.filter(|_| self.is_down() || self.is_gone).unwrap_or(self.up_since)
    }

    /// Returns how it fails, in a word.
    pub(super) fn trouble(&self) -> &'static str {
        match (self.is_refusing(), self.is_failing()) {
            (true, _) => "unreachable",
            (false, false) => "silent",
            (false, true) => "failing",
        }
    }

    /// Returns whether it replies as far as is known, so that what fails are its replies.
    pub(super) fn is_failing(&self) -> bool {
        !self.is_silent && !self.is_lost()
    }

    /// Returns whether names fail that are to blame for it themselves: it answers a probe.
    pub(super) fn are_names_failing(&self) -> bool {
        self.names.is_contradicted() || self.names.is_suspect()
    }

    /// Returns the probe that it needs, if any: it is silent or unreachable, it fails at names, or it is not known what it says
    /// to a probe while all is well.
    pub(super) fn wanted_probe(&self) -> Option<Probe> {
        if !self.is_failing() {
            return Some(Probe::Root);
        }
        let is_unknown = self.round_trip.is_some() && self.names.is_uncompared();
        (is_unknown || self.names.wants_probe(self.is_down())).then_some(Probe::Name)
    }

    /// Returns whether the probe that it needs is to be sent now; the next call says no for a while. Probes for names have a
    /// clock of their own: what clients' questions show in the meantime is no verdict.
    pub(super) fn claim_wanted_probe(&mut self, every: Duration, now: Duration) -> bool {
        match self.wanted_probe() {
            None => false,
            Some(Probe::Root) => self.claim_probe(every, now),
            Some(Probe::Name) => self.names.claim_probe(every, now),
        }
    }

    /// Notes that it is gone, if a failure just noted makes it so.
    fn note_outage(&mut self) {
        let failing = self.failing_since.map_or(Duration::ZERO, |since| self.failed_at.saturating_sub(since));
        // One that replies and fails at names may be asked last because of one client, and others still get answers.
        let is_sure = !self.is_failing() || self.names.is_confirmed();
        if !self.is_gone && (self.is_dead() || self.is_down() && is_sure && failing >= GONE_AFTER) {
            self.is_gone = true;
            self.outages += 1;
        }
    }

    /// Returns whether a question got no reply in its whole time, or the network said that nobody is there, and nothing was
    /// heard since.
    pub(super) fn is_lost(&self) -> bool {
        self.is_refusing() || !self.unanswered.is_empty()
    }

    /// Returns whether it replied again after it was silent or unreachable; says so once.
    pub(super) fn take_return(&mut self) -> bool {
        std::mem::take(&mut self.has_returned)
    }

    /// Notes that a try of `sent` brought no answer.
    ///
    /// Of many in flight when it fails, only the first counts; and silence not at all when something came since: then a
    /// datagram was lost, or the name takes long.
    pub(super) fn failed(&mut self, trouble: Trouble, sent: Duration, now: Duration) {
        let is_old = sent < self.failed_at || trouble == Trouble::Silent && sent < self.heard_at;
        if is_old {
            return;
        }
        match trouble {
            Trouble::Silent => self.is_silent = true,
            Trouble::Failed => self.replied(now),
            Trouble::Unreachable => {
                self.failures = self.failures.max(DOWN_AFTER - 1);
                self.refused_at.get_or_insert(now);
            }
        }
        self.note_failure(sent, now);
    }

    /// Counts a failure of a try of `sent`, if no later one is counted.
    fn note_failure(&mut self, sent: Duration, now: Duration) {
        if sent < self.failed_at {
            return;
        }
        self.failed_at = now;
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.note_outage();
    }

    /// Returns whether it failed so often in a row that the others go first.
    pub(super) fn is_down(&self) -> bool {
        self.failures >= DOWN_AFTER
    }

    /// Returns the smoothed round-trip time, if any was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|known| known.smoothed)
    }

    /// Returns the place in the order; equal ones go as configured.
    pub(super) fn rank(&self) -> Rank {
        let units = self.round_trip().map_or(0, |time| time.as_millis() / RANK_UNIT.as_millis());
        let round_trip = u128::BITS - units.leading_zeros();
        // One that was probed and not heard of since is no better than a silent one.
        let is_unfound = self.round_trip.is_none() && self.probed_at.is_some_and(|at| self.heard_at <= at);
        let is_silent = self.is_silent || is_unfound;
        Rank { is_down: self.is_down(), is_silent, round_trip }
    }

    /// Returns how long to wait for an answer before the next try starts beside this one (RFC 6298 §2: RTO); at most
    /// half of `timeout`, so that there is time for a second.
    pub(super) fn patience(&self, timeout: Duration) -> Duration {
        let wished = self.round_trip.map_or(FIRST_PATIENCE, |known| known.smoothed + known.variation * 4);
        wished.max(MIN_PATIENCE).min(timeout / 2)
    }

    /// Returns whether it is to be asked aside now, as it is every so often; the next call says no for that long.
    pub(super) fn claim_probe(&mut self, every: Duration, now: Duration) -> bool {
        let is_due = self.probed_at.is_none_or(|at| now.saturating_sub(at) >= every);
        if is_due {
            self.probed_at = Some(now);
        }
        is_due
    }

    /// Returns whether it is to be asked a client's question aside, one that it would not get: as often as it is probed while it
    /// fails, and now and then to learn how fast it is; the next call says no for a while.
    pub(super) fn claim_measurement(&mut self, every: Duration, now: Duration) -> bool {
        if self.failures > 0 {
            return now.saturating_sub(self.failed_at) >= every && self.claim_probe(every, now);
        }
        let heard_at = self.heard_at.max(self.up_since);
        now.saturating_sub(heard_at) >= REMEASURE_AFTER && self.claim_probe(REMEASURE_AFTER, now)
    }
}
