//! Random numbers that nobody can foretell, from the kernel a block at a time.

/// Octets fetched at once: a system call for each number would cost as much as sending the query.
const BLOCK: usize = 1024;

/// A source of random numbers; each is given out once.
pub(crate) struct Random {
    /// Octets from the kernel.
    block: [u8; BLOCK],
    /// How many of them are used up.
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self { block: [0; BLOCK], used: BLOCK }
    }
}

impl Random {
    /// Returns the next number.
    ///
    /// # Panics
    /// The kernel has no random numbers: then nothing can be asked safely. Linux only fails so before its pool is
    /// seeded, at boot, and there it waits instead.
    pub(crate) fn next(&mut self) -> u16 {
        u16::from_ne_bytes(self.octets())
    }

    /// Returns as many random bits as four numbers have.
    ///
    /// # Panics
    /// As [`Random::next`].
    pub(crate) fn next_bits(&mut self) -> u64 {
        u64::from_ne_bytes(self.octets())
    }

    /// Takes octets out of the block, or out of a new one.
    fn octets<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > BLOCK {
            getrandom::fill(&mut self.block).expect("the kernel gives random numbers");
            self.used = 0;
        }
        let octets = std::array::from_fn(|index| self.block[self.used + index]);
        self.used += N;
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_blocks_follow_one_another() {
        let mut random = Random::default();
        let numbers: std::collections::HashSet<u16> = (0..2000).map(|_| random.next()).collect();
        // Of 2000 random numbers about 30 come twice.
        assert!(numbers.len() > 1800, "{}", numbers.len());
    }
}
