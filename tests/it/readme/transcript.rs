//! Console blocks as they stand in a Markdown file, and whether an output is the one that stands there.

use std::collections::HashMap;

/// A fenced block.
pub(super) struct Block {
    /// The line of its first line.
    pub(super) line: usize,
    /// The word behind the fence.
    pub(super) kind: String,
    /// Its lines.
    pub(super) lines: Vec<String>,
}

/// Returns the fenced blocks of a Markdown file, of which failures name the path.
pub(super) fn blocks(path: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some(Block { line: number + 2, kind: kind.to_owned(), lines: Vec::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{path}: a block is not closed");
    blocks
}

/// The ids that the API gave, by those of the file.
#[derive(Debug, Default)]
pub(super) struct Ids(HashMap<String, String>);

impl Ids {
    /// Puts the ids that were given in the place of those of the file.
    pub(super) fn in_place(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (written, given)| text.replace(written, given))
    }

    /// Returns whether lines are those of the file but for what differs from run to run. `...` stands for any lines.
    pub(super) fn matches(&mut self, expected: &[String], actual: &[String]) -> bool {
        match (expected, actual) {
            ([], []) => true,
            ([any, rest @ ..], _) if any == "..." => {
                (0..=actual.len()).any(|start| self.matches(rest, &actual[start..]))
            }
            ([first, expected @ ..], [line, actual @ ..]) => {
                self.is_like(first, line) && self.matches(expected, actual)
            }
            _ => false,
        }
    }

    /// Returns whether a line is the one of the file but for times, ids and numbers of messages, and spaces.
    fn is_like(&mut self, expected: &str, actual: &str) -> bool {
        let (expected, actual): (Vec<&str>, Vec<&str>) =
            (expected.split_whitespace().collect(), actual.split_whitespace().collect());
        let before = |index: usize| index.checked_sub(1).map_or("", |before| expected[before]);
        let after = |index: usize| expected.get(index + 1).copied().unwrap_or_default();
        expected.len() == actual.len()
            && expected.iter().zip(&actual).enumerate().all(|(index, (written, came))| {
                // Ids of messages, TTLs, an uptime, times in files.
                let varies = matches!(before(index), "id:" | "up") || after(index) == "IN" || before(index) == "=";
                written == came
                    || is_time(written) && is_time(came)
                    || varies && is_number(written) && is_number(came)
                    || self.is_id(written, came)
            })
    }

    /// Returns whether two words are the same but for the ids of objects in them, and takes note of these.
    fn is_id(&mut self, written: &str, came: &str) -> bool {
        let Some(start) = ["npol_", "bpt_", "dbx_"].iter().find_map(|prefix| written.find(prefix)) else {
            return false;
        };
        let (Some(written_id), Some(given)) = (id(written, start), id(came, start)) else { return false };
        if written.replace(written_id, "") != came.replace(given, "") {
            return false;
        }
        self.0.entry(written_id.to_owned()).or_insert_with(|| given.to_owned()) == given
    }
}

/// Returns the id that starts somewhere in a word.
fn id(word: &str, start: usize) -> Option<&str> {
    let rest = word.get(start..)?;
    let end = rest.find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Returns whether a word is a time as hostgate writes it.
fn is_time(word: &str) -> bool {
    word.len() > 20 && word.starts_with("20") && word.as_bytes()[10] == b'T' && word.ends_with('Z')
}

/// Returns whether a word is a whole number.
fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn outputs_differ_in_nothing_but_times_and_ids() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (expected, actual, is_same) in [
        (
            "2026-11-24T11:01:59.670078Z  INFO ready hash=\"1\"",
            "2027-01-01T00:00:00.000001Z INFO ready hash=\"1\"",
            true,
        ),
        (
            "2026-11-24T11:01:59.670078Z  INFO ready hash=\"1\"",
            "2027-01-01T00:00:00.000001Z INFO ready hash=\"2\"",
            false,
        ),
        ("status: NOERROR, id: 1", "status: NOERROR, id: 65000", true),
        ("1 error, 0 warnings", "2 error, 0 warnings", false),
        ("a.test.\t5\tIN\tA\t192.0.2.1", "a.test.  300  IN  A  192.0.2.1", true),
        ("a.test.\t5\tIN\tA\t192.0.2.1", "a.test.  300  IN  A  192.0.2.2", false),
        ("a\n...\nz", "a\nb\nc\nz", true),
        ("a\n...", "a", true),
        ("a", "a\nb", false),
        ("[policy.npol_1]\nnpol_1", "[policy.npol_2]\nnpol_2", true),
        ("npol_1\nnpol_1", "npol_2\nnpol_3", false),
    ] {
        assert_eq!(Ids::default().matches(&lines(expected), &lines(actual)), is_same, "{expected}\n{actual}");
    }
}
