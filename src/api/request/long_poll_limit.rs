//! The limit on long polls, by token. At the limit, the connection of the token that has waited longest is answered early.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::api::connection::state::ConnectionState;
use crate::api::quotas::Quotas;
use crate::fair_share::Holder;
use crate::fair_share::quota::{Quota, Requester, Reservation};
use crate::util::lock;

/// The shortest time of a long poll before it is answered early. The SDKs ask again at once: 688 times in three seconds
/// when every answer was immediate.
const LEAST: Duration = Duration::from_secs(1);

/// The limit on long polls and on connections with some.
pub(in crate::api) struct LongPollLimit {
    polls: Arc<Quota>,
    connections: Arc<Quota>,
    running: Mutex<RunningPolls>,
}

#[derive(Default)]
struct RunningPolls {
    /// The polls in the order in which they came.
    by_number: BTreeMap<u64, RunningPoll>,
    /// The number of the next one.
    next: u64,
    /// The share and the number of polls of each connection.
    connections: HashMap<usize, (Reservation, usize)>,
}

struct RunningPoll {
    /// The connection, identified by the address of its state in memory.
    connection: usize,
    holder: Holder,
    since: Instant,
    _share: Reservation,
    /// Dropped to end the poll early.
    _revoke: oneshot::Sender<()>,
}

/// The permit of a long poll.
pub(in crate::api) struct LongPollPermit {
    limit: Arc<LongPollLimit>,
    /// Held, so that no other state gets the address in memory.
    _connection: Arc<ConnectionState>,
    number: u64,
    revoked: oneshot::Receiver<()>,
}

impl LongPollLimit {
    pub(in crate::api) fn new(quotas: &Quotas) -> Arc<Self> {
        let (polls, connections) = (Arc::clone(&quotas.waits), Arc::clone(&quotas.waiting_connections));
        Arc::new(Self { polls, connections, running: Mutex::default() })
    }

    /// Returns a permit for a poll. If the token has its share, the polls of its connection that has waited longest end
    /// early; `None` if none has waited for [`LEAST`].
    pub(in crate::api) fn acquire(
        self: &Arc<Self>,
        connection: &Arc<ConnectionState>,
        requester: Requester,
    ) -> Option<LongPollPermit> {
        let address = Arc::as_ptr(connection).addr();
        let mut running = self.running();
        let share = if let Some(share) = self.share(&mut running, address, requester) {
            share
        } else {
            let (_, oldest) = running.by_number.iter().find(|(_, poll)| poll.holder == requester.holder)?;
            let oldest = (oldest.since.elapsed() >= LEAST).then_some(oldest.connection)?;
            running.by_number.retain(|_, poll| poll.connection != oldest);
            running.connections.remove(&oldest);
            self.share(&mut running, address, requester)?
        };
        let (revoke, revoked) = oneshot::channel();
        let (holder, since) = (requester.holder, Instant::now());
        let poll = RunningPoll { connection: address, holder, since, _share: share, _revoke: revoke };
        let number = running.next;
        running.next += 1;
        running.by_number.insert(number, poll);
        Some(LongPollPermit { limit: Arc::clone(self), _connection: Arc::clone(connection), number, revoked })
    }

    /// Returns the share of a poll, and counts it for its connection.
    fn share(&self, running: &mut RunningPolls, connection: usize, requester: Requester) -> Option<Reservation> {
        let share = self.polls.take(requester, 1)?;
        if let Some((_, polls)) = running.connections.get_mut(&connection) {
            *polls += 1;
        } else {
            running.connections.insert(connection, (self.connections.take(requester, 1)?, 1));
        }
        Some(share)
    }

    fn running(&self) -> MutexGuard<'_, RunningPolls> {
        lock(&self.running)
    }
}

impl LongPollPermit {
    /// Waits until the poll has to end early.
    pub(in crate::api) async fn revoked(&mut self) {
        // The sender is dropped: nothing is ever sent.
        let _ = (&mut self.revoked).await;
    }
}

impl Drop for LongPollPermit {
    fn drop(&mut self) {
        let mut running = self.limit.running();
        // A poll that was answered early is not in the table any more, nor is its connection.
        let Some(poll) = running.by_number.remove(&self.number) else { return };
        if let Some((_, polls)) = running.connections.get_mut(&poll.connection) {
            *polls -= 1;
            if *polls == 0 {
                running.connections.remove(&poll.connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the long polls of two tokens, a viewer's and an admin's.
    fn waits() -> (Arc<LongPollLimit>, Requester, Requester) {
        let requester = |name, is_admin| Requester { holder: Holder::named(name), is_admin };
        (LongPollLimit::new(&Quotas::default()), requester("viewer", false), requester("admin", true))
    }

    /// Makes the state of a connection.
    fn connection() -> Arc<ConnectionState> {
        ConnectionState::new(Holder::named("192.0.2.1"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_of_the_token_that_waited_longest_makes_room_after_a_second() {
        let (waits, viewer, admin) = waits();
        let first = connection();
        let mut of_admin = waits.acquire(&connection(), admin).unwrap();
        let mut held = vec![waits.acquire(&first, viewer).unwrap()];
        held.extend(std::iter::from_fn(|| waits.acquire(&connection(), viewer)));
        let full = held.len();
        assert!((100..300).contains(&full), "{full}");
        let mut second = waits.acquire(&first, viewer).expect("a connection that waits already needs no further part");
        tokio::time::advance(LEAST).await;
        let _new = waits.acquire(&connection(), viewer).unwrap();
        held[0].revoked().await;
        second.revoked().await;
        assert_eq!(waits.connections.used(), full + 1, "one went and one came");
        let again = waits.acquire(&first, viewer).expect("the next one has waited for a second, too");
        held[1].revoked().await;
        assert!(tokio::time::timeout(LEAST, of_admin.revoked()).await.is_err(), "another token's stays");
        drop((held, second, again));
        assert_eq!((waits.connections.used(), waits.polls.used()), (2, 2));
        assert!(waits.acquire(&connection(), admin).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_may_have_many_polls() {
        let (waits, viewer, admin) = waits();
        let connection = connection();
        let held: Vec<_> = std::iter::from_fn(|| waits.acquire(&connection, viewer)).collect();
        assert!(held.len() > 300, "{}", held.len());
        assert!(waits.acquire(&connection, viewer).is_none() && waits.acquire(&self::connection(), admin).is_some());
        drop(held);
        assert_eq!((waits.connections.used(), waits.polls.used()), (0, 0));
        assert!(waits.acquire(&connection, viewer).is_some());
    }
}
