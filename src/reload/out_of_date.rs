//! The ways in which what is in force is not what is on disk: one list for status, metrics and log, each with since when.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::bounds::{MAX_OUT_OF_DATE, MAX_OUT_OF_DATE_TEXT};
use crate::document::{escaped, shortened};

/// A way to be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A file is bad, or does not go together with others: its last good version is in force, if it had one.
    HeldBack,
    /// A file or directory cannot be read: its last good version is in force.
    Unreadable,
    /// The process began with the last good state instead of a file.
    LastGood,
    /// The next start would refuse something that runs now.
    NextStart,
    /// A key of the configuration file takes a restart to go into force.
    Restart,
    /// No interface has the address of a listener.
    Address,
    /// A socket besides those of DNS cannot be had: it is tried again.
    Socket,
    /// The last good state cannot be written, or is not there any more and nothing good is there to write it from.
    NotKept,
    /// The API lets nobody in, as its token file is bad.
    Tokens,
    /// The API's certificate on disk is bad: the last good one is in force, or the API is closed.
    Certificate,
    /// A look has been running for seconds.
    Reloading,
    /// A look hangs.
    Stuck,
    /// The kernel does not tell of changes everywhere: they are found by comparing, within seconds.
    Polling,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 13] = [
        Self::HeldBack,
        Self::Unreadable,
        Self::LastGood,
        Self::NextStart,
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

    /// Returns its name in status, metrics and log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::HeldBack => "held-back",
            Self::Unreadable => "unreadable",
            Self::LastGood => "last-good",
            Self::NextStart => "next-start",
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

    /// Returns what is so with all of this kind.
    const fn meaning(self) -> &'static str {
        match self {
            Self::HeldBack => "it is bad, or does not go together with others: its last good version is in force",
            Self::Unreadable => "it cannot be read: its last good version is in force",
            Self::LastGood => "the start took the last good state for something that is bad on disk",
            Self::NextStart => "it runs, and the next start refuses it",
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

    /// Returns whether it is written to the log when it begins and ends; what has a line of its own is not.
    const fn is_logged(self) -> bool {
        !matches!(self, Self::HeldBack | Self::Unreadable | Self::Restart)
    }
}

/// Something that is out of date now.
#[derive(Debug)]
pub(super) struct Found {
    /// How.
    pub(super) kind: Kind,
    /// The file or directory, if it is one.
    pub(super) path: Option<PathBuf>,
    /// The reason, or what it is about.
    pub(super) why: String,
}

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// How.
    pub(crate) kind: Kind,
    /// The file or directory; null where it is none.
    pub(crate) path: Option<String>,
    /// Since when (RFC 3339, UTC).
    #[serde(serialize_with = "time")]
    pub(crate) since: Timestamp,
    /// The reason, which is never empty.
    why: String,
}

impl Entry {
    /// Makes an entry, of bounded length. Where no reason is known it has the words about all of its kind.
    pub(crate) fn new(kind: Kind, path: Option<&std::path::Path>, since: Timestamp, why: &str) -> Self {
        let bounded = |text: &str| shortened(&escaped(text), MAX_OUT_OF_DATE_TEXT).into_owned();
        let why = if why.trim().is_empty() { kind.meaning() } else { why };
        Self { kind, path: path.map(|path| bounded(&path.to_string_lossy())), since, why: bounded(why) }
    }
}

/// The list: its first entries, and how many there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutOfDate {
    /// The first entries.
    entries: Vec<Entry>,
    /// How many there are, and since when the oldest one is.
    counts: BTreeMap<Kind, (usize, Timestamp)>,
}

impl OutOfDate {
    /// Adds an entry.
    pub(crate) fn add(&mut self, entry: Entry) {
        let (count, since) = self.counts.entry(entry.kind).or_insert((0, entry.since));
        *count += 1;
        *since = entry.since.min(*since);
        if self.entries.len() < MAX_OUT_OF_DATE {
            self.entries.push(entry);
        }
    }

    /// Returns how many entries of a kind there are, and for how many seconds the oldest one is there.
    pub(crate) fn count(&self, kind: Kind) -> (u64, u64) {
        let Some((count, since)) = self.counts.get(&kind) else { return (0, 0) };
        let seconds = Timestamp::now().duration_since(*since).as_secs();
        (u64::try_from(*count).unwrap_or(u64::MAX), u64::try_from(seconds).unwrap_or(0))
    }

    /// Returns how many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.counts.values().map(|(count, _)| count).sum()
    }
}

/// Writes the entries.
impl Serialize for OutOfDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries.serialize(serializer)
    }
}

/// Since when each thing that is out of date is so.
#[derive(Default)]
pub(super) struct Since(BTreeMap<(Kind, String), (Timestamp, String)>);

impl Since {
    /// Takes what is out of date now, and writes to the log what is so since now and what is no longer; returns the list.
    pub(super) fn update(&mut self, found: Vec<Found>) -> OutOfDate {
        let now = Timestamp::now();
        let mut before = std::mem::take(&mut self.0);
        let mut list = OutOfDate::default();
        for Found { kind, path, why } in found {
            let what = path.as_ref().map_or_else(|| why.clone(), |path| path.to_string_lossy().into_owned());
            let key = (kind, what);
            if self.0.contains_key(&key) {
                continue;
            }
            let known = before.remove(&key);
            let since = known.as_ref().map_or(now, |(since, _)| *since);
            let entry = Entry::new(kind, path.as_deref(), since, &why);
            if kind.is_logged() && known.is_none_or(|(_, before)| before != entry.why) {
                let (kind, path, error) = (kind.as_str(), entry.path.as_deref().unwrap_or_default(), &*entry.why);
                match entry.kind {
                    Kind::Polling | Kind::Address | Kind::NotKept => tracing::warn!(kind, path, error, "out of date"),
                    _ => tracing::error!(kind, path, error, "out of date"),
                }
            }
            self.0.insert(key, (since, entry.why.clone()));
            list.add(entry);
        }
        for ((kind, what), (since, _)) in before.into_iter().filter(|((kind, _), _)| kind.is_logged()) {
            let seconds = now.duration_since(since).as_secs();
            let what = shortened(&escaped(&what), MAX_OUT_OF_DATE_TEXT).into_owned();
            tracing::info!(kind = kind.as_str(), what, seconds, "no longer out of date");
        }
        list
    }
}

/// Writes a time as the others of the status are.
fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_keeps_its_time_and_the_list_is_bounded() {
        let found = |kind, path: &str, why: &str| Found { kind, path: Some(path.into()), why: why.to_owned() };
        let mut since = Since::default();
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
    fn entry_always_has_a_reason() {
        for (kind, why) in Kind::ALL.into_iter().flat_map(|kind| [(kind, ""), (kind, " \n")]) {
            let list = Since::default().update(vec![Found { kind, path: None, why: why.to_owned() }]);
            assert_eq!(list.entries[0].why, kind.meaning());
            assert!(kind.meaning().len() > 10, "{kind:?}");
        }
    }

    #[test]
    fn a_kind_has_one_name_everywhere() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
