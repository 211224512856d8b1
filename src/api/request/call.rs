//! What requests have in common: who asks, about what, with which fields, and that a change is made once and to its end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts as _, RawPathParams, Request};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::sleep;

use crate::api::Control;
use crate::api::auth::Principal;
use crate::api::idempotency::{CachedResponse, RequestKey};
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::Fields;
use crate::api::quotas::{deadline, units};
use crate::api::request::error::ApiError;
use crate::api::request::json;
use crate::fair_share::quota::Reservation;
use crate::policy::Snapshot;

/// A request.
pub(in crate::api) struct Call {
    /// What all requests share.
    pub(in crate::api) control: Arc<Control>,
    /// Who asks.
    pub(in crate::api) principal: Principal,
    /// The id in the path, empty where there is none.
    pub(in crate::api) id: String,
    /// The query string.
    pub(in crate::api) query: String,
    /// The fields of the body.
    pub(in crate::api) fields: Fields,
    /// The identity of a request that may be retried.
    key: Option<RequestKey>,
    /// Its part of the octets that parsed bodies take.
    _parsed: Option<Reservation>,
}

/// What a change did.
pub(in crate::api) struct Done {
    /// The response.
    pub(in crate::api) view: Value,
    /// The object that was created.
    pub(in crate::api) created: Option<Arc<str>>,
}

impl Done {
    /// Something was changed.
    pub(in crate::api) fn changed(view: Value) -> Self {
        Self { view, created: None }
    }
}

/// The JSON text of a response.
pub(in crate::api) struct Text(pub(in crate::api) String);

impl From<Value> for Text {
    fn from(view: Value) -> Self {
        Self(view.to_string())
    }
}

impl FromRequest<Arc<Control>> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, control: &Arc<Control>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let principal = parts.extensions.get::<Principal>().cloned().ok_or_else(ApiError::internal)?;
        let path = RawPathParams::from_request_parts(&mut parts, &()).await;
        let path = path.map_err(|error| ApiError::bad(format!("path: {}", error.body_text())))?;
        let id = path.iter().next().map(|(_, id)| id.to_owned()).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path = parts.uri.path().to_owned();
        let request_id = parts.headers.get("x-request-id").map(request_id).transpose()?;
        let body = Bytes::from_request(Request::from_parts(parts, body), &()).await;
        let body = body.map_err(|error| ApiError::new(error.status(), error.body_text()))?;
        let key = request_id.map(|id| control.idempotency.key(&principal.name, &id, &path, &body));
        let mut parsed = None;
        if !body.is_empty() {
            let most = units(json::worst(body.len()));
            parsed = control.quotas.parsed.wait(principal.requester(), most, deadline()).await;
            if parsed.is_none() {
                return Err(ApiError::busy("too many large bodies are being worked on: try again"));
            }
        }
        let (fields, octets) = read(&body)?;
        if let Some(parsed) = &mut parsed {
            parsed.shrink(units(octets));
        }
        Ok(Self { control: Arc::clone(control), principal, id, query, fields, key, _parsed: parsed })
    }
}

impl Call {
    /// Changes something; what runs requests sees to it that it is done also if the client goes.
    pub(in crate::api) async fn change<W, F>(self, work: W) -> Response
    where
        W: Fn(Arc<Self>) -> F,
        F: Future<Output = Result<Done, ApiError>>,
    {
        match Arc::new(self).once(work).await {
            Ok(body) => json_response(body),
            Err(error) => error.into_response(),
        }
    }

    /// Answers from what is in force, away from the threads that serve connections.
    pub(in crate::api) async fn look<W, T>(self, work: W) -> Response
    where
        W: FnOnce(&Self, &Snapshot) -> Result<T, ApiError> + Send + 'static,
        T: Into<Text>,
    {
        let (control, requester) = (Arc::clone(&self.control), self.principal.requester());
        let looked = control
            .read(requester, move || work(&self, &self.control.snapshot()).map(|told| Bytes::from(told.into().0)));
        match looked.await {
            Ok(body) => json_response(body),
            Err(error) => error.into_response(),
        }
    }

