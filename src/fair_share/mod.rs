//! The share of one client in what all clients use: waiting queries, sockets, connections.
//!
//! One rule holds for everything that is counted: **a holder may have at most as much as is still free**. It is the dynamic
//! threshold of Choudhury and Hahne ("Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM
//! Transactions on Networking 6(2), 1998) with α = 1: one greedy holder gets half of the capacity, two get a third each,
//! and as much as the greediest one has is always left for whoever comes next. No number of greedy holders shuts out
//! another one, and a lone one is hardly limited.

pub(crate) mod quota;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The tables, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The identity that shares are counted for: a client of the policies, a host that is in none, a token of the API.
///
/// A hash of 32 bits under a key drawn at the start of the process. Two holders that collide share one share: among
/// 10,000 clients this happens to any pair with a probability of 1 %, and nobody outside can bring it about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(u32);

/// The hash key of [`Holder`] for names.
static NAME_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The hash key of [`Holder`] for hosts: an odd factor.
static HOST_KEY: LazyLock<u64> = LazyLock::new(|| NAME_KEY.hash_one(0) | 1);

impl Holder {
    /// The holder of what nobody waits for any more.
    pub const NOBODY: Self = Self(0);

    /// Returns the holder that an id names: a client's, a token's. Ids of different kinds never share a table.
    #[must_use]
    pub fn named(id: &str) -> Self {
        Self::folded(NAME_KEY.hash_one(id))
    }

    /// Returns the holder that a source address in no client stands for: the IPv4 address, or the /64 that one host can
    /// choose IPv6 addresses from.
    #[must_use]
    pub fn host(source: IpAddr) -> Self {
        let network = match source.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            // No IPv6 network of a host is ::/64 with the same lower half.
            IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 64).unwrap_or(0) | 1 << 63,
        };
        let product = u128::from(network ^ *HOST_KEY) * u128::from(*HOST_KEY);
        Self::folded(
            u64::try_from(product >> 64).unwrap_or(0) ^ u64::try_from(product & u128::from(u64::MAX)).unwrap_or(0),
        )
    }

    /// Returns the identity as a number whose bits are all alike random.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// Makes one of a hash of 64 bits.
    fn folded(hash: u64) -> Self {
        Self(u32::try_from((hash ^ hash >> 32) & u64::from(u32::MAX)).unwrap_or(0))
    }
}

/// Hashes a [`Holder`], whose number is random already, as itself.
#[derive(Debug, Default)]
pub(crate) struct HolderHasher(u64);

impl Hasher for HolderHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &octet in bytes {
            self.0 = self.0 << 8 | u64::from(octet);
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The table takes its bucket from the low bits and its tag from the top ones.
        self.0 = u64::from(number) << 32 | u64::from(number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A table by holder.
pub(crate) type ByHolder<V> = HashMap<Holder, V, BuildHasherDefault<HolderHasher>>;

/// Counts by holder, of something of which there is a limited number. A count that comes to zero is forgotten, so the
/// memory taken is bounded by the capacity.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The counts.
    shards: [Mutex<ByHolder<usize>>; SHARDS],
    /// The sum of the counts.
    used: AtomicUsize,
    /// What the sum may be.
    capacity: usize,
    /// The most one holder may have, however much is free.
    most: usize,
    /// What is kept for holders of little: others leave it free.
    kept: usize,
    /// What a holder of little has at most.
    little: usize,
}

/// One part of a holder's share; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Where it is counted.
    shares: Arc<Shares>,
    /// Whose it is.
    holder: Holder,
}

impl Shares {
    /// Makes shares of `capacity` in all, of which one holder gets `most` at most.
    pub(crate) fn new(capacity: usize, most: usize) -> Arc<Self> {
        Self::keeping(capacity, most, 0, 0)
    }

    /// Makes shares as [`Shares::new`] does, of which an eighth is kept for holders of little: greedy ones that come one
    /// after the other, and take half of what is left each time, leave it.
    pub(crate) fn with_reserve(capacity: usize, most: usize) -> Arc<Self> {
        Self::keeping(capacity, most, capacity / 8, capacity / 128)
    }

