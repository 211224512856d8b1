//! Ids of what the API creates: they sort by the time of creation.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::objects::kind::Kind;
use crate::upstream::random::Random;
use crate::util::lock;

/// Makes ids, each greater than all before it.
pub(in crate::api) struct Ids(Mutex<Source>);

/// What ids are made from.
struct Source {
    /// The last one.
    last: u128,
    /// Random bits.
    random: Random,
}

impl Ids {
    /// Makes ids that follow those in use: the clock may have been set back since. Those from beyond [`FURTHEST`] do not
    /// count: a person made them up, and what followed them would be no times, and in the end no ids.
    pub(in crate::api) fn after<'i>(ids: impl Iterator<Item = &'i str>) -> Self {
        let end = u128::from(now_ms() + FURTHEST) << RANDOM_BITS;
        let last = ids.filter_map(number).filter(|&number| number < end).max().unwrap_or(0);
        Self(Mutex::new(Source { last, random: Random::default() }))
    }

    /// Makes the next id.
    pub(in crate::api) fn next(&self, kind: Kind) -> String {
        let now = u128::from(now_ms());
        let mut source = lock(&self.0);
        // The highest random bit stays clear, so that counting up within a millisecond does not change the time.
        let random = u128::from(source.random.next_bits() >> (65 - RANDOM_BITS));
        source.last = (source.last + 1).max(now << RANDOM_BITS | random);
        text(kind, source.last)
    }
}

/// Returns the time in milliseconds since 1970 began.
pub(in crate::api) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes an id.
fn text(kind: Kind, number: u128) -> String {
    let digit = |place: usize| {
        let value = usize::try_from(number >> (DIGIT_BITS * (DIGITS - 1 - place)) & 0x1f).unwrap_or_default();
        char::from(ALPHABET[value])
    };
    kind.prefix().chars().chain((0..DIGITS).map(digit)).collect()
}

/// Returns the number in an id, if the API made it.
fn number(id: &str) -> Option<u128> {
    let digits = Kind::of(id).and_then(|kind| id.strip_prefix(kind.prefix()))?;
    let value = |digit: u8| ALPHABET.iter().position(|&other| other == digit);
    let number = digits.bytes().try_fold(0_u128, |number, digit| Some(number << DIGIT_BITS | value(digit)? as u128))?;
    (digits.len() == DIGITS).then_some(number)
}

/// The digits of base 32, in an order that sorts, without letters that look like others.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Bits of a digit.
const DIGIT_BITS: usize = 5;

/// Digits of an id: 90 bits.
const DIGITS: usize = 18;

/// The bits that are no time: 45 are left for milliseconds, which is a thousand years.
const RANDOM_BITS: usize = 45;

/// How far ahead of the clock ids in use may be, in milliseconds: a day.
const FURTHEST: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_time_of_their_creation_and_after_those_in_use() {
        let ids = Ids::after(std::iter::empty());
        let made: Vec<_> = (0..10_000).map(|_| ids.next(Kind::Devbox)).collect();
        assert!(made.is_sorted_by(|one, two| one < two));
        assert!(made.iter().all(|id| id.len() == 4 + DIGITS && id.starts_with("dbx_")), "{}", made[0]);
        let elapsed = (number(&made[9_999]).unwrap() >> RANDOM_BITS).abs_diff(u128::from(now_ms()));
        assert!(elapsed < 60_000, "{elapsed}");
        // The clock was set back some hours since.
        let late = text(Kind::Policy, u128::from(now_ms() + FURTHEST - 60_000) << RANDOM_BITS);
        let ids = Ids::after(["agent", "npol_", "npol_u", &late].into_iter());
        assert!(ids.next(Kind::Policy) > late);
    }

    #[test]
    fn ids_from_the_future_do_not_count() {
        let far = text(Kind::Policy, u128::from(now_ms() + FURTHEST + 60_000) << RANDOM_BITS);
        let ids = Ids::after(["dbx_zzzzzzzzzzzzzzzzzz", &far].into_iter());
        let id = ids.next(Kind::Policy);
        let elapsed = (number(&id).unwrap() >> RANDOM_BITS).abs_diff(u128::from(now_ms()));
        assert!(elapsed < 60_000, "{id}");
    }

    #[test]
    fn an_id_is_its_number() {
        for id in [0, 1, (1 << 90) - 1, 0x1234_5678_9abc_def0_1234_u128] {
            assert_eq!(number(&text(Kind::Blueprint, id)), Some(id));
        }
        assert_eq!(number("bpt_00000000000000000i"), None);
        assert_eq!(number("bpt_0000000000000000000"), None);
    }
}
