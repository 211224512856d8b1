//! Requests: admission, the body within bounds, the answer, and the share of the quotas that each holds until it is read.

pub(super) mod call;
pub(super) mod counts;
pub(super) mod error;
pub(super) mod fields;
pub(super) mod json;
pub(super) mod list;
pub(super) mod long_poll;
pub(super) mod long_poll_limit;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, StatusCode, Version, header, request::Parts};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::counts::Outcome;
use self::error::ApiError;
use self::long_poll_limit::{LongPollLimit, LongPollPermit};
use crate::api::ApiState;
use crate::api::auth::{Principal, Refusal, RequestPurpose};
use crate::api::connection::state::{ConnectionState, RequestGuard};
use crate::api::quotas::{deadline, units};
use crate::bounds::{MAX_BODY, MAX_SMALL_BODY};
use crate::fair_share::quota::{Requester, Reservation};

type Request = axum::http::Request<Incoming>;

/// The time limit of a body, with the wait for its share of the memory.
const BODY: Duration = Duration::from_secs(10);
/// The octets of a body that is too long that are read and dropped.
const DRAINED: usize = 8 << 20;
/// The time limit for reading them.
const DRAIN: Duration = Duration::from_secs(2);
/// The octets of an answer that are handed over at a time: more would be copied for a client that does not read.
const PIECE: usize = 16 << 10;
/// The value of `Retry-After`, in seconds.
const RETRY_AFTER: &str = "1";
/// The interval of looking for running changes at the end of the process.
const LOOK: Duration = Duration::from_millis(10);

/// The service that all connections share.
pub(super) struct ApiService {
    control: Arc<ApiState>,
    routes: TowerToHyperService<Router>,
    long_polls: Arc<LongPollLimit>,
    /// Becomes true when the process stops.
    stop: watch::Receiver<bool>,
}

impl ApiService {
    pub(super) fn new(control: Arc<ApiState>, stop: watch::Receiver<bool>) -> Arc<Self> {
        let routes = TowerToHyperService::new(crate::api::routes::router(Arc::clone(&control)));
        let long_polls = LongPollLimit::new(&control.quotas);
        Arc::new(Self { control, routes, long_polls, stop })
    }

    pub(super) fn control(&self) -> &ApiState {
        &self.control
    }

    /// Waits until no change is running.
    pub(super) async fn settled(&self) {
        while self.control.is_changing() {
            sleep(LOOK).await;
        }
    }

