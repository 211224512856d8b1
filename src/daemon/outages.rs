//! Log lines about outages of upstreams: one when an upstream fails, one when it answers again, and separate ones for
//! all upstreams together.
//!
//! Nothing here is on the path of a query: twice a second, the state of the upstreams is compared with the state that
//! was logged last. The number of lines is bounded however fast an upstream flaps: a line counts the outages that were
//! omitted before it, and the last line is always the present state.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bounds::MAX_OUTAGE_LINES;
use crate::document::shortened;
use crate::listen::admin::service::Service;
use crate::upstream::{Server, Status};

/// The interval between two comparisons.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// The period in which at most [`MAX_OUTAGE_LINES`] are written.
const MINUTE: Duration = Duration::from_mins(1);
/// The longest list of upstreams in one line, in octets.
const LISTED: usize = 256;

/// Compares the upstreams for as long as the process serves, and logs the differences. Also logs a lack of descriptors
/// for queries, at most once a minute, and probes the upstreams that may be gone, which is due at the same interval.
pub(crate) async fn watch(service: Arc<Service>) {
    let mut outages = Outages::new(Instant::now());
    let (mut lacking, mut logged_at) = (0, None::<Instant>);
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        let now_lacking = service.engine.metrics().descriptors_lacking();
        if now_lacking > lacking && logged_at.is_none_or(|at| at.elapsed() >= MINUTE) {
            let help = "raise `LimitNOFILE=` of the unit, or find the process that has so many files open";
            tracing::warn!(failed = now_lacking - lacking, help, "no file descriptors left for queries");
            (lacking, logged_at) = (now_lacking, Some(Instant::now()));
        }
        let view = service.engine.view().clone();
        view.upstreams.probe();
        let upstreams: Vec<Status> = view.upstreams.status().collect();
        for told in outages.look(&upstreams, service.engine.metrics().unanswered(), Instant::now()) {
            told.log();
        }
    }
}

/// The state of the upstreams as it was last logged.
struct Outages {
    /// The state of each upstream.
    known: HashMap<Server, LoggedState>,
    /// The state of all upstreams together, which is an outage while all of them are gone.
    all: LoggedState,
    /// The lines that may still be written in this minute.
    left: usize,
    /// The end of this minute.
    ends: Instant,
}

/// The logged state and the counters of one upstream, or of all together.
#[derive(Clone, Copy, Default)]
struct LoggedState {
    /// Set if the last logged line was about an outage, and not about its end.
    is_told: bool,
    /// The time at which the present outage began; `None` if there is none.
    began: Option<Instant>,
    /// The number of outages that have not been logged.
    untold: u64,
    /// The number of outages at the last comparison.
    outages: u64,
    /// The number of queries answered SERVFAIL, by all upstreams, when this one last worked.
    unanswered: u64,
}

/// A line for the log. `seconds` is the length of the outage, `unanswered` the number of queries answered SERVFAIL
/// during it, and `untold` the number of earlier outages that were not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OutageLine {
    /// A line about an upstream that does not answer. `others` is the number of upstreams that do.
    Gone { upstream: String, reason: Cow<'static, str>, seconds: u64, untold: u64, others: usize },
    /// A line about an upstream that answers again.
    Back { upstream: String, seconds: u64, unanswered: u64, untold: u64 },
    /// A line about all upstreams not answering.
    AllGone { upstreams: String, seconds: u64, untold: u64 },
    /// A line about an upstream that answers again after none did.
    OneBack { seconds: u64, unanswered: u64, untold: u64 },
}

impl OutageLine {
    /// Writes the line to the log.
    fn log(self) {
        let some = |untold: u64| (untold > 0).then_some(untold);
        match self {
            Self::Gone { upstream, reason, seconds, untold, others } => {
                let reason = &*reason;
                tracing::warn!(upstream, reason, seconds, others, untold = some(untold), "upstream gone");
            }
            Self::Back { upstream, seconds, unanswered, untold } => {
                tracing::info!(upstream, seconds, unanswered, untold = some(untold), "upstream answers again");
            }
            Self::AllGone { upstreams, seconds, untold } => {
                tracing::error!(
                    upstreams,
                    seconds,
                    untold = some(untold),
                    "no upstream answers; allowed names are answered SERVFAIL, or with stale data"
                );
            }
            Self::OneBack { seconds, unanswered, untold } => {
                tracing::warn!(seconds, unanswered, untold = some(untold), "upstreams answer again");
            }
        }
    }
}

