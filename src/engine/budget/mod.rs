//! The accounts of what clients looked up that is new, against the [`Budget`] of their policies.
//!
//! Only what is sent to upstreams is counted, and what comes back for the first time: a name that is cached or known goes
//! on when a budget is spent. Each client has a ledger: the names and answers it knows (a [`Known`] filter) and an
//! allowance for each wildcard, of meters by the generic cell rate algorithm (ITU-T I.371, Annex A): a meter is the time
//! until which what was used has been paid for, which must not lie more than some minutes ahead.

mod known;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::known::Known;
use crate::bounds::{MAX_ALLOWANCES, MAX_BUDGET_LINES, MAX_LEDGERS};
use crate::dns::name::{LowerName, Suffixes};
use crate::dns::response::{Payload, Response};
use crate::dns::rtype::RecordType;
use crate::policy::budget::{ANSWER_BURST, BURST, Budget, DOMAINS, REPEAT_BURST, Scope};
use crate::share::{ByHolder, Holder};

/// The tables of ledgers, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// How long a ledger is kept that is not used: all its meters are full by then.
const KEPT_FOR: Duration = Duration::from_mins(10);

/// The octets of an answer that is looked at again when it comes from the cache: less than that was counted by whoever
/// brought it there.
const HEAVY: u32 = 128;

/// The limit of a budget that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// New names.
    Names,
    /// Octets of new names.
    Octets,
    /// Known names that have to be asked for again.
    Repeats,
    /// Octets of new answers.
    Answers,
    /// Octets of new addresses.
    Addresses,
    /// The length of a name.
    Longest,
    /// The labels of a name.
    Deepest,
}

impl Spent {
    /// Returns the key of the limit in `budget`.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Octets => "octets",
            Self::Repeats => "repeats",
            Self::Answers => "answers",
            Self::Addresses => "addresses",
            Self::Longest => "longest",
            Self::Deepest => "deepest",
        }
    }
}

/// The ledgers of all clients; bounded, the one that was not used for longest goes.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// The ledgers.
    shards: [Mutex<ByHolder<Box<Ledger>>>; SHARDS],
    /// Hashes names and scopes with a random key: a client must not be able to choose names that look known.
    hasher: RandomState,
    /// The log lines of this minute.
    lines: Mutex<Lines>,
}

/// How many log lines there were in a minute.
#[derive(Debug, Default)]
struct Lines {
    /// The number of the minute.
    minute: u64,
    /// The lines in it.
    count: usize,
}

/// What one client used.
#[derive(Debug, Default)]
struct Ledger {
    /// The names and answers it knows.
    known: Known,
    /// What it used of each scope, by the scope's hash.
    allowances: HashMap<u64, Allowance>,
    /// What it used of all scopes for which there was no room in `allowances`, as if they were one.
    overflow: Allowance,
    /// What it used of all domains under `allow_all`.
    domains: Allowance,
    /// When allowances that are full again were last taken out.
    swept: Duration,
    /// When it was last used.
    used: Duration,
}

/// What was used of one scope.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    /// New names.
    names: Meter,
    /// Their octets.
    octets: Meter,
    /// Known names asked for again.
    repeats: Meter,
    /// Octets of answers.
    answers: Meter,
    /// Octets of addresses.
    addresses: Meter,
    /// The minute, counted from 1, in which it was last logged that something was spent.
    logged: u64,
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

/// A client and a scope that something is counted for, and by which budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account<'a> {
    /// The client.
    pub(crate) holder: Holder,
    /// Its budget.
    pub(crate) budget: &'a Budget,
    /// The scope.
    pub(crate) scope: Scope<'a>,
}

impl Budgets {
    /// Returns accounts in which nothing was used.
    pub(crate) fn new() -> Self {
        Self { shards: Default::default(), hasher: RandomState::new(), lines: Mutex::default() }
    }

    /// Counts a question for `qname` that is to be sent to an upstream.
    ///
    /// # Errors
    /// The limit that is spent: the question must not be sent, and nothing was counted.
    pub(crate) fn ask(
        &self,
        account: Account<'_>,
        qname: &LowerName,
        qtype: RecordType,
        now: Duration,
    ) -> Result<(), Spent> {
        let Account { budget, scope, .. } = account;
        let octets = weight(qname, scope);
        let name = self.hasher.hash_one(qname.as_wire());
        // What every client asks for about a name comes with it.
        let is_usual = matches!(qtype, RecordType::A | RecordType::AAAA | RecordType::HTTPS);
        let usual = is_usual.then(|| self.hasher.hash_one((name, qtype.0)));
        self.with(account, now, |ledger, place| {
            let (mut one, mut all) = (*ledger.at(place), ledger.domains);
            let is_domain = matches!(scope, Scope::Domain(_));
            if ledger.known.holds(name) {
                if let Some(usual) = usual
                    && !ledger.known.holds(usual)
                {
                    ledger.known.insert(usual);
                    return Ok(());
                }
                one.add_repeat(budget, place.times(), now)?;
                if is_domain {
                    all.add_repeat(budget, DOMAINS, now)?;
                }
            } else {
                check_form(qname, scope, budget)?;
                one.add_name(octets, budget, place.times(), now)?;
                if is_domain {
                    // The domain itself is the client's choice as well.
                    all.add_name(weight(qname, Scope::Domain(&[0])), budget, DOMAINS, now)?;
                }
                ledger.known.insert(name);
                if let Some(usual) = usual {
                    ledger.known.insert(usual);
                }
            }
            (*ledger.at(place), ledger.domains) = (one, all);
            Ok(())
        })
    }

