//! Who may use the API: nobody whom a policy is for, and of the others those with a token.

pub(super) mod secret_file;
pub(super) mod tokens;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, StatusCode, header, request::Parts};
use jiff::Timestamp;

use self::tokens::{Tokens, Unreadable};
use crate::api::file_probe::FileProbe;
use crate::api::request::counts::Outcome;
use crate::api::request::error::ApiError;
use crate::config;
use crate::fair_share::Holder;
use crate::fair_share::quota::Requester;
use crate::policy::Snapshot;

/// Whoever a token belongs to; with each request that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// What it is called in audit records: the role and the beginning of the token's hash.
    pub(crate) name: Arc<str>,
    /// What the token lets its owner do.
    pub(crate) role: Role,
    /// Where the request came from; `None` on a Unix socket.
    pub(crate) source: Option<IpAddr>,
}

impl Principal {
    /// Makes the one in whose name the process itself changes something.
    pub(crate) fn own() -> Self {
        Self { name: "hostgate".into(), role: Role::Admin, source: None }
    }

    /// Returns what its claims on the API's capacities count for.
    pub(crate) fn requester(&self) -> Requester {
        Requester { holder: Holder::named(&self.name), is_admin: self.role == Role::Admin }
    }
}

/// What a token lets its owner do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Reading.
    Viewer,
}

/// What a request is for, as far as access and the end of the process are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The description of the API, which is no secret.
    Describe,
    /// To see something.
    Read,
    /// To see something once it is as wanted.
    Wait,
    /// To change something.
    Change,
}

/// Why a request is not let in, or goes no further: what is counted, and what is told.
pub(super) type Refusal = (Outcome, ApiError);

/// Decides who is let in.
pub(super) struct Access {
    /// Who has a token.
    tokens: Arc<Tokens>,
    /// Looks at their file.
    disk: FileProbe,
    /// Whether those whom a policy is for are let in, too.
    allow_clients: bool,
}

impl Role {
    /// Returns what it is called.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

impl Purpose {
    /// Returns what a request is for.
    pub(super) fn of(head: &Parts) -> Self {
        let path = head.uri.path();
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let mut segments = path.split('/').skip(1);
        let is_wait = head.method == Method::POST
            && (segments.next(), segments.next()) == (Some("v1"), Some("devboxes"))
            && segments.next().is_some_and(|id| !id.is_empty())
            && (segments.next(), segments.next()) == (Some("wait_for_status"), None);
        match (is_read, is_wait) {
            (true, _) if path == DESCRIPTION => Self::Describe,
            (true, _) => Self::Read,
            (false, true) => Self::Wait,
            (false, false) => Self::Change,
        }
    }
}

impl Access {
    /// Reads the tokens. While their file is bad, nobody is let in.
    pub(super) fn open(settings: &config::Control) -> Self {
        let tokens = Arc::new(Tokens::open(&settings.token_file));
        Self { tokens, disk: FileProbe::default(), allow_clients: settings.allow_clients }
    }

    /// Looks at the file of the tokens.
    pub(super) fn look(&self) {
        self.tokens.look();
    }

    /// Looks whether the file of the tokens answers.
    pub(super) async fn probe(&self) {
        let tokens = Arc::clone(&self.tokens);
        self.disk.look(move || tokens.look()).await;
    }

    /// Returns why nobody was let in at the last look, with the file of the tokens and since when.
    pub(super) fn error(&self) -> Option<(&Path, String, Timestamp)> {
        let (why, since) = self.tokens.error()?;
        Some((self.tokens.path(), why, since))
    }

