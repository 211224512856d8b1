//! Blocks of lines, and how many of them there may be.

use std::sync::Mutex;

use super::lock;

/// Octets from which on a block is full. Some 400 lines: a wake-up and a `write` each cost nothing beside them, and the
/// kernel copies them while they are still in the processor's second-level cache.
const FULL: usize = 128 << 10;
/// Room behind that for the last line; most are shorter, and for a longer one the block grows.
const SPARE: usize = 4 << 10;
/// Blocks there may be beside one for each lane: 8 MiB, some 25,000 lines.
const BLOCKS: usize = 64;
/// Empty blocks that are kept for later; further ones go back to the system.
const KEPT: usize = 8;

/// Whole lines.
#[derive(Debug)]
pub(super) struct Block {
    /// The lines, and after a panic the begin of one more.
    bytes: Vec<u8>,
    /// Where the whole lines end.
    end: usize,
    /// How many they are.
    lines: u64,
}

impl Block {
    /// Adds a line that `write` appends without its end.
    #[inline]
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.truncate(self.end);
        write(&mut self.bytes);
        self.bytes.push(b'\n');
        self.end = self.bytes.len();
        self.lines += 1;
    }

    /// Returns whether it should be written.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.end >= FULL
    }

    /// Returns the lines.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// Returns how many lines it has.
    pub(super) const fn lines(&self) -> u64 {
        self.lines
    }
}

/// The empty blocks, and a bound on all there are.
#[derive(Debug)]
pub(super) struct Pool(Mutex<Blocks>);

/// What is behind the pool's lock.
#[derive(Debug)]
struct Blocks {
    /// The empty ones.
    empty: Vec<Block>,
    /// How many more may be made.
    room: usize,
}

impl Pool {
    /// Makes the pool for so many lanes.
    pub(super) fn new(lanes: usize) -> Self {
        Self(Mutex::new(Blocks { empty: Vec::with_capacity(KEPT), room: BLOCKS + lanes }))
    }

    /// Returns an empty block, the one given back last if there is one; none when the writer is behind with all.
    pub(super) fn take(&self) -> Option<Block> {
        let mut blocks = lock(&self.0);
        if let Some(block) = blocks.empty.pop() {
            return Some(block);
        }
        blocks.room = blocks.room.checked_sub(1)?;
        drop(blocks);
        Some(Block { bytes: Vec::with_capacity(FULL + SPARE), end: 0, lines: 0 })
    }

    /// Takes a block back.
    pub(super) fn give(&self, mut block: Block) {
        block.bytes.clear();
        block.bytes.shrink_to(FULL + SPARE);
        (block.end, block.lines) = (0, 0);
        let mut blocks = lock(&self.0);
        if blocks.empty.len() < KEPT {
            blocks.empty.push(block);
        } else {
            blocks.room += 1;
        }
    }
}
