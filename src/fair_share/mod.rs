//! The share of a limited resource that one client may use: waiting queries, sockets, connections.
//!
//! One rule holds for everything that is counted: **a client may hold at most as much as is still free**. It is the
//! dynamic threshold of Choudhury and Hahne ("Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! IEEE/ACM Transactions on Networking 6(2), 1998) with α = 1: one greedy client gets half of the capacity, two get a
//! third each, and as much as the greediest one holds is always left for the next. No number of greedy clients shuts
//! out another one, and a client that is alone may still use half.
//!
//! Words: a [`Holder`] is the client (or API token) that a share is counted for; a [`Permit`] is one unit that it
//! holds, as of a semaphore; a [`quota::Reservation`] is an amount of a capacity with a queue.

pub(crate) mod quota;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::util::{folded_multiply, lock};

/// The shards of a table, each with a lock of its own, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The identity that a share is counted for: a client of the policies, a host in no client, or a token of the API.
///
/// A 32-bit hash under a key drawn at process start. Two holders whose hashes collide share one share: among 10,000
/// clients any pair does so with a probability of 1 %, and no client can bring about a collision without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(u32);

/// The hash key of [`Holder`] for names.
static NAME_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The hash key of [`Holder`] for hosts: an odd number, so that multiplying by it loses no bits.
static HOST_KEY: LazyLock<u64> = LazyLock::new(|| NAME_KEY.hash_one(0) | 1);

impl Holder {
    /// A reserved value for shares that no client waits for any more.
    pub const NOBODY: Self = Self(0);

    /// Returns the holder for the id of a client or a token. Ids of different kinds must not share a table.
    #[must_use]
    pub fn named(id: &str) -> Self {
        Self::folded(NAME_KEY.hash_one(id))
    }

    /// Returns the holder for a source address in no client: the IPv4 address, or the /64 prefix of an IPv6 address, as
    /// one host can use all addresses of its /64.
    #[must_use]
    pub fn host(source: IpAddr) -> Self {
        let network = match source.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            // The top bit keeps IPv6 prefixes and IPv4 addresses apart.
            IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 64).unwrap_or(0) | 1 << 63,
        };
        Self::folded(folded_multiply(network ^ *HOST_KEY, *HOST_KEY))
    }

    /// Returns the identity as a number with uniformly random bits.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// Folds a 64-bit hash into a holder.
    fn folded(hash: u64) -> Self {
        Self(u32::try_from((hash ^ hash >> 32) & u64::from(u32::MAX)).unwrap_or(0))
    }
}

/// A hasher that passes the number of a [`Holder`] through, as its bits are random already.
#[derive(Debug, Default)]
pub(crate) struct HolderHasher(u64);

impl Hasher for HolderHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &octet in bytes {
            self.0 = self.0 << 8 | u64::from(octet);
        }
    }

    fn write_u32(&mut self, number: u32) {
        // hashbrown takes the bucket from the low bits and the tag from the top seven.
        self.0 = u64::from(number) << 32 | u64::from(number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A hash table keyed by holder.
pub(crate) type ByHolder<V> = HashMap<Holder, V, BuildHasherDefault<HolderHasher>>;

/// Permits for a limited resource, counted by holder. A count of zero is removed, so the memory is bounded by the
/// capacity.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The number of permits of each holder, in shards.
    shards: [Mutex<ByHolder<usize>>; SHARDS],
    /// The number of permits of all holders.
    used: AtomicUsize,
    /// The most permits of all holders together.
    capacity: usize,
    /// The most permits of one holder, however many are free.
    most: usize,
    /// Permits that only holders of fewer than `little` get.
    kept: usize,
    /// The number of permits below which a holder may use the reserve.
    little: usize,
}

/// One permit of a holder; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Permit {
    shares: Arc<Shares>,
    holder: Holder,
}

impl Shares {
    /// Makes shares of `capacity` permits, of which one holder gets at most `most`.
    pub(crate) fn new(capacity: usize, most: usize) -> Arc<Self> {
        Self::keeping(capacity, most, 0, 0)
    }

    /// Makes shares as [`Shares::new`] does, with an eighth reserved for holders of few permits. Without the reserve,
    /// greedy holders that arrive one after another, each taking half of the rest, would leave nothing.
    pub(crate) fn with_reserve(capacity: usize, most: usize) -> Arc<Self> {
        Self::keeping(capacity, most, capacity / 8, capacity / 128)
    }

