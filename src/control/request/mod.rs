//! One request: let in or not, its body read within bounds, its answer sent piece by piece.

pub(in crate::control) mod call;
pub(in crate::control) mod counts;
pub(in crate::control) mod error;
pub(in crate::control) mod fields;
pub(in crate::control) mod list;
pub(in crate::control) mod retries;
pub(in crate::control) mod routes;
pub(in crate::control) mod wait;
pub(in crate::control) mod waits;

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bounds::{MAX_BODIES, MAX_BODY, MAX_CHANGING, MAX_READING, MAX_SMALL_BODY};
use crate::control::Control;
use crate::control::access::{Principal, Purpose, Refusal};
use crate::control::connection::pulse::{Pulse, Turn};
use crate::control::request::counts::Outcome;
use crate::control::request::error::ApiError;
use crate::control::request::waits::Waits;

/// A request as it comes in.
type Request = axum::http::Request<Incoming>;

/// A part of a bound, given back when it is dropped; none where there is no need for one.
type Room = Option<OwnedSemaphorePermit>;

/// How long a body may take to arrive, and wait for room before.
const BODY: Duration = Duration::from_secs(10);
/// How much of a body that is too long is read and forgotten, in octets.
const FORGOTTEN: usize = 8 << 20;
/// How long that may take.
const FORGET: Duration = Duration::from_secs(2);
/// The pieces in which an answer is handed over: no more of it is copied for a client that takes nothing.
const PIECE: usize = 16 << 10;
/// An answer of more octets than this counts as large.
const LARGE: u64 = 64 << 10;
/// When to ask again where there was no room, in seconds.
const AGAIN: &str = "1";
/// What bodies are measured in, so that the room for all is counted in small numbers.
const UNIT: usize = 1 << 10;

/// What all connections share.
pub(in crate::control) struct Api {
    /// Objects and access.
    control: Arc<Control>,
    /// What is done for a method and path.
    routes: TowerToHyperService<Router>,
    /// The room for bodies, in [`UNIT`]s.
    bodies: Arc<Semaphore>,
    /// The room for requests that change something.
    changing: Arc<Semaphore>,
    /// The room for requests that read something, and their answers while they are large.
    reading: Arc<Semaphore>,
    /// The requests that wait for a status.
    waits: Arc<Waits>,
    /// Becomes true when the process stops.
    stop: watch::Receiver<bool>,
}

impl Api {
    /// Makes what connections share.
    pub(in crate::control) fn new(control: Arc<Control>, stop: watch::Receiver<bool>) -> Arc<Self> {
        let routes = TowerToHyperService::new(routes::router(Arc::clone(&control)));
        let room = |size: usize| Arc::new(Semaphore::new(size));
        let (bodies, changing, reading) = (room(MAX_BODIES / UNIT), room(MAX_CHANGING), room(MAX_READING));
        Arc::new(Self { control, routes, bodies, changing, reading, waits: Arc::default(), stop })
    }

    /// Returns what it serves.
    pub(in crate::control) fn control(&self) -> &Control {
        &self.control
    }

    /// Waits until no change is under way.
    pub(in crate::control) async fn settled(&self) {
        let all = u32::try_from(MAX_CHANGING).unwrap_or(u32::MAX);
        // It is never closed.
        let _ = self.changing.acquire_many(all).await;
    }

