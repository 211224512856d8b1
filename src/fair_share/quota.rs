//! A shared capacity that is reserved in amounts (octets, requests), with a queue for requests that have to wait.
//!
//! The rule is that of [`Shares`](super::Shares): a holder may have at most as much as is still free. A part of the
//! capacity can be kept for admins. Waiting requests are served round robin by holder, so that of a thousand requests
//! of one holder only one is served before the next request of another. Each waits until its own deadline at most.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::bounds::MAX_WAITING_RESERVATIONS;
use crate::fair_share::{ByHolder, Holder};
use crate::util::lock;

/// The holder that requests a reservation, and whether it is an admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requester {
    pub(crate) holder: Holder,
    /// Whether the part kept for admins is open to this holder.
    pub(crate) is_admin: bool,
}

/// A capacity, its reservations, and the requests that wait for one.
#[derive(Debug)]
pub(crate) struct Quota {
    state: Mutex<State>,
    /// The most that all reservations may add up to.
    capacity: usize,
    /// The part of the capacity that only admins can reserve.
    kept: usize,
}

/// The reservations of a quota and the requests that wait for one.
#[derive(Debug, Default)]
struct State {
    /// The sum of all reservations.
    used: usize,
    /// The sum of the reservations of each holder.
    held: ByHolder<usize>,
    /// The waiting requests by holder; the holder at the front is served next.
    waiting: VecDeque<(Holder, VecDeque<WaitingRequest>)>,
    /// The number of waiting requests.
    requests: usize,
}

/// A request that waits for a reservation.
#[derive(Debug)]
struct WaitingRequest {
    requester: Requester,
    amount: usize,
    /// The channel that the reservation is sent on.
    granted: oneshot::Sender<Reservation>,
}

/// A reserved amount of a quota; dropping it releases the amount.
#[derive(Debug)]
pub(crate) struct Reservation {
    quota: Arc<Quota>,
    holder: Holder,
    amount: usize,
}

impl Quota {
    /// Makes a quota of `capacity`, of which `kept` is for admins only.
    pub(crate) fn new(capacity: usize, kept: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), capacity, kept })
    }

    /// Reserves an amount at once. Returns `None` if the requester may not have so much more now.
    pub(crate) fn take(self: &Arc<Self>, requester: Requester, amount: usize) -> Option<Reservation> {
        let mut state = self.state();
        self.allows(&state, requester, amount).then(|| self.reserve(&mut state, requester.holder, amount))
    }

    /// Reserves an amount, waiting for it until `deadline`. Returns `None` at the deadline, or at once if the queue has
    /// no place for another request of this holder.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        requester: Requester,
        amount: usize,
        deadline: Instant,
    ) -> Option<Reservation> {
        let granted = {
            let mut state = self.state();
            let own =
                state.waiting.iter().find(|(holder, _)| *holder == requester.holder).map_or(0, |(_, own)| own.len());
            // A request does not overtake earlier ones of the same holder.
            if own == 0 && self.allows(&state, requester, amount) {
                return Some(self.reserve(&mut state, requester.holder, amount));
            }
            // The queue itself is shared by the same rule: a holder may have as many places as are still free.
            if own >= MAX_WAITING_RESERVATIONS.saturating_sub(state.requests) {
                return None;
            }
            let (sender, granted) = oneshot::channel();
            state.enqueue(WaitingRequest { requester, amount, granted: sender });
            granted
        };
        let mut waiting = QueueGuard { quota: self, holder: requester.holder, granted };
        timeout_at(deadline, &mut waiting.granted).await.ok()?.ok()
    }

    /// Returns the sum of all reservations.
    pub(crate) fn used(&self) -> usize {
        self.state().used
    }

    /// Returns whether a requester may have `amount` more in this state.
    fn allows(&self, state: &State, requester: Requester, amount: usize) -> bool {
        let kept = if requester.is_admin { 0 } else { self.kept };
        let free = self.capacity.saturating_sub(state.used).saturating_sub(kept);
        state.held.get(&requester.holder).copied().unwrap_or(0).saturating_add(amount) <= free
    }

    /// Counts an amount as reserved.
    fn reserve(self: &Arc<Self>, state: &mut State, holder: Holder, amount: usize) -> Reservation {
        state.used += amount;
        *state.held.entry(holder).or_default() += amount;
        Reservation { quota: Arc::clone(self), holder, amount }
    }

    /// Releases an amount, and serves the waiting requests that it suffices for.
    fn release(self: &Arc<Self>, holder: Holder, amount: usize) {
        let mut state = self.state();
        state.give_back(holder, amount);
        // The first requests of holders before this index do not fit yet.
        let mut index = 0;
        while let Some((_, requests)) = state.waiting.get_mut(index) {
            let Some(request) = requests.pop_front() else {
                state.waiting.remove(index);
                continue;
            };
            if request.granted.is_closed() {
                state.requests -= 1;
                continue;
            }
            if !self.allows(&state, request.requester, request.amount) {
                state.waiting[index].1.push_front(request);
                index += 1;
                continue;
            }
            state.requests -= 1;
            let reservation = self.reserve(&mut state, request.requester.holder, request.amount);
            if let Err(mut reservation) = request.granted.send(reservation) {
                // The receiver was dropped this moment. Dropping the reservation with its amount would lock the state
                // again.
                state.give_back(reservation.holder, std::mem::take(&mut reservation.amount));
            } else if let Some(served) = state.waiting.remove(index) {
                state.waiting.push_back(served);
            }
        }
    }

    /// Locks the state. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Counts an amount as free again.
    fn give_back(&mut self, holder: Holder, amount: usize) {
        self.used -= amount;
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= amount;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
    }

    /// Appends a request to the queue of its holder.
    fn enqueue(&mut self, request: WaitingRequest) {
        self.requests += 1;
        let holder = request.requester.holder;
        match self.waiting.iter_mut().find(|(known, _)| *known == holder) {
            Some((_, requests)) => requests.push_back(request),
            None => self.waiting.push_back((holder, VecDeque::from([request]))),
        }
    }
}

