//! The evidence that an upstream fails, and not only the zones that one client asks for.
//!
//! The replies look alike: SERVFAIL or REFUSED for a name. Two facts tell the cases apart. One is that several clients meet
//! failures at several zones and nobody gets an answer. The other is a probe for a random name below the root, which no
//! cache holds: an upstream whose own way to the Internet is closed fails at that as well, while zones of a client that are
//! broken do not affect it. The root's name servers would not do, as a resolver keeps them in its cache for days.

use std::time::Duration;

use crate::fair_share::Holder;

/// The failures in a row after which the upstream is probed.
const SUSPECT_AFTER: u32 = 3;

/// The pairs of client and zone whose failures are evidence without a probe.
const PAIRS: usize = 6;

/// The pairs of one client that count: no client alone makes an upstream fail.
const PAIRS_OF_CLIENT: usize = 3;

/// The pairs of one zone that count: a zone that many clients ask for, as that of a package mirror, may be broken.
const PAIRS_OF_ZONE: usize = 2;

/// The intervals between two probes of an upstream that answered the last one: an outage that begins while a client asks for
/// broken names is still found in time.
const CONTRADICTED_INTERVALS: u32 = 3;

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// An answer, NXDOMAIN as a rule.
    Answered,
    /// SERVFAIL, a refusal or another reply that is no answer, or silence.
    Failed,
}

/// The failures of one upstream at names since its last answer to one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NameFailures {
    /// Failures since the last answer to a name or to a probe.
    count: u32,
    /// The time of the first of them.
    since: Option<Duration>,
    /// The pairs of client and zone that failed since the last answer to a name.
    pairs: Pairs,
    /// The result of the last probe since then.
    verdict: Option<Verdict>,
    /// The result of a probe while names were answered; `None` if there was none. Some servers that resolve names refuse this
    /// one, so a failed probe means nothing there.
    baseline: Option<Verdict>,
    /// The time of the last probe.
    probed_at: Option<Duration>,
}

impl NameFailures {
    /// Notes that a name in this zone failed for a client.
    pub(super) fn note(&mut self, zone: u64, client: Holder, now: Duration) {
        self.count = self.count.saturating_add(1);
        self.since.get_or_insert(now);
        if client != Holder::NOBODY {
            self.pairs.insert(zone, client.number());
        }
    }

    /// Clears the evidence, as an answer does. Where a probe had failed, the next one is compared again.
    pub(super) fn clear(&mut self) {
        let baseline = self.baseline.filter(|_| !self.is_confirmed());
        *self = Self { baseline, probed_at: self.probed_at, ..Self::default() };
    }

    /// Returns whether so many names failed in a row that a probe has to tell why.
    pub(super) fn is_suspect(&self) -> bool {
        self.count >= SUSPECT_AFTER
    }

    /// Returns whether the failures are the upstream's.
    pub(super) fn is_confirmed(&self) -> bool {
        self.verdict == Some(Verdict::Failed) || self.pairs.is_full()
    }

    /// Returns whether the names that fail are to blame, as the upstream answered a probe while they did.
    pub(super) fn is_contradicted(&self) -> bool {
        self.verdict == Some(Verdict::Answered) && !self.pairs.is_full()
    }

    /// Returns whether a probe is wanted; `is_down` is whether the upstream is asked last.
    pub(super) fn wants_probe(&self, is_down: bool) -> bool {
        match self.verdict {
            None => is_down || self.is_suspect(),
            Some(Verdict::Failed) => true,
            Some(Verdict::Answered) => self.is_suspect() && !self.pairs.is_full(),
        }
    }

    /// Returns whether a probe is to be sent now; the next call says no for a while. The interval is longer where the last one
    /// showed that names are to blame, as they may fail for as long as a client asks.
    pub(super) fn claim_probe(&mut self, every: Duration, now: Duration) -> bool {
        let every = if self.is_contradicted() { every * CONTRADICTED_INTERVALS } else { every };
        let is_due = self.probed_at.is_none_or(|at| now.saturating_sub(at) >= every);
        if is_due {
            self.probed_at = Some(now);
        }
        is_due
    }

    /// Returns whether no probe was compared with an answer to a name yet, and none would be taken for a verdict.
    pub(super) fn is_uncompared(&self) -> bool {
        self.baseline.is_none() && self.count == 0
    }

    /// Notes the answer to a probe; returns whether a probe had failed before.
    pub(super) fn probe_answered(&mut self) -> bool {
        self.baseline = Some(Verdict::Answered);
        let has_failed = self.verdict.take() == Some(Verdict::Failed);
        if self.count > 0 {
            self.contradict();
        }
        has_failed
    }

