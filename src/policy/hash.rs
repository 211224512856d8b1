//! A content hash that is the same in every process and release.

/// Returns the 64-bit FNV-1a hash of `bytes`. It tells contents apart for people and replicas; nothing
/// relies on it where someone could gain from a collision.
#[must_use]
pub(super) fn content_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Collects what a snapshot is made from into one hash.
#[derive(Debug)]
pub(super) struct ContentHasher(u64);

impl ContentHasher {
    /// Starts with nothing.
    pub(super) const fn new() -> Self {
        Self(OFFSET_BASIS)
    }

    /// Adds a piece; its length goes in first, so that pieces cannot run into one another.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
        for &byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// Returns the hash in hexadecimal.
    pub(super) fn finish(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The initial hash.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The multiplier.
const PRIME: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        const CASES: &[(&str, u64)] =
            &[("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)];
        for (text, hash) in CASES {
            assert_eq!(content_hash(text.as_bytes()), *hash, "{text}");
        }
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
