//! The API's connections.

pub(super) mod deadlines;
pub(super) mod slots;
pub(crate) mod socket;
pub(super) mod stream;
pub(crate) mod tls;

use std::convert::Infallible;
use std::future::poll_fn;
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
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::deadlines::{GRACE, HEAD, Late};
use self::slots::{Seat, Seats};
use self::socket::ControlSocket;
use self::stream::Stream;
use crate::api::Control;
use crate::api::request::Api;
use crate::api::request::counts::Closed;
use crate::bounds::{MAX_HEAD, MAX_HEADERS, MAX_STREAMS};
use crate::fair_share::Holder;
use crate::util::reserve::{CONTROL, Loan};

/// How long the API waits for builds that ended with the last process to be written down as failed.
const RECOVERY: Duration = Duration::from_secs(2);
/// The pause after a failed accept, as for want of file descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a client may send of one HTTP/2 stream, and of all streams of a connection, before it is read: 64 KiB less one,
/// as every connection begins with (RFC 9113 §6.9.2).
const WINDOW: u32 = (64 << 10) - 1;
/// What of one HTTP/2 stream may wait to be sent.
const UNSENT: usize = 32 << 10;

/// The socket the API is served on.
pub(crate) enum Listener {
    /// With an address.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

/// A connection just accepted.
enum Accepted {
    /// From an address.
    Tcp(TcpStream, IpAddr),
    /// From this machine.
    Unix(UnixStream),
}

impl Accepted {
    /// Returns what it counts for until it shows a token.
    fn holder(&self) -> Holder {
        match self {
            Self::Tcp(_, source) => Holder::host(*source),
            Self::Unix(_) => Holder::named("unix"),
        }
    }
}

impl Listener {
    /// Makes a bound socket ready to be served.
    ///
    /// # Errors
    /// What the system says.
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

    /// Accepts a connection, with a descriptor of the reserve where there is no other.
    async fn accept(&self) -> io::Result<(Accepted, Option<Loan>)> {
        CONTROL.wait(|context| self.poll_accept(context)).await
    }

    /// Accepts a connection that waits.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => ready!(listener.poll_accept(context)).map(|(stream, peer)| {
                // Answers are small and waited for. Where the client is gone already, that shows soon enough.
                let _ = stream.set_nodelay(true);
                Accepted::Tcp(stream, peer.ip().to_canonical())
            }),
            Self::Unix(listener) => ready!(listener.poll_accept(context)).map(|(stream, _)| Accepted::Unix(stream)),
        })
    }
}

/// Serves until told to stop, and then until what is under way is done.
pub(crate) async fn serve(listener: Listener, control: Arc<Control>, mut stop: watch::Receiver<bool>) {
    let seats = Seats::new(Arc::clone(&control.counts));
    let builds = Arc::clone(&control);
    let probing = tokio::spawn(Arc::clone(&control).probe_files());
    // Nobody is told of a build that ended with the last process as if it ran; where that cannot be written down, the
    // API does not wait for it.
    let _ = timeout(RECOVERY, tokio::spawn(Arc::clone(&control).fail_unfinished_builds())).await;
    let forgetting = tokio::spawn(Arc::clone(&control).forget(stop.clone()));
    let api = Api::new(control, stop.clone());
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
                // The error says nothing of a waiting connection, so the ones that have just come get time to send a request.
                sleep(ACCEPT_PAUSE).await;
                seats.make_room();
                continue;
            }
        };
        let mut seat = pin!(seats.seat(accepted.holder()));
        let seat = loop {
            tokio::select! {
                biased;
                seat = &mut seat => break seat,
                _ = stop.wait_for(|stop| *stop) => break 'serving,
                Some(_) = connections.join_next() => {}
            }
        };
        let connection =
            Connection { api: Arc::clone(&api), http: Arc::clone(&http), seat, source: None, stop: stop.clone() };
        connections.spawn(async move {
            connection.serve(accepted).await;
            drop(loan);
        });
    }
    drop(listener);
    probing.abort();
    builds.builds.stop();
    while connections.join_next().await.is_some() {}
    // It changes nothing any more.
    forgetting.abort();
    api.settled().await;
    builds.builds.stopped().await;
}

