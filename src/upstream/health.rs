//! How an upstream has been doing, and what follows from it: its place in the order, the patience it is given,
//! when it is probed. Pure: every method is told the time since the start of the process.

use std::time::Duration;

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

/// The time between the first probes of an upstream that is down; it doubles with every one that fails.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest time between two probes of an upstream that is down.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How long an upstream that others outrank goes unmeasured.
const REMEASURE_AFTER: Duration = Duration::from_secs(30);

/// The time between two searches for an upstream that answers at all.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// Round trips are told apart by powers of two of this: less is noise, and the configured order decides.
const RANK_UNIT: Duration = Duration::from_millis(8);

/// Different questions that got no reply in their whole time, after which an upstream is known to be dead. One or two say
/// little: their names may take long, and a client asks for both kinds of address.
const DEAD_AFTER: usize = 3;

/// How long the network has to refuse before an upstream is known to be dead: a resolver that is started again takes less. Of
/// the five seconds that a stub waits, half a one is left to say so.
const REFUSED_FOR: Duration = Duration::from_millis(4500);

/// The time between the first and the last failure in a row after which an upstream that others stand in for counts as gone:
/// longer than one question takes, so that a single slow name is no outage.
const GONE_AFTER: Duration = Duration::from_secs(6);

/// What a try that brought no answer says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Silence, longer than it is given.
    Silent,
    /// It said that it cannot answer, or something that cannot be read.
    Failed,
    /// The network says that nobody is there.
    Unreachable,
}

/// Where an upstream stands among the others: the least is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Whether it failed several times in a row.
    is_down: bool,
    /// Whether nothing came since it was last asked in vain.
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
    /// Whether the last failure was silence: then the others go first until it says something.
    is_silent: bool,
    /// When it said something last.
    heard_at: Duration,
    /// When a failure was noted last.
    failed_at: Duration,
    /// When it was last asked to find out who answers at all.
    searched_at: Option<Duration>,
    /// When it may next be probed.
    probe_at: Duration,
    /// Hashes of the first questions that got no reply in their whole time, nothing else having been heard either: each once,
    /// and 0 for a free place.
    unanswered: [u64; DEAD_AFTER],
    /// When the network first said that nobody is there; `None` if it never did, or something was heard since.
    refused_at: Option<Duration>,
    /// When the first of the failures in a row was noted; `None` without one.
    failing_since: Option<Duration>,
    /// Whether it is gone: dead, or failing for long. Over with the next answer.
    is_gone: bool,
    /// How often it was gone.
    outages: u64,
    /// Since when it has been answering.
    up_since: Duration,
    /// Whether it was silent or unreachable, and has replied again since that was last asked for.
    has_returned: bool,
}

/// A smoothed round-trip time and its variation, as TCP has them (RFC 6298 §2).
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    /// SRTT.
    smoothed: Duration,
    /// RTTVAR.
    variation: Duration,
}

impl RoundTrip {
    /// Returns what the first measurement says (RFC 6298 §2.2).
    fn first(measured: Duration) -> Self {
        Self { smoothed: measured, variation: measured / 2 }
    }

    /// Returns it with a measurement more (RFC 6298 §2.3: a quarter and an eighth are new).
    fn with(self, measured: Duration) -> Self {
        let variation = (self.variation * 3 + self.smoothed.abs_diff(measured)) / 4;
        Self { smoothed: (self.smoothed * 7 + measured) / 8, variation }
    }
}

impl Health {
    /// Returns the state of an upstream that nothing is known of.
    pub(super) fn new(now: Duration) -> Self {
        Self { probe_at: now + REMEASURE_AFTER, up_since: now, ..Self::default() }
    }

    /// Notes an answer after `round_trip`. NXDOMAIN and NODATA are answers: what does not exist is not the
    /// upstream's failure (hickory-resolver 0.26.3 counts it as one, and slows down for good).
    ///
    /// Every try has an ID of its own, so it is known which one is answered: no measurement is ambiguous (Karn's rule,
    /// RFC 6298 §3).
    pub(super) fn answered(&mut self, round_trip: Duration, now: Duration) {
        // What was measured before it went down, and while, says nothing of how it came back.
        let known = self.round_trip.filter(|_| !self.is_down());
        if self.round_trip.is_none() || self.is_down() {
            self.up_since = now;
        }
        self.round_trip = Some(known.map_or_else(|| RoundTrip::first(round_trip), |known| known.with(round_trip)));
        self.failures = 0;
        self.probe_at = now + REMEASURE_AFTER;
        self.heard(now);
    }

