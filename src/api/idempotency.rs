//! A request that comes again is not done again: the SDKs send the same `x-request-id` with every try of one call.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::objects::id::{made_at, now_ms};
use crate::api::objects::object_file::{Fields, kept_of};
use crate::api::request::error::ApiError;
use crate::bounds::{MAX_RETRIES, MAX_RETRY_OCTETS};
use crate::fair_share::{ByHolder, Holder};
use crate::policy::ApiTable;
use crate::util::lock;

/// The answers of requests that may come again, for an hour.
#[derive(Default)]
pub(super) struct Retries(Mutex<Answers>);

/// What is kept.
#[derive(Default)]
struct Answers {
    /// By request id.
    requests: HashMap<Arc<str>, Request>,
    /// What each token has of them.
    owned: ByHolder<Owned>,
    /// The octets of all bodies.
    octets: usize,
}

/// The requests of one token.
#[derive(Default)]
struct Owned {
    /// The ids, oldest first.
    order: VecDeque<(Arc<str>, Instant)>,
    /// The octets of their bodies.
    octets: usize,
}

/// A request.
struct Request {
    /// The token that it counts for.
    holder: Holder,
    /// What it was: who asked what.
    fingerprint: u64,
    /// How far it is.
    state: State,
}

/// How far a request is.
#[derive(Clone)]
enum State {
    /// It is under way; this gets its answer. A channel takes half a kilobyte, so it goes with the answer.
    UnderWay(watch::Receiver<Option<Answer>>),
    /// It is done.
    Done(Answer),
}

/// The answer to a request that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An object was created.
    Created(Arc<str>),
    /// Something else was done.
    Body(Bytes),
}

/// What a request is that begins.
pub(super) enum Begun {
    /// It is the first of its id.
    First(Ticket),
    /// It came before, and this was the answer.
    Again(Answer),
}

/// The right to answer a request; dropped without an answer, the request may be tried again.
pub(super) struct Ticket {
    /// Where it is kept.
    retries: Arc<Retries>,
    /// Its id.
    id: Arc<str>,
    /// Gets the answer.
    answer: watch::Sender<Option<Answer>>,
}

/// The request that created an object, as its file has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Restored {
    /// The request's id.
    request: Arc<str>,
    /// What it was.
    fingerprint: u64,
    /// When it was, in milliseconds since 1970 began.
    at: u64,
    /// What it made.
    object: Arc<str>,
}

impl Retries {
    /// Begins a request: waits if the same one is under way.
    ///
    /// # Errors
    /// The id is that of another request.
    pub(super) async fn begin(self: &Arc<Self>, holder: Holder, id: &str, fingerprint: u64) -> Result<Begun, ApiError> {
        loop {
            let state = {
                let mut answers = self.lock();
                answers.expire(holder);
                match answers.requests.get(id) {
                    None => {
                        let id: Arc<str> = id.into();
                        let (answer, receiver) = watch::channel(None);
                        let request = Request { holder, fingerprint, state: State::UnderWay(receiver) };
                        answers.add(&id, request, Instant::now());
                        return Ok(Begun::First(Ticket { retries: Arc::clone(self), id, answer }));
                    }
                    Some(request) if request.fingerprint != fingerprint => {
                        let message =
                            "x-request-id: it came with another request already: make a new one for each call";
                        return Err(ApiError::bad(message));
                    }
                    Some(request) => request.state.clone(),
                }
            };
            let mut under_way = match state {
                State::Done(answer) => return Ok(Begun::Again(answer)),
                State::UnderWay(under_way) => under_way,
            };
            // When the first one failed, this one is tried as if it were the first.
            if let Ok(answer) = under_way.wait_for(Option::is_some).await
                && let Some(answer) = &*answer
            {
                return Ok(Begun::Again(answer.clone()));
            }
        }
    }

    /// Takes over what created objects before the process was started.
    pub(super) fn restore(&self, mut restored: Vec<Restored>) {
        restored.sort_unstable_by_key(|request| request.at);
        // Their files do not have the token: together they count as one.
        let holder = Holder::named("");
        let (now, now_ms) = (Instant::now(), now_ms());
        let mut answers = self.lock();
        for Restored { request, fingerprint, at, object } in restored {
            let age = Duration::from_millis(now_ms.saturating_sub(at));
            if let Some(at) = now.checked_sub(age).filter(|_| age < KEEP) {
                let done = State::Done(Answer::Created(object));
                answers.add(&request, Request { holder, fingerprint, state: done }, at);
                answers.expire(holder);
            }
        }
    }

