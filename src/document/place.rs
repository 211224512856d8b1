//! Positions in files: byte spans while reading, lines and columns in messages.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

/// A position in a file: path, line and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The path of the file, as it is to be shown.
    pub path: Arc<Path>,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u32,
    /// The column in characters, from 1; 0 for the file as a whole.
    pub column: u32,
}

impl Place {
    /// Returns the place of a whole file, for errors without a position: it cannot be read, or something is missing.
    #[must_use]
    pub fn whole(path: impl Into<Arc<Path>>) -> Self {
        Self { path: path.into(), line: 0, column: 0 }
    }
}

/// Writes `path:line:column`, or only the path for a whole file.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.path.display()),
            line => write!(f, "{}:{line}:{}", self.path.display(), self.column),
        }
    }
}

/// A range of bytes in the text of a [`Source`](super::Source).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The offset of the first byte.
    pub start: u32,
    /// The offset after the last byte.
    pub end: u32,
}

impl Span {
    /// Returns the span as a range of `usize`, for slicing.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        to_usize(self.start)..to_usize(self.end)
    }
}

/// Converts a range; offsets beyond 4 GiB are clamped, but [`MAX_LEN`](super::Source::MAX_LEN) is well below.
impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        let clamp = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { start: clamp(range.start), end: clamp(range.end) }
    }
}

/// An index from byte offsets to lines and columns. Lookups are fast in any order, even on one long line, because
/// tables are read in the order of their keys and not of the text.
#[derive(Debug)]
pub struct Locator<'t> {
    text: &'t str,
    /// The offset of the first byte of each line.
    starts: Vec<u32>,
    /// The number of characters that start before each block of [`Locator::BLOCK`] bytes.
    before: Vec<u32>,
}

impl<'t> Locator<'t> {
    /// The block size in bytes; a lookup counts the characters of at most two blocks.
    const BLOCK: usize = 1024;

    /// Builds the index: line starts, and character counts per block.
    #[must_use]
    pub fn new(text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| to_u32(at + 1))).collect();
        let mut counted = 0;
        let mut before = vec![0];
        for block in text.as_bytes().chunks(Self::BLOCK) {
            counted += to_u32(characters(block));
            before.push(counted);
        }
        Self { text, starts, before }
    }

    /// Returns the line and the column of the byte `offset`, both from 1.
    #[must_use]
    pub fn locate(&self, offset: u32) -> (u32, u32) {
        let at = to_usize(offset).min(self.text.len());
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = to_usize(self.starts[line - 1]).min(at);
        // Most lines are short, so counting from their start is cheaper than two lookups.
        let column = if at - start < Self::BLOCK {
            to_u32(characters(&self.text.as_bytes()[start..at]))
        } else {
            self.characters_before(at) - self.characters_before(start)
        };
        (to_u32(line), column + 1)
    }

    /// Counts the characters that start before the byte `at`.
    fn characters_before(&self, at: usize) -> u32 {
        let block = at / Self::BLOCK;
        self.before[block] + to_u32(characters(&self.text.as_bytes()[block * Self::BLOCK..at]))
    }
}

/// Returns the offset of the last line feed. Tests whole blocks first, which the compiler vectorises, as lines may be
/// long.
pub(super) fn last_line_end(bytes: &[u8]) -> Option<usize> {
    let mut end = bytes.len();
    for block in bytes.rchunks(usize::from(u8::MAX)) {
        let start = end - block.len();
        if line_ends(block) > 0 {
            return block.iter().rposition(|&byte| byte == b'\n').map(|at| start + at);
        }
        end = start;
    }
    None
}

/// Counts the line feeds in `bytes`.
pub(crate) fn line_ends(bytes: &[u8]) -> usize {
    count(bytes, |byte| byte == b'\n')
}

/// Counts the characters of UTF-8 bytes, which may start or end within a character.
pub(super) fn characters(bytes: &[u8]) -> usize {
    count(bytes, |byte| byte & 0xc0 != 0x80)
}

/// Counts bytes in blocks of 255: a sum in `u8` is vectorised well, one in wider integers is slow.
fn count(bytes: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    let of_block = |block: &[u8]| block.iter().map(|&byte| u8::from(is_counted(byte))).sum::<u8>();
    bytes.chunks(usize::from(u8::MAX)).map(|block| usize::from(of_block(block))).sum()
}

/// Converts a count that [`MAX_LEN`](super::Source::MAX_LEN) keeps small.
pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Converts an offset to an index.
pub(super) fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn places_on_one_long_line_are_found_in_any_order() {
        /// A generous deadline; counting each place from the start of the line took minutes.
        const AMPLE: Duration = Duration::from_secs(20);
        let text = format!("ab = 1\n{}", "ü\"x\", ".repeat(1 << 19));
        let locator = Locator::new(&text);
        let start = Instant::now();
        for number in (0..1 << 19).rev().step_by(8) {
            assert_eq!(locator.locate(7 + number * 7), (2, 1 + number * 6));
        }
        assert!(start.elapsed() < AMPLE, "{:?}", start.elapsed());
    }
}
