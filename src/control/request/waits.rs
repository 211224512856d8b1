//! Who waits for a status: so many that others find a place, and each of them for a while at least.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::bounds::{MAX_WAITING, WAITING_CONNECTIONS};
use crate::control::connection::pulse::Pulse;

/// How long somebody waits at least before it is answered early: who asks again at once would keep us busy otherwise.
const LEAST: Duration = Duration::from_secs(1);

/// Those who wait.
#[derive(Default)]
pub(in crate::control) struct Waits {
    /// They, in the order in which they came.
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    /// The number of the next one.
    next: AtomicU64,
}

/// One of those who wait.
struct Waiting {
    /// Its connection, told from others by where it is.
    connection: usize,
    /// When it came.
    since: Instant,
    /// Dropped to end it early.
    _over: oneshot::Sender<()>,
}

/// The place of one that waits; dropping it gives it back.
pub(in crate::control) struct Wait {
    /// Where it is.
    waits: Arc<Waits>,
    /// Its connection, which is there as long as this is.
    _pulse: Arc<Pulse>,
    /// Its number.
    number: u64,
    /// Closed when it ends early.
    over: oneshot::Receiver<()>,
}

impl Waits {
    /// Makes a place for a request of a connection; with none left, the connection that has waited for longest is
    /// answered early, as if its time were over. None is returned where nobody has waited for [`LEAST`].
    pub(in crate::control) fn begin(self: &Arc<Self>, pulse: &Arc<Pulse>) -> Option<Wait> {
        let connection = Arc::as_ptr(pulse).addr();
        let mut waiting = self.waiting();
        let connections: BTreeSet<_> = waiting.values().map(|one| one.connection).chain([connection]).collect();
        if waiting.len() >= MAX_WAITING || connections.len() > WAITING_CONNECTIONS {
            let (_, oldest) = waiting.first_key_value().filter(|(_, oldest)| oldest.since.elapsed() >= LEAST)?;
            let oldest = oldest.connection;
            waiting.retain(|_, one| one.connection != oldest);
        }
        let (number, (sender, over)) = (self.next.fetch_add(1, Relaxed), oneshot::channel());
        waiting.insert(number, Waiting { connection, since: Instant::now(), _over: sender });
        Some(Wait { waits: Arc::clone(self), _pulse: Arc::clone(pulse), number, over })
    }

    /// Locks the table, whose every state is whole.
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Waits until it is to end early.
    pub(in crate::control) async fn over(&mut self) {
        // Nothing is sent: it is closed.
        let _ = (&mut self.over).await;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.waiting().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_waited_longest_makes_room_after_a_second() {
        let waits = Arc::new(Waits::default());
        let pulses: Vec<_> = (0..=WAITING_CONNECTIONS).map(|_| Pulse::new(Arc::default())).collect();
        let (last, others) = pulses.split_last().unwrap();
        let mut held: Vec<_> = others.iter().map(|pulse| waits.begin(pulse).unwrap()).collect();
        let mut second = waits.begin(&pulses[0]).expect("a connection that waits already takes no other place");
        assert!(waits.begin(last).is_none(), "nobody has waited for a second");
        tokio::time::advance(LEAST).await;
        let _new = waits.begin(last).unwrap();
        held[0].over().await;
        second.over().await;
        assert_eq!(waits.waiting().len(), WAITING_CONNECTIONS, "one went and one came");
        let again = waits.begin(&pulses[0]).expect("the next one has waited for a second, too");
        held[1].over().await;
        drop((held, second, again));
        assert_eq!(waits.waiting().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_may_wait_for_many() {
        let (waits, pulse) = (Arc::new(Waits::default()), Pulse::new(Arc::default()));
        let held: Vec<_> = (0..MAX_WAITING).map(|_| waits.begin(&pulse).unwrap()).collect();
        assert!(waits.begin(&pulse).is_none());
        drop(held);
        assert!(waits.begin(&pulse).is_some());
    }
}
