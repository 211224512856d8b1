//! Hashes of file contents that are the same in every process and release, unlike those of `std::hash`.
//!
//! Three kinds: [`content_hash`] for one file, [`ContentHasher`] for pieces in order, and [`ContentSum`] for a set of
//! files of which one can be replaced without reading the others. Operators compare the hash of a snapshot between
//! replicas, so a change of any constant here makes replicas of two releases look different. None is cryptographic.

use super::{HASH_MULTIPLIER, folded_multiply};

/// Returns a 64-bit hash of `bytes`, eight octets a round. It distinguishes contents for people and replicas; no
/// security decision relies on it, as collisions can be constructed.
#[must_use]
pub(crate) fn content_hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, word: u64| folded_multiply(hash ^ word, HASH_MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(OFFSET_BASIS, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Without the length, `a` and `a` followed by zeros would be the same padded word.
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    fold(fold(hash, u64::from_le_bytes(last)), length)
}

/// A hasher (FNV-1a) that combines the pieces a snapshot is made from into one hash.
#[derive(Debug)]
pub(crate) struct ContentHasher(u64);

impl ContentHasher {
    pub(crate) const fn new() -> Self {
        Self(OFFSET_BASIS)
    }

    /// Adds one piece, preceded by its length, so that the hash depends on the boundaries between pieces.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
        for &byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// Returns the hash as 16 hexadecimal digits.
    pub(crate) fn finish(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// A hash of a set of files that does not depend on their order. A file's contribution can be subtracted again, so
/// changing one file does not require hashing the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContentSum(u64);

impl ContentSum {
    /// Adds a file, given its path below the policies directory and the hash of its content.
    pub(crate) fn add(&mut self, path: &[u8], hash: u64) {
        self.0 = self.0.wrapping_add(mix(path, hash));
    }

    /// Removes a file that was added with the same path and hash.
    pub(crate) fn remove(&mut self, path: &[u8], hash: u64) {
        self.0 = self.0.wrapping_sub(mix(path, hash));
    }

    /// Returns the sum as a number.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// Combines a path with a content hash so that each output bit depends on all input bits (the finalizer of
/// `MurmurHash3`). Without the mixing, the sums of similar paths and hashes would collide.
fn mix(path: &[u8], hash: u64) -> u64 {
    let mut bits = content_hash(path).wrapping_mul(HASH_MULTIPLIER) ^ hash.rotate_left(32);
    for multiplier in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ bits >> 33).wrapping_mul(multiplier);
    }
    bits ^ bits >> 33
}

/// The initial value of all hashes here: the offset basis of 64-bit FNV-1a.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The 64-bit prime of FNV-1a.
const PRIME: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_values_are_fixed_and_differ_by_content() {
        const CASES: &[(&str, u64)] = &[
            ("", 0x5365_4eaf_febf_f65a),
            ("a", 0xafdc_93be_9706_8748),
            ("foobar", 0xde34_97b4_9f70_4ca1),
            ("foobar.test and more", 0x5d58_e53e_ffed_6614),
        ];
        for (text, hash) in CASES {
            assert_eq!(content_hash(text.as_bytes()), *hash, "{text}");
        }
        // Swapped words, differences in the top bits of words, and trailing zeros.
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
    fn sum_does_not_depend_on_order_and_removal_undoes_an_addition() {
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
    fn hash_depends_on_the_boundaries_between_pieces() {
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
