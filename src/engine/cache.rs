//! What upstreams said, kept by question for as long as its TTL allows: one cache for all policies.
//!
//! It stands behind the decision and before the judging of answers, so nothing in it depends on who asked, and a
//! reload of policies leaves it alone. Every method is told the time since the start of the process.

use std::hash::{BuildHasher, RandomState};
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::dns::name::MAX_NAME;
use crate::dns::rcode::Rcode;
use crate::dns::response::{Question, Response};
use sieve::{Queue, Slot};

mod sieve;

/// How long a failed attempt to refresh stale data keeps the next one away (the failure recheck timer,
/// RFC 8767 §5: "30 seconds").
const RECHECK: Duration = Duration::from_secs(30);

/// The least budget of a shard, in bytes: a small cache has fewer shards rather than shards that hold nothing.
const MIN_SHARD: usize = 1 << 20;

/// The most shards: enough that threads seldom wait for each other.
const MAX_SHARDS: usize = 16;

/// How much the cache keeps, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The budget in bytes: messages, keys and what it takes to find them.
    pub size: usize,
    /// The longest an answer counts as fresh, whatever its TTL.
    pub max_ttl: Duration,
    /// How long past its expiry an answer may serve when no upstream answers (RFC 8767); zero is off.
    pub serve_stale: Duration,
}

/// What the cache knows of a question.
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
    },
    /// An answer past its TTL, for when no upstream answers.
    Stale {
        /// The answer as it came.
        response: Arc<Response>,
        /// Whether to try an upstream before it is used.
        refresh: Refresh,
    },
    /// Nothing.
    Miss,
}

/// Whether stale data should be refreshed before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Ask upstream first.
    Due,
    /// That failed a moment ago: use the data at once (RFC 8767 §5).
    FailedLately,
}

/// What the cache holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers held.
    pub entries: usize,
    /// Bytes of the budget in use.
    pub bytes: usize,
    /// Answers dropped to make room since the start.
    pub evictions: u64,
}

/// The answer cache.
///
/// The hash of its keys is seeded at random for each cache, so that nobody outside can make names collide.
#[derive(Debug)]
pub struct Cache {
    /// The bounds and times.
    settings: Settings,
    /// Hashes keys; the same for all shards.
    hasher: RandomState,
    /// The parts, each behind a lock of its own; a power of two of them.
    shards: Box<[Mutex<Queue<Kept>>]>,
}

/// An answer in its slot.
#[derive(Debug)]
struct Kept {
    /// The answer.
    response: Arc<Response>,
    /// When it came.
    inserted: Duration,
    /// How long it is fresh; at least a second.
    ttl: Duration,
    /// Until when a refresh that failed keeps the next one away.
    recheck_at: Duration,
}

