//! Requests to the API: HTTP/1.1 over TCP, TLS or a Unix socket, one connection each; a deadline on all of it.

mod place;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::{error::Elapsed, timeout};

pub(super) use self::place::Place;
use crate::bounds::MAX_API_ANSWER;

/// How long a request may take, its second try included: a change waits for those before it and for the disk.
const DEADLINE: Duration = Duration::from_secs(30);

/// Who asks the API, and where it is.
pub(super) struct Api {
    /// Where it is served.
    place: Place,
    /// The bearer token.
    token: String,
    /// What the requests run on.
    runtime: tokio::runtime::Runtime,
}

/// Why there is no answer, or one that says no.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody listens there.
    #[error("{0} (is hostgate running, and does its configuration have [control] with this `listen`?)")]
    Connect(io::Error),
    /// There is a server, and the token must not go there.
    #[error("{0}")]
    Unsafe(String),
    /// The connection was made and ended before the answer did, twice.
    #[error("the connection broke: {}", reason(.0))]
    Broken(hyper::Error),
    /// It took too long.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The answer is too long.
    #[error("the answer is longer than {MAX_API_ANSWER} octets (ask for less: --limit, --name)")]
    Long,
    /// The answer is not what the API says.
    #[error("the answer (status {0}) is none of hostgate's API: is this its `control.listen`?")]
    Foreign(StatusCode),
    /// The API says no, and why.
    #[error("{message}{}", mend(*.status))]
    Refused {
        /// The status.
        status: StatusCode,
        /// Its message.
        message: String,
    },
    /// The token cannot be sent.
    #[error("the token holds a character that no HTTP header takes")]
    Token,
}

impl HttpError {
    /// Returns whether what was asked for may be done all the same.
    pub(super) const fn leaves_open(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Late | Self::Long | Self::Foreign(_))
    }
}

impl From<Elapsed> for HttpError {
    fn from(_: Elapsed) -> Self {
        Self::Late
    }
}

impl Api {
    /// Makes what asks at `place` with `token`.
    ///
    /// # Errors
    /// The system gives no descriptors for it.
    pub(super) fn new(place: Place, token: String) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { place, token, runtime })
    }

    /// Returns where it asks.
    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Gets what is at `path`.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub(super) fn get(&self, path: &str) -> Result<Value, HttpError> {
        self.ask(&Method::GET, path, String::new())
    }

    /// Posts `body` to `path`.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, HttpError> {
        self.ask(&Method::POST, path, body.to_string())
    }

    /// Sends a request; once more where the connection breaks. By the id that both tries have, the API knows the second
    /// for what it is, and does nothing twice.
    fn ask(&self, method: &Method, path: &str, body: String) -> Result<Value, HttpError> {
        let id = request_id();
        let tries = async {
            match self.exchange(self.request(method, path, body.clone(), &id)?).await {
                Err(HttpError::Broken(_)) => self.exchange(self.request(method, path, body, &id)?).await,
                result => result,
            }
        };
        let (status, answer) = self.runtime.block_on(async { timeout(DEADLINE, tries).await })??;
        read(status, &answer)
    }

    /// Makes a request.
    fn request(&self, method: &Method, path: &str, body: String, id: &str) -> Result<Request<String>, HttpError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.place.prefix()))
            .header(HOST, self.place.authority())
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("x-request-id", id);
        request.body(body).map_err(|_| HttpError::Token)
    }

    /// Sends a request on a connection of its own and reads the answer.
    async fn exchange(&self, request: Request<String>) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let stream = self.place.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Broken)?;
        // It ends with the runtime at the latest, and its error is the request's.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(HttpError::Broken)?;
        let status = response.status();
        Ok((status, collect(response).await?))
    }
}

/// Reads the whole body of a response, as long as it is bounded.
async fn collect(mut response: Response<Incoming>) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(response.body_mut()).poll_frame(context)).await {
        let data: Bytes = frame.map_err(HttpError::Broken)?.into_data().unwrap_or_default();
        if bytes.len() + data.len() > MAX_API_ANSWER {
            return Err(HttpError::Long);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads an answer: JSON, and for an error its message.
fn read(status: StatusCode, answer: &[u8]) -> Result<Value, HttpError> {
    let value: Value = serde_json::from_slice(answer).map_err(|_| HttpError::Foreign(status))?;
    if status.is_success() {
        return Ok(value);
    }
    match value["message"].as_str() {
        Some(message) => Err(HttpError::Refused { status, message: message.to_owned() }),
        None => Err(HttpError::Foreign(status)),
    }
}

/// Returns why a connection broke: what it itself says is only that it did.
fn reason(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Returns what there is to do about a refusal besides what its message says.
const fn mend(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => " (--token-file FILE or HOSTGATE_TOKEN gives one)",
        503 => " (try again)",
        _ => "",
    }
}

/// Returns an id that no other request has.
fn request_id() -> String {
    let mut bytes = [0; 16];
    // Without random octets the time has to do: what is asked for is only that two calls differ.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = jiff::Timestamp::now().as_nanosecond().to_be_bytes();
    }
    format!("hostgate-{:032x}", u128::from_be_bytes(bytes))
}
