//! What was used of a budget, by the generic cell rate algorithm (ITU-T I.371, Annex A): a meter is the time until which
//! what was used has been paid for, which must not lie more than some minutes ahead.

use std::time::Duration;

use crate::policy::model::budget::{ADDRESS_BURST, ANSWER_BURST, BURST, Budget, Limit, REPEAT_BURST};
use crate::util::millis;

/// The used part of the budget of one scope.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    /// New names that were asked for.
    names: Meter,
    /// Octets of the names that were asked for.
    octets: Meter,
    /// Known names asked for again.
    repeats: Meter,
    /// Octets of data in answers.
    answers: Meter,
    /// Octets of addresses and of DNSSEC records.
    addresses: Meter,
    /// The minute, counted from 1, in which it was last logged that something was spent.
    logged: u64,
    /// The limits that were logged in it: a bit for each [`Limit`].
    logged_limits: u8,
}

/// The part of the addresses' allowance that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// The part for complete answers.
    Whole,
    /// The minute's worth that is kept for answers of a single address, too.
    Reserve,
}

/// The time, in milliseconds, until which what was used has been paid for.
#[derive(Clone, Copy, Debug, Default)]
struct Meter(u64);

impl Meter {
    /// Returns the meter after `amount` more at `rate` a minute; `None` if more than `burst` minutes would then lie ahead.
    fn after(self, amount: u32, rate: u64, burst: u32, now: Duration) -> Option<Self> {
        if amount == 0 {
            return Some(self);
        }
        let now = millis(now);
        let paid = self.0.max(now) + (u64::from(amount) * MINUTE).checked_div(rate)?;
        (paid <= now + u64::from(burst) * MINUTE).then_some(Self(paid))
    }
}

/// A minute in milliseconds.
const MINUTE: u64 = 60_000;

impl Allowance {
    /// Adds a new name whose labels count so much, to `times` a budget.
    pub(super) fn add_name(&mut self, octets: u32, budget: &Budget, times: u32, now: Duration) -> Result<(), Limit> {
        self.names = self.names.after(1, rate(budget.names, times), BURST, now).ok_or(Limit::Names)?;
        self.add_octets(octets, budget, times, now)
    }

    /// Adds octets that a question carries, to `times` a budget.
    pub(super) fn add_octets(&mut self, octets: u32, budget: &Budget, times: u32, now: Duration) -> Result<(), Limit> {
        self.octets = self.octets.after(octets, rate(budget.octets, times), BURST, now).ok_or(Limit::Octets)?;
        Ok(())
    }

    /// Adds a known name that is asked for again, to `times` a budget.
    pub(super) fn add_repeat(&mut self, budget: &Budget, times: u32, now: Duration) -> Result<(), Limit> {
        self.repeats = self.repeats.after(1, rate(budget.repeats, times), REPEAT_BURST, now).ok_or(Limit::Repeats)?;
        Ok(())
    }

    /// Adds octets of data of an answer, to `times` a budget.
    pub(super) fn add_answer(&mut self, octets: u32, budget: &Budget, times: u32, now: Duration) -> Result<(), Limit> {
        self.answers =
            self.answers.after(octets, rate(budget.answers, times), ANSWER_BURST, now).ok_or(Limit::Answers)?;
        Ok(())
    }

    /// Adds octets of addresses and DNSSEC records, to `times` a budget.
    pub(super) fn add_addresses(
        &mut self,
        octets: u32,
        budget: &Budget,
        times: u32,
        (used, now): (Use, Duration),
    ) -> Result<(), Limit> {
        let burst = ADDRESS_BURST + u32::from(used == Use::Reserve);
        self.addresses =
            self.addresses.after(octets, rate(budget.addresses, times), burst, now).ok_or(Limit::Addresses)?;
        Ok(())
    }

    /// Returns the time until which all of it is paid for, in milliseconds.
    pub(super) fn paid_until(&self) -> u64 {
        let Self { names, octets, repeats, answers, addresses, logged: _, logged_limits: _ } = self;
        [names, octets, repeats, answers, addresses].into_iter().map(|meter| meter.0).max().unwrap_or(0)
    }

    /// Notes that it is logged that a limit is spent; returns whether it was not in this minute.
    pub(super) fn note_logged(&mut self, spent: Limit, minute: u64) -> bool {
        if self.logged != minute {
            (self.logged, self.logged_limits) = (minute, 0);
        }
        let limit = 1 << spent as u8;
        let is_first = self.logged_limits & limit == 0;
        self.logged_limits |= limit;
        is_first
    }
}

/// Returns so many times a limit.
fn rate(limit: u32, times: u32) -> u64 {
    u64::from(limit) * u64::from(times)
}

/// Returns the minute of a time, counted from 1.
pub(super) fn minute(time: Duration) -> u64 {
    millis(time) / MINUTE + 1
}
