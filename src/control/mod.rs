//! The API: policies, blueprints and devboxes, created and changed over HTTP by those who run devboxes.
//!
//! ```text
//!   server    connections: HTTP/1.1 and h2c, TLS, limits, time-outs
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
mod error;
mod routes;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::access::Principal;
use self::audit::Audit;
use self::error::ApiError;
use crate::config;
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
    /// Who changed what.
    audit: Audit,
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
    ///
    /// # Errors
    /// The audit file cannot be opened.
    pub(crate) fn new(engine: Arc<Engine>, changer: Changer, settings: config::Control) -> Result<Arc<Self>, String> {
        let audit = Audit::open(settings.audit.as_deref())?;
        Ok(Arc::new(Self { engine, changer, settings, audit }))
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

/// Returns the file of an object that the API made, relative to the policies directory.
fn path_of(id: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{id}.toml"))
}

/// The folder of the API's files below the policies directory.
const FOLDER: &str = "api";