/// Returns both versions of HTTP with their bounds; the times are those of the [`self::deadlines::Pulse`].
fn protocols() -> auto::Builder<TokioExecutor> {
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
struct Connection {
    /// What is served.
    api: Arc<Api>,
    /// How it is spoken.
    http: Arc<auto::Builder<TokioExecutor>>,
    /// Its place.
    seat: Seat,
    /// Where it comes from; `None` is a Unix socket.
    source: Option<IpAddr>,
    /// Becomes true when the process stops.
    stop: watch::Receiver<bool>,
}

/// How far a connection is from its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Requests are served one after another.
    Serving,
    /// The process stops: one that is on its way is served yet.
    LastCall,
    /// What is under way is served, and nothing else.
    Leaving,
}

/// What a connection came to.
enum Event {
    /// It ended.
    Ended,
    /// A request came after the last call.
    Asked,
    /// Its time is up.
    Late(Late),
}

impl Connection {
    /// Serves a connection to its end.
    async fn serve(mut self, accepted: Accepted) {
        match accepted {
            Accepted::Tcp(stream, source) => {
                self.source = Some(source);
                self.secure(stream).await;
            }
            Accepted::Unix(stream) => self.secure(stream).await,
        }
    }

    /// Shakes hands, where there is a certificate, and serves.
    async fn secure(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Some(tls) = &self.api.control().certificate else { return self.speak(stream).await };
        // Without a certificate nothing can be said to it.
        let Some(acceptor) = tls.acceptor().await else { return };
        let pulse = Arc::clone(self.seat.pulse());
        let stream = tokio::select! {
            stream = timeout(HEAD, acceptor.accept(stream)) => stream,
            () = pulse.told_to_close() => return,
            () = stopped_for(&mut self.stop, GRACE) => return,
        };
        match stream {
            Ok(Ok(stream)) => {
                pulse.shook_hands();
                self.speak(stream).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake with the API"),
            Err(_) => self.seat.count(Closed::Slow),
        }
    }

    /// Speaks HTTP until the connection ends, is late, has to make room or the process stops.
    async fn speak(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let pulse = Arc::clone(self.seat.pulse());
        let (api, source) = (Arc::clone(&self.api), self.source);
        let stream = TokioIo::new(Stream::new(stream, Arc::clone(&pulse)));
        let answered = Arc::clone(&pulse);
        let service = service_fn(move |request| {
            let answer = Arc::clone(&api).answer(Arc::clone(&answered), source, request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let mut http = Box::pin(self.http.serve_connection(stream, service));
        let mut alarm = Box::pin(sleep_until(pulse.due().0));
        let mut phase = Phase::Serving;
        loop {
            let event = poll_fn(|context| {
                if http.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Event::Ended);
                }
                if phase == Phase::LastCall && pulse.came_after_last_call() {
                    return Poll::Ready(Event::Asked);
                }
                loop {
                    // A later moment is seen when the earlier one has come.
                    let (at, _) = pulse.due();
                    if at < alarm.deadline() {
                        alarm.as_mut().reset(at);
                    }
                    ready!(alarm.as_mut().poll(context));
                    let (at, why) = pulse.due();
                    if at <= Instant::now() {
                        return Poll::Ready(Event::Late(why));
                    }
                    alarm.as_mut().reset(at);
                }
            });
            tokio::select! {
                event = event => match (event, phase) {
                    (Event::Asked, _) | (Event::Late(Late::Idle), Phase::Serving) => {}
                    (Event::Late(Late::Slow), Phase::Serving | Phase::LastCall) => return self.seat.count(Closed::Slow),
                    // However it ends, it is the client's to notice.
                    _ => return,
                },
                () = pulse.told_to_close() => return self.seat.count(Closed::Room),
                _ = self.stop.wait_for(|stop| *stop), if phase == Phase::Serving => {
                    if pulse.last_call() {
                        phase = Phase::LastCall;
                        continue;
                    }
                }
            }
            phase = Phase::Leaving;
            pulse.leave();
            http.as_mut().graceful_shutdown();
        }
    }
}

/// Waits until the process has been stopping for a while.
async fn stopped_for(stop: &mut watch::Receiver<bool>, time: Duration) {
    // A sender that is gone has nothing to say but that.
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(time).await;
}
