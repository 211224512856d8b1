//! Reserved file descriptors, so that a process at its limit on open files can still answer on the admin endpoint
//! and the API.
//!
//! Once the limit is used up, or was lowered while the process ran, no connection can be accepted: a probe of `/livez`
//! would time out, and the service manager would end a process that still answers queries. So a few descriptors are
//! opened on /dev/null before anything else. One is closed when a connection has to be accepted and no other descriptor
//! is left, and opened again when that connection ends.
//!
//! They are opened first because `RLIMIT_NOFILE` bounds the number of a descriptor: of numbers above a lowered limit,
//! none could be opened again.

use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use crate::util::lock;
use crate::util::regular_file::is_resource_shortage;

/// The reserve of the admin endpoint.
pub(crate) static ADMIN: Reserve = Reserve::new();
/// The reserve of the API.
pub(crate) static CONTROL: Reserve = Reserve::new();

/// A set of descriptors that are kept open on /dev/null, to be closed when a connection needs one.
pub(crate) struct Reserve(Mutex<State>);

struct State {
    /// The descriptors that can be closed for a connection, the lowest number first.
    spare: Vec<File>,
    /// The number of descriptors in use for connections.
    lent: usize,
    /// The number of descriptors that the reserve should have, those in use included.
    size: usize,
}

/// A connection's use of one reserved descriptor; to be dropped after the connection, so that the descriptor is
/// free again.
pub(crate) struct Loan(&'static Reserve);

/// The outcome of accepting a connection with a reserved descriptor.
enum AcceptOutcome<T> {
    Accepted(T, Loan),
    /// The queue of the listener is empty.
    NoneWaits,
    /// All reserved descriptors are in use.
    Exhausted,
}

impl Reserve {
    /// Makes an empty reserve.
    const fn new() -> Self {
        Self(Mutex::new(State { spare: Vec::new(), lent: 0, size: 0 }))
    }

    /// Sets the size of the reserve, and opens or closes descriptors accordingly.
    pub(crate) fn resize(&self, size: usize) {
        let mut state = self.lock();
        state.size = size;
        state.refill();
    }

    /// Opens the missing descriptors, as far as the system has any.
    fn refill(&self) {
        self.lock().refill();
    }

    /// Accepts a waiting connection after closing a reserved descriptor for it. If another thread takes the
    /// descriptor just closed, the next one is closed.
    ///
    /// The kernel allocates a descriptor before it looks for a connection (accept(2)), so an error for lack of
    /// descriptors does not mean that a connection waits.
    async fn accept<T>(
        &'static self,
        mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> AcceptOutcome<T> {
        while let Some(loan) = self.lend() {
            match poll_fn(|context| Poll::Ready(poll_accept(context))).await {
                Poll::Ready(Ok(accepted)) => return AcceptOutcome::Accepted(accepted, loan),
                Poll::Ready(Err(error)) if is_resource_shortage(&error) => loan.forget_descriptor(),
                Poll::Ready(Err(_)) | Poll::Pending => return AcceptOutcome::NoneWaits,
            }
        }
        AcceptOutcome::Exhausted
    }

    /// Waits for a connection and accepts it, using a reserved descriptor if no other is left.
    ///
    /// # Errors
    /// The error of accept(2). A lack of descriptors is an error only once the whole reserve is in use.
    pub(crate) async fn wait<T>(
        &'static self,
        mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<(T, Option<Loan>)> {
        self.refill();
        loop {
            match poll_fn(&mut poll_accept).await {
                Ok(accepted) => return Ok((accepted, None)),
                Err(error) if is_resource_shortage(&error) => match self.accept(&mut poll_accept).await {
                    AcceptOutcome::Accepted(accepted, loan) => return Ok((accepted, Some(loan))),
                    AcceptOutcome::NoneWaits => {}
                    AcceptOutcome::Exhausted => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes the lowest reserved descriptor for a connection to use. Returns `None` if all are in use.
    fn lend(&'static self) -> Option<Loan> {
        let mut state = self.lock();
        // The lowest number first, because a lowered limit can be below the others.
        let spare = (!state.spare.is_empty()).then(|| state.spare.remove(0))?;
        state.lent += 1;
        drop(spare);
        Some(Loan(self))
    }

    /// Locks the state. A panic cannot leave it inconsistent, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    /// Opens missing descriptors and closes surplus ones, keeping the list sorted by number.
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
    /// Ends the use without opening a descriptor again, as another thread took the one that was closed.
    fn forget_descriptor(self) {
        self.0.lock().lent -= 1;
        std::mem::forget(self);
    }
}

impl Drop for Loan {
    /// Opens a descriptor for the reserve again, as the connection's own is closed.
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
    async fn descriptor_is_closed_for_a_connection_and_reopened_after_it() {
        static RESERVE: Reserve = Reserve::new();
        let spare = || RESERVE.lock().spare.len();
        let ready = |_: &mut Context<'_>| Poll::Ready(Ok(()));
        assert!(matches!(RESERVE.accept(ready).await, AcceptOutcome::Exhausted), "it is empty");
        RESERVE.resize(3);
        let AcceptOutcome::Accepted((), first) = RESERVE.accept(ready).await else { panic!("a descriptor is free") };
        let none = RESERVE.accept(|_| Poll::<io::Result<()>>::Pending).await;
        assert!(matches!(none, AcceptOutcome::NoneWaits), "no connection waits");
        RESERVE.refill();
        assert_eq!((spare(), RESERVE.lock().lent), (2, 1));
        // Another thread takes the first one that is closed.
        let mut tries = 0;
        let second = RESERVE.accept(|_| {
            tries += 1;
            Poll::Ready(if tries == 1 { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(()) })
        });
        let AcceptOutcome::Accepted((), second) = second.await else { panic!("another descriptor is free") };
        assert_eq!((tries, spare(), RESERVE.lock().lent), (2, 0, 2));
        drop((first, second));
        assert_eq!((spare(), RESERVE.lock().lent), (3, 0));
        RESERVE.resize(0);
        assert_eq!(spare(), 0);
    }
}