    /// Answers a request; whatever goes wrong, there is an answer.
    pub(in crate::control) async fn answer(
        self: Arc<Self>,
        pulse: Arc<Pulse>,
        source: Option<IpAddr>,
        request: Request,
    ) -> Response<Paced> {
        let mut turn = pulse.begin();
        let version = request.version();
        let (head, body) = request.into_parts();
        let answered = match self.control.access.admit(&self.control.snapshot(), source, &head) {
            Ok(Some(principal)) => {
                turn.admit();
                self.run(&pulse, principal, head, body).await
            }
            // Whoever it is, nothing is read or kept for it.
            Ok(None) => Ok((self.handle(head, Bytes::new(), None).await, None)),
            Err(refusal) => Err(refusal),
        };
        let (outcome, mut response, room) = match answered {
            Ok((response, room)) => (Outcome::of(response.status()), response, room),
            Err((outcome, error)) => (outcome, error.into_response(), None),
        };
        self.control.counts.count(outcome);
        if outcome == Outcome::NoToken {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
        }
        // Something of the body is still to come: HTTP/1 cannot go on behind it. And where there is no room, nobody keeps a
        // place until it asks again.
        if matches!(outcome, Outcome::TooLarge | Outcome::Slow | Outcome::Busy) && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        turn.sent();
        response.map(|body| Paced { body, rest: Bytes::new(), turn, _room: room })
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

    /// Reads a request's body and does what is asked; what is returned besides is to be kept until the answer is taken.
    async fn run(
        &self,
        pulse: &Arc<Pulse>,
        principal: Principal,
        head: Parts,
        body: Incoming,
    ) -> Result<(Response, Room), Refusal> {
        let purpose = Purpose::of(&head);
        let most = if purpose == Purpose::Change { MAX_BODY } else { MAX_SMALL_BODY };
        let (octets, room) = self.read(&head, body, most).await?;
        let handling = self.handle(head, octets, Some(principal));
        let handled = async move {
            let response = handling.await;
            drop(room);
            response
        };
        if purpose == Purpose::Wait {
            return self.wait(pulse, handled).await;
        }
        let places = if purpose == Purpose::Change { &self.changing } else { &self.reading };
        let Ok(Ok(place)) = timeout(BODY, Arc::clone(places).acquire_owned()).await else {
            return Err(busy("too many requests wait: try again"));
        };
        // On a task of its own, so that a client that goes does not leave half of it done, nor have more of them done at
        // once by going and coming back.
        let task = tokio::spawn(async move {
            let response = handled.await;
            let is_large = response.body().size_hint().upper().is_none_or(|octets| octets > LARGE);
            // What is large is in memory until it is taken, which the next one waits for.
            (response, Some(place).filter(|_| is_large))
        });
        task.await.map_err(|_| broken())
    }

    /// Does what ends with its connection, when others want to wait, too, or when the process stops: its client asks a
    /// successor.
    async fn wait(
        &self,
        pulse: &Arc<Pulse>,
        handled: impl Future<Output = Response> + Send + 'static,
    ) -> Result<(Response, Room), Refusal> {
        let Some(mut place) = self.waits.begin(pulse) else {
            return Err(busy("too many requests wait for a status: try again"));
        };
        let mut stop = self.stop.clone();
        let mut task = JoinSet::new();
        task.spawn(handled);
        tokio::select! {
            Some(done) = task.join_next() => done.map(|response| (response, None)).map_err(|_| broken()),
            () = place.over() => {
                Err(refused(StatusCode::REQUEST_TIMEOUT, "others wait for a status, too, so this ends early: ask again"))
            }
            _ = stop.wait_for(|stop| *stop) => Err(refused(StatusCode::SERVICE_UNAVAILABLE, "hostgate is stopping: try again")),
        }
    }

    /// Reads a body of `most` octets at most; what is returned besides is its part of the room for bodies.
    async fn read(&self, head: &Parts, mut body: Incoming, most: usize) -> Result<(Bytes, Room), Refusal> {
        // Who asks first whether to go on (RFC 9110 §10.1.1) has not sent it yet.
        let is_sent = !head.headers.contains_key(header::EXPECT);
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let said = body.size_hint().upper().map_or(most, |upper| usize::try_from(upper).unwrap_or(usize::MAX));
        if said > most {
            return Err(too_large(body, most, is_sent).await);
        }
        let read = async {
            let room = Arc::clone(&self.bodies).acquire_many_owned(units(said)).await;
            let mut room = room.map_err(|_| broken())?;
            let Some(octets) = collect(&mut body, most).await? else { return Ok(None) };
            // What was not needed is free again.
            let kept = room.split(usize::try_from(units(octets.len())).unwrap_or(0));
            Ok(Some((octets.into(), kept)))
        };
        match timeout(BODY, read).await {
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

/// Returns how much of the room for bodies `octets` take.
fn units(octets: usize) -> u32 {
    u32::try_from(octets.div_ceil(UNIT)).unwrap_or(u32::MAX)
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

/// Refuses a request for which there is no room.
fn busy(message: &str) -> Refusal {
    (Outcome::Busy, ApiError::unavailable(message))
}

/// Answers a request that made us panic; the panic hook has told of it.
fn broken() -> Refusal {
    refused(StatusCode::INTERNAL_SERVER_ERROR, "hostgate failed at this request; its log says more")
}

/// An answer that is handed over in pieces of [`PIECE`] octets, so that one that is not taken is noticed and no copy of
/// it waits besides. Its request runs until it is dropped.
pub(in crate::control) struct Paced {
    /// What is still to come.
    body: Body,
    /// What has come and is not yet handed over.
    rest: Bytes,
    /// The request.
    turn: Turn,
    /// Its part of a bound.
    _room: Room,
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        this.turn.sent();
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