    /// Does what is asked unless it was done already; returns the body of the response.
    async fn once<W, F>(self: Arc<Self>, work: W) -> Result<Bytes, ApiError>
    where
        W: Fn(Arc<Self>) -> F,
        F: Future<Output = Result<Done, ApiError>>,
    {
        let Some(key) = &self.key else {
            return Ok(body_of(&self.patiently(work).await?.view));
        };
        let mut executed = None;
        let execute = async {
            let Done { view, created } = self.patiently(work).await?;
            let body = executed.insert(body_of(&view)).clone();
            Ok(created.map_or(CachedResponse::Body(body), CachedResponse::Created))
        };
        let response = self.control.idempotency.once(key, execute).await?;
        match (executed, response) {
            (Some(body), _) | (None, CachedResponse::Body(body)) => Ok(body),
            (None, CachedResponse::Created(id)) => {
                let kind = Kind::of(&id).unwrap_or(Kind::Policy);
                self.view(kind, &id).await.map(|view| body_of(&view))
            }
        }
    }

    /// Does what is asked, again after a moment where somebody is editing the file that it needs. Meanwhile others make
    /// their changes.
    async fn patiently<W, F>(self: &Arc<Self>, work: W) -> Result<Done, ApiError>
    where
        W: Fn(Arc<Self>) -> F,
        F: Future<Output = Result<Done, ApiError>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match work(Arc::clone(self)).await {
                Err(error) if pause <= error.last_pause => {}
                done => return done,
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Returns the view of an object as it is now.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::api) async fn view(&self, kind: Kind, id: &str) -> Result<Value, ApiError> {
        let (control, id) = (Arc::clone(&self.control), id.to_owned());
        self.control.read(self.principal.requester(), move || control.view(kind, &id)).await
    }
}

/// The first pause before a change is tried again; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Reads the id of a request.
fn request_id(value: &HeaderValue) -> Result<String, ApiError> {
    /// The longest one, in octets.
    const LONGEST: usize = 200;
    let id = value.to_str().ok().filter(|id| (1..=LONGEST).contains(&id.len()));
    id.map(str::to_owned).ok_or_else(|| {
        ApiError::bad(format!(
            "x-request-id: it is not 1 to {LONGEST} characters of ASCII: make a random one, as a UUID"
        ))
    })
}

/// Reads the body of a request: no body is no fields, and null is no value. Returns the fields with an estimate of the
/// octets they take.
fn read(body: &[u8]) -> Result<(Fields, usize), ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok((Fields::new(), 0));
    }
    match json::parse(body).map_err(ApiError::bad)? {
        (Value::Object(mut fields), octets) => {
            fields.retain(|_, value| !value.is_null());
            Ok((fields, octets))
        }
        (Value::Null, octets) => Ok((Fields::new(), octets)),
        _ => Err(ApiError::bad("body: it is no JSON object: write `{\"name\": ...}`")),
    }
}

/// Writes the body of a response.
fn body_of(view: &Value) -> Bytes {
    view.to_string().into()
}

/// Makes the response with a body.
pub(in crate::api) fn json_response(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_may_be_empty_and_nulls_are_absent() {
        for empty in ["", " \r\n", "null", "{}", r#"{"name":null}"#] {
            assert_eq!(read(empty.as_bytes()).unwrap().0, Fields::new(), "{empty}");
        }
        assert_eq!(read(br#"{"a":{"b":null}}"#).unwrap().0.len(), 1);
        for (bad, expected) in [
            ("[]", "body: it is no JSON object"),
            ("{", "body: it is no JSON: EOF"),
            ("\u{feff}{}", "body: it is no JSON"),
        ] {
            assert!(read(bad.as_bytes()).unwrap_err().message.starts_with(expected), "{bad}");
        }
        assert!(read(b"{\"a\":\"\xff\"}").is_err() && read("[".repeat(10_000).as_bytes()).is_err());
    }

    #[test]
    fn request_ids_are_short_ascii() {
        let read = |text: &[u8]| request_id(&HeaderValue::from_bytes(text).unwrap());
        assert_eq!(read(b"stainless-python-retry-1").unwrap(), "stainless-python-retry-1");
        assert!(read(b"").is_err() && read(b"\xff").is_err() && read(&[b'x'; 201]).is_err());
    }
}
