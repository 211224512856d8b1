//! The answer cache: upstreams' responses by question until their TTL ends, and failures for a moment. All policies share
//! it.
//!
//! It stands behind the decision and before the judging of answers, so nothing in it depends on who asked, and a
//! reload of policies leaves it alone. Every method is told the time since the start of the process.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::dns::name::LowerName;
use crate::dns::query::Query;
use crate::dns::rcode::Rcode;
use crate::dns::response::{Question, Response};
use crate::dns::rtype::RecordType;
use crate::fair_share::Holder;
use crate::upstream::{Failure, FailureKind};
use crate::util::{lock, millis};
use sieve::{Keyed, Queues, Slot};

mod sieve;

/// The pause after a failed attempt to refresh stale data, before the next one (the failure recheck timer,
/// RFC 8767 §5: "30 seconds").
const RECHECK: Duration = Duration::from_secs(30);

/// The time for which the first failure to resolve a name is remembered.
///
/// RFC 9520 §3.2: at least 1 second and at most 5 minutes, 5 seconds at first as its example has it, longer with every
/// failure that follows.
const FIRST_FAILURE: Duration = Duration::from_secs(5);

/// The same if no upstream could be reached: the least that RFC 9520 allows, as that seldom depends on the name and may
/// end any moment.
const FIRST_SILENCE: Duration = Duration::from_secs(1);

/// The longest time a failure is remembered: a fifth of what RFC 9520 §3.2 allows, as a devbox has no other resolver.
const MAX_FAILURE: Duration = Duration::from_mins(1);

/// Answers that live shorter are not renewed ahead of time: they would be asked for all the time.
const MIN_RENEWED: Duration = Duration::from_secs(10);

/// The part of its TTL, at its end, in which an answer in use is renewed: the last tenth, as unbound has it.
const RENEWED_PART: u32 = 10;

/// The time for which an answer with a TTL of 0 may be given to other queries for the same.
const BRIEF: Duration = Duration::from_secs(1);

/// The time for which such an answer is kept for clients whose budget does not allow to ask again.
const LAPSED: Duration = Duration::from_mins(1);

/// The number of times such an answer is asked for within [`BRIEF`].
const MAX_BRIEF: u8 = 8;

/// The least budget of a shard, in bytes: a small cache has fewer shards rather than shards that hold nothing.
const MIN_SHARD: usize = 1 << 20;

/// The most shards: enough that threads seldom wait for each other.
const MAX_SHARDS: usize = 16;

/// The bounds of the cache in memory and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The budget in bytes: messages, keys and what it takes to find them.
    pub size: usize,
    /// The longest an answer counts as fresh, whatever its TTL.
    pub max_ttl: Duration,
    /// The time past its expiry for which an answer may serve if no upstream answers (RFC 8767); zero is off.
    pub serve_stale: Duration,
}

/// The content of the cache for a question.
#[derive(Clone, Debug)]
pub enum Hit {
    /// An answer within its TTL.
    Fresh {
        /// The answer as it came.
        response: Arc<Response>,
        /// The time since it came: what its TTLs are to be lowered by.
        age: Duration,
        /// The time until it expires.
        left: Duration,
        /// The advice to ask for a new one already, given once.
        renewal: Renewal,
    },
    /// An answer past its TTL, for when no upstream answers.
    Stale {
        /// The answer as it came.
        response: Arc<Response>,
        /// The advice to ask an upstream before the data is used.
        refresh: Refresh,
    },
    /// An answer that was for one query alone, a moment ago: for one that must not be asked upstream.
    Lapsed {
        /// The answer as it came.
        response: Arc<Response>,
    },
    /// No upstream could answer, a moment ago: asking again so soon would bring the same (RFC 9520).
    Failed(Arc<Failure>),
    /// No entry for the question.
    Miss,
}

/// The advice on asking an upstream before stale data is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// An upstream is to be asked first.
    Due,
    /// An attempt failed a moment ago: the data is to be used at once (RFC 8767 §5).
    FailedLately,
}

/// The advice on renewing an answer in use before it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// No renewal now.
    No,
    /// A renewal is due: the answer is about to expire, and was asked for before.
    Due,
}

/// The size and the counters of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The number of answers held.
    pub entries: usize,
    /// Bytes of the budget in use.
    pub bytes: usize,
    /// Answers dropped to make room since the start.
    pub evictions: u64,
}

