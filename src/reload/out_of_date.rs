//! The ways in which what is in force is not what is on disk: one list for status, metrics and log.
//!
//! [`Mismatch`] is what a check finds at the moment; [`StartTimes`] remembers when each began, logs beginnings and
//! ends, and gives the list of [`Entry`]. The kinds are part of the API and documented, so a name never changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::bounds::{MAX_OUT_OF_DATE, MAX_OUT_OF_DATE_TEXT};
use crate::document::{escaped, shortened};

/// The kind of an entry: a stable word in status, metrics and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A file has an error, or conflicts with others: its last good version is in force, if it had one.
    HeldBack,
    /// A file or directory cannot be read: its last good version is in force.
    Unreadable,
    /// The process started from the last good state, as a file on disk has errors.
    LastGood,
    /// The next start would refuse an error that a reload does not, or begin with older texts than are in force.
    NextStart,
    /// A test in force fails, because something other than its file has changed.
    FailedTest,
    /// A changed key of the configuration file takes a restart.
    Restart,
    /// No interface has the address of a listener.
    Address,
    /// A socket other than those for DNS cannot be opened; it is tried again.
    Socket,
    /// The last good state cannot be written.
    NotKept,
    /// The API is closed, as its token file has errors.
    Tokens,
    /// The API's certificate on disk has errors: the last good one is in force, or the API is closed.
    Certificate,
    /// A reload has been running for seconds.
    Reloading,
    /// A reload hangs.
    Stuck,
    /// The kernel reports no events for some directories: changes are found by comparison, within seconds.
    Polling,
}

impl Kind {
    /// Every kind, for metrics that show each.
    pub(crate) const ALL: [Self; 14] = [
        Self::HeldBack,
        Self::Unreadable,
        Self::LastGood,
        Self::NextStart,
        Self::FailedTest,
        Self::Restart,
        Self::Address,
        Self::Socket,
        Self::NotKept,
        Self::Tokens,
        Self::Certificate,
        Self::Reloading,
        Self::Stuck,
        Self::Polling,
    ];

    /// Returns the name in status, metrics and log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::HeldBack => "held-back",
            Self::Unreadable => "unreadable",
            Self::LastGood => "last-good",
            Self::NextStart => "next-start",
            Self::FailedTest => "failed-test",
            Self::Restart => "restart",
            Self::Address => "address",
            Self::Socket => "socket",
            Self::NotKept => "not-kept",
            Self::Tokens => "tokens",
            Self::Certificate => "certificate",
            Self::Reloading => "reloading",
            Self::Stuck => "stuck",
            Self::Polling => "polling",
        }
    }

    /// Returns the reason for entries that have none of their own.
    const fn meaning(self) -> &'static str {
        match self {
            Self::HeldBack => "it is bad, or does not go together with others: its last good version is in force",
            Self::Unreadable => "it cannot be read: its last good version is in force",
            Self::LastGood => "the start took the last good state for something that is bad on disk",
            Self::NextStart => "it runs, and the next start refuses it",
            Self::FailedTest => "a test of it fails",
            Self::Restart => "a changed key takes a restart",
            Self::Address => "no interface has the address of a listener",
            Self::Socket => "a socket cannot be had, and is tried again each second",
            Self::NotKept => "the last good state cannot be written",
            Self::Tokens => "the token file is bad: the API is closed",
            Self::Certificate => "the certificate is bad",
            Self::Reloading => "a reload is under way",
            Self::Stuck => "a reload hangs",
            Self::Polling => "no event tells of changes: they are found by comparing",
        }
    }

    /// Returns whether the beginning and the end of an entry are logged; the others have a log line of their own.
    const fn is_logged(self) -> bool {
        !matches!(self, Self::HeldBack | Self::Unreadable | Self::Restart)
    }
}

/// A way in which what is in force is not what is on disk, as found now; [`StartTimes`] adds the time at which it
/// began.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) kind: Kind,
    /// The file or directory; `None` if the cause is none.
    pub(super) path: Option<PathBuf>,
    /// The reason; without a path, also the key by which it is found again.
    pub(super) why: String,
}

/// The time at which an entry began, for people and, as the wall clock may be set, on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    wall: Timestamp,
    monotonic: Instant,
}

impl Beginning {
    pub(crate) fn now() -> Self {
        Self { wall: Timestamp::now(), monotonic: Instant::now() }
    }

    /// Returns the time a duration ago.
    pub(crate) fn ago(duration: Duration) -> Self {
        let Self { wall, monotonic } = Self::now();
        Self {
            wall: wall.checked_sub(duration).unwrap_or(wall),
            monotonic: monotonic.checked_sub(duration).unwrap_or(monotonic),
        }
    }

    /// Returns the seconds since then.
    pub(crate) fn seconds(self) -> u64 {
        self.monotonic.elapsed().as_secs()
    }
}

/// Serialised as the other times of the status (RFC 3339, UTC).
impl Serialize for Beginning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.wall)
    }
}

/// An entry of `out_of_date`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// The file or directory; null if the cause is none.
    pub(crate) path: Option<String>,
    /// The time at which it began (RFC 3339, UTC).
    pub(crate) since: Beginning,
    /// The reason, never empty.
    why: String,
}

impl Entry {
    /// Makes an entry of bounded length; without a reason, it has that of its kind.
    pub(crate) fn new(kind: Kind, path: Option<&std::path::Path>, since: Beginning, why: &str) -> Self {
        let bounded = |text: &str| shortened(&escaped(text), MAX_OUT_OF_DATE_TEXT).into_owned();
        let why = if why.trim().is_empty() { kind.meaning() } else { why };
        Self { kind, path: path.map(|path| bounded(&path.to_string_lossy())), since, why: bounded(why) }
    }
}

