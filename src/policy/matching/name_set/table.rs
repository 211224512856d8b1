//! Where in the arena the names of a set stand, by their hash: one cache line of the table for a look-up.

/// Offsets by hash, in buckets of a cache line each; what finds its bucket full goes into the next one.
///
/// A bucket holds up to twelve offsets, each with eight bits of its name's hash, and eight on average when the table is
/// made for what it holds: 8 octets a name, and about one look-up in sixteen goes on to a second bucket.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The buckets; none as long as there is nothing.
    buckets: Vec<Bucket>,
    /// The offsets held.
    len: usize,
}

/// A cache line of the table.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    /// For each slot a tag, 0 where it is free; then nothing; at [`OVERFLOWED`] whether something had to go on.
    tags: [u8; 16],
    /// The offsets.
    slots: [u32; SLOTS],
}

/// Offsets in a bucket.
const SLOTS: usize = 12;
/// Offsets a bucket holds on average in a full table, of more than one bucket.
const FULL: usize = 8;
/// The octet of a bucket's tags that is 1 where something had to go on to the next one.
const OVERFLOWED: usize = 15;
/// A bucket that holds nothing.
const EMPTY: Bucket = Bucket { tags: [0; 16], slots: [0; SLOTS] };
/// A one in each octet.
const ONES: u128 = u128::from_ne_bytes([1; 16]);
/// The high bit of each octet that is the tag of a slot, the first slot lowest.
const HIGH_BITS: u128 = (ONES << 7) & ((1 << (8 * SLOTS)) - 1);

impl Table {
    /// Makes a table with room for `count` offsets.
    pub(super) fn with_room(count: usize) -> Self {
        Self { buckets: vec![EMPTY; buckets_for(count)], len: 0 }
    }

    /// Returns whether there is no room for another offset.
    pub(super) fn is_full(&self) -> bool {
        match self.buckets.len() {
            1 => self.len >= SLOTS,
            buckets => self.len >= buckets * FULL,
        }
    }

    /// Returns whether a table made for what this one holds would be smaller.
    pub(super) fn is_roomy(&self) -> bool {
        self.buckets.len() > buckets_for(self.len)
    }

    /// Returns how many offsets there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the memory it takes, in bytes.
    pub(super) const fn memory(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Adds an offset; there must be room.
    pub(super) fn insert(&mut self, hash: u64, at: u32) {
        let mut index = self.home(hash);
        loop {
            let count = self.buckets.len();
            let bucket = &mut self.buckets[index];
            if let Some(slot) = bucket.tags[..SLOTS].iter().position(|&tag| tag == 0) {
                bucket.tags[slot] = tag(hash);
                bucket.slots[slot] = at;
                self.len += 1;
                return;
            }
            bucket.tags[OVERFLOWED] = 1;
            index = (index + 1) % count;
        }
    }

    /// Returns the first offset under this hash for which `is_it` holds; may ask it about others.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut index = self.home(hash);
        let wanted = ONES * u128::from(tag(hash));
        loop {
            let bucket = &self.buckets[index];
            // An octet that is zero here has the tag. Subtracting borrows into the octets above it, so one of them may
            // look like a zero and be asked about in vain.
            let differing = u128::from_le_bytes(bucket.tags) ^ wanted;
            let mut found = differing.wrapping_sub(ONES) & !differing & HIGH_BITS;
            while found != 0 {
                let at = bucket.slots[found.trailing_zeros() as usize / 8];
                if is_it(at) {
                    return Some(at);
                }
                found &= found - 1;
            }
            if bucket.tags[OVERFLOWED] == 0 {
                return None;
            }
            index = if index + 1 == self.buckets.len() { 0 } else { index + 1 };
        }
    }

    /// Returns the bucket where the search for a hash begins; there must be one.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        // The high half of the product is evenly spread below the count, as the hash is below 2^64.
        let product = u128::from(hash) * self.buckets.len() as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }
}

/// Returns how many buckets so many offsets take.
const fn buckets_for(count: usize) -> usize {
    match count {
        0 => 0,
        1..=SLOTS => 1,
        _ => count.div_ceil(FULL),
    }
}

/// Returns the eight bits of a hash that stand beside the offset, never 0. The bucket comes from the high bits.
#[inline]
fn tag(hash: u64) -> u8 {
    hash.to_le_bytes()[0].max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_nothing_else_also_where_buckets_overflow() {
        // All of one bucket, or evenly spread.
        for spread in [0_u64, 0x9e37_79b9_7f4a_7c15] {
            for count in [0_u32, 1, 12, 13, 100, 1000] {
                let hash = |number: u32| u64::from(number).wrapping_mul(spread) ^ (u64::from(number) % 251);
                let mut table = Table::with_room(count as usize);
                (0..count).for_each(|number| table.insert(hash(number), number));
                assert!(!table.is_roomy(), "{count}");
                for number in 0..count {
                    assert_eq!(table.find(hash(number), |at| at == number), Some(number), "{number} of {count}");
                }
                assert_eq!(table.find(hash(count), |at| at == count), None, "{count}");
            }
        }
    }
}
