//! Waiting for the status of a devbox: the request is held until it has one of those asked for.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::api::kept;
use crate::api::objects::devboxes::{RUNNING, SHUTDOWN, STATUSES, is_running, view};
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::Fields;
use crate::api::request::call::{Call, json_response};
use crate::api::request::error::{ApiError, Wrongs};
use crate::api::request::fields;
use crate::policy::Snapshot;

/// Answers when the devbox has one of the statuses, or that the time is over.
pub(in crate::api) async fn wait(call: Call) -> Response {
    match until(&call).await {
        Ok(view) => json_response(view.to_string().into()),
        Err(error) => error.into_response(),
    }
}

/// Waits; returns the view of the devbox.
async fn until(call: &Call) -> Result<Value, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let mut changed = control.changed.subscribe();
    let look = || status(&control.snapshot(), id).ok_or_else(|| ApiError::unknown(Kind::Devbox, id));
    let mut status = look()?;
    let Wanted { statuses, time } = Wanted::read(call.fields.clone())?;
    let end = Instant::now() + time;
    loop {
        if statuses.contains(&status) {
            return call.view(Kind::Devbox, id).await;
        }
        let (was_running, start) = (is_running(&control.snapshot(), id), Instant::now());
        if start >= end {
            let seconds = time.as_secs_f64();
            let message = format!("devbox `{id}` is {status} after {seconds} s: ask again, or for that status");
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message));
        }
        // Changes of the API wake us; those that people make to files are looked for.
        while Instant::now() < end && is_running(&control.snapshot(), id) == was_running {
            let look = timeout(LOOK.min(end - start), changed.changed());
            // Whichever it was, we look.
            let _ = look.await;
        }
        status = look()?;
    }
}

/// Returns the status of a devbox. Nothing is read for it or kept, as many wait.
fn status(snapshot: &Snapshot, id: &str) -> Option<String> {
    let status = match kept(snapshot, id).filter(|_| Kind::of(id) == Some(Kind::Devbox)) {
        Some(_) if is_running(snapshot, id) => RUNNING.to_owned(),
        Some(_) => SHUTDOWN.to_owned(),
        // What a person wrote has nothing to be read.
        None => view(snapshot, id)?["status"].as_str()?.to_owned(),
    };
    Some(status)
}

/// What is waited for.
#[derive(Debug, PartialEq)]
struct Wanted {
    /// The statuses.
    statuses: Vec<String>,
    /// For how long.
    time: Duration,
}

impl Wanted {
    /// Reads the fields of a request.
    fn read(mut given: Fields) -> Result<Self, ApiError> {
        let mut wrongs = Wrongs::default();
        let mut statuses = Vec::new();
        for (index, value) in fields::array(&mut given, "statuses", &mut wrongs).into_iter().flatten().enumerate() {
            match value.as_str() {
                Some(status) if STATUSES.contains(&status) => statuses.push(status.to_owned()),
                _ => wrongs.add(format!("statuses[{index}]: {value} is none: use some of {}", STATUSES.join(", "))),
            }
        }
        let seconds = match given.remove("timeout_seconds") {
            None => DEFAULT,
            Some(value) => value.as_f64().filter(|&seconds| seconds >= 0.0).unwrap_or_else(|| {
                wrongs.add(format!("timeout_seconds: {value} is no time: write a number from 0 to {LONGEST}"));
                DEFAULT
            }),
        };
        wrongs.check()?;
        if statuses.is_empty() {
            return Err(ApiError::bad("statuses: it names none: write those to wait for, as `[\"shutdown\"]`"));
        }
        Ok(Self { statuses, time: Duration::from_secs_f64(seconds.min(LONGEST)) })
    }
}

/// How long is waited unless told otherwise, in seconds.
const DEFAULT: f64 = 10.0;

/// How long is waited at most, in seconds.
const LONGEST: f64 = 30.0;

/// How often somebody looks whether a person changed the file.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Reads the fields of a request.
    fn read(fields: &Value) -> Result<Wanted, String> {
        Wanted::read(fields.as_object().unwrap().clone()).map_err(|error| error.message)
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