    /// Makes shares with `kept` permits reserved for holders of fewer than `little`.
    fn keeping(capacity: usize, most: usize, kept: usize, little: usize) -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), used: AtomicUsize::new(0), capacity, most, kept, little })
    }

    /// Takes a permit. Returns `None` if the holder has as many as are free, or `most`.
    ///
    /// Threads that take permits at the same time do not see one another's, so there can be a few more than the
    /// capacity.
    pub(crate) fn take(self: &Arc<Self>, holder: Holder) -> Option<Permit> {
        let mut shard = self.shard(holder);
        let free = self.capacity.saturating_sub(self.used.load(Relaxed));
        let count = shard.get(&holder).copied().unwrap_or(0);
        // The limit of a holder depends on what is free. A fixed one would be too low for one holder or too high for
        // many.
        let has_little = count < self.little && free > 0;
        if !has_little && count >= free.saturating_sub(self.kept).min(self.most) {
            return None;
        }
        shard.insert(holder, count + 1);
        self.used.fetch_add(1, Relaxed);
        drop(shard);
        Some(Permit { shares: Arc::clone(self), holder })
    }

    /// Returns the number of permits of a holder.
    pub(crate) fn count(&self, holder: Holder) -> usize {
        self.shard(holder).get(&holder).copied().unwrap_or(0)
    }

    /// Returns the number of permits of all holders.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Locks the shard that counts for `holder`. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn shard(&self, holder: Holder) -> MutexGuard<'_, ByHolder<usize>> {
        // The shard's own table takes its bucket and its tag from other bits.
        let index = usize::try_from(holder.number() >> 20).unwrap_or(0) % SHARDS;
        lock(&self.shards[index])
    }
}

impl Permit {
    /// Passes this permit on to another holder, even if that has as many permits as it may take.
    pub(crate) fn pass_to(&mut self, holder: Holder) {
        self.leave();
        self.holder = holder;
        *self.shares.shard(holder).entry(holder).or_default() += 1;
    }

    /// Subtracts this permit from its holder's count.
    fn leave(&self) {
        let mut shard = self.shares.shard(self.holder);
        if let Some(count) = shard.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.holder);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
        self.shares.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes permits for a holder until none is granted.
    fn take_all(shares: &Arc<Shares>, holder: Holder) -> Vec<Permit> {
        std::iter::from_fn(|| shares.take(holder)).collect()
    }

    #[test]
    fn holder_gets_as_many_permits_as_stay_free() {
        let shares = Shares::new(100, 100);
        let [one, two, three] = ["one", "two", "three"].map(Holder::named);
        let permits = take_all(&shares, one);
        assert_eq!(permits.len(), 50, "one greedy holder leaves half");
        let others = take_all(&shares, two);
        assert_eq!(others.len(), 25, "the next one half of that");
        drop(permits);
        let again = take_all(&shares, three);
        assert_eq!((again.len(), shares.used()), (38, 63), "and when something is free again, more");
        drop((others, again));
        assert_eq!(shares.used(), 0);
        assert!(shares.shards.iter().all(|shard| shard.lock().unwrap().is_empty()), "nothing is left behind");
    }

    #[test]
    fn greedy_holders_never_shut_out_another_one() {
        let shares = Shares::new(1000, 1000);
        // Each takes one permit in turn until none is granted to any.
        let holders: Vec<_> = (0..24).map(|number| Holder::named(&number.to_string())).collect();
        let mut permits = Vec::new();
        while let more = holders.iter().filter_map(|holder| shares.take(*holder)).collect::<Vec<_>>()
            && !more.is_empty()
        {
            permits.extend(more);
        }
        assert_eq!(permits.len(), 24 * 40);
        assert_eq!(take_all(&shares, Holder::named("newcomer")).len(), 20);
    }

    #[test]
    fn permit_that_is_passed_on_counts_for_the_new_holder() {
        let shares = Shares::new(4, 4);
        let [one, two] = ["one", "two"].map(Holder::named);
        let mut permits = take_all(&shares, one);
        permits[0].pass_to(two);
        assert_eq!((shares.count(one), shares.count(two), shares.used()), (1, 1, 2));
        drop(permits);
        assert_eq!((shares.count(one), shares.count(two), shares.used()), (0, 0, 0));
    }

    #[test]
    fn reserve_is_left_for_new_holders_if_greedy_ones_arrive_in_turn() {
        let shares = Shares::with_reserve(1024, 1024);
        // Each one takes all the permits that it is granted.
        let greedy: Vec<_> = (0..10).map(|number| take_all(&shares, Holder::named(&number.to_string()))).collect();
        assert!(shares.used() < 1024, "{}", greedy.len());
        let newcomers: Vec<_> =
            (0..4).map(|number| take_all(&shares, Holder::named(&format!("new{number}")))).collect();
        assert!(
            newcomers.iter().all(|permits| permits.len() >= 4),
            "{:?}",
            newcomers.iter().map(Vec::len).collect::<Vec<_>>()
        );
    }

    #[test]
    fn fixed_limit_of_a_holder_applies_too() {
        let shares = Shares::new(100, 2);
        assert_eq!(take_all(&shares, Holder::named("one")).len(), 2);
    }

    #[test]
    fn hosts_are_counted_by_ipv4_address_or_64_bit_prefix() {
        let host = |text: &str| Holder::host(text.parse().unwrap());
        let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"].map(host);
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
        assert_eq!(host("192.0.2.1"), host("::ffff:192.0.2.1"));
        assert_eq!(host("2001:db8::1"), host("2001:db8::2"));
    }
}
