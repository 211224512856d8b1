//! One API request after its body is read: its caller, its fields, and its execution.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts as _, RawPathParams, Request};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::sleep;

use crate::api::ApiState;
use crate::api::auth::Principal;
use crate::api::idempotency::{CachedResponse, RequestKey};
use crate::api::objects::object_file::Fields;
use crate::api::objects::{self, ApiKind};
use crate::api::quotas::{deadline, units};
use crate::api::request::error::ApiError;
use crate::api::request::fields::RequestFields;
use crate::api::request::json;
use crate::fair_share::quota::Reservation;
use crate::policy::Snapshot;

/// The longest `x-request-id`, in octets.
const LONGEST_ID: usize = 200;
/// The first pause before a request is executed again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// A request.
pub(in crate::api) struct Call {
    pub(in crate::api) control: Arc<ApiState>,
    pub(in crate::api) principal: Principal,
    /// The id in the path; empty if the path has none.
    pub(in crate::api) id: String,
    pub(in crate::api) query: String,
    fields: Fields,
    /// The identity of a request that may be retried.
    key: Option<RequestKey>,
    /// The memory that the fields take.
    _parsed: Option<Reservation>,
}

/// The result of a change.
pub(in crate::api) struct Done {
    pub(in crate::api) view: Value,
    /// The id of the object that was created.
    pub(in crate::api) created: Option<Arc<str>>,
}

impl Done {
    /// Makes the result of a change that created nothing.
    pub(in crate::api) fn changed(view: Value) -> Self {
        Self { view, created: None }
    }
}

/// The JSON text of a response.
pub(in crate::api) struct JsonText(pub(in crate::api) String);

impl From<Value> for JsonText {
    fn from(view: Value) -> Self {
        Self(view.to_string())
    }
}

impl FromRequest<Arc<ApiState>> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, control: &Arc<ApiState>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let principal = parts.extensions.get::<Principal>().cloned().ok_or_else(ApiError::internal)?;
        // Axum refuses a path that is not UTF-8 after decoding, such as `/v1/devboxes/%ff`.
        let path = RawPathParams::from_request_parts(&mut parts, &()).await;
        let path = path.map_err(|error| ApiError::bad(format!("path: {}", error.body_text())))?;
        let id = path.iter().next().map(|(_, id)| id.to_owned()).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path = parts.uri.path().to_owned();
        // SDK 3.0.0 sends `stainless-python-retry-UUID`, the same with each retry of a call, on every request but GET.
        let request_id = parts.headers.get("x-request-id").map(request_id).transpose()?;
        let body = Bytes::from_request(Request::from_parts(parts, body), &()).await;
        let body = body.map_err(|error| ApiError::new(error.status(), error.body_text()))?;
        // The body as it came, not its fields: a retry repeats it octet by octet.
        let key = request_id.map(|id| control.idempotency.key(&principal.name, &id, &path, &body));
        let mut parsed = None;
        if !body.is_empty() {
            let octets = units(json::weight(&body).map_err(ApiError::bad)?);
            parsed = control.quotas.parsed.wait(principal.requester(), octets, deadline()).await;
            if parsed.is_none() {
                return Err(ApiError::busy("too many large bodies are being worked on: try again"));
            }
        }
        let fields = json::parse(&body).map_err(ApiError::bad)?;
        Ok(Self { control: Arc::clone(control), principal, id, query, fields, key, _parsed: parsed })
    }
}

impl Call {
    /// Returns the fields of the body, to be read.
    pub(in crate::api) fn fields(&self) -> RequestFields {
        RequestFields::new(self.fields.clone())
    }

    /// Executes a change once for all retries of the request. It runs on a task of its own, so that a client that
    /// disconnects does not end it.
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

    /// Responds from the snapshot in force, on a thread for blocking work.
    pub(in crate::api) async fn read<W, T>(self, work: W) -> Response
    where
        W: FnOnce(&Self, &Snapshot) -> Result<T, ApiError> + Send + 'static,
        T: Into<JsonText>,
    {
        let (control, requester) = (Arc::clone(&self.control), self.principal.requester());
        let work = move || work(&self, &self.control.snapshot()).map(|read| Bytes::from(read.into().0));
        match control.read(requester, work).await {
            Ok(body) => json_response(body),
            Err(error) => error.into_response(),
        }
    }

    async fn once<W, F>(self: Arc<Self>, work: W) -> Result<Bytes, ApiError>
    where
        W: Fn(Arc<Self>) -> F,
        F: Future<Output = Result<Done, ApiError>>,
    {
        let Some(key) = &self.key else {
            return Ok(self.execute(work).await?.view.to_string().into());
        };
        let mut executed = None;
        let execute = async {
            let Done { view, created } = self.execute(work).await?;
            let body: Bytes = view.to_string().into();
            executed = Some(body.clone());
            Ok(created.map_or(CachedResponse::Body(body), CachedResponse::Created))
        };
        let response = self.control.idempotency.once(key, execute).await?;
        match (executed, response) {
            (Some(body), _) | (None, CachedResponse::Body(body)) => Ok(body),
            (None, CachedResponse::Created(id)) => {
                let kind = ApiKind::of_id(&id).unwrap_or(ApiKind::Policy);
                self.view(kind, &id).await.map(|view| view.to_string().into())
            }
        }
    }

    /// Executes a change, again after a pause if a person is editing the file. Other requests write meanwhile.
    async fn execute<W, F>(self: &Arc<Self>, work: W) -> Result<Done, ApiError>
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

    /// Returns the view of an object.
    ///
    /// # Errors
    /// No such object exists.
    pub(in crate::api) async fn view(&self, kind: ApiKind, id: &str) -> Result<Value, ApiError> {
        let (control, id) = (Arc::clone(&self.control), id.to_owned());
        self.control.read(self.principal.requester(), move || objects::view(&control.snapshot(), kind, &id)).await
    }
}

/// Reads an `x-request-id`.
fn request_id(value: &HeaderValue) -> Result<String, ApiError> {
    let id = value.to_str().ok().filter(|id| (1..=LONGEST_ID).contains(&id.len()));
    id.map(str::to_owned).ok_or_else(|| {
        ApiError::bad(format!(
            "x-request-id: it is not 1 to {LONGEST_ID} characters of ASCII: make a random one, as a UUID"
        ))
    })
}

/// Makes a response with a JSON body.
pub(in crate::api) fn json_response(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_short_ascii() {
        let read = |text: &[u8]| request_id(&HeaderValue::from_bytes(text).unwrap());
        assert_eq!(read(b"stainless-python-retry-1").unwrap(), "stainless-python-retry-1");
        assert!(read(b"").is_err() && read(b"\xff").is_err() && read(&[b'x'; 201]).is_err());
    }
}
