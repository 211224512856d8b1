//! A bounded set of hashes.

/// The hashes of a number of different things: each once, and 0 for a free place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes<const N: usize>([u64; N]);

impl<const N: usize> Default for Hashes<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Hashes<N> {
    /// Takes a hash in, if it is new and there is a place.
    pub(super) fn insert(&mut self, hash: u64) {
        let hash = hash.max(1);
        if !self.0.contains(&hash)
            && let Some(free) = self.0.iter_mut().find(|place| **place == 0)
        {
            *free = hash;
        }
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|hash| *hash == 0)
    }

    /// Returns whether all places are taken.
    pub(super) fn is_full(&self) -> bool {
        !self.0.contains(&0)
    }
}
