//! Deadlines of what a thread has in flight: a hashed timer wheel (Varghese and Lauck, "Hashed and Hierarchical Timing
//! Wheels", SOSP 1987, scheme 6).
//!
//! Nearly every deadline is cancelled, because the answer came. A heap pays for each with the logarithm of all, and keeps
//! those that were cancelled; here setting and cancelling are a few stores whatever the number, and no more is kept than
//! there are places. The price is coarseness: a deadline comes up to a tick late, which is nothing beside a round trip
//! that took too long. Pure: every method is told the time.

use std::time::Duration;

/// The resolution of deadlines.
const TICK: Duration = Duration::from_millis(4);
/// Slots: with [`TICK`] they span two seconds, longer than nearly every question takes. What is further off is passed
/// over once every turn of the wheel.
const SLOTS: usize = 512;
/// Slots told of by one word of [`Wheel::occupied`].
const WORD: usize = 64;
/// The index that stands for no place.
const NIL: u32 = u32::MAX;

/// Deadlines by place: a place has one or none.
pub(super) struct Wheel {
    /// The first place in each slot.
    slots: [u32; SLOTS],
    /// A bit for each slot that holds something.
    occupied: [u64; SLOTS / WORD],
    /// The timer of each place.
    timers: Vec<Timer>,
    /// The last tick whose deadlines were taken out.
    done: u64,
}

/// The deadline of one place, linked with the others of its slot.
#[derive(Clone, Copy)]
struct Timer {
    /// The tick it comes at; 0 is none.
    due: u64,
    /// The place before it in its slot.
    previous: u32,
    /// The place behind it in its slot.
    next: u32,
}

impl Wheel {
    /// Returns a wheel without deadlines.
    pub(super) fn new() -> Self {
        Self { slots: [NIL; SLOTS], occupied: [0; SLOTS / WORD], timers: Vec::new(), done: 0 }
    }

    /// Sets the deadline of `place`, in place of what it was. One that is over comes with the next tick.
    pub(super) fn set(&mut self, place: usize, at: Duration) {
        self.cancel(place);
        if place >= self.timers.len() {
            self.timers.resize(place + 1, Timer { due: 0, previous: NIL, next: NIL });
        }
        // Rounded up: never early.
        let due = ticks(at + TICK.saturating_sub(Duration::from_nanos(1))).max(self.done + 1);
        let slot = slot(due);
        let first = self.slots[slot];
        let here = u32::try_from(place).expect("fewer places than 2^32");
        self.timers[place] = Timer { due, previous: NIL, next: first };
        if let Some(first) = self.timer_mut(first) {
            first.previous = here;
        }
        self.slots[slot] = here;
        self.occupied[slot / WORD] |= 1 << (slot % WORD);
    }

    /// Takes the deadline of `place` away, if it has one.
    pub(super) fn cancel(&mut self, place: usize) {
        let Some(timer) = self.timers.get_mut(place).filter(|timer| timer.due != 0) else { return };
        let Timer { due, previous, next } = *timer;
        timer.due = 0;
        if let Some(next) = self.timer_mut(next) {
            next.previous = previous;
        }
        if let Some(previous) = self.timer_mut(previous) {
            previous.next = next;
            return;
        }
        let slot = slot(due);
        self.slots[slot] = next;
        if next == NIL {
            self.occupied[slot / WORD] &= !(1 << (slot % WORD));
        }
    }

    /// Takes out the deadlines that are over and appends their places to `places`.
    pub(super) fn expire(&mut self, now: Duration, places: &mut Vec<usize>) {
        let now = ticks(now);
        // A slot a tick; after a long time all of them once.
        for tick in (self.done + 1..=now).take(SLOTS) {
            let mut here = self.slots[slot(tick)];
            while let Some(&Timer { due, next, .. }) = self.timer(here) {
                if due <= now {
                    let place = at(here);
                    self.cancel(place);
                    places.push(place);
                }
                here = next;
            }
        }
        self.done = self.done.max(now);
    }

