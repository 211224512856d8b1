//! DNS over TCP to one upstream (RFC 7766): the connections to it, opened when needed and used for many questions.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::connection::Connection;
use super::scope;
use crate::bounds::capacity;
use crate::dns::response::{Casing, Edns, Question, query_upstream};
use crate::util::lock;

/// How long opening a connection may take. A stub resolver has given up by then.
const CONNECT_FOR: Duration = Duration::from_secs(5);

/// How long a connection may owe replies, with nothing received, until further questions go over another one.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(1);

/// The connections to one upstream. All questions share the newest one (RFC 7766 §6.2.1).
pub(super) struct Stream {
    /// The upstream.
    server: SocketAddr,
    /// The connection that questions go over.
    current: Mutex<Option<Connection>>,
    /// Held by the question that opens a connection; the others wait for it.
    opening: tokio::sync::Mutex<()>,
    /// A permit for each connection that may be open.
    permits: Arc<Semaphore>,
}

/// Why a question got no reply over TCP.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// As many questions wait on the connection as may.
    #[error("too many questions on one connection")]
    Busy,
    /// No connection was opened in time.
    #[error("connection not opened in time")]
    NotOpened,
    /// No connection could be opened.
    #[error("{0}")]
    Refused(io::Error),
    /// The connection ended before the reply came.
    #[error("{0}")]
    Closed(String),
}

impl Stream {
    /// Returns the way to `server`, without a connection.
    pub(super) fn new(server: SocketAddr) -> Self {
        let permits = Arc::new(Semaphore::new(capacity::granted().streams));
        Self { server, current: Mutex::default(), opening: tokio::sync::Mutex::default(), permits }
    }

    /// Asks `question` and returns the reply's octets, whatever they hold: the caller reads them. Waits for ever; a caller
    /// that gives up drops the future.
    ///
    /// A connection that has owed replies for `stalled` with nothing received is not used: the other side may have forgotten
    /// it, or our own address may have changed, and neither is told.
    ///
    /// # Errors
    /// The connection cannot be opened, or ended early though it was for this question alone.
    pub(super) async fn ask(&self, question: &Question, edns: Edns, stalled: Duration) -> Result<Vec<u8>, StreamError> {
        let mut query = Vec::with_capacity(512);
        query_upstream(question, Casing::LOWER, 0, &mut query);
        edns.limit(&mut query);
        let connection = match self.current(stalled) {
            Some(connection) => connection,
            None => self.connect(stalled).await?,
        };
        match connection.exchange(&query).await {
            // The other side may close a connection when it likes (RFC 7766 §6.2.4), some after each reply. What it was
            // still asked is asked again, over a connection that nobody else can use up.
            Err(StreamError::Closed(_)) if connection.is_shared() => {
                let permit = self.permit().await?;
                self.open(permit).await?.exchange(&query).await
            }
            result => result,
        }
    }

    /// Returns the connection in use, if it is open and not stalled for that long.
    fn current(&self, stalled: Duration) -> Option<Connection> {
        self.slot().clone().filter(|connection| connection.is_usable(stalled))
    }

    /// Opens a connection for all questions, or waits for the one that is being opened.
    async fn connect(&self, stalled: Duration) -> Result<Connection, StreamError> {
        let _opening = self.opening.lock().await;
        if let Some(connection) = self.current(stalled) {
            return Ok(connection);
        }
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            // The bound is reached, so the one that is stalled has to do.
            Err(_) => match self.current(Duration::MAX) {
                Some(connection) => return Ok(connection),
                None => self.permit().await?,
            },
        };
        let connection = self.open(permit).await?;
        *self.slot() = Some(connection.clone());
        Ok(connection)
    }

    /// Waits until a further connection may be open.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, StreamError> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StreamError::Busy)
    }

    /// Opens a connection.
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Connection, StreamError> {
        let server = scope::target(self.server).map_err(StreamError::Refused)?;
        let connecting = timeout(CONNECT_FOR, TcpStream::connect(server)).await;
        let socket = connecting.map_err(|_| StreamError::NotOpened)?.map_err(StreamError::Refused)?;
        // A query is one small write, and the next may be long in coming.
        socket.set_nodelay(true).map_err(StreamError::Refused)?;
        Ok(Connection::start(socket, permit))
    }

    /// Locks the connection in use. It is only ever replaced whole, so a poisoned lock is as good.
    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.current)
    }
}