impl Cache {
    /// Returns an empty cache.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let wanted = (settings.size / MIN_SHARD).clamp(1, MAX_SHARDS);
        let count = 1 << wanted.ilog2();
        let shards = (0..count).map(|_| Mutex::new(Queue::new(settings.size / count))).collect();
        Self { settings, hasher: RandomState::new(), shards }
    }

    /// Returns what is known of `question` at `now`. A hit costs no allocation.
    #[must_use]
    pub fn get(&self, question: &Question, now: Duration) -> Hit {
        let key = Key::of(question);
        let (hash, mut shard) = self.shard(&key);
        let Some(kept) = shard.get(hash, key.as_bytes()) else {
            return Hit::Miss;
        };
        let age = now.saturating_sub(kept.inserted);
        let response = Arc::clone(&kept.response);
        let left = kept.ttl.saturating_sub(age);
        if !left.is_zero() {
            return Hit::Fresh { response, age, left };
        }
        if age.saturating_sub(kept.ttl) < self.settings.serve_stale {
            let refresh = if now < kept.recheck_at { Refresh::FailedLately } else { Refresh::Due };
            return Hit::Stale { response, refresh };
        }
        shard.remove(hash, key.as_bytes());
        Hit::Miss
    }

    /// Keeps `response` as the answer to `question` from `now` on, in place of what was kept before.
    ///
    /// NOERROR and NXDOMAIN only. One with a TTL of 0 is not kept (RFC 1035 §3.2.1), and neither is what it
    /// replaces; nor one that is larger than a shard.
    pub fn insert(&self, question: &Question, response: Arc<Response>, now: Duration) {
        // Failures are not kept: RFC 9520 wants them cached, under a TTL of their own.
        if !matches!(response.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) {
            return;
        }
        let key = Key::of(question);
        let (hash, mut shard) = self.shard(&key);
        let ttl = Duration::from_secs(response.ttl().into()).min(self.settings.max_ttl);
        if ttl.is_zero() {
            shard.remove(hash, key.as_bytes());
            return;
        }
        let cost = cost(&key, &response);
        let kept = Kept { response, inserted: now, ttl, recheck_at: Duration::ZERO };
        shard.insert(hash, key.as_bytes(), kept, cost);
    }

    /// Notes that no upstream answered `question` at `now`: stale data serves for a while without asking again.
    pub fn refresh_failed(&self, question: &Question, now: Duration) {
        let key = Key::of(question);
        let (hash, mut shard) = self.shard(&key);
        if let Some(kept) = shard.get_mut(hash, key.as_bytes()) {
            kept.recheck_at = now + RECHECK;
        }
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
    fn shard(&self, key: &Key) -> (u64, MutexGuard<'_, Queue<Kept>>) {
        let hash = self.hasher.hash_one(key.as_bytes());
        // The table within takes its tag from the top seven bits and its bucket from the low ones.
        let middle = usize::try_from(hash >> 40 & 0xffff).expect("16 bits fit");
        (hash, lock(&self.shards[middle & (self.shards.len() - 1)]))
    }
}

/// Locks a shard. A poisoned lock is as good: a panic inside can only have come before the first change.
fn lock(shard: &Mutex<Queue<Kept>>) -> MutexGuard<'_, Queue<Kept>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the bytes that an answer takes, with all it needs to be found: its slot (twice, as a vector that grows
/// may hold as many free ones), its place in the hash table, its key, the counts of the `Arc` and what the allocator
/// adds to each of up to seven allocations.
fn cost(key: &Key, response: &Response) -> usize {
    const TABLE: usize = 12;
    const ALLOCATIONS: usize = 7 * 2 * size_of::<usize>();
    2 * size_of::<Slot<Kept>>() + TABLE + key.len + ALLOCATIONS + response.size()
}

/// A question as the bytes that are hashed, compared and kept: the name, the type, the flags.
struct Key {
    /// Octets used of `bytes`.
    len: usize,
    /// The key; what lies behind `len` is meaningless.
    bytes: [u8; MAX_NAME + 3],
}

impl Key {
    /// Writes the key of `question`.
    fn of(question: &Question) -> Self {
        // Destructured, so that a new field of a question cannot be forgotten here.
        let Question { qname, qtype, dnssec_ok, checking_disabled, recursion_desired } = question;
        let name = qname.as_wire();
        let flags = u8::from(*dnssec_ok) | u8::from(*checking_disabled) << 1 | u8::from(*recursion_desired) << 2;
        let mut bytes = [0; MAX_NAME + 3];
        bytes[..name.len()].copy_from_slice(name);
        bytes[name.len()..name.len() + 2].copy_from_slice(&qtype.0.to_be_bytes());
        bytes[name.len() + 2] = flags;
        Self { len: name.len() + 3, bytes }
    }

    /// Returns the key's bytes.
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::name::LowerName;
    use crate::dns::rtype::RecordType;

    /// Returns so many seconds.
    const fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Returns a question for an address of `name`, RD as stubs set it.
    fn question(name: &str) -> Question {
        Question {
            qname: LowerName::from_text(name).unwrap(),
            qtype: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
            recursion_desired: true,
        }
    }

