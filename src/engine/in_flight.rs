//! Questions in flight: whoever asks what is being asked already waits for that answer.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex};

use hashbrown::HashTable;
use tokio::sync::watch;

use crate::bounds::{MAX_ASKERS, MAX_QUESTIONS};
use crate::util::lock;

/// How much may be in flight; beyond it, an asker is turned away at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Different questions at a time.
    pub questions: usize,
    /// Askers of one question at a time, the first included.
    pub askers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { questions: MAX_QUESTIONS, askers: MAX_ASKERS }
    }
}

/// Why an asker got no answer from a question in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InFlightError {
    /// As many questions are in flight as may be.
    #[error("too many questions in flight")]
    Questions,
    /// As many askers wait for this question as may.
    #[error("too many askers wait for the same question")]
    Askers,
    /// The work on the question ended without a result: it panicked, or the runtime stops.
    #[error("the work on the question ended without a result")]
    Lost,
}

/// The questions being asked upstream, each once, however many askers wait for it.
///
/// Whoever asks a question first holds the [`Claim`] to it; all others wait for the result. Work started by
/// [`InFlight::join`] is a task of its own: an asker that leaves cancels nothing for the others (in hickory-resolver
/// 0.26.3 the first one's leaving forgets the merge).
#[derive(Debug)]
pub struct InFlight<Q: Eq + Hash, T> {
    /// The questions in flight.
    table: Arc<Table<Q, T>>,
    /// The bounds.
    limits: Limits,
    /// Hashes questions; the key is random.
    hasher: RandomState,
}

/// The questions in flight, and where each one's result will appear; no channel as long as nobody waits.
type Table<Q, T> = Mutex<HashTable<Entry<Q, T>>>;

/// One question in flight.
#[derive(Debug)]
struct Entry<Q, T> {
    /// The question.
    question: Arc<Q>,
    /// Its hash.
    hash: u64,
    /// Where its result will appear.
    sender: Option<Sender<T>>,
}

/// Where a result will appear; its receivers are the askers that wait.
type Sender<T> = watch::Sender<Option<T>>;

