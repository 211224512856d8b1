//! Blocks of lines, and the pool that bounds their number and so the memory of the decision log.

use std::sync::Mutex;

use super::lock;

/// The size from which on a block is written, in octets: some 400 lines. The cost of a wake-up and a `write` is
/// negligible for that many, and the block is still in the second-level cache when the kernel copies it.
const FULL: usize = 128 << 10;
/// Additional capacity for the last line of a block; a longer line makes the block grow.
const SPARE: usize = 4 << 10;
/// The number of blocks in addition to one for each buffer: 8 MiB, some 25,000 lines.
const BLOCKS: usize = 64;
/// Empty blocks kept for reuse; further ones are freed.
const KEPT: usize = 8;

/// A block of whole lines.
#[derive(Debug)]
pub(super) struct Block {
    /// The lines, possibly with an incomplete one at the end after a panic.
    bytes: Vec<u8>,
    /// The length of the whole lines.
    end: usize,
    lines: u64,
}

impl Block {
    /// Adds a line, which `write` appends without a line end.
    #[inline]
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.truncate(self.end);
        write(&mut self.bytes);
        self.bytes.push(b'\n');
        self.end = self.bytes.len();
        self.lines += 1;
    }

    /// Returns whether the block should be written now.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.end >= FULL
    }

    /// Returns the whole lines.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// Returns the number of lines.
    pub(super) const fn lines(&self) -> u64 {
        self.lines
    }
}

/// A pool of empty blocks that bounds the number of all blocks.
#[derive(Debug)]
pub(super) struct Pool(Mutex<Blocks>);

/// The state behind the pool's lock.
#[derive(Debug)]
struct Blocks {
    empty: Vec<Block>,
    /// The number of blocks that may still be allocated.
    room: usize,
}

impl Pool {
    /// Makes a pool for a number of buffers.
    pub(super) fn new(buffers: usize) -> Self {
        Self(Mutex::new(Blocks { empty: Vec::with_capacity(KEPT), room: BLOCKS + buffers }))
    }

    /// Returns an empty block, the most recently used one if possible; `None` if all are in use because the writer is
    /// too slow.
    pub(super) fn take(&self) -> Option<Block> {
        let mut blocks = lock(&self.0);
        if let Some(block) = blocks.empty.pop() {
            return Some(block);
        }
        blocks.room = blocks.room.checked_sub(1)?;
        drop(blocks);
        Some(Block { bytes: Vec::with_capacity(FULL + SPARE), end: 0, lines: 0 })
    }

    /// Returns a block to the pool after it has been written.
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
