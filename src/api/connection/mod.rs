//! The API's connections: accepted, secured by TLS, and served with HTTP/1.1 and HTTP/2.

pub(super) mod limit;
pub(crate) mod socket;
pub(super) mod state;
pub(super) mod stream;
pub(crate) mod tls;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::limit::{ConnectionLimit, ConnectionPermit};
use self::socket::ControlSocket;
use self::state::{Expiry, HEAD};
use self::stream::WatchedStream;
use crate::api::ApiState;
use crate::api::request::ApiService;
use crate::api::request::counts::CloseReason;
use crate::bounds::{MAX_HEAD, MAX_HEADERS, MAX_STREAMS};
use crate::fair_share::Holder;
use crate::util::reserve::{CONTROL, Loan};

/// The time for which the API waits until unfinished builds are written down as failed.
const RECOVERY: Duration = Duration::from_secs(2);
/// The pause after a failed accept, as for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The HTTP/2 flow-control window of a stream and of a connection: 64 KiB less one, the initial value (RFC 9113 §6.9.2).
const WINDOW: u32 = (64 << 10) - 1;
/// The octets of one HTTP/2 stream that may wait to be sent.
const UNSENT: usize = 32 << 10;

/// The listening socket of the API.
pub(crate) enum ApiListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl ApiListener {
    /// Makes a listener of a bound socket.
    ///
    /// # Errors
    /// The runtime cannot register the socket.
    pub(crate) fn from_socket(socket: ControlSocket) -> io::Result<Self> {
        match socket {
            ControlSocket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            ControlSocket::Unix { listener, .. } => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    /// Accepts a connection, with a reserved descriptor if no other is left.
    async fn accept(&self) -> io::Result<(Accepted, Option<Loan>)> {
        CONTROL.wait(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => ready!(listener.poll_accept(context)).map(|(stream, peer)| {
                // Answers are small and waited for. A client that is gone already is noticed later.
                let _ = stream.set_nodelay(true);
                Accepted::Tcp(stream, peer.ip().to_canonical())
            }),
            Self::Unix(listener) => ready!(listener.poll_accept(context)).map(|(stream, _)| Accepted::Unix(stream)),
        })
    }
}

/// Serves connections until the process stops, and then finishes the running requests.
pub(crate) async fn serve(listener: ApiListener, control: Arc<ApiState>, mut stop: watch::Receiver<bool>) {
    let limit = ConnectionLimit::new(Arc::clone(&control.counts));
    let probing = tokio::spawn(Arc::clone(&control).probe_files());
    // No client should see a build of the last process as running; if that cannot be written now, it is later.
    let _ = timeout(RECOVERY, tokio::spawn(Arc::clone(&control).fail_unfinished_builds())).await;
    let forgetting = tokio::spawn(Arc::clone(&control).forget(stop.clone()));
    let service = ApiService::new(Arc::clone(&control), stop.clone());
    let http = Arc::new(protocols());
    let mut connections = JoinSet::new();
    'serving: loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (accepted, loan) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                // Connections that were just accepted have a moment to send a request before one is closed.
                sleep(ACCEPT_PAUSE).await;
                limit.evict_one();
                continue;
            }
        };
        let (source, holder) = match &accepted {
            Accepted::Tcp(_, source) => (Some(*source), Holder::host(*source)),
            Accepted::Unix(_) => (None, Holder::named("unix")),
        };
        // Pinned: the wait keeps its place while ended connections are joined.
        let mut permit = pin!(limit.acquire(holder));
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut permit => break permit,
                _ = stop.wait_for(|stop| *stop) => break 'serving,
                Some(_) = connections.join_next() => {}
            }
        };
        let (service, http, stop) = (Arc::clone(&service), Arc::clone(&http), stop.clone());
        let connection = ApiConnection { service, http, permit, source, stop };
        connections.spawn(async move {
            match accepted {
                Accepted::Tcp(stream, _) => connection.secure(stream).await,
                Accepted::Unix(stream) => connection.secure(stream).await,
            }
            drop(loan);
        });
    }
    drop(listener);
    probing.abort();
    control.builds.stop();
    while connections.join_next().await.is_some() {}
    // Stopped above; it may still sleep.
    forgetting.abort();
    service.settled().await;
    control.builds.stopped().await;
}

/// Returns both versions of HTTP with their bounds. Their time limits are those of [`state::ConnectionState`].
fn protocols() -> auto::Builder<TokioExecutor> {
    // Both versions on one port: the TypeScript SDK speaks HTTP/2 with prior knowledge to `http://` addresses, and made 167,116
    // attempts in 29 s at a server without it. The Python SDK speaks HTTP/1.1 there.
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS).header_read_timeout(None);
    http.http2()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(UNSENT);
    http
}

/// One connection.
struct ApiConnection {
    service: Arc<ApiService>,
    http: Arc<auto::Builder<TokioExecutor>>,
    permit: ConnectionPermit,
    /// The client's address; `None` on a Unix socket.
    source: Option<IpAddr>,
    stop: watch::Receiver<bool>,
}

impl ApiConnection {
    /// Serves a connection, after a TLS handshake if there is a certificate.
    async fn secure(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Some(certificate) = &self.service.control().certificate else { return self.speak(stream).await };
        // Until there is a good certificate, a client cannot be answered.
        let Some(acceptor) = certificate.acceptor().await else { return };
        let state = Arc::clone(self.permit.state());
        state.awaits();
        let stream = tokio::select! {
            stream = timeout(HEAD, acceptor.accept(stream)) => stream,
            () = state.evicted() => return,
            () = state.last_call(&mut self.stop) => return,
        };
        match stream {
            Ok(Ok(stream)) => {
                state.handshake_done();
                self.speak(stream).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake with the API"),
            Err(_) => self.permit.count(CloseReason::Slow),
        }
    }

    /// Speaks HTTP until the connection ends, expires, is evicted, or the process stops.
    async fn speak(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let state = Arc::clone(self.permit.state());
        let (service, source, of_request) = (Arc::clone(&self.service), self.source, Arc::clone(&state));
        let answer = service_fn(move |request| {
            let answer = Arc::clone(&service).answer(Arc::clone(&of_request), source, request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let stream = TokioIo::new(WatchedStream::new(stream, Arc::clone(&state)));
        let mut http = Box::pin(self.http.serve_connection(stream, answer));
        let mut is_closing = false;
        loop {
            tokio::select! {
                // An error of the protocol is the client's to notice.
                _ = http.as_mut() => return,
                () = state.evicted() => return self.permit.count(CloseReason::Room),
                expiry = state.expired() => match expiry {
                    _ if is_closing => return,
                    Expiry::Slow => return self.permit.count(CloseReason::Slow),
                    Expiry::Idle => {}
                },
                () = state.last_call(&mut self.stop), if !is_closing => {}
            }
            is_closing = true;
            state.closing();
            http.as_mut().graceful_shutdown();
        }
    }
}