impl<Q, T> InFlight<Q, T>
where
    Q: Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Returns an empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { table: Arc::default(), limits, hasher: RandomState::new() }
    }

    /// Returns how many questions are in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.table).len()
    }

    /// Returns whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether `question` is in flight.
    #[must_use]
    pub fn holds(&self, question: &Q) -> bool {
        let hash = self.hasher.hash_one(question);
        lock(&self.table).find(hash, |entry| *entry.question == *question).is_some()
    }

    /// Returns the claim to `question`, if nobody has it and not too many questions are in flight.
    #[must_use]
    pub fn claim(&self, question: &Arc<Q>) -> Option<Claim<Q, T>> {
        let hash = self.hasher.hash_one(&**question);
        let mut table = lock(&self.table);
        if table.len() >= self.limits.questions || table.find(hash, |entry| *entry.question == **question).is_some() {
            return None;
        }
        Some(self.claim_in(&mut table, hash, question, None))
    }

    /// Waits for the result of `question`: of whoever has the claim to it, else of `work`, which is started.
    ///
    /// `work` is called only when this asker is the first. What it does (such as keeping the answer in the cache)
    /// is done before the question counts as no longer in flight.
    ///
    /// # Errors
    /// Too many questions or askers: at once. [`InFlightError::Lost`] when the work panicked.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn join<W>(&self, question: &Arc<Q>, work: impl FnOnce() -> W) -> Result<T, InFlightError>
    where
        W: Future<Output = T> + Send + 'static,
    {
        self.enter(question, work)?.result().await
    }

    /// Joins those who wait for `question`, if it is in flight; the result comes even if it is there before anybody
    /// looks. `None` if it is not in flight.
    ///
    /// # Errors
    /// Too many askers.
    pub fn attend(&self, question: &Q) -> Option<Result<Attendance<T>, InFlightError>> {
        self.attend_in(&mut lock(&self.table), self.hasher.hash_one(question), question)
    }

    /// Gives those who wait for `question`, if anybody does, a result that came another way than by its claim.
    pub fn offer(&self, question: &Q, result: &T) {
        let hash = self.hasher.hash_one(question);
        let table = lock(&self.table);
        if let Some(Entry { sender: Some(sender), .. }) = table.find(hash, |entry| *entry.question == *question) {
            sender.send_if_modified(|value| {
                let is_new = value.is_none();
                value.get_or_insert_with(|| result.clone());
                is_new
            });
        }
    }

    /// Puts a question into the table and returns the claim to it.
    fn claim_in(
        &self,
        table: &mut HashTable<Entry<Q, T>>,
        hash: u64,
        question: &Arc<Q>,
        sender: Option<Sender<T>>,
    ) -> Claim<Q, T> {
        table.insert_unique(hash, Entry { question: Arc::clone(question), hash, sender }, |entry| entry.hash);
        Claim { table: Arc::clone(&self.table), question: Arc::clone(question), hash, is_settled: false }
    }

    /// Does the work of [`InFlight::attend`] on a locked table.
    fn attend_in(
        &self,
        table: &mut HashTable<Entry<Q, T>>,
        hash: u64,
        question: &Q,
    ) -> Option<Result<Attendance<T>, InFlightError>> {
        let entry = table.find_mut(hash, |entry| *entry.question == *question)?;
        let sender = entry.sender.get_or_insert_with(|| watch::channel(None).0);
        // The one who has the claim asks too.
        let may_wait = sender.receiver_count() < self.limits.askers;
        Some(if may_wait { Ok(Attendance(sender.subscribe())) } else { Err(InFlightError::Askers) })
    }

    /// Returns where the result will appear; starts the work when nobody has.
    fn enter<W>(&self, question: &Arc<Q>, work: impl FnOnce() -> W) -> Result<Attendance<T>, InFlightError>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let hash = self.hasher.hash_one(&**question);
        let mut table = lock(&self.table);
        if let Some(attending) = self.attend_in(&mut table, hash, question) {
            return attending;
        }
        if table.len() >= self.limits.questions {
            return Err(InFlightError::Questions);
        }
        let (sender, receiver) = watch::channel(None);
        // From here on the entry goes with the claim, also when making or spawning the work panics.
        let claim = self.claim_in(&mut table, hash, question, Some(sender));
        drop(table);
        let work = work();
        tokio::spawn(async move { claim.settle(work.await) });
        Ok(Attendance(receiver))
    }
}

/// A place among those who wait for a question.
#[derive(Debug)]
pub struct Attendance<T>(watch::Receiver<Option<T>>);

impl<T: Clone> Attendance<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`InFlightError::Lost`] when the work panicked.
    pub async fn result(mut self) -> Result<T, InFlightError> {
        let found = self.0.wait_for(Option::is_some).await.map_err(|_| InFlightError::Lost)?;
        found.clone().ok_or(InFlightError::Lost)
    }
}

/// The right and duty to find the result of a question. Dropping it unsettled, as a panic does, ends the waiting of
/// all others with [`InFlightError::Lost`].
#[derive(Debug)]
pub struct Claim<Q: Eq + Hash, T> {
    /// The table.
    table: Arc<Table<Q, T>>,
    /// The question.
    question: Arc<Q>,
    /// Its hash.
    hash: u64,
    /// Whether the result is out.
    is_settled: bool,
}

impl<Q: Eq + Hash, T> Claim<Q, T> {
    /// Returns the question.
    #[must_use]
    pub fn question(&self) -> &Arc<Q> {
        &self.question
    }

    /// Gives the result to all who wait; the question is no longer in flight.
    pub fn settle(mut self, result: T) {
        self.is_settled = true;
        if let Some(sender) = self.take_out() {
            sender.send_replace(Some(result));
        }
    }
}

impl<Q: Eq + Hash, T> Claim<Q, T> {
    /// Takes the question out of the table; returns where its result is waited for, if it is.
    fn take_out(&self) -> Option<Sender<T>> {
        let mut table = lock(&self.table);
        let entry = table.find_entry(self.hash, |entry| Arc::ptr_eq(&entry.question, &self.question)).ok()?;
        entry.remove().0.sender
    }
}

