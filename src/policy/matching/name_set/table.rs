//! A hash table of arena offsets: a Swiss table whose tags and slots are together in buckets of one cache line.
//! hashbrown's table would read two cache lines for a look-up, one of tags and one of offsets.

/// The arena offsets of names, found by the hash of the name. An offset whose bucket is full goes into the next bucket.
///
/// A bucket takes 64 octets and holds up to twelve offsets, each with a tag of eight bits of its name's hash. A table
/// made for the right number of names holds eight a bucket on average, so a name takes 8 octets, and about one bucket
/// in sixteen overflows into the next one.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The buckets; none in a table made for no offsets.
    buckets: Vec<Bucket>,
    /// The number of offsets.
    len: usize,
}

/// A cache line of the table.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    /// The tag of each slot, 0 if the slot is free. Of the octets after those of the slots, [`OVERFLOWED`] is 1 if an
    /// offset went to the next bucket, and the others are unused.
    tags: [u8; 16],
    /// The offsets.
    slots: [u32; SLOTS],
}

/// The number of slots in a bucket: twelve offsets of four octets and sixteen octets of tags fill a cache line.
const SLOTS: usize = 12;
/// The average number of offsets in a bucket at which a table of more than one bucket counts as full. The free slots
/// keep overflows rare.
const FULL: usize = 8;
/// The index of the octet in a bucket's tags that is 1 if an offset went to the next bucket.
const OVERFLOWED: usize = 15;
/// A bucket without offsets.
const EMPTY: Bucket = Bucket { tags: [0; 16], slots: [0; SLOTS] };
/// A 1 in each octet.
const ONES: u128 = u128::from_ne_bytes([1; 16]);
/// The high bit of each octet that is the tag of a slot, the first slot lowest.
const HIGH_BITS: u128 = (ONES << 7) & ((1 << (8 * SLOTS)) - 1);

impl Table {
    /// Returns a table with room for `count` offsets.
    pub(super) fn with_room(count: usize) -> Self {
        Self { buckets: vec![EMPTY; buckets_for(count)], len: 0 }
    }

    /// Returns whether the table has no room for another offset.
    pub(super) fn is_full(&self) -> bool {
        match self.buckets.len() {
            1 => self.len >= SLOTS,
            buckets => self.len >= buckets * FULL,
        }
    }

    /// Returns whether a new table for the same number of offsets would be smaller.
    pub(super) fn is_oversized(&self) -> bool {
        self.buckets.len() > buckets_for(self.len)
    }

    /// Returns the number of offsets.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the memory of the table in bytes.
    pub(super) const fn memory(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Adds an offset. The table must have room, or the search for a free slot would not end.
    pub(super) fn insert(&mut self, hash: u64, at: u32) {
        let mut index = self.home_bucket(hash);
        loop {
            let count = self.buckets.len();
            let bucket = &mut self.buckets[index];
            if let Some(slot) = bucket.tags[..SLOTS].iter().position(|&tag| tag == 0) {
                bucket.tags[slot] = tag(hash);
                bucket.slots[slot] = at;
                self.len += 1;
                return;
            }
            // A look-up ends at the first bucket without this mark.
            bucket.tags[OVERFLOWED] = 1;
            index = (index + 1) % count;
        }
    }

    /// Returns the first offset under this hash that `is_it` accepts. Offsets of other hashes with the same tag may be
    /// passed to it too.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut index = self.home_bucket(hash);
        let wanted = ONES * u128::from(tag(hash));
        loop {
            let bucket = &self.buckets[index];
            // An octet that is zero here has the wanted tag. Subtraction borrows into higher octets, so one of those
            // may look like a zero as well; `is_it` then rejects that slot.
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
            // A comparison instead of `%`: a look-up should not wait for a division.
            index = if index + 1 == self.buckets.len() { 0 } else { index + 1 };
        }
    }

    /// Returns the bucket where the search for a hash begins. The table must have a bucket.
    #[inline]
    fn home_bucket(&self, hash: u64) -> usize {
        // The hash is evenly distributed below 2^64, so the high half of the product is evenly distributed below the
        // number of buckets. It needs no division.
        let product = u128::from(hash) * self.buckets.len() as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }
}

/// Returns the number of buckets for `count` offsets.
const fn buckets_for(count: usize) -> usize {
    match count {
        0 => 0,
        1..=SLOTS => 1,
        _ => count.div_ceil(FULL),
    }
}

/// Returns the eight bits of a hash that are stored beside the offset, never 0. They are low bits, as the bucket comes
/// from the high bits.
#[inline]
fn tag(hash: u64) -> u8 {
    hash.to_le_bytes()[0].max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_inserted_offsets_are_found_even_if_buckets_overflow() {
        // Small hashes, which all begin at the first bucket, and hashes that are spread evenly.
        for spread in [0_u64, 0x9e37_79b9_7f4a_7c15] {
            for count in [0_u32, 1, 12, 13, 100, 1000] {
                let hash = |number: u32| u64::from(number).wrapping_mul(spread) ^ (u64::from(number) % 251);
                let mut table = Table::with_room(count as usize);
                (0..count).for_each(|number| table.insert(hash(number), number));
                assert!(!table.is_oversized(), "{count}");
                for number in 0..count {
                    assert_eq!(table.find(hash(number), |at| at == number), Some(number), "{number} of {count}");
                }
                assert_eq!(table.find(hash(count), |at| at == count), None, "{count}");
            }
        }
    }
}
