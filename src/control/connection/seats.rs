//! How many connections there may be, and which one goes when there are too many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::bounds::CONTROL_CONNECTIONS;
use crate::control::connection::pulse::Pulse;
use crate::control::request::counts::{Closed, Counts};

/// How long a connection waits for a place before it looks for one to close again.
const LOOK: Duration = Duration::from_millis(100);

/// The places of connections.
pub(in crate::control) struct Seats {
    /// Places left.
    free: Arc<Semaphore>,
    /// Those that are taken.
    taken: Mutex<BTreeMap<u64, Arc<Pulse>>>,
    /// Told when somebody turns out to have a token.
    known: Arc<Notify>,
    /// The number of the next one.
    next: AtomicU64,
    /// What is counted.
    counts: Arc<Counts>,
}

impl Seats {
    /// Makes [`CONTROL_CONNECTIONS`] places.
    pub(in crate::control) fn new(counts: Arc<Counts>) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(CONTROL_CONNECTIONS));
        Arc::new(Self { free, taken: Mutex::default(), known: Arc::default(), next: AtomicU64::new(0), counts })
    }

    /// Waits for a place; with none left, a connection without a request that was let in is closed for it.
    pub(in crate::control) async fn seat(self: &Arc<Self>) -> Seat {
        let free = || Arc::clone(&self.free);
        let permit = loop {
            if let Ok(permit) = free().try_acquire_owned() {
                break permit;
            }
            self.make_room();
            // Should none be to spare now, one may be soon.
            tokio::select! {
                Ok(permit) = free().acquire_owned() => break permit,
                () = self.known.notified() => {}
                () = sleep(LOOK) => {}
            }
        };
        let (number, pulse) = (self.next.fetch_add(1, Relaxed), Pulse::new(Arc::clone(&self.known)));
        self.taken().insert(number, Arc::clone(&pulse));
        self.counts.connections.fetch_add(1, Relaxed);
        Seat { seats: Arc::clone(self), number, pulse, _permit: permit }
    }

    /// Closes the connection that can be spared most easily, if one can.
    pub(in crate::control) fn make_room(&self) {
        let taken = self.taken();
        let ranked = taken.values().filter_map(|pulse| Some((pulse.rank()?, pulse)));
        if let Some(((_, from), pulse)) = ranked.min_by_key(|(rank, _)| *rank)
            && from <= Instant::now()
        {
            pulse.close();
        }
    }

    /// Locks the table, whose every state is whole.
    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Pulse>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; dropping it gives it back.
pub(in crate::control) struct Seat {
    /// Where it is.
    seats: Arc<Seats>,
    /// Its number.
    number: u64,
    /// What the connection is doing.
    pulse: Arc<Pulse>,
    /// The place itself.
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    /// Returns what the connection is doing.
    pub(in crate::control) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Counts why the connection is closed.
    pub(in crate::control) fn count(&self, why: Closed) {
        self.seats.counts.closed(why);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.number);
        self.seats.counts.connections.fetch_sub(1, Relaxed);
    }
}