    /// Notes a failed probe while names fail. Returns the time since which they do if that confirms that the upstream fails.
    pub(super) fn probe_failed(&mut self, now: Duration) -> Option<Duration> {
        if self.baseline == Some(Verdict::Failed) {
            self.contradict();
            return None;
        }
        self.verdict = Some(Verdict::Failed);
        Some(self.since.unwrap_or(now))
    }

    /// Notes a failed probe while names are answered, which says what one is worth.
    pub(super) fn compare_failed(&mut self) {
        self.baseline = Some(Verdict::Failed);
    }

    /// Takes the failures so far for those of the names.
    fn contradict(&mut self) {
        (self.verdict, self.count, self.since) = (Some(Verdict::Answered), 0, None);
    }
}

/// A bounded set of pairs of a zone and a client, both known by their hashes; a zone of 0 marks a free place.
#[derive(Clone, Copy, Debug, Default)]
struct Pairs([(u64, u32); PAIRS]);

impl Pairs {
    /// Adds a pair unless it is there, or its zone or its client has as many as count.
    fn insert(&mut self, zone: u64, client: u32) {
        let zone = zone.max(1);
        let of_zone = self.0.iter().filter(|pair| pair.0 == zone).count();
        let of_client = self.0.iter().filter(|pair| pair.0 != 0 && pair.1 == client).count();
        if of_zone < PAIRS_OF_ZONE
            && of_client < PAIRS_OF_CLIENT
            && !self.0.contains(&(zone, client))
            && let Some(free) = self.0.iter_mut().find(|pair| pair.0 == 0)
        {
            *free = (zone, client);
        }
    }

    /// Returns whether all places are taken.
    fn is_full(&self) -> bool {
        self.0.iter().all(|pair| pair.0 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_clients_at_several_zones_are_evidence_and_neither_alone_is() {
        let is_evidence = |all: &mut dyn Iterator<Item = (u64, u32)>| {
            let mut pairs = Pairs::default();
            all.for_each(|(zone, client)| pairs.insert(zone, client));
            pairs.is_full()
        };
        assert!(!is_evidence(&mut (1..50).map(|zone| (zone, 1))), "one client, many zones");
        assert!(!is_evidence(&mut (1..50).map(|client| (1, client))), "many clients, one zone");
        assert!(
            !is_evidence(&mut (1..50).map(|number| (1 + u64::from(number % 2), number))),
            "many clients, two zones"
        );
        let and_another = &mut (1..50).map(|zone| (zone, 1)).chain([(60, 2), (61, 2)]);
        assert!(!is_evidence(and_another), "one client, and two broken zones of another");
        assert!(is_evidence(&mut (0..6).map(|number| (1 + u64::from(number / 2), number % 2))), "two, the same zones");
        assert!(is_evidence(&mut (0..6).map(|number| (1 + u64::from(number), number % 3))), "three, two zones each");
    }

    #[test]
    fn failed_probe_confirms_unless_one_fails_in_good_times_too() {
        let at = Duration::from_secs;
        let suspect = |baseline| {
            let mut names = NameFailures { baseline, ..NameFailures::default() };
            (1..4).for_each(|second| names.note(second, Holder::named("a"), at(second)));
            assert!(names.is_suspect() && names.wants_probe(false) && !names.is_confirmed());
            names
        };
        for baseline in [None, Some(Verdict::Answered)] {
            let mut names = suspect(baseline);
            assert_eq!((names.probe_failed(at(5)), names.is_confirmed()), (Some(at(1)), true), "{baseline:?}");
            names.clear();
            assert!(names.is_uncompared(), "the next answer shows what a probe is worth now");
        }
        let mut names = suspect(Some(Verdict::Failed));
        assert_eq!((names.probe_failed(at(5)), names.is_contradicted()), (None, true));
        names.clear();
        assert!(!names.is_uncompared() && !names.is_contradicted());
    }

    #[test]
    fn answered_probe_contradicts_the_failures_before_it_and_not_those_after() {
        let at = Duration::from_secs;
        let mut names = NameFailures::default();
        (1..9).for_each(|zone| names.note(zone, Holder::named("a"), at(zone)));
        assert!(!names.probe_answered() && names.is_contradicted() && !names.wants_probe(false));
        (20..23).for_each(|zone| names.note(zone, Holder::named("a"), at(zone)));
        assert!(names.wants_probe(false));
        assert_eq!(names.probe_failed(at(24)), Some(at(20)));
        assert!(names.probe_answered() && !names.is_confirmed());
    }
}
