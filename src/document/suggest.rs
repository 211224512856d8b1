//! Suggestions for misspelt words: the known word with the least edit distance.

/// Returns the candidate that `word` is most likely a misspelling of; `None` if none is close enough.
#[must_use]
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    /// The length limit of compared words, as the cost is the product of both lengths.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    // One edit for every three characters, from one to three in all: short words are close to too many others.
    let bound = (word.chars().count() / 3).clamp(1, 3);
    // Table names are singular, so a plural in -ies is compared as its singular in -y too.
    let singular = word.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let apart = |candidate: &str| {
        let of_singular = singular.as_ref().map_or(usize::MAX, |word| distance(word, candidate));
        of_singular.min(distance(word, candidate))
    };
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (apart(candidate), candidate))
        .filter(|(distance, candidate)| *distance <= bound || is_start_of(word, candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns whether one word is a prefix of the other, such as `allowed` of `allowed_hostnames`. Words
/// of fewer than four octets do not count, as they are prefixes of too many others.
fn is_start_of(word: &str, candidate: &str) -> bool {
    word.len() >= 4 && candidate.len() >= 4 && (candidate.starts_with(word) || word.starts_with(candidate))
}

/// Returns the number of insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (restricted
/// Damerau-Levenshtein distance). ASCII case, and `-` against `_`, do not count.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars().map(|character| if character == '-' { '_' } else { character.to_ascii_lowercase() }).collect()
    };
    let (a, b) = (fold(a), fold(b));
    // Three rows of the matrix suffice, as a swap looks two rows back.
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_word_and_other_words_do_not() {
        const KNOWN: &[&str] = &["allowed_hostnames", "denied_hostnames", "allow_all", "mode", "name", "policy"];
        const CASES: &[(&str, Option<&str>)] = &[
            ("alow_all", Some("allow_all")),
            ("allow-all", Some("allow_all")),
            ("allowed_hostname", Some("allowed_hostnames")),
            ("allowed", Some("allowed_hostnames")),
            ("Mode", Some("mode")),
            ("nmae", Some("name")),
            ("policies", Some("policy")),
            ("colour", None),
            ("x", None),
            ("", None),
        ];
        for (word, expected) in CASES {
            assert_eq!(closest(word, KNOWN.iter().copied()), *expected, "{word}");
        }
        assert_eq!(closest(&"a".repeat(10_000), KNOWN.iter().copied()), None);
    }
}
