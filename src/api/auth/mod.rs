//! Access to the API: a token is needed, and clients of a policy have none.

pub(super) mod secret_file;
pub(super) mod tokens;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, StatusCode, header, request::Parts};

use self::tokens::{TokenFile, Unreadable};
use crate::api::file_probe::FileProbe;
use crate::api::request::counts::Outcome;
use crate::api::request::error::ApiError;
use crate::config;
use crate::fair_share::Holder;
use crate::fair_share::quota::Requester;
use crate::policy::Snapshot;
use crate::reload::out_of_date::Beginning;

/// The caller of a request with a token.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// The name in audit records: the role and the beginning of the token's SHA-256.
    pub(crate) name: Arc<str>,
    pub(crate) role: TokenRole,
    /// The address of the client; `None` on a Unix socket.
    pub(crate) source: Option<IpAddr>,
}

impl Principal {
    /// Returns the principal of changes that the process makes itself.
    pub(crate) fn own() -> Self {
        Self { name: "hostgate".into(), role: TokenRole::Admin, source: None }
    }

    /// Returns the holder of the principal's shares of the quotas.
    pub(crate) fn requester(&self) -> Requester {
        Requester { holder: Holder::named(&self.name), is_admin: self.role == TokenRole::Admin }
    }
}

/// The role of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRole {
    /// Reads and changes.
    Admin,
    /// Reads.
    Viewer,
}

/// The purpose of a request, by which access, limits and the end of the process treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestPurpose {
    /// The `OpenAPI` document, which needs no token.
    Describe,
    Read,
    /// A long poll.
    Wait,
    Change,
}

/// A request that is not executed: the outcome for the metrics, and the error.
pub(super) type Refusal = (Outcome, ApiError);

/// The admission of requests.
pub(super) struct Access {
    tokens: Arc<TokenFile>,
    probe: FileProbe,
    /// Whether clients of policies are admitted.
    allow_clients: bool,
}

impl TokenRole {
    /// Returns the name in token files and audit records.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

impl RequestPurpose {
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
    /// Reads the tokens. While their file is bad, only the `OpenAPI` document is served.
    pub(super) fn open(settings: &config::Control) -> Self {
        let tokens = Arc::new(TokenFile::open(&settings.token_file));
        Self { tokens, probe: FileProbe::default(), allow_clients: settings.allow_clients }
    }

    /// Reads the token file if it has changed.
    pub(super) fn look(&self) {
        self.tokens.look();
    }

    /// Reads the token file if it has changed, and notices a file system that hangs.
    pub(super) async fn probe(&self) {
        let tokens = Arc::clone(&self.tokens);
        self.probe.look(move || tokens.look()).await;
    }

    /// Returns the token file, its error, and the time at which that began.
    pub(super) fn error(&self) -> Option<(&Path, String, Beginning)> {
        let (why, since) = self.tokens.error()?;
        Some((self.tokens.path(), why, since))
    }

    /// Returns the principal of a request; `None` if it needs no token.
    ///
    /// # Errors
    /// It comes from a client's address, has no token of the file, or its token does not suffice.
    pub(super) async fn admit(
        &self,
        snapshot: &Snapshot,
        source: Option<IpAddr>,
        head: &Parts,
    ) -> Result<Option<Principal>, Refusal> {
        let purpose = RequestPurpose::of(head);
        // Before the token, so that a devbox cannot use one that leaked.
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
        if purpose == RequestPurpose::Describe {
            return Ok(None);
        }
        let Some(token) = bearer(&head.headers) else {
            let message = "this needs a token: send `Authorization: Bearer TOKEN`, with one of the token file";
            return Err(refuse(Outcome::NoToken, StatusCode::UNAUTHORIZED, message));
        };
        let (tokens, token) = (Arc::clone(&self.tokens), token.to_owned());
        // On the other thread: the token file may be on a network file system that hangs.
        let (role, name) = match self.probe.look(move || tokens.find(&token)).await {
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
                    Unreadable::Shortage => format!("the token file cannot be read just now, try again: {told}"),
                };
                return Err(refuse(Outcome::Failed, StatusCode::SERVICE_UNAVAILABLE, message));
            }
        };
        if role == TokenRole::Viewer && purpose == RequestPurpose::Change {
            let message = "this token is a viewer's, which only reads: use an admin's";
            return Err(refuse(Outcome::Viewer, StatusCode::FORBIDDEN, message));
        }
        Ok(Some(Principal { name: name.into(), role, source }))
    }
}

/// Returns the token of a request; `None` without an `Authorization: Bearer`, or with several.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else { return None };
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let token = token.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(SCHEME))?.trim_ascii();
    (!token.is_empty()).then_some(token)
}

fn refuse(outcome: Outcome, status: StatusCode, message: impl Into<String>) -> Refusal {
    (outcome, ApiError::new(status, message))
}

/// The path of the `OpenAPI` document.
const DESCRIPTION: &str = "/openapi.json";
/// The scheme of RFC 6750; schemes are compared without regard to case (RFC 9110 §11.1).
const SCHEME: &[u8] = b"Bearer";

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn only_reading_and_waiting_is_no_change() {
        const CASES: &[(&str, &str, RequestPurpose)] = &[
            ("GET", "/v1/devboxes", RequestPurpose::Read),
            ("HEAD", "/openapi.json", RequestPurpose::Describe),
            ("POST", "/openapi.json", RequestPurpose::Change),
            ("GET", "/openapi.json/", RequestPurpose::Read),
            ("POST", "/v1/devboxes/dbx_1/wait_for_status", RequestPurpose::Wait),
            ("POST", "/v1/devboxes//wait_for_status", RequestPurpose::Change),
            ("PUT", "/v1/devboxes/dbx_1/wait_for_status", RequestPurpose::Change),
            ("POST", "/v1/devboxes/dbx_1/wait_for_status/", RequestPurpose::Change),
            ("POST", "/v1/network-policies/wait_for_status", RequestPurpose::Change),
            ("POST", "/v1/network-policies/x/wait_for_status", RequestPurpose::Change),
            ("OPTIONS", "/v1/devboxes", RequestPurpose::Change),
        ];
        for (method, path, purpose) in CASES {
            let (head, ()) = Request::builder().method(*method).uri(*path).body(()).unwrap().into_parts();
            assert_eq!(RequestPurpose::of(&head), *purpose, "{method} {path}");
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