impl LoggedState {
    /// Updates the counters. Returns whether the state differs from the logged one.
    fn differs(&mut self, (is_well, is_gone): (bool, bool), outages: u64, unanswered: u64) -> bool {
        // An outage can have begun and ended between two comparisons, or while no line could be written.
        self.untold += outages.saturating_sub(self.outages);
        self.outages = outages;
        // An upstream fails for a while before it counts as down, so the count is taken while it still works.
        if is_well && !self.is_told {
            self.unanswered = unanswered;
        }
        is_gone != self.is_told
    }

    /// Marks the state as logged, and returns the number of earlier outages that were not.
    fn tell(&mut self, is_gone: bool) -> u64 {
        self.is_told = is_gone;
        let untold = std::mem::take(&mut self.untold);
        // The outage that is logged now is among them.
        if is_gone { untold.saturating_sub(1) } else { untold }
    }
}

impl Outages {
    /// Starts with no outage logged.
    fn new(now: Instant) -> Self {
        Self { known: HashMap::new(), all: LoggedState::default(), left: MAX_OUTAGE_LINES, ends: now + MINUTE }
    }

    /// Returns the lines for the differences between the upstreams and the logged state. `unanswered` is the number of
    /// queries answered SERVFAIL so far.
    fn look(&mut self, upstreams: &[Status], unanswered: u64, now: Instant) -> Vec<OutageLine> {
        if now >= self.ends {
            (self.left, self.ends) = (MAX_OUTAGE_LINES, now + MINUTE);
        }
        let mut told = Vec::new();
        self.known.retain(|server, _| upstreams.iter().any(|upstream| upstream.server == *server));
        let gone = upstreams.iter().filter(|upstream| upstream.is_gone).count();
        let are_all_gone = gone > 0 && gone == upstreams.len();
        // All together come first, so that the line that wakes an operator is never omitted in favour of one about a
        // single server.
        let outages = self.all.outages + u64::from(are_all_gone && self.all.began.is_none());
        let seconds = upstreams.iter().map(|upstream| upstream.since).min().unwrap_or_default();
        let is_one_well = upstreams.iter().any(|upstream| !upstream.is_down);
        if self.all.differs((is_one_well, are_all_gone), outages, unanswered) && self.may_write() {
            let untold = self.all.tell(are_all_gone);
            told.push(if are_all_gone {
                let names: Vec<String> = upstreams.iter().map(|upstream| upstream.server.to_string()).collect();
                let upstreams = shortened(&names.join(" "), LISTED).into_owned();
                OutageLine::AllGone { upstreams, seconds: seconds.as_secs(), untold }
            } else {
                let (seconds, unanswered) = self.all.cost(unanswered, now);
                OutageLine::OneBack { seconds, unanswered, untold }
            });
        }
        self.all.note_begin(are_all_gone, now.checked_sub(seconds));
        for upstream in upstreams {
            let is_gone = upstream.is_gone;
            let mut known = self.known.remove(&upstream.server).unwrap_or_default();
            if known.differs((!upstream.is_down, is_gone), upstream.outages, unanswered) && self.may_write() {
                let (server, untold) = (upstream.server.to_string(), known.tell(is_gone));
                told.push(if is_gone {
                    let (reason, seconds) = (upstream.reason(), upstream.since.as_secs());
                    OutageLine::Gone { upstream: server, reason, seconds, untold, others: upstreams.len() - gone }
                } else {
                    let (seconds, unanswered) = known.cost(unanswered, now);
                    OutageLine::Back { upstream: server, seconds, unanswered, untold }
                });
            }
            known.note_begin(is_gone, now.checked_sub(upstream.since));
            self.known.insert(upstream.server, known);
        }
        told
    }