    /// Returns whether an answer counts when it is given: one that comes from an upstream if it carries anything, one from
    /// the cache if it carries much, or was kept from a client before.
    pub(crate) fn counts(response: &Response, is_cached: bool) -> bool {
        let least = if is_cached && !response.was_withheld() { HEAVY } else { 0 };
        response.payload().octets() > least
    }

    /// Counts an answer that is about to be given, unless the client was given it before.
    ///
    /// # Errors
    /// [`Spent::Answers`] or [`Spent::Addresses`]: the answer must not be given as it is, and nothing was counted.
    pub(crate) fn answer(&self, account: Account<'_>, payload: &Payload, now: Duration) -> Result<(), Spent> {
        self.with(account, now, |ledger, place| {
            let Payload { answer, rest, addresses } = *payload;
            let parts = [answer, rest, addresses].map(|part| (part.octets, self.hasher.hash_one(part.content)));
            let known = &mut ledger.known;
            let new = parts.map(|(octets, content)| if octets > 0 && !known.holds(content) { octets } else { 0 });
            let (mut one, mut all) = (*ledger.at(place), ledger.domains);
            one.add_answer(new, account.budget, place.times(), now)?;
            if matches!(account.scope, Scope::Domain(_)) {
                all.add_answer(new, account.budget, DOMAINS, now)?;
            }
            (*ledger.at(place), ledger.domains) = (one, all);
            for (_, (_, content)) in new.iter().zip(parts).filter(|(octets, _)| **octets > 0) {
                ledger.known.insert(content);
            }
            Ok(())
        })
    }

    /// Returns whether it should be logged that something of an account is spent: once a minute for each, and not more than
    /// [`MAX_BUDGET_LINES`] a minute in all.
    pub(crate) fn is_to_be_logged(&self, account: Account<'_>, now: Duration) -> bool {
        let minute = millis(now) / MINUTE + 1;
        let is_first =
            self.with(account, now, |ledger, place| std::mem::replace(&mut ledger.at(place).logged, minute) != minute);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.minute != minute {
            *lines = Lines { minute, count: 0 };
        }
        let is_logged = is_first && lines.count < MAX_BUDGET_LINES;
        lines.count += usize::from(is_logged);
        is_logged
    }

    /// Does `work` with the ledger of an account's client and the place of the scope's allowance in it.
    fn with<T>(&self, account: Account<'_>, now: Duration, work: impl FnOnce(&mut Ledger, Place) -> T) -> T {
        let mut shard = self.shard(account.holder);
        if !shard.contains_key(&account.holder) && shard.len() >= MAX_LEDGERS / SHARDS {
            make_room(&mut shard, now);
        }
        let ledger = shard.entry(account.holder).or_default();
        ledger.used = now;
        let scope = self.hasher.hash_one(account.scope.wire());
        let place = ledger.place(scope, now);
        work(ledger, place)
    }

    /// Locks the table of a holder's ledger; each change is complete in itself.
    fn shard(&self, holder: Holder) -> MutexGuard<'_, ByHolder<Box<Ledger>>> {
        // Bits that the table within does not take its bucket or its tag from.
        let index = usize::try_from(holder.number() >> 20).unwrap_or(0) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the allowance of a scope is.
#[derive(Clone, Copy)]
enum Place {
    /// It has one of its own, by this hash.
    Own(u64),
    /// There was no room for it.
    Overflow,
}

impl Place {
    /// Returns how many times the budget of one scope there is at this place.
    const fn times(self) -> u32 {
        match self {
            Self::Own(_) => 1,
            Self::Overflow => DOMAINS,
        }
    }
}

impl Ledger {
    /// Returns the place of a scope's allowance.
    ///
    /// No allowance makes room for another one before it is full again: a client that uses many scopes must not get more
    /// of one of them by that.
    fn place(&mut self, scope: u64, now: Duration) -> Place {
        /// How long allowances are left alone at least: to look through all of them takes longer than to find one.
        const PAUSE: Duration = Duration::from_secs(10);
        if self.allowances.contains_key(&scope) {
            return Place::Own(scope);
        }
        if self.allowances.len() >= MAX_ALLOWANCES && now.saturating_sub(self.swept) >= PAUSE {
            self.allowances.retain(|_, allowance| allowance.paid_until() > millis(now));
            self.swept = now;
        }
        if self.allowances.len() >= MAX_ALLOWANCES {
            return Place::Overflow;
        }
        self.allowances.insert(scope, Allowance::default());
        Place::Own(scope)
    }

