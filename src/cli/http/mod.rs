//! A client of the API: HTTP/1.1 over TCP, TLS or a Unix socket, with one connection and one deadline for each request.

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

/// The deadline of a request, including its second try. A change waits for earlier ones and for the disk.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client of the API at one place, with one token.
pub(super) struct Api {
    place: Place,
    token: String,
    /// The runtime that requests run on, in the current thread.
    runtime: tokio::runtime::Runtime,
}

/// The error of a request without an answer, or with an answer that is an error.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// No server listens at this place.
    #[error("{0} (is hostgate running, and does its configuration have [control] with this `listen`?)")]
    Connect(io::Error),
    /// A server listens, but the token must not be sent to it.
    #[error("{0}")]
    Unsafe(String),
    /// The connection broke before the end of the answer, twice.
    #[error("the connection broke: {}", reason(.0))]
    Broken(hyper::Error),
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    #[error("the answer is longer than {MAX_API_ANSWER} octets (ask for less: --limit, --name)")]
    Long,
    /// The answer is not one that the API gives.
    #[error("the answer (status {0}) is not one of hostgate's API: is this its `control.listen`?")]
    Foreign(StatusCode),
    /// The API refused the request.
    #[error("{message}{}", advice(*.status))]
    Refused {
        status: StatusCode,
        /// The message of the API.
        message: String,
    },
    /// The token cannot be sent in a header field.
    #[error("the token holds a character that no HTTP header takes")]
    Token,
}

impl HttpError {
    /// Returns whether the request may have been carried out nevertheless.
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
    /// Makes a client for the API at `place`.
    ///
    /// # Errors
    /// The system has no descriptors for a runtime.
    pub(super) fn new(place: Place, token: String) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { place, token, runtime })
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Sends a GET request for `path`.
    ///
    /// # Errors
    /// There is no answer, or the API refuses the request.
    pub(super) fn get(&self, path: &str) -> Result<Value, HttpError> {
        self.ask(&Method::GET, path, String::new())
    }

    /// Sends a POST request with `body` to `path`.
    ///
    /// # Errors
    /// There is no answer, or the API refuses the request.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, HttpError> {
        self.ask(&Method::POST, path, body.to_string())
    }

    /// Sends a request, and sends it again if the connection breaks. Both tries have the same `x-request-id`, by which
    /// the API recognises the second and does nothing twice.
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

    /// Builds a request.
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

    /// Sends a request on a new connection and reads the answer.
    async fn exchange(&self, request: Request<String>) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let stream = self.place.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Broken)?;
        // The task ends with the runtime at the latest. Its error is also that of the request.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(HttpError::Broken)?;
        let status = response.status();
        Ok((status, collect(response).await?))
    }
}

/// Reads the body of a response, of at most [`MAX_API_ANSWER`] octets.
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

/// Parses an answer: JSON, with a message if the status is an error.
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

/// Returns the cause of a broken connection, which the error itself does not mention.
fn reason(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Returns advice on a refusal in addition to its message.
const fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => " (--token-file FILE or HOSTGATE_TOKEN gives one)",
        503 => " (try again)",
        _ => "",
    }
}

/// Returns a random id for a request.
fn request_id() -> String {
    let mut bytes = [0; 16];
    // Without random octets the time suffices: two requests only have to differ.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = jiff::Timestamp::now().as_nanosecond().to_be_bytes();
    }
    format!("hostgate-{:032x}", u128::from_be_bytes(bytes))
}
