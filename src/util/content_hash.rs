//! A content hash that is the same in every process and release.

/// Returns a 64-bit hash of `bytes`, eight octets a step. It tells contents apart for people and replicas; nothing
/// relies on it where someone could gain from a collision.
#[must_use]
pub(crate) fn content_hash(bytes: &[u8]) -> u64 {
    // Both halves of the product are kept: with the lower one alone, the high bits of a word would stay high bits.
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(MULTIPLIER);
        let [low, high] = [product, product >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
        low ^ high
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(OFFSET_BASIS, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    fold(fold(hash, u64::from_le_bytes(last)), length)
}

/// Collects what a snapshot is made from into one hash (FNV-1a).
#[derive(Debug)]
pub(crate) struct ContentHasher(u64);

impl ContentHasher {
    /// Starts with nothing.
    pub(crate) const fn new() -> Self {
        Self(OFFSET_BASIS)
    }

    /// Adds a piece; its length goes in first, so that pieces cannot run into one another.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
        for &byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// Returns the hash in hexadecimal.
    pub(crate) fn finish(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// A hash of files wherever they lie, in no order: what one of them adds can be taken out again, so that a change of one
/// file costs no look at the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContentSum(u64);

impl ContentSum {
    /// Adds a file by its path below the root and the hash of its content.
    pub(crate) fn add(&mut self, path: &[u8], hash: u64) {
        self.0 = self.0.wrapping_add(mix(path, hash));
    }

    /// Takes a file out that was added.
    pub(crate) fn remove(&mut self, path: &[u8], hash: u64) {
        self.0 = self.0.wrapping_sub(mix(path, hash));
    }

    /// Returns the sum.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// Returns a hash of a path and a content hash, each bit of which depends on all of both: sums of such do not collide
/// where their parts are alike (the finalizer of `MurmurHash3`).
fn mix(path: &[u8], hash: u64) -> u64 {
    let mut bits = content_hash(path).wrapping_mul(MULTIPLIER) ^ hash.rotate_left(32);
    for multiplier in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ bits >> 33).wrapping_mul(multiplier);
    }
    bits ^ bits >> 33
}

/// The multiplier of [`content_hash`]: odd, half of its bits set.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The initial hash.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The multiplier of FNV-1a.
const PRIME: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_stays_what_it_was_and_tells_contents_apart() {
        const CASES: &[(&str, u64)] = &[
            ("", 0x5365_4eaf_febf_f65a),
            ("a", 0xafdc_93be_9706_8748),
            ("foobar", 0xde34_97b4_9f70_4ca1),
            ("foobar.test and more", 0x5d58_e53e_ffed_6614),
        ];
        for (text, hash) in CASES {
            assert_eq!(content_hash(text.as_bytes()), *hash, "{text}");
        }
        // Words swapped, bits moved between the tops of words, zeros behind.
        let texts = [
            "aaaaaaaabbbbbbbb",
            "bbbbbbbbaaaaaaaa",
            "aaaaaaacbbbbbbbd",
            "aaaaaaadbbbbbbbc",
            "a",
            "a\0",
            "a\0\0\0\0\0\0\0",
        ];
        let hashes: std::collections::HashSet<_> = texts.iter().map(|text| content_hash(text.as_bytes())).collect();
        assert_eq!(hashes.len(), texts.len());
    }

    #[test]
    fn a_sum_has_no_order_and_forgets_what_is_taken_out() {
        let sum = |files: &[(&str, u64)]| {
            let mut sum = ContentSum::default();
            for (path, hash) in files {
                sum.add(path.as_bytes(), *hash);
            }
            sum
        };
        assert_eq!(sum(&[("a", 1), ("b", 2)]), sum(&[("b", 2), ("a", 1)]));
        assert_ne!(sum(&[("a", 1), ("b", 2)]), sum(&[("a", 2), ("b", 1)]));
        assert_ne!(sum(&[("a", 1), ("a", 1)]), sum(&[("b", 1), ("b", 1)]));
        let mut less = sum(&[("a", 1), ("b", 2)]);
        less.remove(b"a", 1);
        assert_eq!(less, sum(&[("b", 2)]));
    }

    #[test]
    fn pieces_do_not_run_into_one_another() {
        let hash = |pieces: &[&str]| {
            let mut hasher = ContentHasher::new();
            for piece in pieces {
                hasher.add(piece.as_bytes());
            }
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["x"]).len(), 16);
    }
}