/// The answer cache, in shards with a lock each.
///
/// The hash of its keys is seeded at random for each cache, so that nobody outside can make names collide.
#[derive(Debug)]
pub struct Cache {
    /// The bounds and times.
    settings: Settings,
    /// Hashes keys; the same for all shards.
    hasher: RandomState,
    /// The parts, each behind a lock of its own; a power of two of them.
    // Within a shard, a panic can only come before the first change.
    shards: Box<[Mutex<Queues<Kept>>]>,
    /// Failures noted before this time, in milliseconds, count no more: others are asked now.
    failures_from: AtomicU64,
    /// The same of failures for which an upstream was silent or unreachable: it has replied since.
    silences_from: AtomicU64,
}

/// An entry of the cache. It is small, as a hit reads all of it, and the table is as large as memory allows.
#[derive(Debug)]
struct Kept {
    what: What,
    /// The time of insertion, in milliseconds.
    inserted: u64,
    /// The time for which it is fresh, in seconds; at least one.
    ttl: u32,
    /// The end of the pause after a refresh that failed, in seconds.
    recheck_at: u32,
    /// The partition of its question.
    partition: u32,
    /// The flags of its question.
    flags: u8,
    /// The number of queries since `inserted` for an answer with a TTL of 0; 0 for all others.
    brief: u8,
    /// `true` after the first use.
    is_used: bool,
    /// `true` while it is being renewed before it expires.
    is_renewing: bool,
}

/// The content of an entry.
#[derive(Debug)]
enum What {
    Answer(Arc<Response>),
    Failure(Box<Failed>),
}

/// A question that no upstream could answer.
#[derive(Debug)]
struct Failed {
    qname: Box<[u8]>,
    qtype: RecordType,
    /// The reason, which decides how long the failure is remembered.
    failure: Arc<Failure>,
    /// The number of failures in a row.
    times: u32,
}

impl Kept {
    /// Returns the time since its insertion.
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.inserted))
    }

    /// Returns the time for which it is fresh.
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl.into())
    }

    /// Notes a use at this age; returns whether it is time to renew it.
    fn use_at(&mut self, age: Duration) -> Renewal {
        let is_used = std::mem::replace(&mut self.is_used, true);
        let ttl = self.ttl();
        if is_used && !self.is_renewing && ttl >= MIN_RENEWED && age * RENEWED_PART >= ttl * (RENEWED_PART - 1) {
            self.is_renewing = true;
            return Renewal::Due;
        }
        Renewal::No
    }
}

impl Keyed<Key<'_>> for Kept {
    fn is_of(&self, key: &Key<'_>) -> bool {
        self.flags == key.flags
            && self.partition == key.partition
            && match &self.what {
                // The message that is kept begins with its question.
                What::Answer(response) => response.is_to(key.qname, key.qtype),
                What::Failure(failed) => *failed.qname == *key.qname.as_wire() && failed.qtype == key.qtype,
            }
    }
}

