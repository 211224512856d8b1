//! One request: let in or not, its body read within bounds, its answer sent piece by piece.

pub(super) mod call;
pub(super) mod counts;
pub(super) mod error;
pub(super) mod fields;
pub(super) mod json;
pub(super) mod list;
pub(super) mod long_poll;
pub(super) mod long_poll_limit;

use std::future::poll_fn;
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
use self::long_poll_limit::Waits;
use crate::api::Control;
use crate::api::auth::{Principal, Purpose, Refusal};
use crate::api::connection::deadlines::{Pulse, Turn};
use crate::api::quotas::{deadline, units};
use crate::bounds::{MAX_BODY, MAX_SMALL_BODY};
use crate::fair_share::quota::{Requester, Reservation};

/// A request as it comes in.
type Request = axum::http::Request<Incoming>;

/// How long a body may take to arrive, the wait for its octets' share included.
const BODY: Duration = Duration::from_secs(10);
/// How much of a body that is too long is read and forgotten, in octets.
const FORGOTTEN: usize = 8 << 20;
/// How long that may take.
const FORGET: Duration = Duration::from_secs(2);
/// The pieces in which an answer is handed over: no more of it is copied for a client that takes nothing.
const PIECE: usize = 16 << 10;
/// When to ask again where there was no room, in seconds.
const AGAIN: &str = "1";
/// How often the end of the process looks whether a change is still being made.
const LOOK: Duration = Duration::from_millis(10);

/// What all connections share.
pub(super) struct Api {
    /// Objects and access.
    control: Arc<Control>,
    /// What is done for a method and path.
    routes: TowerToHyperService<Router>,
    /// The requests that wait for a status.
    waits: Arc<Waits>,
    /// Becomes true when the process stops.
    stop: watch::Receiver<bool>,
}

impl Api {
    /// Makes what connections share.
    pub(super) fn new(control: Arc<Control>, stop: watch::Receiver<bool>) -> Arc<Self> {
        let routes = TowerToHyperService::new(crate::api::routes::router(Arc::clone(&control)));
        let waits = Waits::new(&control.quotas);
        Arc::new(Self { control, routes, waits, stop })
    }

    /// Returns what it serves.
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Waits until no change is under way.
    pub(super) async fn settled(&self) {
        while self.control.quotas.changing.used() > 0 {
            sleep(LOOK).await;
        }
    }

    /// Answers a request; whatever goes wrong, there is an answer.
    pub(super) async fn answer(
        self: Arc<Self>,
        pulse: Arc<Pulse>,
        source: Option<IpAddr>,
        request: Request,
    ) -> Response<Paced> {
        let mut turn = pulse.begin();
        let version = request.version();
        let (head, body) = request.into_parts();
        let snapshot = self.control.snapshot();
        let answered = match self.control.access.admit(&snapshot, source, &head).await {
            Ok(Some(principal)) => {
                turn.know(principal.requester());
                self.run((&pulse, &mut turn), principal, head, body).await
            }
            // Whoever it is, nothing is read or kept for it.
            Ok(None) => Ok((self.handle(head, Bytes::new(), None).await, None)),
            Err(refusal) => Err(refusal),
        };
        // A refusal, or an answer for which no token is needed, is no part of a quota.
        let is_refused = answered.as_ref().map_or(true, |(_, grants)| grants.is_none());
        let (outcome, mut response, grants) = match answered {
            Ok((response, grants)) => {
                let outcome = response.extensions().get::<Outcome>().copied();
                (outcome.unwrap_or_else(|| Outcome::of(response.status())), response, grants)
            }
            Err((outcome, error)) => (outcome, error.into_response(), None),
        };
        self.control.counts.count(outcome);
        if is_refused {
            turn.refuse();
        }
        if outcome == Outcome::NoToken {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
        }
        // Something of the body is still to come: HTTP/1 cannot go on behind it. And at a limit nobody keeps a connection
        // until it asks again.
        if matches!(outcome, Outcome::TooLarge | Outcome::Slow | Outcome::Busy) && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        turn.sent();
        let held = Arc::new(Held { turn, _grants: grants });
        response.map(|body| Paced { body, rest: Bytes::new(), held })
    }

    /// Hands a request to its route.
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

    /// Reads a request's body and does what is asked; what is returned with the response is held until that is taken.
    async fn run(
        &self,
        (pulse, turn): (&Arc<Pulse>, &mut Turn),
        principal: Principal,
        head: Parts,
        body: Incoming,
    ) -> Result<(Response, Option<Grants>), Refusal> {
        let (purpose, requester, quotas) = (Purpose::of(&head), principal.requester(), &self.control.quotas);
        let Some(request) = quotas.requests.take(requester, 1) else {
            return Err(busy("this token has as many requests under way as it may: try again"));
        };
        let most = if purpose == Purpose::Change { MAX_BODY } else { MAX_SMALL_BODY };
        if purpose == Purpose::Wait {
            let Some(place) = self.waits.begin(pulse, requester) else {
                return Err(busy("too many requests wait for a status: try again"));
            };
            turn.admit();
            let (octets, body) = self.read(requester, &head, body, most).await?;
            let handling = self.handle(head, octets, Some(principal));
            let response = self.wait(place, async {
                let response = handling.await;
                drop(body);
                response
            });
            return Ok((response.await?, Some(Grants { _request: request, _answer: None })));
        }
        if !turn.admit_busy(&quotas.connections, requester).await {
            return Err(busy("this token has as many busy connections as it may: try again"));
        }
        let (octets, body) = self.read(requester, &head, body, most).await?;
        let places = if purpose == Purpose::Change { &quotas.changing } else { &quotas.reading };
        let Some(place) = places.wait(requester, 1, deadline()).await else {
            return Err(busy("too many requests wait: try again"));
        };
        let (handling, answers) = (self.handle(head, octets, Some(principal)), Arc::clone(&quotas.answers));
        // On a task of its own, so that a client that goes does not leave half of it done, nor have more of them done at
        // once by going and coming back.
        let task = tokio::spawn(async move {
            let response = handling.await;
            drop(body);
            let octets = response.body().size_hint().lower();
            // What is answered is in memory until it is taken; the next one is made when there is room for this one.
            let octets = units(usize::try_from(octets).unwrap_or(usize::MAX));
            let answer = answers.wait(requester, octets, deadline()).await;
            drop(place);
            answer.map(|answer| (response, Grants { _request: request, _answer: Some(answer) }))
        });
        let answered = task.await.map_err(|_| broken())?;
        let (response, grants) = answered.ok_or_else(|| busy("earlier answers are not taken yet: read them first"))?;
        Ok((response, Some(grants)))
    }

