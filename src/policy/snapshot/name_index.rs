//! Case-insensitive search in an ordered set of ids, without a second index: ids are case-sensitive, names are not (RFC
//! 4343).

/// Returns the first element of an ordered set whose id equals `lower` when case is ignored; `from` returns the first
/// element whose id is not below a text.
///
/// The matching ids are scattered over the set, as capital letters sort before small ones. The search asks for the
/// smallest possible id, and from the element found there for the next possible one after it.
pub(crate) fn first_ignoring_case<'s, T>(
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

/// Returns the smallest text above `other` that equals `lower` when case is ignored.
fn next_of_any_case(lower: &[u8], other: &[u8]) -> Option<String> {
    let alike = lower.iter().zip(other).take_while(|(one, two)| **one == two.to_ascii_lowercase()).count();
    // The first letter that differs decides: its capital form if that is above the other's letter, else its small form.
    // If neither is above, an earlier letter has to be raised from capital to small.
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
        fn the_search_agrees_with_a_naive_walk(
            ids in prop::collection::btree_set("[abAB_1.]{1,5}", 0..40),
            lower in "[ab_1.]{1,5}",
        ) {
            let ids: Vec<String> = ids.into_iter().collect();
            let from = |id: &str| ids.get(ids.partition_point(|own| own.as_str() < id));
            let walked = ids.iter().find(|id| id.to_ascii_lowercase() == lower);
            prop_assert_eq!(first_ignoring_case(&lower, from, |id| id.as_str()), walked);
        }
    }
}