    /// Answers a request.
    pub(super) async fn answer(
        self: Arc<Self>,
        connection: Arc<ConnectionState>,
        source: Option<IpAddr>,
        request: Request,
    ) -> Response<PacedBody> {
        let mut guard = connection.begin();
        let version = request.version();
        let (head, body) = request.into_parts();
        let snapshot = self.control.snapshot();
        let answered = match self.control.access.admit(&snapshot, source, &head).await {
            Ok(Some(principal)) => {
                // Before anything is waited for: at the limit, connections with a token are closed last.
                guard.has_token(principal.requester());
                self.run((&connection, &mut guard), principal, head, body).await
            }
            // Without a token, nothing of the body is read.
            Ok(None) => Ok((self.handle(head, Bytes::new(), None).await, None)),
            Err(refusal) => Err(refusal),
        };
        let (outcome, mut response, shares) = match answered {
            Ok((response, shares)) => {
                let outcome = response.extensions().get::<Outcome>().copied();
                (outcome.unwrap_or_else(|| Outcome::of(response.status())), response, shares)
            }
            Err((outcome, error)) => (outcome, error.into_response(), None),
        };
        self.control.counts.count(outcome);
        if shares.is_none() {
            guard.refuse();
        }
        if outcome == Outcome::NoToken {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        // After a body that was not read, HTTP/1 cannot go on; and a client over its share keeps no connection.
        if matches!(outcome, Outcome::TooLarge | Outcome::Slow | Outcome::Busy) && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        guard.sent();
        let held = Arc::new(Held { guard, _shares: shares });
        response.map(|body| PacedBody { body, rest: Bytes::new(), held })
    }

    /// Passes a request to its route.
    fn handle(
        &self,
        head: Parts,
        octets: Bytes,
        principal: Option<Principal>,
    ) -> impl Future<Output = Response> + Send + use<> {
        let mut request = axum::http::Request::from_parts(head, Body::from(octets));
        if let Some(principal) = principal {
            request.extensions_mut().insert(principal);
        }
        let routes = self.routes.clone();
        async move {
            let Ok(response) = routes.call(request).await;
            response
        }
    }

    /// Reads the body of a request with a token and executes it. The shares are held until the answer is read.
    async fn run(
        &self,
        (connection, guard): (&Arc<ConnectionState>, &mut RequestGuard),
        principal: Principal,
        head: Parts,
        body: Incoming,
    ) -> Result<(Response, Option<AnswerShares>), Refusal> {
        let (purpose, requester, quotas) = (RequestPurpose::of(&head), principal.requester(), &self.control.quotas);
        // Not waited for: HTTP/2 would let one client queue a hundred requests for each connection.
        let Some(request) = quotas.requests.take(requester, 1) else {
            return Err(busy("this token has as many requests under way as it may: try again"));
        };
        let most = if purpose == RequestPurpose::Change { MAX_BODY } else { MAX_SMALL_BODY };
        if purpose == RequestPurpose::Wait {
            let Some(permit) = self.long_polls.acquire(connection, requester) else {
                return Err(busy("too many requests wait for a status: try again"));
            };
            // Its share of connections is part of the permit.
            guard.admit();
            let (octets, share) = self.read(requester, &head, body, most).await?;
            let handling = self.handle(head, octets, Some(principal));
            let response = self.wait(permit, async {
                let response = handling.await;
                drop(share);
                response
            });
            return Ok((response.await?, Some(AnswerShares { _request: request, _answer: None })));
        }
        if !guard.admit_busy(&quotas.connections, requester).await {
            return Err(busy("this token has as many busy connections as it may: try again"));
        }
        let (octets, share) = self.read(requester, &head, body, most).await?;
        let running = if purpose == RequestPurpose::Change { &quotas.changing } else { &quotas.reading };
        let Some(running) = running.wait(requester, 1, deadline()).await else {
            return Err(busy("too many requests wait: try again"));
        };
        let (handling, answers) = (self.handle(head, octets, Some(principal)), Arc::clone(&quotas.answers));
        // A task, so that a client that disconnects neither leaves a change half made nor gets a further one executed at
        // the same time.
        let task = tokio::spawn(async move {
            let response = handling.await;
            drop(share);
            let octets = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
            // The answer takes memory until it is read: the next request runs once that is within the share.
            let answer = answers.wait(requester, units(octets), deadline()).await;
            drop(running);
            answer.map(|answer| (response, AnswerShares { _request: request, _answer: Some(answer) }))
        });
        let answered = task.await.map_err(|_| broken())?;
        let (response, shares) = answered.ok_or_else(|| busy("earlier answers are not taken yet: read them first"))?;
        Ok((response, Some(shares)))
    }

    /// Executes a long poll. It ends early for others of its token, and when the process stops: its client then asks the
    /// next process.
    async fn wait(
        &self,
        mut permit: LongPollPermit,
        handling: impl Future<Output = Response> + Send + 'static,
    ) -> Result<Response, Refusal> {
        let mut stop = self.stop.clone();
        let mut task = JoinSet::new();
        task.spawn(handling);
        tokio::select! {
            Some(done) = task.join_next() => done.map_err(|_| broken()),
            () = permit.revoked() => {
                Err(refused(StatusCode::REQUEST_TIMEOUT, "others wait for a status, too, so this ends early: ask again"))
            }
            _ = stop.wait_for(|stop| *stop) => {
                Err(refused(StatusCode::SERVICE_UNAVAILABLE, "hostgate is stopping: try again"))
            }
        }
    }

    /// Reads a body of at most `most` octets, with its share of the memory for bodies.
    async fn read(
        &self,
        requester: Requester,
        head: &Parts,
        mut body: Incoming,
        most: usize,
    ) -> Result<(Bytes, Option<Reservation>), Refusal> {
        // A client that expects 100-continue has not sent the body yet (RFC 9110 §10.1.1).
        let is_sent = !head.headers.contains_key(header::EXPECT);
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let length = body.size_hint().upper().map_or(most, |upper| usize::try_from(upper).unwrap_or(usize::MAX));
        if length > most {
            return Err(too_large(body, most, is_sent).await);
        }
        let end = Instant::now() + BODY;
        let read = async {
            let Some(mut share) = self.control.quotas.bodies.wait(requester, units(length), end).await else {
                return Err(busy("the bodies of other requests are not read yet: try again"));
            };
            let Some(octets) = collect(&mut body, most).await? else { return Ok(None) };
            share.shrink(units(octets.len()));
            Ok(Some((octets.into(), Some(share))))
        };
        match timeout_at(end, read).await {
            Ok(Ok(Some(read))) => Ok(read),
            Ok(Ok(None)) => Err(too_large(body, most, true).await),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => {
                let message = format!("the body took more than {} s to arrive", BODY.as_secs());
                Err((Outcome::Slow, ApiError::new(StatusCode::REQUEST_TIMEOUT, message)))
            }
        }
    }
}

/// Reads a body to its end. Returns `None` if it is longer than `most` octets.
async fn collect(body: &mut Incoming, most: usize) -> Result<Option<Vec<u8>>, Refusal> {
    let mut octets = Vec::new();
    while let Some(frame) = next_frame(body).await {
        let broken = |error: hyper::Error| refused(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}"));
        // Other frames are trailers, which the API does not use.
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if octets.len() + data.len() > most {
            return Ok(None);
        }
        octets.extend_from_slice(&data);
    }
    Ok(Some(octets))
}

async fn next_frame(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// Refuses a body that is too long. A part of it is read and dropped, as a client that is cut off while it sends may lose
/// the answer.
async fn too_large(mut body: Incoming, most: usize, is_sent: bool) -> Refusal {
    let drain = async {
        let mut left = DRAINED;
        while left > 0
            && let Some(Ok(frame)) = next_frame(&mut body).await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    if is_sent {
        let _ = timeout(DRAIN, drain).await;
    }
    let message = format!("the body is longer than {} KiB", most >> 10);
    (Outcome::TooLarge, ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
}

/// Refuses a request with a status.
fn refused(status: StatusCode, message: &str) -> Refusal {
    (Outcome::of(status), ApiError::new(status, message))
}

/// Refuses a request whose token has used up its share.
fn busy(message: &str) -> Refusal {
    (Outcome::Busy, ApiError::busy(message))
}

/// Answers a request that caused a panic, which the panic hook has logged.
fn broken() -> Refusal {
    refused(StatusCode::INTERNAL_SERVER_ERROR, "hostgate failed at this request; its log says more")
}

/// The shares of the quotas that an answer holds until it is read.
struct AnswerShares {
    _request: Reservation,
    /// The share of the memory for answers. The answer of a long poll is small and has none.
    _answer: Option<Reservation>,
}

/// The request of an answer, with its shares.
struct Held {
    guard: RequestGuard,
    _shares: Option<AnswerShares>,
}

/// The octets of an answer, with its request: HTTP/2 queues pieces after the last one was handed over.
struct HeldOctets {
    octets: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for HeldOctets {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// A body in pieces of [`PIECE`] octets, each of which reports progress. The request runs until all were sent.
pub(super) struct PacedBody {
    body: Body,
    /// The octets that are not handed over yet.
    rest: Bytes,
    held: Arc<Held>,
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(octets) => this.rest = Bytes::from_owner(HeldOctets { octets, _held: Arc::clone(&this.held) }),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        this.held.guard.sent();
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let hint = self.body.size_hint();
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}