    /// Notes a reply that is no answer and yet no failure of the upstream's.
    pub(super) fn heard(&mut self, now: Duration) {
        self.replied(now);
        self.is_gone = false;
        self.failing_since = None;
    }

    /// Notes a reply of any kind.
    fn replied(&mut self, now: Duration) {
        self.has_returned |= self.is_lost();
        self.unanswered = [0; DEAD_AFTER];
        self.refused_at = None;
        self.is_silent = false;
        self.heard_at = now;
    }

    /// Notes that a question, known by its hash and asked at `sent`, got no reply in its whole time.
    ///
    /// It says nothing when something else was heard since: then its name takes long.
    pub(super) fn unanswered(&mut self, question: u64, sent: Duration) {
        let question = question.max(1);
        if sent < self.heard_at || self.unanswered.contains(&question) {
            return;
        }
        if let Some(free) = self.unanswered.iter_mut().find(|place| **place == 0) {
            *free = question;
        }
        self.note_outage();
    }

    /// Returns whether it is known to answer nothing: the network has said so for [`REFUSED_FOR`], or several questions got no
    /// reply and nothing was heard since the first of them.
    pub(super) fn is_dead(&self) -> bool {
        let has_refused = |since| self.failed_at.saturating_sub(since) >= REFUSED_FOR;
        self.refused_at.is_some_and(has_refused) || !self.unanswered.contains(&0)
    }

    /// Returns whether the network said that nobody is there, and nothing was heard since.
    pub(super) fn is_refusing(&self) -> bool {
        self.refused_at.is_some()
    }

    /// Returns whether it is known to answer.
    pub(super) fn is_answering(&self) -> bool {
        self.round_trip.is_some() && !self.is_silent && !self.is_down()
    }

    /// Returns whether it should be asked aside because none is known to answer; the next call says no for a second.
    pub(super) fn claim_search(&mut self, now: Duration) -> bool {
        let is_due = self.searched_at.is_none_or(|at| now.saturating_sub(at) >= SEARCH_EVERY);
        if is_due {
            self.searched_at = Some(now);
        }
        is_due
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
        match (self.is_refusing(), self.is_silent || self.unanswered[0] != 0) {
            (true, _) => "unreachable",
            (false, true) => "silent",
            (false, false) => "failing",
        }
    }

    /// Notes that it is gone, if a failure just noted makes it so.
    fn note_outage(&mut self) {
        let failing = self.failing_since.map_or(Duration::ZERO, |since| self.failed_at.saturating_sub(since));
        if !self.is_gone && (self.is_dead() || self.is_down() && failing >= GONE_AFTER) {
            self.is_gone = true;
            self.outages += 1;
        }
    }

    /// Returns whether a question got no reply in its whole time, or the network said that nobody is there, and nothing was
    /// heard since.
    pub(super) fn is_lost(&self) -> bool {
        self.is_refusing() || self.unanswered[0] != 0
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
        self.failed_at = now;
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        match trouble {
            Trouble::Silent => {
                self.is_silent = true;
                // With the next question, aside: perhaps it was but one datagram.
                self.probe_at = if self.failures == 1 { now } else { now + FIRST_BACKOFF };
            }
            Trouble::Failed => self.replied(now),
            Trouble::Unreachable => {
                self.failures = self.failures.max(DOWN_AFTER);
                self.refused_at.get_or_insert(now);
            }
        }
        if self.is_down() {
            let doublings = (self.failures - DOWN_AFTER).min(5);
            self.probe_at = now + (FIRST_BACKOFF * (1 << doublings)).min(MAX_BACKOFF);
        }
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
        // One that was searched and not found is no better than a silent one.
        let is_silent = self.is_silent || self.round_trip.is_none() && self.searched_at.is_some();
        Rank { is_down: self.is_down(), is_silent, round_trip }
    }

    /// Returns how long to wait for an answer before the next try starts beside this one (RFC 6298 §2: RTO); at most
    /// half of `timeout`, so that there is time for a second.
    pub(super) fn patience(&self, timeout: Duration) -> Duration {
        let wished = self.round_trip.map_or(FIRST_PATIENCE, |known| known.smoothed + known.variation * 4);
        wished.max(MIN_PATIENCE).min(timeout / 2)
    }