    /// Does what ends with its connection, when others want to wait, too, or when the process stops: its client asks a
    /// successor.
    async fn wait(
        &self,
        mut place: long_poll_limit::Wait,
        handled: impl Future<Output = Response> + Send + 'static,
    ) -> Result<Response, Refusal> {
        let mut stop = self.stop.clone();
        let mut task = JoinSet::new();
        task.spawn(handled);
        tokio::select! {
            Some(done) = task.join_next() => done.map_err(|_| broken()),
            () = place.over() => {
                Err(refused(StatusCode::REQUEST_TIMEOUT, "others wait for a status, too, so this ends early: ask again"))
            }
            _ = stop.wait_for(|stop| *stop) => Err(refused(StatusCode::SERVICE_UNAVAILABLE, "hostgate is stopping: try again")),
        }
    }

    /// Reads a body of `most` octets at most; what is returned with it is its share of the octets of all bodies.
    async fn read(
        &self,
        requester: Requester,
        head: &Parts,
        mut body: Incoming,
        most: usize,
    ) -> Result<(Bytes, Option<Reservation>), Refusal> {
        // Who asks first whether to go on (RFC 9110 §10.1.1) has not sent it yet.
        let is_sent = !head.headers.contains_key(header::EXPECT);
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let said = body.size_hint().upper().map_or(most, |upper| usize::try_from(upper).unwrap_or(usize::MAX));
        if said > most {
            return Err(too_large(body, most, is_sent).await);
        }
        let end = Instant::now() + BODY;
        let read = async {
            let Some(mut grant) = self.control.quotas.bodies.wait(requester, units(said), end).await else {
                return Err(busy("the bodies of other requests are not read yet: try again"));
            };
            let Some(octets) = collect(&mut body, most).await? else { return Ok(None) };
            // What was not needed is free again.
            grant.shrink(units(octets.len()));
            Ok(Some((octets.into(), Some(grant))))
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

/// Reads a body to its end; nothing when it is longer than `most` octets.
async fn collect(body: &mut Incoming, most: usize) -> Result<Option<Vec<u8>>, Refusal> {
    let mut octets = Vec::new();
    while let Some(frame) = next(body).await {
        let broke_off = |error: hyper::Error| refused(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}"));
        // Trailers say nothing to us.
        let Ok(data) = frame.map_err(broke_off)?.into_data() else { continue };
        if octets.len() + data.len() > most {
            return Ok(None);
        }
        octets.extend_from_slice(&data);
    }
    Ok(Some(octets))
}

/// Returns the next piece of a body.
async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// Refuses a body that is too long. What is on its way of it is read and forgotten, within bounds, as clients that are
/// cut off while they send lose the answer.
async fn too_large(mut body: Incoming, most: usize, is_sent: bool) -> Refusal {
    let forget = async {
        let mut left = FORGOTTEN;
        while left > 0
            && let Some(Ok(frame)) = next(&mut body).await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    if is_sent {
        // Over or not, it is answered.
        let _ = timeout(FORGET, forget).await;
    }
    let message = format!("the body is longer than {} KiB", most >> 10);
    (Outcome::TooLarge, ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
}

/// Refuses a request by its status.
fn refused(status: StatusCode, message: &str) -> Refusal {
    (Outcome::of(status), ApiError::new(status, message.to_owned()))
}

/// Refuses a request for which its token has no share left.
fn busy(message: &str) -> Refusal {
    (Outcome::Busy, ApiError::busy(message))
}

/// Answers a request that made us panic; the panic hook has told of it.
fn broken() -> Refusal {
    refused(StatusCode::INTERNAL_SERVER_ERROR, "hostgate failed at this request; its log says more")
}

/// What an answer holds until its client has taken it.
struct Grants {
    /// Its part of the requests under way.
    _request: Reservation,
    /// Its part of the octets of answers; a long poll's are few.
    _answer: Option<Reservation>,
}

/// A request that runs until its answer is taken, and what it holds.
struct Held {
    /// The request.
    turn: Turn,
    /// What it holds.
    _grants: Option<Grants>,
}

/// Octets of an answer, which keep what their request holds: HTTP/2 queues pieces that the client has no window for, after
/// the last one was asked for.
struct Kept {
    /// The octets.
    octets: Bytes,
    /// What is held.
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// An answer that is handed over in pieces of [`PIECE`] octets, so that one that is not taken is noticed and no copy of
/// it waits with it. Its request runs until all its octets were sent.
pub(super) struct Paced {
    /// What is still to come.
    body: Body,
    /// What has come and is not yet handed over.
    rest: Bytes,
    /// The request, and what it holds.
    held: Arc<Held>,
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(octets) => this.rest = Bytes::from_owner(Kept { octets, _held: Arc::clone(&this.held) }),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        this.held.turn.sent();
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
