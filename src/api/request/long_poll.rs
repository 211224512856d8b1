//! Long polls: a request that is answered once its devbox has one of some statuses.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::api::objects::devboxes::{DevboxKind, STATUSES, is_running};
use crate::api::objects::{ApiKind, ApiObject as _, RUNNING, SHUTDOWN, api_table};
use crate::api::request::call::{Call, json_response};
use crate::api::request::error::ApiError;
use crate::api::request::fields::RequestFields;
use crate::policy::Snapshot;

/// The default of `timeout_seconds`, as in Runloop's API.
const DEFAULT: f64 = 10.0;
/// The longest poll in seconds, as in Runloop's API.
const LONGEST: f64 = 30.0;
/// The interval of looking for changes that a person made to a file.
const LOOK: Duration = Duration::from_millis(250);

/// Responds with the devbox once it has one of the statuses, or with 408 at the end of the time.
pub(in crate::api) async fn wait(call: Call) -> Response {
    match wait_for_status(&call).await {
        Ok(view) => json_response(view.to_string().into()),
        Err(error) => error.into_response(),
    }
}

async fn wait_for_status(call: &Call) -> Result<Value, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let mut changed = control.changed.subscribe();
    let present = || status(&control.snapshot(), id).ok_or_else(|| ApiError::not_found(ApiKind::Devbox, id));
    let mut status = present()?;
    // After the status, as a devbox that does not exist is 404 whatever the body says.
    let poll = StatusPoll::read(call.fields())?;
    let end = Instant::now() + poll.time;
    loop {
        if poll.statuses.contains(&status) {
            return call.view(ApiKind::Devbox, id).await;
        }
        let (was_running, start) = (is_running(&control.snapshot(), id), Instant::now());
        if start >= end {
            let seconds = poll.time.as_secs_f64();
            // The SDKs ask again after 408; any other error, or a status that is not a booting one, is final for them.
            let message = format!("devbox `{id}` is {status} after {seconds} s: ask again, or for that status");
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message));
        }
        while Instant::now() < end && is_running(&control.snapshot(), id) == was_running {
            // Changes of the API end the wait; those that people make to files are looked for when it times out.
            let _ = timeout(LOOK.min(end - start), changed.changed()).await;
        }
        status = present()?;
    }
}

/// Returns the status of a devbox. It parses and keeps nothing of the file, as a thousand requests may wait.
fn status(snapshot: &Snapshot, id: &str) -> Option<String> {
    let status = match api_table(snapshot, id).filter(|_| ApiKind::of_id(id) == Some(ApiKind::Devbox)) {
        Some(_) if is_running(snapshot, id) => RUNNING.to_owned(),
        Some(_) => SHUTDOWN.to_owned(),
        // An object that a person wrote has no API table to parse.
        None => DevboxKind::viewer(snapshot)(id)?["status"].as_str()?.to_owned(),
    };
    Some(status)
}

/// The body of a long poll.
#[derive(Debug)]
struct StatusPoll {
    statuses: Vec<String>,
    time: Duration,
}

impl StatusPoll {
    /// Reads the fields of a request. The time is a float, as the SDKs send the rest of their own time-out.
    fn read(mut fields: RequestFields) -> Result<Self, ApiError> {
        let statuses: Vec<Value> = fields.take("statuses").unwrap_or_default();
        for (index, status) in statuses.iter().enumerate() {
            if !status.as_str().is_some_and(|status| STATUSES.contains(&status)) {
                fields.error(format!("statuses[{index}]: {status} is none: use some of {}", STATUSES.join(", ")));
            }
        }
        // SDK 3.0.0 sends 30.0 and then the rest of its own limit, such as 0.03811502456665039.
        let seconds: f64 = match fields.take::<Value>("timeout_seconds") {
            None => DEFAULT,
            Some(value) => value.as_f64().filter(|&seconds| seconds >= 0.0).unwrap_or_else(|| {
                fields.error(format!("timeout_seconds: {value} is no time: write a number from 0 to {LONGEST}"));
                DEFAULT
            }),
        };
        fields.finish()?;
        if statuses.is_empty() {
            return Err(ApiError::bad("statuses: it names none: write those to wait for, as `[\"shutdown\"]`"));
        }
        let statuses = statuses.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { statuses, time: Duration::from_secs_f64(seconds.min(LONGEST)) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Reads the fields of a request.
    fn read(fields: &Value) -> Result<StatusPoll, String> {
        StatusPoll::read(RequestFields::new(fields.as_object().unwrap().clone())).map_err(|error| error.message)
    }

    #[test]
    fn times_are_fractions_of_seconds_and_thirty_at_most() {
        for (given, expected) in [(json!(0.038), 0.038), (json!(30), 30.0), (json!(1e300), 30.0), (json!(0), 0.0)] {
            let wanted = read(&json!({ "statuses": ["running"], "timeout_seconds": given })).unwrap();
            assert_eq!(wanted.time, Duration::from_secs_f64(expected));
        }
        assert_eq!(read(&json!({ "statuses": ["running", "failure"] })).unwrap().time, Duration::from_secs(10));
    }

    #[test]
    fn unknown_statuses_are_refused() {
        for (fields, expected) in [
            (json!({}), "statuses: it names none"),
            (json!({ "statuses": [] }), "statuses: it names none"),
            (json!({ "statuses": ["running", "dead"] }), "statuses[1]: \"dead\" is none"),
            (json!({ "statuses": "running" }), "statuses: it must be an array"),
            (json!({ "statuses": ["running"], "timeout_seconds": -1 }), "timeout_seconds: -1 is no time"),
            (json!({ "statuses": ["running"], "timeout_seconds": "1" }), "timeout_seconds: \"1\" is no time"),
        ] {
            let told = read(&fields).unwrap_err();
            assert!(told.starts_with(expected), "{fields}: {told}");
        }
    }
}