impl Cache {
    /// Returns an empty cache.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let wanted = (settings.size / MIN_SHARD).clamp(1, MAX_SHARDS);
        let count = 1 << wanted.ilog2();
        let shards = (0..count).map(|_| Mutex::new(Queues::new(settings.size / count))).collect();
        Self {
            settings,
            hasher: RandomState::new(),
            shards,
            failures_from: AtomicU64::new(0),
            silences_from: AtomicU64::new(0),
        }
    }

    /// Returns what is known of a question, or of what a query asks, at `now`, for `user`. A hit costs no allocation.
    #[must_use]
    pub fn get<'k>(&self, key: impl Into<Key<'k>>, user: Holder, now: Duration) -> Hit {
        let key = key.into();
        let (hash, mut shard) = self.shard(&key);
        let Some(kept) = shard.get_used(hash, &key, user) else {
            return Hit::Miss;
        };
        let age = kept.age(now);
        let left = kept.ttl().saturating_sub(age);
        let response = match &kept.what {
            What::Answer(response) => Arc::clone(response),
            What::Failure(failed) if !left.is_zero() && self.is_current(&failed.failure, kept.inserted) => {
                return Hit::Failed(Arc::clone(&failed.failure));
            }
            // It stays for a while: another failure counts as the next in a row.
            What::Failure(_) => return Hit::Miss,
        };
        if kept.brief > 0 {
            return match kept.brief {
                MAX_BRIEF.. if !left.is_zero() => Hit::Fresh { response, age, left, renewal: Renewal::No },
                _ if age < LAPSED => Hit::Lapsed { response },
                _ => {
                    shard.remove(hash, &key);
                    Hit::Miss
                }
            };
        }
        if !left.is_zero() {
            return Hit::Fresh { response, age, left, renewal: kept.use_at(age) };
        }
        if age.saturating_sub(kept.ttl()) < self.settings.serve_stale {
            let recheck_at = Duration::from_secs(kept.recheck_at.into());
            let silences_from = Duration::from_millis(self.silences_from.load(Ordering::Relaxed));
            let is_due = now >= recheck_at || recheck_at <= silences_from + RECHECK;
            return Hit::Stale { response, refresh: if is_due { Refresh::Due } else { Refresh::FailedLately } };
        }
        shard.remove(hash, &key);
        Hit::Miss
    }

    /// Returns the longest an answer may be kept, in seconds.
    pub(crate) fn max_ttl(&self) -> u32 {
        u32::try_from(self.settings.max_ttl.as_secs()).unwrap_or(u32::MAX)
    }

    /// Keeps `response` as the answer to `question` from `now` on, in place of what was kept before; it counts as the
    /// holder's.
    ///
    /// NOERROR and NXDOMAIN only, and none that is larger than a shard. One with a TTL of 0 is not for keeping (RFC 1035
    /// §3.2.1), so the next query asks again; but of those that come within [`BRIEF`], no more than [`MAX_BRIEF`] are
    /// asked, and the others get the last answer: an upstream is not to be asked without end by one that asks for the same
    /// without end. (`PowerDNS` Recursor keeps every answer for a second at least, `minimum-ttl-override`.)
    pub fn insert(&self, question: &Question, response: Arc<Response>, holder: Holder, now: Duration) {
        // Failures are kept by `failed`, under a TTL of their own.
        if !matches!(response.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) {
            return;
        }
        let key = Key::from(question);
        let (hash, mut shard) = self.shard(&key);
        let ttl = Duration::from_secs(response.ttl().into());
        let cost = cost(COUNTS + response.size());
        let mut kept = key.keep(What::Answer(response), ttl.max(BRIEF).min(self.settings.max_ttl), now);
        if kept.ttl == 0 {
            shard.remove(hash, &key);
            return;
        }
        if ttl.is_zero() {
            let before = shard.get_mut(hash, &key).filter(|before| before.brief > 0 && before.age(now) < BRIEF);
            (kept.brief, kept.inserted) =
                before.map_or((1, kept.inserted), |before| (before.brief.saturating_add(1), before.inserted));
        }
        shard.insert(hash, &key, kept, cost, holder);
    }

    /// Notes that no upstream answered `question` at `now`, because of `failure`.
    ///
    /// Where there is stale data, it serves for a while without asking again. Else the failure itself is kept, for
    /// longer with every time in a row, unless it is our own lack and says nothing of the question.
    pub fn failed(&self, question: &Question, failure: &Arc<Failure>, holder: Holder, now: Duration) {
        let key = Key::from(question);
        let (hash, mut shard) = self.shard(&key);
        let mut times = 1;
        if let Some(kept) = shard.get_mut(hash, &key) {
            let (age, ttl) = (kept.age(now), kept.ttl());
            match &kept.what {
                // It was for one query alone.
                What::Answer(_) if kept.brief > 0 => {}
                // A refresh before its time: that it failed matters only when the time comes.
                What::Answer(_) if age < ttl => return,
                What::Answer(_) if age.saturating_sub(ttl) < self.settings.serve_stale => {
                    kept.recheck_at = seconds(now + RECHECK);
                    return;
                }
                What::Failure(failed) if age < ttl + MAX_FAILURE && self.is_current(&failed.failure, kept.inserted) => {
                    times = failed.times.saturating_add(u32::from(age >= ttl));
                }
                What::Answer(_) | What::Failure(_) => {}
            }
        }
        let first = match failure.kind {
            FailureKind::NoUpstream | FailureKind::Busy => return,
            FailureKind::Timeout | FailureKind::Network => FIRST_SILENCE,
            FailureKind::Malformed | FailureKind::Lame | FailureKind::Refused | FailureKind::ServFail => FIRST_FAILURE,
        };
        let ttl = (first * (1 << (times - 1).min(6))).min(MAX_FAILURE);
        let response = failure.response.as_ref().map_or(0, |response| response.size());
        let (qname, qtype): (Box<[u8]>, _) = (key.qname.as_wire().into(), key.qtype);
        let cost =
            cost(size_of::<Failed>() + qname.len() + COUNTS + size_of::<Failure>() + failure.detail.len() + response);
        let failed = Box::new(Failed { qname, qtype, failure: Arc::clone(failure), times });
        shard.insert(hash, &key, key.keep(What::Failure(failed), ttl, now), cost, holder);
    }

    /// Forgets all failures noted before `now`, as when others are to be asked from now on.
    pub fn forget_failures(&self, now: Duration) {
        self.failures_from.store(millis(now) + 1, Ordering::Relaxed);
    }

    /// Forgets all failures noted before `now` for which an upstream was silent or unreachable, as when it replies again.
    pub fn forget_silences(&self, now: Duration) {
        self.silences_from.store(millis(now), Ordering::Relaxed);
    }

    /// Returns whether a failure noted at `inserted` still counts.
    fn is_current(&self, failure: &Failure, inserted: u64) -> bool {
        let is_over = failure.is_passing && inserted < self.silences_from.load(Ordering::Relaxed);
        !is_over && inserted >= self.failures_from.load(Ordering::Relaxed)
    }

    /// Returns what the cache holds and has done; takes every lock in turn.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shards.iter().fold(Stats::default(), |sum, shard| {
            let shard = lock(shard);
            Stats {
                entries: sum.entries + shard.len(),
                bytes: sum.bytes + shard.cost(),
                evictions: sum.evictions + shard.evictions(),
            }
        })
    }

    /// Returns the hash of `key` and the shard it belongs to, locked.
    fn shard(&self, key: &Key<'_>) -> (u64, MutexGuard<'_, Queues<Kept>>) {
        let hash = self.hasher.hash_one(key);
        // The table within takes its tag from the top seven bits and its bucket from the low ones.
        let middle = usize::try_from(hash >> 40 & 0xffff).expect("16 bits fit");
        (hash, lock(&self.shards[middle & (self.shards.len() - 1)]))
    }
}

