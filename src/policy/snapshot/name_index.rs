//! Ids by names that have no capital letters.

/// Finds the first of an ordered set whose id is `lower` but for capital letters; `from` returns the first at or behind an id.
///
/// The ids that are meant lie scattered in the order of the set, as capital letters stand before all small ones. So it
/// asks for the smallest one that is possible, and from what stands there takes the next possible one behind that.
pub(crate) fn leap<'s, T>(
    lower: &str,
    from: impl Fn(&str) -> Option<&'s T>,
    id: impl Fn(&'s T) -> &'s str,
) -> Option<&'s T> {
    let mut wanted = lower.to_ascii_uppercase();
    loop {
        let found = from(&wanted)?;
        if id(found).eq_ignore_ascii_case(lower) {
            return Some(found);
        }
        wanted = next_of_any_case(lower.as_bytes(), id(found).as_bytes())?;
    }
}

/// Returns the smallest text behind `other` that is `lower` but for capital letters.
fn next_of_any_case(lower: &[u8], other: &[u8]) -> Option<String> {
    let alike = lower.iter().zip(other).take_while(|(one, two)| **one == two.to_ascii_lowercase()).count();
    // The letter where the two part decides, the capital one if that is behind the other's; else an earlier one is raised.
    let kept = match (lower.get(alike), other.get(alike)) {
        (Some(_), None) => other.to_vec(),
        (Some(letter), Some(two)) if letter > two => {
            let capital = letter.to_ascii_uppercase();
            [&other[..alike], &[if capital > *two { capital } else { *letter }]].concat()
        }
        _ => {
            let raised = (0..alike).rev().find(|&at| lower[at] > other[at])?;
            [&other[..raised], &lower[raised..=raised]].concat()
        }
    };
    let rest = lower[kept.len()..].to_ascii_uppercase();
    String::from_utf8([kept, rest].concat()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn leaping_finds_what_a_walk_finds(
            ids in prop::collection::btree_set("[abAB_1.]{1,5}", 0..40),
            lower in "[ab_1.]{1,5}",
        ) {
            let ids: Vec<String> = ids.into_iter().collect();
            let from = |id: &str| ids.get(ids.partition_point(|own| own.as_str() < id));
            let walked = ids.iter().find(|id| id.to_ascii_lowercase() == lower);
            prop_assert_eq!(leap(&lower, from, |id| id.as_str()), walked);
        }
    }
}
