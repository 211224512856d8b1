//! Questions in flight: which thread asks each, so that none is asked twice at a time.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex};

use hashbrown::HashTable;

use crate::upstream::mux::Unclaimed;
use crate::util::lock;

/// The questions being asked upstream, each by one owner, a thread known by its number.
#[derive(Debug)]
pub(crate) struct InFlight<Q: Eq + Hash> {
    /// The questions in flight.
    table: Arc<Table<Q>>,
    /// The limit of questions in flight.
    most: usize,
    /// Hashes questions; the key is random.
    hasher: RandomState,
}

/// The questions in flight.
type Table<Q> = Mutex<HashTable<Entry<Q>>>;

/// One question in flight.
#[derive(Debug)]
struct Entry<Q> {
    question: Arc<Q>,
    /// The hash of the question.
    hash: u64,
    /// The number of the thread that asks it.
    owner: usize,
}

impl<Q: Eq + Hash> InFlight<Q> {
    /// Returns an empty table for so many questions.
    pub(crate) fn new(most: usize) -> Self {
        Self { table: Arc::default(), most, hasher: RandomState::new() }
    }

    /// Returns whether `question` is in flight.
    pub(crate) fn holds(&self, question: &Q) -> bool {
        let hash = self.hasher.hash_one(question);
        lock(&self.table).find(hash, |entry| *entry.question == *question).is_some()
    }

    /// Gives thread `owner` the claim to the question of `query`, which comes back with it; where another thread has it, the
    /// query is handed there. That is done under the lock: so it is there before the claim is given back.
    ///
    /// # Errors
    /// The query got no claim.
    pub(crate) fn enter<W>(
        &self,
        query: W,
        question: impl Fn(&W) -> &Arc<Q>,
        owner: usize,
        hand: impl FnOnce(usize, W),
    ) -> Result<(Claim<Q>, W), Unclaimed<W>> {
        let asked = question(&query);
        let hash = self.hasher.hash_one(&**asked);
        let mut table = lock(&self.table);
        match table.find(hash, |entry| *entry.question == **asked) {
            Some(entry) if entry.owner != owner => {
                hand(entry.owner, query);
                return Err(Unclaimed::Handed);
            }
            None if table.len() < self.most => {}
            _ => return Err(Unclaimed::Full(query)),
        }
        table.insert_unique(hash, Entry { question: Arc::clone(asked), hash, owner }, |entry| entry.hash);
        Ok((Claim { table: Arc::clone(&self.table), question: Arc::clone(asked), hash }, query))
    }
}

/// The right to ask a question; dropped, the question is no longer in flight.
#[derive(Debug)]
pub(crate) struct Claim<Q: Eq + Hash> {
    table: Arc<Table<Q>>,
    question: Arc<Q>,
    /// The hash of the question.
    hash: u64,
}

impl<Q: Eq + Hash> Drop for Claim<Q> {
    fn drop(&mut self) {
        if let Ok(entry) = lock(&self.table).find_entry(self.hash, |entry| Arc::ptr_eq(&entry.question, &self.question))
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets thread `owner` ask `question`; returns the claim, or whom it was handed to.
    fn enter(
        in_flight: &InFlight<&'static str>,
        question: &'static str,
        owner: usize,
    ) -> Result<Claim<&'static str>, Option<usize>> {
        let mut handed = None;
        let entered = in_flight.enter(Arc::new(question), |query| query, owner, |owner, _| handed = Some(owner));
        entered.map(|(claim, _)| claim).map_err(|_| handed)
    }

    #[test]
    fn question_has_one_owner_until_its_claim_is_dropped() {
        let in_flight = InFlight::new(10);
        let claim = enter(&in_flight, "a", 3).unwrap();
        assert_eq!(enter(&in_flight, "a", 5).unwrap_err(), Some(3));
        assert_eq!(enter(&in_flight, "a", 3).unwrap_err(), None, "it is the owner's own");
        assert!(in_flight.holds(&"a") && !in_flight.holds(&"b"));
        drop(claim);
        assert!(!in_flight.holds(&"a"));
        assert!(enter(&in_flight, "a", 5).is_ok());
    }

    #[test]
    fn questions_beyond_the_limit_get_no_claim_and_those_in_flight_are_joined() {
        let in_flight = InFlight::new(1);
        let _claim = enter(&in_flight, "a", 0).unwrap();
        assert_eq!(enter(&in_flight, "b", 1).unwrap_err(), None);
        assert_eq!(enter(&in_flight, "a", 1).unwrap_err(), Some(0));
    }
}