impl Reservation {
    /// Releases all but `amount` of this reservation.
    pub(crate) fn shrink(&mut self, amount: usize) {
        let more = self.amount.saturating_sub(amount);
        if more > 0 {
            self.amount -= more;
            self.quota.release(self.holder, more);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.quota.release(self.holder, self.amount);
        }
    }
}

/// A guard for a waiting request; dropping it removes the request from the queue.
struct QueueGuard<'q> {
    quota: &'q Arc<Quota>,
    holder: Holder,
    /// The channel that the reservation arrives on.
    granted: oneshot::Receiver<Reservation>,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.granted.close();
        // If a reservation was sent before, it is released when `granted` is dropped: after this function has unlocked
        // the state.
        let mut state = self.quota.state();
        let mut gone = 0;
        if let Some((_, requests)) = state.waiting.iter_mut().find(|(holder, _)| *holder == self.holder) {
            let before = requests.len();
            requests.retain(|request| !request.granted.is_closed());
            gone = before - requests.len();
        }
        state.requests -= gone;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn requester(name: &str) -> Requester {
        Requester { holder: Holder::named(name), is_admin: name.starts_with("admin") }
    }

    /// Reserves one by one until nothing is granted.
    fn take_all(quota: &Arc<Quota>, name: &str) -> Vec<Reservation> {
        std::iter::from_fn(|| quota.take(requester(name), 1)).collect()
    }

    #[test]
    fn part_kept_for_admins_is_left_whatever_others_reserve() {
        let quota = Quota::new(100, 40);
        let one = take_all(&quota, "viewer-1");
        assert_eq!(one.len(), 30, "half of what viewers may have");
        let rest: Vec<_> = (0..100).map(|number| take_all(&quota, &format!("viewer+{number}"))).collect();
        assert!(quota.used() <= 60, "{}", quota.used());
        let admin = take_all(&quota, "admin-1");
        assert_eq!(admin.len(), 20, "half of what viewers left");
        assert!(!take_all(&quota, "admin-2").is_empty());
        drop((one, rest, admin));
        assert_eq!((quota.used(), quota.state().held.len()), (0, 0));
    }

    #[test]
    fn reservation_of_an_amount_must_fit_into_what_is_free() {
        let quota = Quota::new(100, 0);
        assert!(quota.take(requester("a"), 101).is_none());
        let mut whole = quota.take(requester("a"), 100).unwrap();
        assert!(quota.take(requester("b"), 1).is_none());
        whole.shrink(40);
        assert!(quota.take(requester("a"), 21).is_none(), "it has more than is free");
        let own = quota.take(requester("a"), 10).unwrap();
        assert!(quota.take(requester("b"), 51).is_none());
        assert!(quota.take(requester("b"), 50).is_some());
        drop((whole, own));
        assert_eq!(quota.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_are_served_round_robin_by_holder() {
        let quota = Quota::new(1, 0);
        let first = quota.take(requester("a"), 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in ["a", "a", "a", "b", "c", "b"] {
            let (quota, order) = (Arc::clone(&quota), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let reservation = quota.wait(requester(name), 1, deadline).await;
                order.lock().unwrap().push(name);
                drop(reservation);
            }));
            tokio::task::yield_now().await;
        }
        // A request whose task ends while it waits does not delay the others.
        tasks.remove(1).abort();
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["a", "b", "c", "a", "b"]);
        assert_eq!((quota.used(), quota.state().requests), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn request_waits_until_its_deadline_and_is_then_removed() {
        let quota = Quota::new(1, 0);
        let held = quota.take(requester("a"), 1).unwrap();
        let start = Instant::now();
        assert!(quota.wait(requester("b"), 1, start + Duration::from_secs(3)).await.is_none());
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert_eq!(quota.state().requests, 0);
        drop(held);
        assert!(quota.wait(requester("b"), 1, start).await.is_some(), "what is free takes no waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn queue_is_shared_by_holder() {
        let quota = Quota::new(1, 0);
        let _held = quota.take(requester("a"), 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..MAX_WAITING_RESERVATIONS {
            let quota = Arc::clone(&quota);
            tasks.spawn(async move { quota.wait(requester("a"), 1, deadline).await });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(quota.state().requests, MAX_WAITING_RESERVATIONS / 2, "one greedy holder leaves half");
        let other = tokio::spawn({
            let quota = Arc::clone(&quota);
            async move { quota.wait(requester("b"), 1, deadline).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(quota.state().requests, MAX_WAITING_RESERVATIONS / 2 + 1);
        while tasks.join_next().await.is_some() {}
        assert!(other.await.unwrap().is_none());
        assert_eq!(quota.state().requests, 0);
    }
}