    /// Returns whether this upstream should be asked aside, to learn how it does; the next call says no for a while.
    ///
    /// Call it only for an upstream that the question at hand would not reach: a probe costs nobody time.
    pub(super) fn claim_probe(&mut self, now: Duration) -> bool {
        let due = now >= self.probe_at;
        if due {
            self.probe_at = now + REMEASURE_AFTER;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns so many milliseconds.
    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn answers_make_healthy_and_are_smoothed() {
        let mut health = Health::new(ms(0));
        health.answered(ms(80), ms(0));
        assert_eq!(health.round_trip(), Some(ms(80)));
        health.answered(ms(160), ms(1));
        assert_eq!(health.round_trip(), Some(ms(90)));
        assert!(!health.is_down());
    }

    #[test]
    fn three_failures_in_a_row_are_down_and_one_answer_is_up_again() {
        let mut health = Health::new(ms(0));
        for (count, down) in [(1, false), (2, false), (3, true)] {
            health.failed(Trouble::Failed, ms(count), ms(count));
            assert_eq!(health.is_down(), down, "failure {count}");
        }
        health.answered(ms(1), ms(9));
        assert!(!health.is_down());
        assert_eq!(health.round_trip(), Some(ms(1)));
        health.failed(Trouble::Unreachable, ms(10), ms(10));
        assert!(health.is_down(), "the network is sure at once");
    }

    #[test]
    fn one_that_left_a_question_unanswered_is_lost_until_something_is_heard() {
        let mut health = Health::new(ms(0));
        health.answered(ms(1), ms(10));
        health.unanswered(7, ms(9));
        assert!(!health.is_lost(), "something was heard since");
        health.unanswered(7, ms(11));
        assert!(health.is_lost() && !health.is_dead());
        health.failed(Trouble::Failed, ms(20), ms(21));
        assert!(!health.is_lost(), "a failure is a reply");
        health.failed(Trouble::Unreachable, ms(30), ms(31));
        assert!(health.is_lost() && !health.is_dead(), "it may be starting");
    }

    #[test]
    fn probes_of_a_dead_upstream_become_rare_but_never_stop() {
        let mut health = Health::new(ms(0));
        let mut now = ms(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            health.failed(Trouble::Unreachable, now, now);
            let since = now;
            while !health.claim_probe(now) {
                now += ms(500);
            }
            assert!(!health.claim_probe(now), "one probe at a time");
            waits.push(now.saturating_sub(since).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn order_is_up_before_down_then_fast_before_slow_then_as_configured() {
        let with = |round_trip: Option<u64>, failures| Health {
            round_trip: round_trip.map(|time| RoundTrip::first(ms(time))),
            failures,
            ..Health::default()
        };
        let silent = Health { is_silent: true, ..with(Some(1), 1) };
        let cases = [
            (with(Some(500), 0), with(Some(1), 3), std::cmp::Ordering::Less),
            (with(Some(20), 0), with(Some(100), 0), std::cmp::Ordering::Less),
            (with(Some(1), 0), with(Some(7), 0), std::cmp::Ordering::Equal),
            (with(None, 0), with(Some(3), 0), std::cmp::Ordering::Equal),
            (with(None, 0), with(Some(30), 0), std::cmp::Ordering::Less),
            (with(Some(500), 0), silent, std::cmp::Ordering::Less),
            (silent, with(Some(1), 3), std::cmp::Ordering::Less),
        ];
        for (one, other, order) in cases {
            assert_eq!(one.rank().cmp(&other.rank()), order, "{one:?} {other:?}");
        }
    }

    #[test]
    fn patience_follows_the_round_trip_and_leaves_time_for_a_second_try() {
        // One measurement: SRTT + 4 * (SRTT / 2).
        const CASES: &[(u64, u64, u64)] =
            &[(0, 2000, 50), (10, 2000, 50), (200, 2000, 600), (900, 2000, 1000), (10, 60, 30)];
        for &(round_trip, timeout, patience) in CASES {
            let health = Health { round_trip: Some(RoundTrip::first(ms(round_trip))), ..Health::default() };
            assert_eq!(health.patience(ms(timeout)), ms(patience), "{round_trip} of {timeout}");
        }
        assert_eq!(Health::default().patience(ms(2000)), ms(300), "nothing is known");
        assert_eq!(Health::default().patience(ms(200)), ms(100));
    }

    #[test]
    fn patience_grows_with_the_variation_and_shrinks_when_it_is_steady() {
        let mut health = Health::new(ms(0));
        for _ in 0..100 {
            health.answered(ms(100), ms(0));
        }
        let steady = health.patience(ms(2000));
        assert!(steady < ms(105), "{steady:?}");
        health.answered(ms(500), ms(0));
        // SRTT 150, RTTVAR 100.
        let shaken = health.patience(ms(2000));
        assert!(shaken > ms(545) && shaken < ms(555), "{shaken:?}");
    }

    #[test]
    fn one_silent_try_lets_the_others_go_first_and_is_looked_into_at_once() {
        let mut health = Health::new(ms(0));
        health.answered(ms(4), ms(0));
        health.failed(Trouble::Silent, ms(10), ms(60));
        assert!(health.rank() > Health { round_trip: Some(RoundTrip::first(ms(900))), ..Health::default() }.rank());
        assert!(!health.is_down() && health.claim_probe(ms(60)) && !health.claim_probe(ms(60)));
        health.answered(ms(4), ms(61));
        assert!(!health.rank().is_silent);
    }

    #[test]
    fn three_questions_without_a_reply_are_dead_and_any_reply_is_a_return() {
        let mut health = Health::new(ms(0));
        health.answered(ms(4), ms(100));
        assert!(!health.take_return(), "it was not gone");
        for question in [1, 2, 2, 1, 1] {
            health.unanswered(question, ms(200));
            assert!(!health.is_dead(), "two names may both take long");
        }
        health.unanswered(3, ms(50));
        assert!(!health.is_dead(), "something was heard since that was asked");
        health.unanswered(3, ms(300));
        assert!(health.is_dead());
        health.failed(Trouble::Failed, ms(400), ms(401));
        assert!(!health.is_dead() && health.take_return() && !health.take_return(), "a refusal is a reply");
        health.failed(Trouble::Unreachable, ms(500), ms(501));
        assert!(!health.is_dead() && health.is_down() && !health.take_return(), "perhaps it is being started again");
        health.failed(Trouble::Unreachable, ms(5000), ms(5001));
        assert!(health.is_dead() && !health.take_return());
        health.heard(ms(5600));
        assert!(!health.is_dead() && health.take_return());
    }

    #[test]
    fn outage_is_what_lasts_and_not_a_single_slow_name() {
        let mut health = Health::new(ms(0));
        health.answered(ms(4), ms(100));
        for sent in [200, 500, 1000] {
            health.failed(Trouble::Silent, ms(sent), ms(sent + 300));
        }
        health.failed(Trouble::Silent, ms(1400), ms(5200));
        assert!(health.is_down() && !health.is_gone(), "one question, in all its time");
        health.failed(Trouble::Silent, ms(6200), ms(6500));
        assert!(health.is_gone());
        assert_eq!((health.outages(), health.since(), health.trouble()), (1, ms(500), "silent"));
        health.failed(Trouble::Silent, ms(7000), ms(9000));
        assert_eq!(health.outages(), 1, "it is the same one");
        health.answered(ms(4), ms(9500));
        assert_eq!((health.is_gone(), health.since()), (false, ms(9500)));
        for sent in [10_000, 12_000, 14_000, 16_100] {
            health.failed(Trouble::Failed, ms(sent), ms(sent));
        }
        assert_eq!((health.is_gone(), health.outages(), health.trouble()), (true, 2, "failing"));
    }

    #[test]
    fn a_lost_datagram_among_answers_is_no_silence() {
        let mut health = Health::new(ms(0));
        health.answered(ms(4), ms(30));
        health.failed(Trouble::Silent, ms(10), ms(60));
        assert_eq!((health.failures, health.rank().is_silent), (0, false));
    }

    #[test]
    fn what_was_in_flight_together_fails_once() {
        let mut health = Health::new(ms(0));
        for trouble in [Trouble::Silent, Trouble::Failed] {
            for _ in 0..100 {
                health.failed(trouble, ms(10), ms(60));
            }
            assert_eq!(health.failures, 1, "{trouble:?}");
        }
        health.failed(Trouble::Silent, ms(60), ms(110));
        assert_eq!(health.failures, 2);
    }
}