    /// Returns the head of a reply to `question` with so many answer and authority records.
    fn head(question: &Question, rcode: u8, answers: u8, authorities: u8) -> Vec<u8> {
        let mut message = vec![0, 1, 0x81, 0x80 | rcode, 0, 1, 0, answers, 0, authorities, 0, 0];
        message.extend(question.qname.as_wire());
        message.extend(question.qtype.0.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    /// Returns an answer of one record with this TTL; its data are an address as well as a text.
    fn positive(question: &Question, ttl: u32) -> Arc<Response> {
        let mut message = head(question, 0, 1, 0);
        message.extend([0xc0, 12]);
        message.extend(question.qtype.0.to_be_bytes());
        message.extend([0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4, 3, b'a', b'b', b'c']);
        Arc::new(Response::parse(&message, question).unwrap())
    }

    /// Returns an answer without records but a SOA at the root with this TTL and MINIMUM.
    fn negative(question: &Question, rcode: u8, ttl: u32, minimum: u32) -> Arc<Response> {
        let mut message = head(question, rcode, 0, 1);
        message.extend([0, 0, 6, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 22, 0, 0]);
        message.extend([0; 16]);
        message.extend(minimum.to_be_bytes());
        Arc::new(Response::parse(&message, question).unwrap())
    }

    /// Returns a cache of 64 KiB with a day's TTL at most and an hour of stale data.
    fn cache() -> Cache {
        Cache::new(Settings { size: 64 << 10, max_ttl: secs(86_400), serve_stale: secs(3_600) })
    }

    /// Returns a hit in short: `fresh AGE LEFT`, `stale`, `stale lately` or `miss`.
    fn short(hit: &Hit) -> String {
        match hit {
            Hit::Fresh { age, left, .. } => format!("fresh {} {}", age.as_secs(), left.as_secs()),
            Hit::Stale { refresh: Refresh::Due, .. } => "stale".to_owned(),
            Hit::Stale { refresh: Refresh::FailedLately, .. } => "stale lately".to_owned(),
            Hit::Miss => "miss".to_owned(),
        }
    }

    #[test]
    fn an_answer_is_fresh_for_its_ttl_then_stale_then_gone() {
        const CASES: &[(u64, &str)] = &[
            (100, "fresh 0 300"),
            (399, "fresh 299 1"),
            (400, "stale"),
            (3_999, "stale"),
            (4_000, "miss"),
            (100, "miss"),
        ];
        let (cache, question) = (cache(), question("www.example"));
        assert_eq!(short(&cache.get(&question, secs(100))), "miss");
        cache.insert(&question, positive(&question, 300), secs(100));
        for &(now, expected) in CASES {
            assert_eq!(short(&cache.get(&question, secs(now))), expected, "at {now}");
        }
        assert_eq!(cache.stats(), Stats::default(), "what is too old is taken out");
    }

    #[test]
    fn the_ttl_is_at_most_what_is_configured() {
        let (cache, question) = (cache(), question("www.example"));
        cache.insert(&question, positive(&question, 0x7fff_ffff), secs(0));
        assert_eq!(short(&cache.get(&question, secs(0))), "fresh 0 86400");
    }

    #[test]
    fn negative_answers_are_kept_by_their_soa() {
        const CASES: &[(u8, u32, u32, &str)] = &[
            (3, 900, 60, "fresh 0 60"),
            (3, 30, 60, "fresh 0 30"),
            (0, 900, 120, "fresh 0 120"),
            (3, 0, 60, "miss"),
            (3, 60, 0, "miss"),
        ];
        for &(rcode, ttl, minimum, expected) in CASES {
            let (cache, question) = (cache(), question("www.example"));
            cache.insert(&question, negative(&question, rcode, ttl, minimum), secs(0));
            assert_eq!(short(&cache.get(&question, secs(0))), expected, "{rcode} {ttl} {minimum}");
        }
    }

    #[test]
    fn an_answer_without_a_ttl_is_not_kept_nor_what_it_replaces() {
        let (cache, question) = (cache(), question("www.example"));
        cache.insert(&question, positive(&question, 300), secs(0));
        cache.insert(&question, positive(&question, 0), secs(1));
        assert_eq!(short(&cache.get(&question, secs(1))), "miss");
        assert_eq!(cache.stats().entries, 0);
    }

    #[test]
    fn failures_are_not_kept_and_leave_what_was() {
        for rcode in [1, 2, 4, 5] {
            let (cache, question) = (cache(), question("www.example"));
            let failure = || Arc::new(Response::parse(&head(&question, rcode, 0, 0), &question).unwrap());
            cache.insert(&question, failure(), secs(0));
            assert_eq!(short(&cache.get(&question, secs(0))), "miss", "{rcode}");
            cache.insert(&question, positive(&question, 300), secs(0));
            cache.insert(&question, failure(), secs(500));
            assert_eq!(short(&cache.get(&question, secs(500))), "stale", "{rcode}");
        }
    }

    #[test]
    fn a_refresh_that_failed_is_not_repeated_for_half_a_minute() {
        let (cache, question) = (cache(), question("www.example"));
        cache.refresh_failed(&question, secs(0));
        cache.insert(&question, positive(&question, 60), secs(0));
        assert_eq!(short(&cache.get(&question, secs(70))), "stale");
        cache.refresh_failed(&question, secs(72));
        assert_eq!(short(&cache.get(&question, secs(73))), "stale lately");
        assert_eq!(short(&cache.get(&question, secs(102))), "stale");
        cache.refresh_failed(&question, secs(102));
        cache.insert(&question, positive(&question, 60), secs(103));
        assert_eq!(short(&cache.get(&question, secs(104))), "fresh 1 59");
        assert_eq!(short(&cache.get(&question, secs(163))), "stale", "a new answer forgets the failure");
    }

    #[test]
    fn without_serve_stale_what_expired_is_gone() {
        let cache = Cache::new(Settings { size: 64 << 10, max_ttl: secs(60), serve_stale: secs(0) });
        let question = question("www.example");
        cache.insert(&question, positive(&question, 60), secs(0));
        assert_eq!(short(&cache.get(&question, secs(59))), "fresh 59 1");
        assert_eq!(short(&cache.get(&question, secs(60))), "miss");
    }

    #[test]
    fn questions_that_differ_in_anything_have_answers_of_their_own() {
        let base = question("www.example");
        let others = [
            Question { qname: LowerName::from_text("ww.example").unwrap(), ..base.clone() },
            Question { qtype: RecordType::TXT, ..base.clone() },
            Question { dnssec_ok: true, ..base.clone() },
            Question { checking_disabled: true, ..base.clone() },
            Question { recursion_desired: false, ..base.clone() },
        ];
        let cache = cache();
        cache.insert(&base, positive(&base, 60), secs(0));
        for other in &others {
            assert_eq!(short(&cache.get(other, secs(0))), "miss", "{other:?}");
            cache.insert(other, positive(other, 90), secs(0));
        }
        assert_eq!(short(&cache.get(&base, secs(0))), "fresh 0 60");
        assert_eq!(cache.stats().entries, 1 + others.len());
    }

    #[test]
    fn the_budget_holds_and_what_is_in_use_stays() {
        const SIZE: usize = 256 << 10;
        let cache = Cache::new(Settings { size: SIZE, max_ttl: secs(60), serve_stale: secs(0) });
        let hot = question("hot.example");
        cache.insert(&hot, positive(&hot, 60), secs(0));
        for number in 0..20_000 {
            let question = question(&format!("n{number}.example"));
            cache.insert(&question, positive(&question, 60), secs(0));
            assert_eq!(short(&cache.get(&hot, secs(0))), "fresh 0 60", "after {number}");
        }
        let stats = cache.stats();
        assert!(stats.bytes <= SIZE && stats.bytes > SIZE * 9 / 10, "{stats:?}");
        assert_eq!(stats.entries + usize::try_from(stats.evictions).unwrap(), 20_001);
    }

    #[test]
    fn a_large_cache_has_shards_and_a_small_one_has_one() {
        for (size, shards) in [(0, 1), (64 << 10, 1), (3 << 20, 2), (16 << 20, 16), (1 << 30, 16)] {
            let cache = Cache::new(Settings { size, max_ttl: secs(60), serve_stale: secs(0) });
            assert_eq!(cache.shards.len(), shards, "{size}");
        }
    }
}
