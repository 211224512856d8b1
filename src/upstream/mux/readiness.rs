//! The readiness of a thread's sockets to upstreams: made before the thread is, so that a start without it fails.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token, Waker};

/// An epoll instance, which other threads can wake.
pub(crate) struct Readiness {
    /// The instance.
    pub(super) poll: Poll,
    /// Ends the thread's waiting.
    pub(super) waker: Arc<Waker>,
}

impl Readiness {
    /// Makes one.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), POSTED)?);
        Ok(Self { poll, waker })
    }

    /// Adds a socket whose readiness ends waiting too.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn watch(&self, socket: &UdpSocket) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), WATCHED, Interest::READABLE)
    }

    /// Returns the descriptor that is readable when there is something to take.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

/// The token of sockets that only wake.
pub(super) const WATCHED: Token = Token(usize::MAX);
/// The token of the mailbox.
pub(super) const POSTED: Token = Token(usize::MAX - 1);
