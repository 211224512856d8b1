//! A capacity shared by holder whose claims come in amounts, may wait until a deadline, and partly belong to admins.
//!
//! The rule is that of [`Shares`](super::Shares): a holder may have at most as much as is still free. Claims that wait
//! are granted in turns, one holder after another, so that a thousand claims of one holder delay another one by one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::bounds::MAX_CLAIMS;
use crate::fair_share::{ByHolder, Holder};

/// The holder a claim counts for, and its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    /// The holder.
    pub(crate) holder: Holder,
    /// Whether the part kept for admins is open to it.
    pub(crate) is_admin: bool,
}

/// A capacity and the claims on it.
#[derive(Debug)]
pub(crate) struct Quota {
    /// The amounts held and waited for.
    state: Mutex<State>,
    /// The sum of all amounts at most.
    capacity: usize,
    /// The part of the capacity that is granted to admins alone.
    kept: usize,
}

/// The amounts held and waited for.
#[derive(Debug, Default)]
struct State {
    /// The sum of what is held.
    used: usize,
    /// The amount each holder has.
    held: ByHolder<usize>,
    /// The claims that wait, by holder; the holder in front is next.
    waiting: VecDeque<(Holder, VecDeque<Claim>)>,
    /// The number of claims that wait.
    claims: usize,
}

/// A claim that waits.
#[derive(Debug)]
struct Claim {
    /// The holder it counts for.
    claimant: Claimant,
    /// The amount.
    amount: usize,
    /// Gets the grant.
    granted: oneshot::Sender<Grant>,
}

/// A granted amount; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Grant {
    /// The capacity it is part of.
    quota: Arc<Quota>,
    /// The holder it counts for.
    holder: Holder,
    /// The amount.
    amount: usize,
}

impl Quota {
    /// Makes a quota of `capacity`, of which `kept` is for admins alone.
    pub(crate) fn new(capacity: usize, kept: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), capacity, kept })
    }

    /// Takes an amount at once. Returns `None` where it is more than the claimant may have now.
    pub(crate) fn take(self: &Arc<Self>, claimant: Claimant, amount: usize) -> Option<Grant> {
        let mut state = self.state();
        self.allows(&state, claimant, amount).then(|| self.grant(&mut state, claimant.holder, amount))
    }

    /// Takes an amount, waiting until `deadline` for it to be free. Returns `None` when that has passed, or at once where
    /// as many claims wait as may.
    pub(crate) async fn wait(self: &Arc<Self>, claimant: Claimant, amount: usize, deadline: Instant) -> Option<Grant> {
        let granted = {
            let mut state = self.state();
            let own =
                state.waiting.iter().find(|(holder, _)| *holder == claimant.holder).map_or(0, |(_, own)| own.len());
            if own == 0 && self.allows(&state, claimant, amount) {
                return Some(self.grant(&mut state, claimant.holder, amount));
            }
            if own >= MAX_CLAIMS.saturating_sub(state.claims) {
                return None;
            }
            let (sender, granted) = oneshot::channel();
            state.enqueue(Claim { claimant, amount, granted: sender });
            granted
        };
        let mut waiting = Waiting { quota: self, holder: claimant.holder, granted };
        timeout_at(deadline, &mut waiting.granted).await.ok()?.ok()
    }

    /// Returns how much is held in all.
    pub(crate) fn used(&self) -> usize {
        self.state().used
    }

    /// Returns whether a claimant may have so much more, as things are.
    fn allows(&self, state: &State, claimant: Claimant, amount: usize) -> bool {
        let kept = if claimant.is_admin { 0 } else { self.kept };
        let free = self.capacity.saturating_sub(state.used).saturating_sub(kept);
        state.held.get(&claimant.holder).copied().unwrap_or(0).saturating_add(amount) <= free
    }

    /// Counts an amount as held.
    fn grant(self: &Arc<Self>, state: &mut State, holder: Holder, amount: usize) -> Grant {
        state.used += amount;
        *state.held.entry(holder).or_default() += amount;
        Grant { quota: Arc::clone(self), holder, amount }
    }

    /// Takes back an amount, and grants what waits for it.
    fn release(self: &Arc<Self>, holder: Holder, amount: usize) {
        let mut state = self.state();
        state.give_back(holder, amount);
        // Holders before this index have claims that are not allowed yet.
        let mut index = 0;
        while let Some((_, claims)) = state.waiting.get_mut(index) {
            let Some(claim) = claims.pop_front() else {
                state.waiting.remove(index);
                continue;
            };
            if claim.granted.is_closed() {
                state.claims -= 1;
                continue;
            }
            if !self.allows(&state, claim.claimant, claim.amount) {
                state.waiting[index].1.push_front(claim);
                index += 1;
                continue;
            }
            state.claims -= 1;
            let grant = self.grant(&mut state, claim.claimant.holder, claim.amount);
            if let Err(mut grant) = claim.granted.send(grant) {
                // Its client went this moment. Dropping it with its amount would lock this lock again.
                state.give_back(grant.holder, std::mem::take(&mut grant.amount));
            } else if let Some(served) = state.waiting.remove(index) {
                state.waiting.push_back(served);
            }
        }
    }

    /// Locks the state; each change is complete in itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts an amount as free.
    fn give_back(&mut self, holder: Holder, amount: usize) {
        self.used -= amount;
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= amount;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
    }

    /// Puts a claim after those that its holder has already.
    fn enqueue(&mut self, claim: Claim) {
        self.claims += 1;
        let holder = claim.claimant.holder;
        match self.waiting.iter_mut().find(|(known, _)| *known == holder) {
            Some((_, claims)) => claims.push_back(claim),
            None => self.waiting.push_back((holder, VecDeque::from([claim]))),
        }
    }
}

