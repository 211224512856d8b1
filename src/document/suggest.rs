//! "Did you mean": the known word closest to a wrong one.

/// Returns the candidate that `word` is most likely a slip of, if one is close enough.
#[must_use]
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    /// Longer words are no slips; comparing them would cost the product of the lengths.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let bound = (word.chars().count() / 3).clamp(1, 3);
    // Tables are named in the singular.
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

/// Returns whether one word is the beginning of the other (`allowed` for `allowed_hostnames`).
fn is_start_of(word: &str, candidate: &str) -> bool {
    word.len() >= 4 && candidate.len() >= 4 && (candidate.starts_with(word) || word.starts_with(candidate))
}

/// Returns how many insertions, deletions, replacements and swaps of neighbours turn `a` into `b` (the restricted
/// Damerau-Levenshtein distance), ASCII case and `-` for `_` not counted.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars().map(|character| if character == '-' { '_' } else { character.to_ascii_lowercase() }).collect()
    };
    let (a, b) = (fold(a), fold(b));
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
    fn slips_find_their_word_and_other_words_do_not() {
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