    /// Lets a request in; returns whose it is, or nobody where no token is needed.
    ///
    /// # Errors
    /// It comes from a policy's own address, has no token of the file, or wants more than its token is for.
    pub(super) async fn admit(
        &self,
        snapshot: &Snapshot,
        source: Option<IpAddr>,
        head: &Parts,
    ) -> Result<Option<Principal>, Refusal> {
        let purpose = Purpose::of(head);
        // Before the token is looked at: one that a devbox has got hold of is of no use to it.
        if let Some(source) = source.filter(|_| !self.allow_clients)
            && let Some(client) = snapshot.asker(source, 0).client
        {
            let message = format!(
                "{source} is an address of client `{}`, which could change its own policy here: ask from another \
                 address, or, to try it on one machine, set `allow_clients = true` under [control]",
                client.id()
            );
            return Err(refuse(Outcome::ClientAddress, StatusCode::FORBIDDEN, message));
        }
        if purpose == Purpose::Describe {
            return Ok(None);
        }
        let Some(token) = bearer(&head.headers) else {
            let message = "this needs a token: send `Authorization: Bearer TOKEN`, with one of the token file";
            return Err(refuse(Outcome::NoToken, StatusCode::UNAUTHORIZED, message));
        };
        let (tokens, token) = (Arc::clone(&self.tokens), token.to_owned());
        let (role, name) = match self.disk.look(move || tokens.find(&token)).await {
            Some(Ok(Some(found))) => found,
            None => {
                let message = "the file system of the token file does not answer: try again";
                return Err(refuse(Outcome::Failed, StatusCode::SERVICE_UNAVAILABLE, message));
            }
            Some(Ok(None)) => {
                let message = "the token file has no such token";
                return Err(refuse(Outcome::NoToken, StatusCode::UNAUTHORIZED, message));
            }
            Some(Err(why)) => {
                let told = self.tokens.error().map_or_else(String::new, |(told, _)| told);
                let message = match why {
                    Unreadable::Bad => format!("the token file is bad, so nobody is let in: {told}"),
                    Unreadable::Passing => format!("the token file cannot be read just now, try again: {told}"),
                };
                return Err(refuse(Outcome::Failed, StatusCode::SERVICE_UNAVAILABLE, message));
            }
        };
        if role == Role::Viewer && purpose == Purpose::Change {
            let message = "this token is a viewer's, which only reads: use an admin's";
            return Err(refuse(Outcome::Viewer, StatusCode::FORBIDDEN, message));
        }
        Ok(Some(Principal { name: name.into(), role, source }))
    }
}

/// Returns the token of a request; none where there is no `Authorization` of the scheme `Bearer`, or more than one.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else { return None };
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let token = token.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(SCHEME))?.trim_ascii();
    (!token.is_empty()).then_some(token)
}

/// Refuses a request.
fn refuse(outcome: Outcome, status: StatusCode, message: impl Into<String>) -> Refusal {
    (outcome, ApiError::new(status, message))
}

/// Where the API is described.
const DESCRIPTION: &str = "/openapi.json";
/// The scheme of RFC 6750; schemes are compared without regard to case (RFC 9110 §11.1).
const SCHEME: &[u8] = b"Bearer";

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn only_reading_and_waiting_is_no_change() {
        const CASES: &[(&str, &str, Purpose)] = &[
            ("GET", "/v1/devboxes", Purpose::Read),
            ("HEAD", "/openapi.json", Purpose::Describe),
            ("POST", "/openapi.json", Purpose::Change),
            ("GET", "/openapi.json/", Purpose::Read),
            ("POST", "/v1/devboxes/dbx_1/wait_for_status", Purpose::Wait),
            ("POST", "/v1/devboxes//wait_for_status", Purpose::Change),
            ("PUT", "/v1/devboxes/dbx_1/wait_for_status", Purpose::Change),
            ("POST", "/v1/devboxes/dbx_1/wait_for_status/", Purpose::Change),
            ("POST", "/v1/network-policies/wait_for_status", Purpose::Change),
            ("POST", "/v1/network-policies/x/wait_for_status", Purpose::Change),
            ("OPTIONS", "/v1/devboxes", Purpose::Change),
        ];
        for (method, path, purpose) in CASES {
            let (head, ()) = Request::builder().method(*method).uri(*path).body(()).unwrap().into_parts();
            assert_eq!(Purpose::of(&head), *purpose, "{method} {path}");
        }
    }

    #[test]
    fn the_token_is_behind_the_scheme_once() {
        const CASES: &[(&[&str], Option<&str>)] = &[
            (&["Bearer abc"], Some("abc")),
            (&["bEARER   abc "], Some("abc")),
            (&["Bearer"], None),
            (&["Bearer "], None),
            (&["Bearerabc"], None),
            (&["Basic abc"], None),
            (&["Bearer abc", "Bearer abc"], None),
            (&[], None),
        ];
        for (values, token) in CASES {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(bearer(&headers), token.map(str::as_bytes), "{values:?}");
        }
    }
}