impl<Q: Eq + Hash, T> Drop for Claim<Q, T> {
    fn drop(&mut self) {
        if !self.is_settled {
            drop(self.take_out());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// Work that counts its starts and ends when told.
    #[derive(Default)]
    struct Work {
        /// How often it was started.
        started: AtomicUsize,
        /// Lets it end.
        go: Notify,
    }

    /// A table and the work its askers share.
    struct Scene {
        /// The table under test.
        in_flight: Arc<InFlight<&'static str, usize>>,
        /// The work.
        work: Arc<Work>,
    }

    impl Scene {
        /// Returns a scene with these bounds.
        fn new(questions: usize, askers: usize) -> Self {
            Self { in_flight: Arc::new(InFlight::new(Limits { questions, askers })), work: Arc::default() }
        }

        /// Starts an asker and lets it get as far as it can.
        async fn ask(&self, question: &'static str) -> JoinHandle<Result<usize, InFlightError>> {
            let (in_flight, work) = (Arc::clone(&self.in_flight), Arc::clone(&self.work));
            let asker = tokio::spawn(async move {
                let start = || async move {
                    let number = work.started.fetch_add(1, Ordering::Relaxed) + 1;
                    work.go.notified().await;
                    number
                };
                in_flight.join(&Arc::new(question), start).await
            });
            for _ in 0..8 {
                yield_now().await;
            }
            asker
        }

        /// Returns how often work was started.
        fn started(&self) -> usize {
            self.work.started.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn askers_of_one_question_share_one_work() {
        let scene = Scene::new(10, 10);
        let askers = [scene.ask("a").await, scene.ask("a").await, scene.ask("a").await];
        assert_eq!((scene.started(), scene.in_flight.len()), (1, 1));
        scene.work.go.notify_one();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), Ok(1));
        }
        for _ in 0..8 {
            yield_now().await;
        }
        assert!(scene.in_flight.is_empty());
        let later = scene.ask("a").await;
        scene.work.go.notify_one();
        assert_eq!(later.await.unwrap(), Ok(2), "what has landed is asked anew");
    }

    #[tokio::test]
    async fn a_first_asker_that_leaves_cancels_nothing() {
        let scene = Scene::new(10, 10);
        let first = scene.ask("a").await;
        let second = scene.ask("a").await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        scene.work.go.notify_one();
        assert_eq!(second.await.unwrap(), Ok(1));
        assert_eq!(scene.started(), 1);
    }

    #[tokio::test]
    async fn askers_beyond_the_bounds_are_turned_away_at_once() {
        let scene = Scene::new(2, 2);
        let (one, two, other) = (scene.ask("a").await, scene.ask("a").await, scene.ask("b").await);
        assert_eq!(scene.ask("a").await.await.unwrap(), Err(InFlightError::Askers));
        assert_eq!(scene.ask("c").await.await.unwrap(), Err(InFlightError::Questions));
        two.abort();
        assert!(two.await.unwrap_err().is_cancelled());
        let again = scene.ask("a").await;
        scene.work.go.notify_waiters();
        assert!(one.await.unwrap().is_ok() && again.await.unwrap().is_ok() && other.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn who_attends_before_the_result_is_out_gets_it_whenever_it_looks() {
        let in_flight = InFlight::<_, usize>::new(Limits { questions: 1, askers: 1 });
        assert!(in_flight.attend(&"a").is_none(), "not in flight");
        let claim = in_flight.claim(&Arc::new("a")).unwrap();
        let attending = in_flight.attend(&"a").unwrap().unwrap();
        assert_eq!(in_flight.attend(&"a").unwrap().unwrap_err(), InFlightError::Askers);
        claim.settle(7);
        assert!(in_flight.is_empty());
        assert_eq!(attending.result().await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_panics_is_lost_for_its_askers_and_blocks_nobody() {
        let in_flight = InFlight::<_, usize>::new(Limits::default());
        let lost = in_flight.join(&Arc::new("a"), || async { panic!("the work's own") }).await;
        assert_eq!(lost, Err(InFlightError::Lost));
        assert_eq!(in_flight.join(&Arc::new("a"), || async { 7 }).await, Ok(7));
    }
}
