//! The API: policies, blueprints and devboxes, created and changed over HTTP by those who run devboxes.
//!
//! ```text
//!   server    connections: HTTP/1.1 and HTTP/2; their places (seats), TLS, octets (stream) and times (pulse)
//!   request   one request: body, handler, answer
//!   access    who may: tokens and roles, and nobody whom a policy is for
//!   routes    method and path to what is done, errors
//!   policies, blueprints, devboxes    what each object's requests mean
//!   record    objects to files and back
//!   audit     who changed what
//! ```
//!
//! It has no store of its own. What it shows is the snapshot that queries are answered from; what it changes is one file
//! of the policies directory a time, handed to [`crate::reload`], whose answer comes when the change is in force. The
//! wire contract is that of the SDKs people have for this already, so that a `base_url` is all they change.

mod access;
mod audit;
mod counts;
mod error;
mod pulse;
mod request;
mod routes;
mod seats;
mod secret;
pub(crate) mod server;
mod stream;
mod tls;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::access::{Access, Principal};
use self::audit::Audit;
pub(crate) use self::counts::Counts;
use self::error::ApiError;
use self::tls::Tls;
use crate::config;
use crate::document::Diagnostic;
use crate::engine::Engine;
use crate::policy::Snapshot;
use crate::reload::{Change, Changer};

/// What all requests share.
pub(crate) struct Control {
    /// What queries are answered from.
    engine: Arc<Engine>,
    /// Makes changes.
    changer: Changer,
    /// What `[control]` says.
    settings: config::Control,
    /// Who is let in.
    access: Access,
    /// The certificate, if there is one.
    tls: Option<Tls>,
    /// Who changed what.
    audit: Audit,
    /// What has been done.
    counts: Arc<Counts>,
}

/// What `[control]` names, read and good, before anything is bound.
pub(crate) struct Opened {
    /// What it says.
    settings: config::Control,
    /// Who is let in.
    access: Access,
    /// The certificate, if there is one.
    tls: Option<Tls>,
    /// Who changed what.
    audit: Audit,
    /// What has been done.
    counts: Arc<Counts>,
}

impl Opened {
    /// Reads and opens what the table names; what is done is counted in `counts`.
    ///
    /// # Errors
    /// Everything that is wrong with those files.
    pub(crate) fn new(settings: config::Control, counts: Arc<Counts>) -> Result<Self, Vec<Diagnostic>> {
        let access = Access::open(&settings);
        let tls = settings.tls.as_ref().map(Tls::open).transpose();
        let audit = Audit::open(settings.audit.as_deref(), Arc::clone(&counts));
        match (access, tls, audit) {
            (Ok(access), Ok(tls), Ok(audit)) => Ok(Self { settings, access, tls, audit, counts }),
            (access, tls, audit) => {
                let wrong = access.err().into_iter().flatten();
                Err(wrong.chain([tls.err(), audit.err()].into_iter().flatten().map(|wrong| *wrong)).collect())
            }
        }
    }
}

/// What a change does to one object's file.
struct Edit<'e> {
    /// What is done, as the audit record has it: `network_policy.create`.
    action: &'static str,
    /// The object.
    id: &'e str,
    /// What the file holds now; `None` is that there is none.
    before: Option<Arc<str>>,
    /// What it is to hold; `None` removes it.
    after: Option<Arc<str>>,
}

impl Control {
    /// Makes what requests share.
    pub(crate) fn new(engine: Arc<Engine>, changer: Changer, opened: Opened) -> Arc<Self> {
        let Opened { settings, access, tls, audit, counts } = opened;
        Arc::new(Self { engine, changer, settings, access, tls, audit, counts })
    }

    /// Returns what is in force now.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.engine.view().snapshot)
    }

    /// Changes an object's file; when this returns, the change is in force, on disk and in the audit record.
    ///
    /// # Errors
    /// Why it is not, as the client is told.
    async fn change(&self, principal: &Principal, edit: Edit<'_>) -> Result<(), ApiError> {
        let Edit { action, id, before, after } = edit;
        let change = Change { path: path_of(id), before: before.clone(), after: after.clone() };
        let generation = self.changer.apply(change).await?;
        self.audit.record(principal, action, id, [before.as_deref(), after.as_deref()], generation);
        Ok(())
    }
}

/// Returns octets in hexadecimal.
fn hex(octets: &[u8]) -> String {
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('?');
    octets.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 15)]).collect()
}

/// Returns the file of an object that the API made, relative to the policies directory.
fn path_of(id: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{id}.toml"))
}

/// The folder of the API's files below the policies directory.
const FOLDER: &str = "api";