    /// Returns the allowance at a place.
    fn at(&mut self, place: Place) -> &mut Allowance {
        match place {
            Place::Own(scope) => self.allowances.entry(scope).or_default(),
            Place::Overflow => &mut self.overflow,
        }
    }
}

impl Allowance {
    /// Adds a new name whose labels count so much, to `times` a budget.
    fn add_name(&mut self, octets: u32, budget: &Budget, times: u32, now: Duration) -> Result<(), Spent> {
        self.names = self.names.after(1, rate(budget.names, times), BURST, now).ok_or(Spent::Names)?;
        self.octets = self.octets.after(octets, rate(budget.octets, times), BURST, now).ok_or(Spent::Octets)?;
        Ok(())
    }

    /// Adds a known name that is asked for again, to `times` a budget.
    fn add_repeat(&mut self, budget: &Budget, times: u32, now: Duration) -> Result<(), Spent> {
        self.repeats = self.repeats.after(1, rate(budget.repeats, times), REPEAT_BURST, now).ok_or(Spent::Repeats)?;
        Ok(())
    }

    /// Adds what is new in an answer, of data in both parts of it and of addresses, to `times` a budget.
    fn add_answer(&mut self, new: [u32; 3], budget: &Budget, times: u32, now: Duration) -> Result<(), Spent> {
        let [answer, rest, addresses] = new;
        let data = self.answers.after(answer.saturating_add(rest), rate(budget.answers, times), ANSWER_BURST, now);
        let addresses = self.addresses.after(addresses, rate(budget.addresses, times), ANSWER_BURST, now);
        (self.answers, self.addresses) = (data.ok_or(Spent::Answers)?, addresses.ok_or(Spent::Addresses)?);
        Ok(())
    }

    /// Returns the time until which all of it is paid for.
    fn paid_until(&self) -> u64 {
        let Self { names, octets, repeats, answers, addresses, logged: _ } = self;
        [names, octets, repeats, answers, addresses].into_iter().map(|meter| meter.0).max().unwrap_or(0)
    }
}

/// Returns so many times a limit.
fn rate(limit: u32, times: u32) -> u64 {
    u64::from(limit) * u64::from(times)
}

/// Returns what the labels of a name below a scope count: their octets, with their lengths; of a label of more than
/// [`USUAL_LABEL`] octets more, by the square, and twice as much where it is no hostname's. Everyday labels are short; tunnels
/// make them as long as they can.
fn weight(qname: &LowerName, scope: Scope<'_>) -> u32 {
    let below = qname.suffixes().count().saturating_sub(Suffixes::of(scope.wire()).count());
    let is_plain =
        |label: &[u8]| label.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
    let weights = qname.labels().take(below).map(|label| {
        let weight = 1 + label.len().max(label.len() * label.len() / USUAL_LABEL);
        if is_plain(label) { weight } else { 2 * weight }
    });
    u32::try_from(weights.sum::<usize>()).unwrap_or(u32::MAX)
}

/// The octets of a label up to which each counts as one.
const USUAL_LABEL: usize = 16;

/// Checks the length and the labels of a name that is new, as far as it is below the scope.
fn check_form(qname: &LowerName, scope: Scope<'_>, budget: &Budget) -> Result<(), Spent> {
    /// The names of IPv6 addresses have 32 labels below this one (RFC 3596 §2.5).
    const REVERSE: &[u8] = b"\x03ip6\x04arpa\0";
    let octets = qname.as_wire().len().saturating_sub(scope.wire().len());
    if octets > usize::try_from(budget.longest).unwrap_or(usize::MAX) {
        return Err(Spent::Longest);
    }
    let labels = qname.suffixes().count().saturating_sub(Suffixes::of(scope.wire()).count());
    let is_reverse = qname.suffixes().any(|suffix| suffix == REVERSE);
    if !is_reverse && u32::try_from(labels).unwrap_or(u32::MAX) > budget.deepest {
        return Err(Spent::Deepest);
    }
    Ok(())
}

/// Makes room for a ledger: takes out those that are no longer of use, else the one that was not used for longest.
fn make_room(shard: &mut ByHolder<Box<Ledger>>, now: Duration) {
    let full = shard.len();
    shard.retain(|_, ledger| now.saturating_sub(ledger.used) < KEPT_FOR);
    if shard.len() == full
        && let Some(oldest) = shard.iter().min_by_key(|(_, ledger)| ledger.used).map(|(holder, _)| *holder)
    {
        shard.remove(&oldest);
    }
}

/// Returns a time in whole milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests;