impl Grant {
    /// Gives back what is more than `amount`.
    pub(crate) fn shrink(&mut self, amount: usize) {
        let more = self.amount.saturating_sub(amount);
        if more > 0 {
            self.amount -= more;
            self.quota.release(self.holder, more);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.quota.release(self.holder, self.amount);
        }
    }
}

/// The waiting end of a claim; dropping it takes the claim out of its queue.
struct Waiting<'q> {
    /// The quota.
    quota: &'q Arc<Quota>,
    /// The holder it counts for.
    holder: Holder,
    /// Gets the grant.
    granted: oneshot::Receiver<Grant>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        // A grant that came too late goes back when the receiver is dropped, after the lock below.
        let mut state = self.quota.state();
        let mut gone = 0;
        if let Some((_, claims)) = state.waiting.iter_mut().find(|(holder, _)| *holder == self.holder) {
            let before = claims.len();
            claims.retain(|claim| !claim.granted.is_closed());
            gone = before - claims.len();
        }
        state.claims -= gone;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Makes a claimant.
    fn claimant(name: &str) -> Claimant {
        Claimant { holder: Holder::named(name), is_admin: name.starts_with("admin") }
    }

    /// Takes as much as a claimant gets.
    fn take_all(quota: &Arc<Quota>, name: &str) -> Vec<Grant> {
        std::iter::from_fn(|| quota.take(claimant(name), 1)).collect()
    }

    #[test]
    fn viewers_leave_what_is_kept_for_admins_however_many_they_are() {
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
    fn amounts_are_measured_against_what_is_free() {
        let quota = Quota::new(100, 0);
        assert!(quota.take(claimant("a"), 101).is_none());
        let mut whole = quota.take(claimant("a"), 100).unwrap();
        assert!(quota.take(claimant("b"), 1).is_none());
        whole.shrink(40);
        assert!(quota.take(claimant("a"), 21).is_none(), "it has more than is free");
        let own = quota.take(claimant("a"), 10).unwrap();
        assert!(quota.take(claimant("b"), 51).is_none());
        assert!(quota.take(claimant("b"), 50).is_some());
        drop((whole, own));
        assert_eq!(quota.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn claims_that_wait_are_granted_one_holder_after_another() {
        let quota = Quota::new(1, 0);
        let first = quota.take(claimant("a"), 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in ["a", "a", "a", "b", "c", "b"] {
            let (quota, order) = (Arc::clone(&quota), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let grant = quota.wait(claimant(name), 1, deadline).await;
                order.lock().unwrap().push(name);
                drop(grant);
            }));
            tokio::task::yield_now().await;
        }
        // One that goes meanwhile holds up nobody.
        tasks.remove(1).abort();
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["a", "b", "c", "a", "b"]);
        assert_eq!((quota.used(), quota.state().claims), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_waits_until_its_deadline_and_leaves_nothing_behind() {
        let quota = Quota::new(1, 0);
        let held = quota.take(claimant("a"), 1).unwrap();
        let start = Instant::now();
        assert!(quota.wait(claimant("b"), 1, start + Duration::from_secs(3)).await.is_none());
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert_eq!(quota.state().claims, 0);
        drop(held);
        assert!(quota.wait(claimant("b"), 1, start).await.is_some(), "what is free takes no waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn claims_that_wait_are_bounded_by_holder() {
        let quota = Quota::new(1, 0);
        let _held = quota.take(claimant("a"), 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..MAX_CLAIMS {
            let quota = Arc::clone(&quota);
            tasks.spawn(async move { quota.wait(claimant("a"), 1, deadline).await });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(quota.state().claims, MAX_CLAIMS / 2, "one greedy holder leaves half");
        let other = tokio::spawn({
            let quota = Arc::clone(&quota);
            async move { quota.wait(claimant("b"), 1, deadline).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(quota.state().claims, MAX_CLAIMS / 2 + 1);
        while tasks.join_next().await.is_some() {}
        assert!(other.await.unwrap().is_none());
        assert_eq!(quota.state().claims, 0);
    }
}
