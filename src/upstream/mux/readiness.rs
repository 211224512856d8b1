//! The readiness of a thread's sockets to upstreams: made before the thread is, so that a start without it fails.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token, Waker};

use super::task::TaskOutcome;

/// An epoll instance, and what other threads and tasks post to this one.
pub(crate) struct Readiness<W> {
    pub(super) poll: Poll,
    /// The sending end, for other threads and tasks.
    pub(super) inbox: Inbox<W>,
    /// The receiving end, for the thread.
    pub(super) messages: Receiver<Message<W>>,
}

/// A message to a thread.
pub(super) enum Message<W> {
    /// A query for a question that it asks, or is to ask.
    Query(W),
    /// The outcome of a task for one of its questions.
    Outcome(TaskOutcome),
}

/// The sending end of a thread's channel. It needs no bound of its own: waiting queries are counted, and so are tasks.
pub(crate) struct Inbox<W> {
    sender: Sender<Message<W>>,
    /// Ends the thread's waiting.
    waker: Arc<Waker>,
}

impl<W> Clone for Inbox<W> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waker: Arc::clone(&self.waker) }
    }
}

impl<W> Inbox<W> {
    /// Hands a query to the thread.
    pub(crate) fn post(&self, query: W) {
        self.send(Message::Query(query));
    }

    /// Sends to the thread; one that has ended waits for nothing.
    pub(super) fn send(&self, messages: Message<W>) {
        if self.sender.send(messages).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::debug!(%error, "thread not woken; it looks again within a tick");
        }
    }
}

impl<W> Readiness<W> {
    /// Makes an epoll instance and a channel to its thread.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let (waker, (sender, messages)) = (Arc::new(Waker::new(poll.registry(), POSTED)?), mpsc::channel());
        Ok(Self { poll, inbox: Inbox { sender, waker }, messages })
    }

    /// Returns where others post to the thread.
    pub(crate) fn inbox(&self) -> Inbox<W> {
        self.inbox.clone()
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