    /// Takes one of the lines of this minute; returns `false` if none is left.
    fn may_write(&mut self) -> bool {
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

impl LoggedState {
    /// Returns the length in seconds of the outage that ended, and the number of queries answered SERVFAIL during it.
    fn cost(&self, unanswered: u64, now: Instant) -> (u64, u64) {
        let seconds = self.began.map_or(0, |began| now.duration_since(began).as_secs());
        (seconds, unanswered.saturating_sub(self.unanswered))
    }

    /// Stores the time at which an outage began, until its end has been logged.
    fn note_begin(&mut self, is_gone: bool, since: Option<Instant>) {
        if is_gone {
            self.began = self.began.or(since);
        } else if !self.is_told {
            self.began = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::admin::service::all_gone;

    /// Returns the status of an upstream that has been gone for this many seconds, or that answers.
    fn upstream(last: u8, gone: Option<u64>, outages: u64) -> Status {
        Status {
            server: format!("192.0.2.{last}").parse().unwrap(),
            is_down: gone.is_some(),
            is_gone: gone.is_some(),
            are_names_failing: false,
            since: Duration::from_secs(gone.unwrap_or(100)),
            trouble: "silent",
            outages,
            round_trip: None,
            asked: 0,
            answered: 0,
            failed: 0,
            silent: 0,
        }
    }

    #[test]
    fn outage_and_recovery_are_one_line_each_with_the_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outages = Outages::new(start);
        let up = [upstream(1, None, 0), upstream(2, None, 0)];
        assert_eq!(outages.look(&up, 3, at(1)), []);
        let one = [upstream(1, Some(6), 1), upstream(2, None, 0)];
        let gone = |seconds, others| OutageLine::Gone {
            upstream: "192.0.2.1:53".into(),
            reason: "silent".into(),
            seconds,
            untold: 0,
            others,
        };
        assert_eq!(outages.look(&one, 5, at(8)), [gone(6, 1)]);
        assert_eq!(outages.look(&[upstream(1, Some(8), 1), upstream(2, None, 0)], 5, at(10)), []);
        let both = [upstream(1, Some(20), 1), upstream(2, Some(7), 1)];
        let told = outages.look(&both, 9, at(22));
        assert!(matches!(&told[0], OutageLine::AllGone { seconds: 7, .. }), "{told:?}");
        assert!(matches!(&told[1], OutageLine::Gone { others: 0, .. }) && told.len() == 2, "{told:?}");
        assert!(all_gone(&both).unwrap().starts_with("no upstream has answered for 7 s: 192.0.2.1:53 is silent, "));
        let told = outages.look(&[upstream(1, Some(58), 1), upstream(2, None, 1)], 40, at(60));
        let back = OutageLine::Back { upstream: "192.0.2.2:53".into(), seconds: 45, unanswered: 35, untold: 0 };
        assert_eq!(told, [OutageLine::OneBack { seconds: 45, unanswered: 35, untold: 0 }, back]);
        let told = outages.look(&[upstream(1, None, 1), upstream(2, None, 1)], 40, at(62));
        let back = OutageLine::Back { upstream: "192.0.2.1:53".into(), seconds: 60, unanswered: 37, untold: 0 };
        assert_eq!(told, [back]);
    }

    #[test]
    fn lines_about_a_flapping_upstream_are_bounded_and_end_with_its_state() {
        let start = Instant::now();
        let mut outages = Outages::new(start);
        let mut lines = Vec::new();
        for number in 0..1000 {
            let gone = (number % 2 == 0).then_some(1);
            let states = [upstream(1, gone, number / 2 + 1), upstream(2, None, 0)];
            lines.extend(outages.look(&states, 0, start + Duration::from_millis(number * 50)));
        }
        assert_eq!(lines.len(), MAX_OUTAGE_LINES);
        let states = [upstream(1, Some(5), 501), upstream(2, None, 0)];
        let told = outages.look(&states, 0, start + Duration::from_secs(61));
        let [OutageLine::Gone { untold, .. }] = &told[..] else { panic!("{told:?}") };
        assert_eq!(*untold, 490);
    }
}
