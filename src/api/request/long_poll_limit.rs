//! A limit on long polls, by token: at the limit, the token's connection that has waited longest is answered early.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::api::connection::deadlines::Pulse;
use crate::api::quotas::Quotas;
use crate::fair_share::Holder;
use crate::fair_share::quota::{Quota, Requester, Reservation};
use crate::util::lock;

/// How long a long poll lasts at least before it is answered early: a client that asks again at once would keep us busy
/// otherwise.
const LEAST: Duration = Duration::from_secs(1);

/// The long polls under way.
pub(in crate::api) struct Waits {
    /// How many there may be.
    requests: Arc<Quota>,
    /// How many connections may have some.
    connections: Arc<Quota>,
    /// Those under way.
    waiting: Mutex<Waiting>,
    /// The number of the next one.
    next: AtomicU64,
}

/// The long polls under way.
#[derive(Default)]
struct Waiting {
    /// The polls, in the order in which they came.
    polls: BTreeMap<u64, Poll>,
    /// The part of the connections, and the number of polls, of each connection.
    connections: HashMap<usize, (Reservation, usize)>,
}

/// One long poll.
struct Poll {
    /// Its connection, told from others by its address in memory.
    connection: usize,
    /// The token.
    holder: Holder,
    /// When it came.
    since: Instant,
    /// Its part of the long polls.
    _grant: Reservation,
    /// Dropped to end it early.
    _over: oneshot::Sender<()>,
}

/// The place of a long poll; dropping it gives it back.
pub(in crate::api) struct Wait {
    /// Where it is.
    waits: Arc<Waits>,
    /// Its connection, which exists as long as this does.
    _pulse: Arc<Pulse>,
    /// Its number.
    number: u64,
    /// Closed when it ends early.
    over: oneshot::Receiver<()>,
}

impl Waits {
    /// Makes a limit of what the quotas say.
    pub(in crate::api) fn new(quotas: &Quotas) -> Arc<Self> {
        let (requests, connections) = (Arc::clone(&quotas.waits), Arc::clone(&quotas.waiting_connections));
        Arc::new(Self { requests, connections, waiting: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Makes a place for a request of a connection. Where the token has its share, its connection that has waited for
    /// longest is answered early, as if its time were over; `None` where none has waited for [`LEAST`].
    pub(in crate::api) fn begin(self: &Arc<Self>, pulse: &Arc<Pulse>, requester: Requester) -> Option<Wait> {
        let connection = Arc::as_ptr(pulse).addr();
        let mut waiting = self.waiting();
        let grant = if let Some(grant) = self.add(&mut waiting, connection, requester) {
            grant
        } else {
            let (_, oldest) = waiting.polls.iter().find(|(_, poll)| poll.holder == requester.holder)?;
            let oldest = (oldest.since.elapsed() >= LEAST).then_some(oldest.connection)?;
            waiting.polls.retain(|_, poll| poll.connection != oldest);
            waiting.connections.remove(&oldest);
            self.add(&mut waiting, connection, requester)?
        };
        let (number, (sender, over)) = (self.next.fetch_add(1, Relaxed), oneshot::channel());
        let poll = Poll { connection, holder: requester.holder, since: Instant::now(), _grant: grant, _over: sender };
        waiting.polls.insert(number, poll);
        Some(Wait { waits: Arc::clone(self), _pulse: Arc::clone(pulse), number, over })
    }

    /// Counts a poll of a connection, if the token may have both; returns the poll's part.
    fn add(&self, waiting: &mut Waiting, connection: usize, requester: Requester) -> Option<Reservation> {
        let grant = self.requests.take(requester, 1)?;
        if let Some((_, polls)) = waiting.connections.get_mut(&connection) {
            *polls += 1;
        } else {
            waiting.connections.insert(connection, (self.connections.take(requester, 1)?, 1));
        }
        Some(grant)
    }

    /// Locks the table, whose every state is whole.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

impl Waiting {
    /// Forgets a poll of a connection.
    fn leave(&mut self, connection: usize) {
        if let Some((_, polls)) = self.connections.get_mut(&connection) {
            *polls -= 1;
            if *polls == 0 {
                self.connections.remove(&connection);
            }
        }
    }
}

impl Wait {
    /// Waits until it is to end early.
    pub(in crate::api) async fn over(&mut self) {
        // Nothing is sent: it is closed.
        let _ = (&mut self.over).await;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.waits.waiting();
        // One that was answered early is out of the table already, with its connection.
        if let Some(poll) = waiting.polls.remove(&self.number) {
            waiting.leave(poll.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the long polls of two tokens, a viewer's and an admin's.
    fn waits() -> (Arc<Waits>, Requester, Requester) {
        let requester = |name, is_admin| Requester { holder: Holder::named(name), is_admin };
        (Waits::new(&Quotas::default()), requester("viewer", false), requester("admin", true))
    }

    /// Makes the pulse of a connection.
    fn pulse() -> Arc<Pulse> {
        Pulse::new(Holder::named("192.0.2.1"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_of_the_token_that_waited_longest_makes_room_after_a_second() {
        let (waits, viewer, admin) = waits();
        let first = pulse();
        let mut of_admin = waits.begin(&pulse(), admin).unwrap();
        let mut held = vec![waits.begin(&first, viewer).unwrap()];
        held.extend(std::iter::from_fn(|| waits.begin(&pulse(), viewer)));
        let full = held.len();
        assert!((100..300).contains(&full), "{full}");
        let mut second = waits.begin(&first, viewer).expect("a connection that waits already needs no further part");
        tokio::time::advance(LEAST).await;
        let _new = waits.begin(&pulse(), viewer).unwrap();
        held[0].over().await;
        second.over().await;
        assert_eq!(waits.connections.used(), full + 1, "one went and one came");
        let again = waits.begin(&first, viewer).expect("the next one has waited for a second, too");
        held[1].over().await;
        assert!(tokio::time::timeout(LEAST, of_admin.over()).await.is_err(), "another token's stays");
        drop((held, second, again));
        assert_eq!((waits.connections.used(), waits.requests.used()), (2, 2));
        assert!(waits.begin(&pulse(), admin).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_may_have_many_polls() {
        let (waits, viewer, admin) = waits();
        let pulse = pulse();
        let held: Vec<_> = std::iter::from_fn(|| waits.begin(&pulse, viewer)).collect();
        assert!(held.len() > 300, "{}", held.len());
        assert!(waits.begin(&pulse, viewer).is_none() && waits.begin(&self::pulse(), admin).is_some());
        drop(held);
        assert_eq!((waits.connections.used(), waits.requests.used()), (0, 0));
        assert!(waits.begin(&pulse, viewer).is_some());
    }
}
