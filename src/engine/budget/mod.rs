//! The accounts of what clients looked up that is new, against the [`Budget`] of their policies.
//!
//! Only what is sent to upstreams is counted, and what comes back for the first time: a name that is cached or known goes
//! on when a budget is spent. Each client has a ledger: the names and answers it knows (a [`Known`] filter) and an
//! [`Allowance`] for each wildcard.

mod addresses;
mod allowance;
mod known;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use self::addresses::{Cost, Set};
use self::allowance::{Allowance, Use, minute};
use self::known::Known;
use crate::bounds::{MAX_ALLOWANCES, MAX_BUDGET_LINES, MAX_LEDGERS};
use crate::dns::name::LowerName;
use crate::dns::response::{Payload, Response};
use crate::dns::rtype::RecordType;
use crate::fair_share::{ByHolder, Holder};
use crate::policy::model::budget::{Budget, DOMAINS, Limit, Scope};
use crate::util::{lock, millis};

/// The tables of ledgers, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The time after which an unused ledger is dropped: all its meters are full by then.
const KEPT_FOR: Duration = Duration::from_mins(10);

/// The octets of an answer that is looked at again when it comes from the cache: less than that was counted by whoever
/// brought it there.
const HEAVY: u32 = 128;

/// The ledgers of all clients; bounded, the one that was not used for longest goes.
#[derive(Debug)]
pub(crate) struct Budgets {
    shards: [Mutex<ByHolder<Box<Ledger>>>; SHARDS],
    /// Hashes names and scopes with a random key: a client must not be able to choose names that look known.
    hasher: RandomState,
    /// The log lines of this minute.
    lines: Mutex<Lines>,
}

/// The number of log lines in the current minute.
#[derive(Debug, Default)]
struct Lines {
    /// The number of the minute.
    minute: u64,
    /// The lines in it.
    count: usize,
}

/// The ledger of one client.
#[derive(Debug, Default)]
struct Ledger {
    /// The names and answers it knows.
    known: Known,
    /// The used allowance of each scope, by the scope's hash.
    allowances: HashMap<u64, Allowance>,
    /// The used allowance of all scopes that did not fit into `allowances`, counted as one.
    overflow: Allowance,
    /// The used allowance of all domains under `allow_all`.
    domains: Allowance,
    /// The time at which allowances that are full again were last removed.
    swept: Duration,
    /// The time of the last use.
    used: Duration,
}

/// A client and a scope that something is counted for, and by which budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account<'a> {
    pub(crate) holder: Holder,
    pub(crate) budget: &'a Budget,
    pub(crate) scope: Scope<'a>,
}