    /// Returns how long until a deadline may come; `None` if there is none. Never too long.
    pub(super) fn until_next(&self, now: Duration) -> Option<Duration> {
        let start = slot(self.done + 1);
        // The word that holds the start comes twice: for what is behind it first, and at the end for what is before.
        let distance = (0..=SLOTS / WORD).find_map(|step| {
            let word = (start / WORD + step) % (SLOTS / WORD);
            let behind = u64::MAX << (start % WORD);
            let bits = match step {
                0 => self.occupied[word] & behind,
                _ if step == SLOTS / WORD => self.occupied[word] & !behind,
                _ => self.occupied[word],
            };
            let found = word * WORD + usize::try_from(bits.trailing_zeros()).unwrap_or(0);
            (bits != 0).then_some((found + SLOTS - start) % SLOTS)
        })?;
        let tick = u32::try_from(self.done + 1 + u64::try_from(distance).unwrap_or(0)).unwrap_or(u32::MAX);
        Some((TICK * tick).saturating_sub(now))
    }

    /// Returns what is known of a place.
    fn timer(&self, place: u32) -> Option<&Timer> {
        self.timers.get(at(place))
    }

    /// Returns what is known of a place, to change it.
    fn timer_mut(&mut self, place: u32) -> Option<&mut Timer> {
        self.timers.get_mut(at(place))
    }
}

/// Returns the whole ticks in a time.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the slot of a tick.
fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

/// Returns a place as the vector takes it; that of [`NIL`] is beyond its end.
fn at(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Returns so many milliseconds.
    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Returns the places whose deadline is over, in order.
    fn expired(wheel: &mut Wheel, now: u64) -> Vec<usize> {
        let mut places = Vec::new();
        wheel.expire(ms(now), &mut places);
        places.sort_unstable();
        places
    }

    #[test]
    fn a_deadline_comes_once_and_within_a_tick() {
        let mut wheel = Wheel::new();
        wheel.set(3, ms(50));
        wheel.set(0, ms(51));
        assert_eq!(wheel.until_next(ms(0)), Some(ms(52)));
        assert!(expired(&mut wheel, 49).is_empty());
        assert_eq!(expired(&mut wheel, 52), [0, 3]);
        assert_eq!((expired(&mut wheel, 9_000), wheel.until_next(ms(9_000))), (vec![], None));
    }

    #[test]
    fn what_is_over_when_it_is_set_comes_with_the_next_tick() {
        let mut wheel = Wheel::new();
        assert!(expired(&mut wheel, 1_000).is_empty());
        wheel.set(0, ms(10));
        assert_eq!(wheel.until_next(ms(1_000)), Some(ms(4)));
        assert_eq!(expired(&mut wheel, 1_004), [0]);
    }

    #[test]
    fn what_is_cancelled_or_set_anew_does_not_come_as_it_was() {
        let mut wheel = Wheel::new();
        for place in 0..3 {
            wheel.set(place, ms(40));
        }
        wheel.cancel(1);
        wheel.cancel(1);
        wheel.cancel(7);
        wheel.set(2, ms(80));
        assert_eq!(expired(&mut wheel, 40), [0]);
        assert_eq!(expired(&mut wheel, 80), [2]);
    }

    proptest::proptest! {
        #[test]
        fn it_does_what_a_sorted_map_does(steps in proptest::collection::vec((0_u8..4, 0_usize..20, 0_u64..5_000), 0..200)) {
            let (mut wheel, mut naive, mut now) = (Wheel::new(), BTreeMap::new(), 0);
            for (step, place, time) in steps {
                match step {
                    0 | 1 => {
                        wheel.set(place, ms(now + time));
                        naive.insert(place, (now + time).div_ceil(4).max(now / 4 + 1));
                    }
                    2 => {
                        wheel.cancel(place);
                        naive.remove(&place);
                    }
                    _ => {
                        now += time;
                        let due: Vec<usize> =
                            naive.iter().filter(|(_, tick)| **tick <= now / 4).map(|(place, _)| *place).collect();
                        naive.retain(|_, tick| *tick > now / 4);
                        proptest::prop_assert_eq!(expired(&mut wheel, now), due);
                    }
                }
                let next = naive.values().min().map(|tick| ms(tick * 4).saturating_sub(ms(now)));
                match (wheel.until_next(ms(now)), next) {
                    (Some(told), Some(true_one)) => proptest::prop_assert!(told <= true_one),
                    (told, true_one) => proptest::prop_assert_eq!(told, true_one),
                }
            }
        }
    }
}
