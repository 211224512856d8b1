//! Ids of created objects, which sort by the time of creation: lists show them newest first without another index.

use std::sync::Mutex;

use crate::api::now_ms;
use crate::api::objects::ApiKind;
use crate::upstream::random::Random;
use crate::util::lock;

/// The digits of base 32, in ascending order, without letters that look like others (Crockford's).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGIT_BITS: usize = 5;
/// The digits of an id: 90 bits.
const DIGITS: usize = 18;
/// The random bits; the other 45 are milliseconds since 1970, enough for a thousand years.
const RANDOM_BITS: usize = 45;
/// The milliseconds that ids in use may be ahead of the clock: a day.
const FURTHEST: u64 = 24 * 60 * 60 * 1000;

/// A generator of ids, each greater than all before it.
pub(in crate::api) struct ObjectIds(Mutex<IdState>);

struct IdState {
    last: u128,
    random: Random,
}

impl ObjectIds {
    /// Makes ids that follow those in use, as the clock may have been set back. Ids from beyond [`FURTHEST`] do not count:
    /// a person made them up, and ids after them would not have the time of creation.
    pub(in crate::api) fn after<'i>(ids: impl Iterator<Item = &'i str>) -> Self {
        let end = u128::from(now_ms() + FURTHEST) << RANDOM_BITS;
        let last = ids.filter_map(number).filter(|&number| number < end).max().unwrap_or(0);
        Self(Mutex::new(IdState { last, random: Random::default() }))
    }

    /// Returns the next id.
    pub(in crate::api) fn next(&self, kind: ApiKind) -> String {
        let now = u128::from(now_ms());
        let mut state = lock(&self.0);
        // The highest random bit is clear, so that counting up within a millisecond does not change the time.
        let random = u128::from(state.random.next_bits() >> (65 - RANDOM_BITS));
        state.last = (state.last + 1).max(now << RANDOM_BITS | random);
        text(kind, state.last)
    }
}

/// Returns the id with a number.
fn text(kind: ApiKind, number: u128) -> String {
    let digit = |place: usize| {
        let value = usize::try_from(number >> (DIGIT_BITS * (DIGITS - 1 - place)) & 0x1f).unwrap_or_default();
        char::from(ALPHABET[value])
    };
    kind.prefix().chars().chain((0..DIGITS).map(digit)).collect()
}

/// Returns the number in an id; `None` unless the API made it.
fn number(id: &str) -> Option<u128> {
    let digits = ApiKind::of_id(id).and_then(|kind| id.strip_prefix(kind.prefix()))?;
    let value = |digit: u8| ALPHABET.iter().position(|&other| other == digit);
    let number = digits.bytes().try_fold(0_u128, |number, digit| Some(number << DIGIT_BITS | value(digit)? as u128))?;
    (digits.len() == DIGITS).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_time_of_their_creation_and_after_those_in_use() {
        let ids = ObjectIds::after(std::iter::empty());
        let made: Vec<_> = (0..10_000).map(|_| ids.next(ApiKind::Devbox)).collect();
        assert!(made.is_sorted_by(|one, two| one < two));
        assert!(made.iter().all(|id| id.len() == 4 + DIGITS && id.starts_with("dbx_")), "{}", made[0]);
        let elapsed = (number(&made[9_999]).unwrap() >> RANDOM_BITS).abs_diff(u128::from(now_ms()));
        assert!(elapsed < 60_000, "{elapsed}");
        // The clock was set back some hours since.
        let late = text(ApiKind::Policy, u128::from(now_ms() + FURTHEST - 60_000) << RANDOM_BITS);
        let ids = ObjectIds::after(["agent", "npol_", "npol_u", &late].into_iter());
        assert!(ids.next(ApiKind::Policy) > late);
    }

    #[test]
    fn ids_from_the_future_do_not_count() {
        let far = text(ApiKind::Policy, u128::from(now_ms() + FURTHEST + 60_000) << RANDOM_BITS);
        let ids = ObjectIds::after(["dbx_zzzzzzzzzzzzzzzzzz", &far].into_iter());
        let id = ids.next(ApiKind::Policy);
        let elapsed = (number(&id).unwrap() >> RANDOM_BITS).abs_diff(u128::from(now_ms()));
        assert!(elapsed < 60_000, "{id}");
    }

    #[test]
    fn an_id_is_its_number() {
        for id in [0, 1, (1 << 90) - 1, 0x1234_5678_9abc_def0_1234_u128] {
            assert_eq!(number(&text(ApiKind::Blueprint, id)), Some(id));
        }
        assert_eq!(number("bpt_00000000000000000i"), None);
        assert_eq!(number("bpt_0000000000000000000"), None);
    }
}