    /// Locks what is kept.
    fn lock(&self) -> MutexGuard<'_, Answers> {
        lock(&self.0)
    }
}

impl Answers {
    /// Adds a request.
    fn add(&mut self, id: &Arc<str>, request: Request, at: Instant) {
        self.owned.entry(request.holder).or_default().order.push_back((Arc::clone(id), at));
        self.requests.insert(Arc::clone(id), request);
    }

    /// Removes what is too old, and then the oldest of a token as long as it has as much as is free, so that none drives
    /// out what others may ask for again.
    fn expire(&mut self, holder: Holder) {
        let holders: Vec<Holder> = self.owned.keys().copied().collect();
        for known in holders {
            while self.oldest(known).is_some_and(|at| at.elapsed() >= KEEP) {
                self.forget(known);
            }
        }
        loop {
            let own = self.owned.get(&holder).map_or((0, 0), |own| (own.order.len(), own.octets));
            let free = (MAX_RETRIES.saturating_sub(self.requests.len()), MAX_RETRY_OCTETS.saturating_sub(self.octets));
            if own.0 < free.0 && own.1 <= free.1 {
                return;
            }
            let most = self.owned.iter().max_by_key(|(_, owned)| owned.order.len()).map(|(most, _)| *most);
            // A token that has none takes from the one that has most; there are more tokens than anybody has then.
            match most.filter(|_| own.0 == 0).or_else(|| (own.0 > 0).then_some(holder)) {
                Some(from) => self.forget(from),
                None => return,
            }
        }
    }

    /// Returns when the oldest request of a token came.
    fn oldest(&self, holder: Holder) -> Option<Instant> {
        self.owned.get(&holder)?.order.front().map(|(_, at)| *at)
    }

    /// Forgets the oldest request of a token.
    fn forget(&mut self, holder: Holder) {
        let Some(owned) = self.owned.get_mut(&holder) else { return };
        let removed = owned.order.pop_front().and_then(|(id, _)| self.requests.remove(&id));
        let octets = removed.map_or(0, |request| request.octets());
        owned.octets -= octets;
        self.octets -= octets;
        if owned.order.is_empty() {
            self.owned.remove(&holder);
        }
    }
}

impl Request {
    /// Returns the octets of the answer's body.
    fn octets(&self) -> usize {
        match &self.state {
            State::Done(Answer::Body(body)) => body.len(),
            State::Done(Answer::Created(_)) | State::UnderWay(_) => 0,
        }
    }
}

impl Ticket {
    /// Answers the request, for those that wait and those that come.
    pub(super) fn answer(self, answer: Answer) {
        let mut answers = self.retries.lock();
        // It may have been pushed out meanwhile; then only those that wait already hear of it.
        if let Some(request) = answers.requests.get_mut(&self.id).filter(|request| self.is_mine(request)) {
            request.state = State::Done(answer.clone());
            let (holder, octets) = (request.holder, request.octets());
            answers.octets += octets;
            answers.owned.entry(holder).or_default().octets += octets;
        }
        self.answer.send_replace(Some(answer));
    }

    /// Returns whether a request is the one that this is for.
    fn is_mine(&self, request: &Request) -> bool {
        matches!(&request.state, State::UnderWay(answer) if self.answer.subscribe().same_channel(answer))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.answer.borrow().is_some() {
            return;
        }
        let mut answers = self.retries.lock();
        if answers.requests.get(&self.id).is_some_and(|request| self.is_mine(request)) {
            let holder = answers.requests.remove(&self.id).map(|request| request.holder);
            if let Some(owned) = holder.and_then(|holder| answers.owned.get_mut(&holder)) {
                owned.order.retain(|(id, _)| *id != self.id);
            }
        }
    }
}

impl Restored {
    /// Reads the request that created an object from what the API keeps of it; none where its id says that it was made too
    /// long ago for its answer to be kept, which takes no reading.
    pub(super) fn of(record: &ApiTable) -> Option<Self> {
        let is_old = |made: u64| Duration::from_millis(now_ms().saturating_sub(made)) >= KEEP;
        if made_at(record.id()).is_some_and(is_old) {
            return None;
        }
        Self::read(record.id(), &kept_of(record))
    }

    /// Reads it from these fields.
    fn read(object: &str, fields: &Fields) -> Option<Self> {
        let text = |key| fields.get(key).and_then(Value::as_str);
        let fingerprint = u64::from_str_radix(text("request_hash")?, 16).ok()?;
        let at = fields.get("create_time_ms").and_then(Value::as_u64)?;
        Some(Self { request: text("request_id")?.into(), fingerprint, at, object: object.into() })
    }
}

