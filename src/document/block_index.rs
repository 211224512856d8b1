//! An index of a text by blocks, so that a place in a large file is found without a walk from its start.
//!
//! Files may hold a hundred thousand policies and have a warning for each of them.

use super::place::{characters, last_line_end, line_ends};

/// The positions at the start of each block of a text.
#[derive(Debug)]
pub(super) struct BlockIndex(Box<[Block]>);

/// The position at the start of a block.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// The number of line feeds before the block.
    lines: usize,
    /// The number of characters that start before the block.
    characters: usize,
    /// The number of characters that start before the line in which the block starts.
    before_line: usize,
}

impl BlockIndex {
    /// The size of a block in octets.
    pub(super) const BLOCK: usize = 2048;

    /// Walks through a text once.
    pub(super) fn new(text: &str) -> Self {
        let mut at = Block::default();
        let mut blocks = vec![at];
        for block in text.as_bytes().chunks(Self::BLOCK) {
            if let Some(newline) = last_line_end(block) {
                at.before_line = at.characters + characters(&block[..=newline]);
            }
            at.lines += line_ends(block);
            at.characters += characters(block);
            blocks.push(at);
        }
        Self(blocks.into())
    }

    /// Returns the line and the column, both from 1, of the octet `at` of the text that the index is of.
    pub(super) fn place(&self, text: &str, at: usize) -> (usize, usize) {
        let (block, start) = self.block(at);
        let within = text.as_bytes().get(start..at).unwrap_or_default();
        let before_line = last_line_end(within)
            .map_or(block.before_line, |newline| block.characters + characters(&within[..=newline]));
        (block.lines + line_ends(within) + 1, block.characters + characters(within) - before_line + 1)
    }

    /// Returns the offset of the character at a line and column, both from 1; the end of the text if there is none.
    pub(super) fn offset(&self, text: &str, line: usize, column: usize) -> usize {
        let (lines, column) = (line.saturating_sub(1), column.saturating_sub(1));
        // The last line feed before the line is in the block before the first one that has all of them before it.
        let number = self.0.partition_point(|block| block.lines < lines).saturating_sub(1);
        let (block, start) = (self.0[number], number * Self::BLOCK);
        let rest = text.as_bytes().get(start..).unwrap_or_default();
        let newline = match lines - block.lines {
            0 => None,
            after => {
                let ends = rest.iter().enumerate().filter(|(_, octet)| **octet == b'\n');
                match ends.map(|(at, _)| at).nth(after - 1) {
                    Some(at) => Some(at),
                    None => return text.len(),
                }
            }
        };
        let before_line = newline.map_or(block.before_line, |at| block.characters + characters(&rest[..=at]));
        let wanted = before_line + column;
        let number = self.0.partition_point(|block| block.characters <= wanted).saturating_sub(1);
        let (block, start) = (self.0[number], number * Self::BLOCK);
        let rest = text.as_bytes().get(start..).unwrap_or_default();
        let starts = rest.iter().enumerate().filter(|(_, octet)| is_start(**octet)).map(|(at, _)| start + at);
        starts.into_iter().nth(wanted - block.characters).unwrap_or(text.len())
    }

    /// Returns the block with an octet, and its start.
    fn block(&self, at: usize) -> (Block, usize) {
        let number = (at / Self::BLOCK).min(self.0.len() - 1);
        (self.0[number], number * Self::BLOCK)
    }
}

/// Returns whether an octet of UTF-8 is the first one of a character.
const fn is_start(octet: u8) -> bool {
    octet & 0xc0 != 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_finds_what_a_walk_finds() {
        let texts = [
            "",
            "\n",
            "x",
            &"ü".repeat(9000),
            &"ab ü\n".repeat(3000),
            &format!("{}\nüx\n\n{}", "ü".repeat(5000), "y".repeat(9000)),
        ];
        for text in texts {
            let index = BlockIndex::new(text);
            let (mut line, mut column) = (1, 1);
            for (at, character) in text.char_indices() {
                assert_eq!(index.place(text, at), (line, column), "{at}");
                assert_eq!(index.offset(text, line, column), at, "{line}:{column}");
                (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
            }
            assert_eq!(index.place(text, text.len()), (line, column));
            assert_eq!(index.offset(text, line, column), text.len());
            assert_eq!(index.offset(text, line + 1, 1), text.len());
        }
    }
}