/// The list of what is out of date: the first entries, and a count of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutOfDate {
    /// The first entries, at most [`MAX_OUT_OF_DATE`].
    entries: Vec<Entry>,
    /// The number of entries of each kind, and the time at which the oldest began.
    counts: BTreeMap<Kind, (usize, Beginning)>,
}

impl OutOfDate {
    /// Counts an entry, and adds it to the list if that is not full.
    pub(crate) fn add(&mut self, entry: Entry) {
        let (count, since) = self.counts.entry(entry.kind).or_insert((0, entry.since));
        *count += 1;
        if entry.since.monotonic < since.monotonic {
            *since = entry.since;
        }
        if self.entries.len() < MAX_OUT_OF_DATE {
            self.entries.push(entry);
        }
    }

    /// Returns the number of entries of a kind, and the age of the oldest in seconds.
    pub(crate) fn count(&self, kind: Kind) -> (u64, u64) {
        let Some((count, since)) = self.counts.get(&kind) else { return (0, 0) };
        (u64::try_from(*count).unwrap_or(u64::MAX), since.seconds())
    }

    /// Returns the number of all entries, in the list or only counted.
    pub(crate) fn len(&self) -> usize {
        self.counts.values().map(|(count, _)| count).sum()
    }
}

impl Serialize for OutOfDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries.serialize(serializer)
    }
}

/// The time at which each entry began, by kind and path.
#[derive(Default)]
pub(super) struct StartTimes(BTreeMap<(Kind, String), (Beginning, String)>);

impl StartTimes {
    /// Returns the list for what was found now, and logs the entries that begin or end.
    pub(super) fn update(&mut self, found: Vec<Mismatch>) -> OutOfDate {
        let now = Beginning::now();
        let mut before = std::mem::take(&mut self.0);
        let mut list = OutOfDate::default();
        for Mismatch { kind, path, why } in found {
            let what = path.as_ref().map_or_else(|| why.clone(), |path| path.to_string_lossy().into_owned());
            let key = (kind, what);
            // One entry for each kind and path: the first reason is enough.
            if self.0.contains_key(&key) {
                continue;
            }
            let known = before.remove(&key);
            let since = known.as_ref().map_or(now, |(since, _)| *since);
            let entry = Entry::new(kind, path.as_deref(), since, &why);
            if kind.is_logged() && known.is_none_or(|(_, before)| before != entry.why) {
                let (kind, path, error) = (kind.as_str(), entry.path.as_deref().unwrap_or_default(), &*entry.why);
                match entry.kind {
                    // A warning for what is degraded, an error for what someone must act on.
                    Kind::Polling | Kind::Address | Kind::NotKept => tracing::warn!(kind, path, error, "out of date"),
                    _ => tracing::error!(kind, path, error, "out of date"),
                }
            }
            self.0.insert(key, (since, entry.why.clone()));
            list.add(entry);
        }
        for ((kind, what), (since, _)) in before.into_iter().filter(|((kind, _), _)| kind.is_logged()) {
            let seconds = since.seconds();
            let what = shortened(&escaped(&what), MAX_OUT_OF_DATE_TEXT).into_owned();
            tracing::info!(kind = kind.as_str(), what, seconds, "no longer out of date");
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_keeps_its_start_time_and_the_list_is_bounded() {
        let found = |kind, path: &str, why: &str| Mismatch { kind, path: Some(path.into()), why: why.to_owned() };
        let mut since = StartTimes::default();
        let first = since.update(vec![found(Kind::HeldBack, "a.toml", "bad"), found(Kind::Polling, "b", "none")]);
        let second = since.update(vec![found(Kind::HeldBack, "a.toml", "worse")]);
        assert_eq!((first.len(), second.len()), (2, 1));
        assert_eq!(first.entries[0].since, second.entries[0].since);
        assert_eq!(second.entries[0].why, "worse");
        let long = "\"x".repeat(10_000);
        let many = (0..10_000).map(|number| found(Kind::Unreadable, &format!("{number}{long}"), &long)).collect();
        let list = since.update(many);
        assert_eq!((list.len(), list.count(Kind::Unreadable).0, list.count(Kind::HeldBack).0), (10_000, 10_000, 0));
        let json = serde_json::to_string(&list).unwrap();
        assert!(json.len() < 16 << 10, "{} octets", json.len());
    }

    #[test]
    fn age_does_not_follow_the_wall_clock() {
        let mut list = OutOfDate::default();
        for (seconds, years) in [(5, 20), (90, -50)] {
            // As if the wall clock had been set since.
            let Beginning { wall, monotonic } = Beginning::ago(Duration::from_secs(seconds));
            let wall = wall.checked_sub(jiff::SignedDuration::from_hours(years * 24 * 365)).unwrap();
            list.add(Entry::new(Kind::Polling, None, Beginning { wall, monotonic }, "none"));
        }
        assert_eq!(list.count(Kind::Polling), (2, 90));
        assert_eq!(list.count(Kind::Socket), (0, 0));
    }

    #[test]
    fn entry_always_has_a_reason() {
        for (kind, why) in Kind::ALL.into_iter().flat_map(|kind| [(kind, ""), (kind, " \n")]) {
            let list = StartTimes::default().update(vec![Mismatch { kind, path: None, why: why.to_owned() }]);
            assert_eq!(list.entries[0].why, kind.meaning());
            assert!(kind.meaning().len() > 10, "{kind:?}");
        }
    }

    #[test]
    fn kind_has_the_same_name_in_status_metrics_and_log() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