    /// Makes shares of which `kept` is left to holders of no more than `little`.
    fn keeping(capacity: usize, most: usize, kept: usize, little: usize) -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), used: AtomicUsize::new(0), capacity, most, kept, little })
    }

    /// Takes a part of the holder's share; `None` when it has as much as is free, or `most`.
    pub(crate) fn take(self: &Arc<Self>, holder: Holder) -> Option<Seat> {
        let mut shard = self.shard(holder);
        let free = self.capacity.saturating_sub(self.used.load(Relaxed));
        let count = shard.get(&holder).copied().unwrap_or(0);
        let has_little = count < self.little && free > 0;
        if !has_little && count >= free.saturating_sub(self.kept).min(self.most) {
            return None;
        }
        shard.insert(holder, count + 1);
        self.used.fetch_add(1, Relaxed);
        drop(shard);
        Some(Seat { shares: Arc::clone(self), holder })
    }

    /// Returns how much a holder has.
    pub(crate) fn count(&self, holder: Holder) -> usize {
        self.shard(holder).get(&holder).copied().unwrap_or(0)
    }

    /// Returns how much is taken, by all holders.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Locks the table that counts for `holder`; each change is complete in itself.
    fn shard(&self, holder: Holder) -> MutexGuard<'_, ByHolder<usize>> {
        // Bits that the table within does not take its bucket or its tag from.
        let index = usize::try_from(holder.number() >> 20).unwrap_or(0) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Passes this part on to another holder, whatever that one has.
    pub(crate) fn pass_to(&mut self, holder: Holder) {
        self.leave();
        self.holder = holder;
        *self.shares.shard(holder).entry(holder).or_default() += 1;
    }

    /// Takes this part out of its holder's count.
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

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
        self.shares.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as much as a holder gets.
    fn take_all(shares: &Arc<Shares>, holder: Holder) -> Vec<Seat> {
        std::iter::from_fn(|| shares.take(holder)).collect()
    }

    #[test]
    fn a_holder_gets_as_much_as_is_left_free_and_gives_it_back() {
        let shares = Shares::new(100, 100);
        let [one, two, three] = ["one", "two", "three"].map(Holder::named);
        let seats = take_all(&shares, one);
        assert_eq!(seats.len(), 50, "one greedy holder leaves half");
        let others = take_all(&shares, two);
        assert_eq!(others.len(), 25, "the next one half of that");
        drop(seats);
        let again = take_all(&shares, three);
        assert_eq!((again.len(), shares.used()), (38, 63), "and when something is free again, more");
        drop((others, again));
        assert_eq!(shares.used(), 0);
        assert!(shares.shards.iter().all(|shard| shard.lock().unwrap().is_empty()), "nothing is left behind");
    }

    #[test]
    fn no_number_of_greedy_holders_shuts_out_another_one() {
        let shares = Shares::new(1000, 1000);
        // They take one each in turns until none gets any more.
        let holders: Vec<_> = (0..24).map(|number| Holder::named(&number.to_string())).collect();
        let mut seats = Vec::new();
        while let more = holders.iter().filter_map(|holder| shares.take(*holder)).collect::<Vec<_>>()
            && !more.is_empty()
        {
            seats.extend(more);
        }
        assert_eq!(seats.len(), 24 * 40);
        assert_eq!(take_all(&shares, Holder::named("newcomer")).len(), 20);
    }

    #[test]
    fn part_that_is_passed_on_counts_for_the_other_holder() {
        let shares = Shares::new(4, 4);
        let [one, two] = ["one", "two"].map(Holder::named);
        let mut seats = take_all(&shares, one);
        seats[0].pass_to(two);
        assert_eq!((shares.count(one), shares.count(two), shares.used()), (1, 1, 2));
        drop(seats);
        assert_eq!((shares.count(one), shares.count(two), shares.used()), (0, 0, 0));
    }

    #[test]
    fn a_reserve_is_left_for_newcomers_however_the_others_come() {
        let shares = Shares::with_reserve(1024, 1024);
        // One after the other: each takes all it gets.
        let greedy: Vec<_> = (0..10).map(|number| take_all(&shares, Holder::named(&number.to_string()))).collect();
        assert!(shares.used() < 1024, "{}", greedy.len());
        let newcomers: Vec<_> =
            (0..4).map(|number| take_all(&shares, Holder::named(&format!("new{number}")))).collect();
        assert!(
            newcomers.iter().all(|seats| seats.len() >= 4),
            "{:?}",
            newcomers.iter().map(Vec::len).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_fixed_limit_holds_besides() {
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
