//! How much of what all clients share one client may take: its waiting queries are counted, and bounded.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tables, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// Counts by client. A count that comes to nothing is forgotten, so no more is kept than there are queries waiting.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Counts by the hash of who is counted.
    shards: [Mutex<Counts>; SHARDS],
    /// Hashes with a random key: whom a client shares a count with is chance.
    hasher: RandomState,
    /// The most one client may have.
    limit: usize,
}

/// Counts by hash: not hashed once more.
type Counts = HashMap<u64, usize, BuildHasherDefault<AsItIs>>;

/// Hashes a number that is a hash already as itself.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for &octet in bytes {
            self.0 = self.0 << 8 | u64::from(octet);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// One part of a client's share; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Where it is counted.
    shares: Arc<Shares>,
    /// Whose it is.
    key: u64,
}

impl Shares {
    /// Makes shares of at most `limit` each.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), hasher: RandomState::new(), limit })
    }

    /// Takes a part of the share of `client`, or of the source address where that is in no client; nothing when the share
    /// is used up.
    pub(crate) fn take(self: &Arc<Self>, client: Option<&str>, source: IpAddr) -> Option<Seat> {
        let key = match client {
            Some(id) => self.hasher.hash_one(id),
            None => self.hasher.hash_one(network(source)),
        };
        let mut shard = self.shard(key);
        let count = shard.entry(key).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(shard);
        Some(Seat { shares: Arc::clone(self), key })
    }

    /// Locks the table that counts `key`; each change is complete in itself.
    fn shard(&self, key: u64) -> MutexGuard<'_, Counts> {
        // Bits that the table within does not take its bucket or its tag from.
        let index = usize::try_from(key >> 40 & 0xffff).unwrap_or(0) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shard = self.shares.shard(self.key);
        if let Some(count) = shard.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.key);
            }
        }
    }
}

/// Returns what one host can be told by: its IPv4 address, or the /64 it can choose IPv6 addresses from.
pub(crate) fn network(source: IpAddr) -> impl Hash + Eq + Copy {
    match source.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        // No IPv6 network of a host is ::/64 with the same lower half.
        IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 64).unwrap_or(0) | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_whatever_its_addresses_and_gives_it_back() {
        let shares = Shares::new(2);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let seats = [shares.take(Some("a"), one), shares.take(Some("a"), two)];
        assert!(seats.iter().all(Option::is_some));
        assert!(shares.take(Some("a"), one).is_none());
        assert!(shares.take(Some("b"), one).is_some(), "another client is not concerned");
        drop(seats);
        assert!(shares.take(Some("a"), one).is_some());
        assert!(shares.shards.iter().all(|shard| shard.lock().unwrap().is_empty()), "nothing is left behind");
    }

    #[test]
    fn sources_in_no_client_are_told_by_host() {
        let shares = Shares::new(1);
        let take = |text: &str| shares.take(None, text.parse().unwrap());
        let first = [take("192.0.2.1"), take("192.0.2.2"), take("2001:db8::1"), take("2001:db8:0:1::1")];
        assert!(first.iter().all(Option::is_some));
        for same in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::2"] {
            assert!(take(same).is_none(), "{same}");
        }
    }
}