/// Returns a time in whole seconds, rounded up.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// The size of the two counters that an `Arc` holds beside its value.
const COUNTS: usize = 2 * size_of::<usize>();

/// Returns the bytes that what is known of a question takes, with all it needs to be found: its slot (twice, as a vector
/// that grows may hold as many free ones), its place in the hash table, `size`, and what the allocator adds to each of up
/// to four allocations.
fn cost(size: usize) -> usize {
    const TABLE: usize = 12;
    const ALLOCATIONS: usize = 4 * 2 * size_of::<usize>();
    2 * size_of::<Slot<Kept>>() + TABLE + ALLOCATIONS + size
}

/// The key of an entry: the question without a copy of its name.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    qname: &'a LowerName,
    qtype: RecordType,
    /// The flags, a bit each.
    flags: u8,
    /// The partition of the cache.
    partition: u32,
}

impl<'a> From<&'a Question> for Key<'a> {
    fn from(question: &'a Question) -> Self {
        // Destructured, so that a new field of a question cannot be forgotten here.
        let Question { qname, qtype, dnssec_ok, authentic_data, checking_disabled, recursion_desired, partition } =
            question;
        Self {
            qname,
            qtype: *qtype,
            flags: flags([*dnssec_ok, *checking_disabled, *recursion_desired, *authentic_data]),
            partition: *partition,
        }
    }
}

/// The key of a query equals that of its [`Query::to_question`].
impl<'a> From<&'a Query<'_>> for Key<'a> {
    fn from(query: &'a Query<'_>) -> Self {
        let (dnssec_ok, authentic_data) = (query.dnssec_ok(), query.wants_authentic());
        let flags = flags([dnssec_ok, query.checking_disabled, query.recursion_desired, authentic_data]);
        Self { qname: &query.qname, qtype: query.qtype, flags, partition: query.partition }
    }
}

/// Returns flags as bits.
fn flags([dnssec_ok, checking_disabled, recursion_desired, authentic_data]: [bool; 4]) -> u8 {
    u8::from(dnssec_ok)
        | u8::from(checking_disabled) << 1
        | u8::from(recursion_desired) << 2
        | u8::from(authentic_data) << 3
}

impl Key<'_> {
    /// Returns what is kept of this question from `now` on.
    fn keep(&self, what: What, ttl: Duration, now: Duration) -> Kept {
        let (inserted, ttl) = (millis(now), seconds(ttl));
        Kept {
            what,
            inserted,
            ttl,
            recheck_at: 0,
            partition: self.partition,
            flags: self.flags,
            brief: 0,
            is_used: false,
            is_renewing: false,
        }
    }
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.qname.as_wire());
        let partition = u64::from(self.partition) << 32;
        state.write_u64(partition | u64::from(self.qtype.0) << 8 | u64::from(self.flags));
    }
}

#[cfg(test)]
mod tests;
