//! One question to one upstream over a stream: TCP now; the encrypted ones are the same exchange over another
//! connection. The home of hickory-net.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_net::NetError;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::xfer::{DnsExchange, DnsHandle as _, FirstAnswer as _};
use hickory_proto::op::{DnsRequest, DnsResponse, Message};
use tokio::time::Instant;

use crate::dns::response::{Casing, Question, query_upstream};

/// How many questions may wait on one connection; hickory's own bound is 32.
const MAX_ACTIVE: usize = 1024;

/// How long after its last reply a connection is used again. Longer, and something between us and the upstream may
/// have forgotten it without a word.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// The connection to one upstream, opened when first needed, shared by all questions (RFC 7766 §6.2.1) and opened
/// anew when it breaks.
pub(super) struct Stream {
    /// The upstream.
    server: SocketAddr,
    /// The connection in use.
    connection: Mutex<Option<Connection>>,
    /// Held by the question that opens a connection, with the number of the last one opened; the others wait for it.
    opening: tokio::sync::Mutex<u64>,
}

/// An open connection.
#[derive(Clone)]
struct Connection {
    /// Tells this connection from the ones before and after it.
    number: u64,
    /// The way to its multiplexer, which gives each question a random ID and its reply back.
    exchange: DnsExchange<TokioRuntimeProvider>,
    /// Owns the task that serves the connection: dropping the last clone ends it.
    _provider: TokioRuntimeProvider,
    /// How long it lets a reply take.
    timeout: Duration,
    /// When it was opened or brought a reply last.
    alive_at: Instant,
}

impl Stream {
    /// Returns a stream to `server`, not yet open.
    pub(super) fn new(server: SocketAddr) -> Self {
        Self { server, connection: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    /// Asks `question` and returns the reply's bytes, whatever its RCODE. The caller checks that they answer it.
    /// Opening a connection may take `timeout`, and so may the reply.
    ///
    /// hickory-net (0.26.3) reads a reply before it hands it on and drops one that it cannot read: that one looks
    /// like silence.
    ///
    /// # Errors
    /// The connection cannot be opened, or broke twice; no reply in time.
    pub(super) async fn ask(&self, question: &Question, timeout: Duration) -> Result<Vec<u8>, NetError> {
        let reused = self.open_connection();
        let is_reused = reused.is_some();
        let connection = match reused {
            Some(connection) => connection,
            None => self.connect(timeout).await?,
        };
        match self.exchange(&connection, question).await {
            // The other side may close a connection when it likes (RFC 7766 §6.2.4): that is no failure.
            // hickory-net (0.26.3) says `Busy` when it has noticed before the question came.
            Err(error) if is_reused && !matches!(error, NetError::Timeout) => {
                let connection = self.connect(timeout).await?;
                self.exchange(&connection, question).await
            }
            result => result,
        }
    }

    /// Asks `question` over an open connection; forgets the connection when that fails or takes too long.
    async fn exchange(&self, connection: &Connection, question: &Question) -> Result<Vec<u8>, NetError> {
        let mut query = Vec::with_capacity(512);
        query_upstream(question, Casing::LOWER, 0, &mut query);
        let query = Message::from_vec(&query)?;
        let mut watch = Watch { stream: self, connection, since: Instant::now(), is_broken: false };
        let result = connection.exchange.send(DnsRequest::from(query)).first_answer().await;
        match &result {
            Ok(_) => watch.alive(),
            Err(_) => watch.is_broken = true,
        }
        result.map(DnsResponse::into_buffer)
    }

    /// Returns the connection in use, if it can be used again.
    fn open_connection(&self) -> Option<Connection> {
        self.slot().clone().filter(|open| open.alive_at.elapsed() < MAX_IDLE)
    }

    /// Opens a connection, or waits for the one that is being opened.
    async fn connect(&self, timeout: Duration) -> Result<Connection, NetError> {
        let mut number = self.opening.lock().await;
        if let Some(open) = self.open_connection() {
            return Ok(open);
        }
        let provider = TokioRuntimeProvider::new();
        let exchange =
            TcpClientStream::exchange(self.server, None, timeout, Some(MAX_ACTIVE), provider.clone()).await?;
        *number += 1;
        let connection =
            Connection { number: *number, exchange, _provider: provider, timeout, alive_at: Instant::now() };
        *self.slot() = Some(connection.clone());
        Ok(connection)
    }

    /// Locks the connection in use. It is only ever replaced whole, so a poisoned lock is as good.
    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches one exchange, also one that is given up: a connection that stayed silent for half of the timeout is not
/// used for the next question.
struct Watch<'a> {
    /// Whose connection.
    stream: &'a Stream,
    /// Which connection.
    connection: &'a Connection,
    /// Since when nothing came.
    since: Instant,
    /// Whether the exchange failed.
    is_broken: bool,
}

impl Watch<'_> {
    /// Notes a reply.
    fn alive(&mut self) {
        self.since = Instant::now();
        if let Some(open) = self.stream.slot().as_mut().filter(|open| open.number == self.connection.number) {
            open.alive_at = self.since;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.is_broken || self.since.elapsed() >= self.connection.timeout / 2 {
            self.stream.slot().take_if(|open| open.number == self.connection.number);
        }
    }
}