/// Returns what a request is, the same in every process and release: FNV-1a over who asks and what.
pub(super) fn fingerprint(principal: &str, path: &str, body: &[u8]) -> u64 {
    let pieces = [principal.as_bytes(), b"\0", path.as_bytes(), b"\0", body];
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    pieces.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// How long an answer is kept.
const KEEP: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// A token.
    fn token() -> Holder {
        Holder::named("token")
    }

    /// Begins a request that is the first of its id.
    async fn first(retries: &Arc<Retries>, id: &str, fingerprint: u64) -> Ticket {
        match retries.begin(token(), id, fingerprint).await {
            Ok(Begun::First(ticket)) => ticket,
            _ => panic!("{id} came before"),
        }
    }

    #[tokio::test]
    async fn the_same_request_gets_the_first_answer_also_while_it_is_under_way() {
        let retries = Arc::new(Retries::default());
        let ticket = first(&retries, "a", 1).await;
        let again = tokio::spawn({
            let retries = Arc::clone(&retries);
            async move { retries.begin(token(), "a", 1).await }
        });
        assert!(retries.begin(token(), "a", 2).await.is_err_and(|error| error.status == 400));
        tokio::task::yield_now().await;
        ticket.answer(Answer::Created("npol_1".into()));
        let Ok(Begun::Again(answer)) = again.await.unwrap() else { panic!("it was done again") };
        assert_eq!(answer, Answer::Created("npol_1".into()));
        first(&retries, "b", 1).await;
    }

    #[tokio::test]
    async fn what_failed_may_be_tried_again() {
        let retries = Arc::new(Retries::default());
        let ticket = first(&retries, "a", 1).await;
        let again = tokio::spawn({
            let retries = Arc::clone(&retries);
            async move { first(&retries, "a", 1).await.answer(Answer::Body("x".into())) }
        });
        tokio::task::yield_now().await;
        drop(ticket);
        again.await.unwrap();
        assert!(matches!(retries.begin(token(), "a", 1).await, Ok(Begun::Again(Answer::Body(_)))));
        let answers = retries.lock();
        assert_eq!((answers.requests.len(), answers.owned[&token()].order.len(), answers.octets), (1, 1, 1));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_by_token() {
        let retries = Arc::new(Retries::default());
        let other = Holder::named("other");
        let Ok(Begun::First(ticket)) = retries.begin(other, "mine", 1).await else { panic!("it came before") };
        ticket.answer(Answer::Created("x".into()));
        let body = Bytes::from(vec![0; 1 << 20]);
        for number in 0..40 {
            first(&retries, &format!("large-{number}"), 1).await.answer(Answer::Body(body.clone()));
        }
        assert!(retries.lock().octets <= MAX_RETRY_OCTETS / 2 + body.len(), "one greedy token leaves half");
        for number in 0..MAX_RETRIES {
            first(&retries, &format!("small-{number}"), 1).await.answer(Answer::Created("x".into()));
        }
        assert!(matches!(retries.begin(other, "mine", 1).await, Ok(Begun::Again(_))), "another token's stays");
        let answers = retries.lock();
        let owned = &answers.owned[&token()];
        assert_eq!((owned.order.len(), answers.requests.len()), (MAX_RETRIES / 2, MAX_RETRIES / 2 + 1));
        assert_eq!((owned.octets, answers.octets), (0, 0));
    }

    #[tokio::test]
    async fn what_created_an_object_is_known_after_a_restart_for_an_hour() {
        let fields = |at: u64| {
            let fields =
                serde_json::json!({ "request_id": format!("r-{at}"), "request_hash": "ff", "create_time_ms": at });
            Restored::read("npol_1", fields.as_object().unwrap()).unwrap()
        };
        let (recent, old) = (now_ms() - 1_000, now_ms() - 3_700_000);
        let retries = Arc::new(Retries::default());
        retries.restore(vec![fields(recent), fields(old)]);
        assert!(matches!(retries.begin(token(), &format!("r-{recent}"), 0xff).await, Ok(Begun::Again(_))));
        first(&retries, &format!("r-{old}"), 0xff).await;
    }

    #[test]
    fn a_fingerprint_never_changes() {
        assert_eq!(fingerprint("", "", b""), 0x0832_8807_b4eb_6fed);
        assert_ne!(fingerprint("a", "b", b"c"), fingerprint("a", "bc", b""));
    }
}
