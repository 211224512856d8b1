//! Descriptors in reserve, so that a process that may open nothing more can still be asked how it is.
//!
//! Where the limit on open files is used up, or was lowered while the process ran, no connection can be accepted: a probe of
//! `/livez` would time out, and whoever runs the probe would end a process that answers queries. So a few descriptors are
//! opened on /dev/null before anything else and closed when a connection to the admin endpoint or the API has to be accepted
//! and there is no other descriptor. Once such a connection ends, they are opened again.
//!
//! They are the first ones that are opened, because a limit is on the number of a descriptor: of those above a lowered limit
//! none could be taken again.

use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::util::regular_file::is_for_want;

/// The reserve of the admin endpoint.
pub(crate) static ADMIN: Reserve = Reserve::new();
/// The reserve of the API.
pub(crate) static CONTROL: Reserve = Reserve::new();

/// Descriptors in reserve.
pub(crate) struct Reserve(Mutex<State>);

/// The state of a reserve.
struct State {
    /// Those that can be closed for a connection, the lowest one first.
    spare: Vec<File>,
    /// How many are in use for connections.
    lent: usize,
    /// How many there should be in all.
    size: usize,
}

/// A connection's use of a descriptor of the reserve. It is to be dropped after the connection.
pub(crate) struct Loan(&'static Reserve);

/// What came of accepting a connection with the reserve.
enum Lent<T> {
    /// A connection.
    Accepted(T, Loan),
    /// No connection waits.
    NoneWaits,
    /// All of the reserve are in use.
    Exhausted,
}

impl Reserve {
    /// Makes a reserve of nothing.
    const fn new() -> Self {
        Self(Mutex::new(State { spare: Vec::new(), lent: 0, size: 0 }))
    }

    /// Sets how many descriptors there should be, and opens or closes some.
    pub(crate) fn resize(&self, size: usize) {
        let mut state = self.lock();
        state.size = size;
        state.refill();
    }

    /// Opens what is missing, as far as the system gives descriptors.
    fn refill(&self) {
        self.lock().refill();
    }

    /// Accepts a connection that waits, with a descriptor of the reserve. Another thread may take a descriptor that was just
    /// closed: then the next one is closed.
    ///
    /// The system has no descriptor for a connection before it looks whether there is one (accept(2)), so an error of the
    /// system for want of a descriptor does not say that one waits.
    async fn accept<T>(&'static self, mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> Lent<T> {
        while let Some(loan) = self.lend() {
            match poll_fn(|context| Poll::Ready(poll_accept(context))).await {
                Poll::Ready(Ok(accepted)) => return Lent::Accepted(accepted, loan),
                Poll::Ready(Err(error)) if is_for_want(&error) => loan.give_up(),
                Poll::Ready(Err(_)) | Poll::Pending => return Lent::NoneWaits,
            }
        }
        Lent::Exhausted
    }

    /// Waits for a connection and accepts it, with a descriptor of the reserve if the system has no other.
    ///
    /// # Errors
    /// What the system says; for want of descriptors only if all of the reserve are in use.
    pub(crate) async fn wait<T>(
        &'static self,
        mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<(T, Option<Loan>)> {
        self.refill();
        loop {
            match poll_fn(&mut poll_accept).await {
                Ok(accepted) => return Ok((accepted, None)),
                Err(error) if is_for_want(&error) => match self.accept(&mut poll_accept).await {
                    Lent::Accepted(accepted, loan) => return Ok((accepted, Some(loan))),
                    Lent::NoneWaits => {}
                    Lent::Exhausted => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes a descriptor of the reserve.
    fn lend(&'static self) -> Option<Loan> {
        let mut state = self.lock();
        // The lowest one: the limit may be below the others.
        let spare = (!state.spare.is_empty()).then(|| state.spare.remove(0))?;
        state.lent += 1;
        drop(spare);
        Some(Loan(self))
    }

    /// Locks the state, which is whole at any time.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Opens what is missing, and closes what is too much.
    fn refill(&mut self) {
        self.spare.truncate(self.size.saturating_sub(self.lent));
        while self.spare.len() + self.lent < self.size {
            // Nothing is ever read from it.
            let Ok(spare) = OpenOptions::new().write(true).open("/dev/null") else { return };
            let at = self.spare.partition_point(|other| other.as_raw_fd() < spare.as_raw_fd());
            self.spare.insert(at, spare);
        }
    }
}

impl Loan {
    /// Gives it up without opening a descriptor again: there is none.
    fn give_up(self) {
        self.0.lock().lent -= 1;
        std::mem::forget(self);
    }
}

impl Drop for Loan {
    /// Opens the descriptor again.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.lent -= 1;
        state.refill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn descriptor_is_lent_for_a_connection_and_opened_again_after_it() {
        static RESERVE: Reserve = Reserve::new();
        let spare = || RESERVE.lock().spare.len();
        let ready = |_: &mut Context<'_>| Poll::Ready(Ok(()));
        assert!(matches!(RESERVE.accept(ready).await, Lent::Exhausted), "it is empty");
        RESERVE.resize(3);
        let Lent::Accepted((), first) = RESERVE.accept(ready).await else { panic!("a descriptor is there") };
        let none = RESERVE.accept(|_| Poll::<io::Result<()>>::Pending).await;
        assert!(matches!(none, Lent::NoneWaits), "no connection waits");
        RESERVE.refill();
        assert_eq!((spare(), RESERVE.lock().lent), (2, 1));
        // Another thread takes the first one that is closed.
        let mut tries = 0;
        let second = RESERVE.accept(|_| {
            tries += 1;
            Poll::Ready(if tries == 1 { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(()) })
        });
        let Lent::Accepted((), second) = second.await else { panic!("another descriptor is there") };
        assert_eq!((tries, spare(), RESERVE.lock().lent), (2, 0, 2));
        drop((first, second));
        assert_eq!((spare(), RESERVE.lock().lent), (3, 0));
        RESERVE.resize(0);
        assert_eq!(spare(), 0);
    }
}