/// An answer that is about to be given.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a, I> {
    /// The name that was asked for.
    pub(crate) qname: &'a LowerName,
    /// The payload of the answer.
    pub(crate) payload: &'a Payload,
    /// The addresses in it, in the sender's order.
    pub(crate) addresses: I,
    /// `true` if the answer is from an upstream, `false` if it is from the cache.
    pub(crate) is_fresh: bool,
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
    ) -> Result<(), Limit> {
        let Account { budget, scope, .. } = account;
        let octets = scope.weight(qname);
        let name = self.hasher.hash_one(qname.as_wire());
        // What every client asks for about a name comes with it.
        let is_usual = matches!(qtype, RecordType::A | RecordType::AAAA | RecordType::HTTPS);
        let usual = is_usual.then(|| self.hasher.hash_one((name, qtype.0)));
        self.with(account, now, |ledger, place| {
            let (mut one, mut all) = (*ledger.at(place), ledger.domains);
            let is_domain = matches!(scope, Scope::Domain(_));
            // Of a question that every client has of a name, only its place among others says something.
            let add_usual = |one: &mut Allowance, all: &mut Allowance| {
                let is_paid = one.add_octets(1, budget, place.times(), now).is_ok();
                is_paid && (!is_domain || all.add_octets(1, budget, DOMAINS, now).is_ok())
            };
            if ledger.known.holds(name) {
                let first = usual.filter(|usual| !ledger.known.holds(*usual));
                if let Some(usual) = first
                    && add_usual(&mut one, &mut all)
                {
                    ledger.known.insert(usual);
                } else {
                    one.add_repeat(budget, place.times(), now)?;
                    if is_domain {
                        all.add_repeat(budget, DOMAINS, now)?;
                    }
                }
            } else {
                budget.check_form(qname, scope)?;
                one.add_name(octets, budget, place.times(), now)?;
                if is_domain {
                    // The domain itself is the client's choice as well.
                    all.add_name(Scope::Domain(&[0]).weight(qname), budget, DOMAINS, now)?;
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

    /// Counts an answer that is about to be given, as far as the client was not given it before.
    ///
    /// # Errors
    /// [`Limit::Answers`] or [`Limit::Addresses`]: the answer must not be given as it is, and nothing was counted.
    pub(crate) fn answer<'a, I>(&self, account: Account<'_>, given: &Given<'a, I>, now: Duration) -> Result<(), Limit>
    where
        I: Iterator<Item = &'a [u8]> + Clone,
    {
        let Payload { answer, rest, dnssec, addresses } = *given.payload;
        let parts = [answer, rest, dnssec].map(|part| (part.octets, self.hasher.hash_one(part.content)));
        let set = (addresses.octets > 0).then(|| self.set(given));
        self.with(account, now, |ledger, place| {
            let known = &mut ledger.known;
            let [answer, rest, dnssec] =
                parts.map(|(octets, content)| if octets > 0 && !known.holds(content) { octets } else { 0 });
            let cost = set.map_or_else(Cost::default, |set| set.cost(known, given.is_fresh));
            let data = answer.saturating_add(rest);
            let steady = dnssec.saturating_add(cost.octets);
            let (mut one, mut all) = (*ledger.at(place), ledger.domains);
            one.add_answer(data, account.budget, place.times(), now)?;
            one.add_addresses(steady, account.budget, place.times(), (Use::Whole, now))?;
            if matches!(account.scope, Scope::Domain(_)) {
                all.add_answer(data, account.budget, DOMAINS, now)?;
                all.add_addresses(steady, account.budget, DOMAINS, (Use::Whole, now))?;
            }
            (*ledger.at(place), ledger.domains) = (one, all);
            let new = [answer, rest, dnssec].into_iter().zip(parts).filter(|(octets, _)| *octets > 0);
            let entries = new.map(|(_, (_, content))| content).chain(cost.entries);
            entries.for_each(|entry| ledger.known.insert(entry));
            Ok(())
        })
    }

    /// Counts addresses of an answer that must not be given as a whole, and returns those that may be: known ones, or as many
    /// as there is room for.
    pub(crate) fn addresses<'a, I>(&self, account: Account<'_>, given: &Given<'a, I>, now: Duration) -> Vec<&'a [u8]>
    where
        I: Iterator<Item = &'a [u8]> + Clone,
    {
        let set = self.set(given);
        self.with(account, now, |ledger, place| {
            let (mut one, mut all) = (*ledger.at(place), ledger.domains);
            let pays = |known: &mut Known, cost: Cost, from_reserve: bool| {
                let used = if from_reserve { Use::Reserve } else { Use::Whole };
                let (mut one_after, mut all_after) = (one, all);
                let mut paid = one_after.add_addresses(cost.octets, account.budget, place.times(), (used, now));
                if matches!(account.scope, Scope::Domain(_)) {
                    paid =
                        paid.and_then(|()| all_after.add_addresses(cost.octets, account.budget, DOMAINS, (used, now)));
                }
                if paid.is_ok() {
                    (one, all) = (one_after, all_after);
                    cost.entries.into_iter().for_each(|entry| known.insert(entry));
                }
                paid.is_ok()
            };
            let addresses = set.least(&mut ledger.known, pays);
            (*ledger.at(place), ledger.domains) = (one, all);
            addresses
        })
    }

    /// Returns the addresses of an answer as what is counted of them.
    fn set<'a, I>(&self, given: &Given<'a, I>) -> Set<'_, I>
    where
        I: Iterator<Item = &'a [u8]> + Clone,
    {
        let name = self.hasher.hash_one(given.qname.as_wire());
        Set { key: &self.hasher, name, addresses: given.addresses.clone(), part: given.payload.addresses }
    }

    /// Returns whether it should be logged that something of an account is spent: once a minute for each limit, and not more
    /// than [`MAX_BUDGET_LINES`] a minute in all.
    pub(crate) fn is_to_be_logged(&self, account: Account<'_>, spent: Limit, now: Duration) -> bool {
        let minute = minute(now);
        let is_first = self.with(account, now, |ledger, place| ledger.at(place).note_logged(spent, minute));
        let mut lines = lock(&self.lines);
        if lines.minute != minute {
            *lines = Lines { minute, count: 0 };
        }
        let is_logged = is_first && lines.count < MAX_BUDGET_LINES;
        lines.count += usize::from(is_first);
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
        lock(&self.shards[index])
    }
}

/// The place of a scope's allowance in a ledger.
#[derive(Clone, Copy)]
enum Place {
    /// The allowance of its own, by the scope's hash.
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
        /// The least time between two removals of full allowances: walking through all takes longer than finding one.
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

#[cfg(test)]
mod tests;
