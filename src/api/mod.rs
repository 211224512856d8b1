//! The API: network policies, blueprints and devboxes, created and changed over HTTP.
//!
//! ```text
//!   connection   HTTP/1.1 and HTTP/2 connections: their limit, their deadlines, TLS
//!   auth         access: tokens and roles, never a client of a policy
//!   request      one request: body, fields, execution, errors, lists, long polls
//!   idempotency  retries of a request
//!   objects      policies, blueprints and devboxes: fields, files, ids, addresses, writes
//!   builds       the builder's command, its processes and its output
//!   audit        records of changes
//!   file_probe   reads of files whose file system may hang
//!   quotas       capacities that tokens share
//! ```
//!
//! The API has no database. Views are made from the snapshot that queries are answered from, and a change is one file of
//! the policies directory, written by [`crate::reload`], which reports when the change is in force. The wire contract is
//! that of Runloop's SDKs, so that only their `base_url` has to change.

mod audit;
mod auth;
mod builds;
pub(crate) mod connection;
mod file_probe;
mod idempotency;
mod objects;
mod quotas;
mod request;
mod routes;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, watch};

use self::audit::AuditLog;
use self::auth::Access;
use self::builds::Builds;
use self::connection::tls::Certificate;
use self::file_probe::FileProbe;
use self::idempotency::IdempotencyCache;
use self::objects::id::ObjectIds;
pub(crate) use self::objects::reserved::Reserved;
use self::objects::writer::WriterState;
use self::quotas::Quotas;
pub(crate) use self::request::counts::RequestCounts;
use self::request::error::ApiError;
use crate::bounds::MAX_TOLD_LINE;
use crate::config;
use crate::document::{Diagnostic, shortened};
use crate::engine::Engine;
use crate::fair_share::quota::Requester;
use crate::policy::{ApiTable, Snapshot};
use crate::reload::out_of_date::{Entry, Kind};
use crate::reload::{Changer, ReloadStatus};

/// The interval of probing the files that `[control]` names.
const PROBE: Duration = Duration::from_secs(1);

/// The state that all requests share.
pub(crate) struct ApiState {
    engine: Arc<Engine>,
    /// The handle that writes files and puts them into force.
    changer: Changer,
    settings: config::Control,
    access: Access,
    certificate: Option<Arc<Certificate>>,
    audit: AuditLog,
    counts: Arc<RequestCounts>,
    /// The state of reloads, with the errors of held-back files.
    progress: Arc<ReloadStatus>,
    /// The probe of the token file and the certificate for the status.
    probe: FileProbe,
    ids: ObjectIds,
    /// The lock on writes, held until a change is in force: see [`ApiState::write`].
    writer: Mutex<WriterState>,
    /// The channel that reports each change to long polls.
    changed: watch::Sender<()>,
    builds: Builds,
    idempotency: IdempotencyCache,
    quotas: Quotas,
    reserved: Reserved,
}

/// The files that `[control]` names, opened before the sockets are bound.
pub(crate) struct Opened {
    settings: config::Control,
    access: Access,
    certificate: Option<Arc<Certificate>>,
    audit: AuditLog,
    counts: Arc<RequestCounts>,
    reserved: Reserved,
}

impl Opened {
    /// Opens the files. A bad token file or certificate keeps the API closed until it is good, but not the resolver.
    ///
    /// # Errors
    /// The system has no thread for the audit file.
    pub(crate) fn new(
        settings: config::Control,
        reserved: Reserved,
        counts: Arc<RequestCounts>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let access = Access::open(&settings);
        let certificate = settings.tls.as_ref().map(Certificate::open);
        let audit = AuditLog::open(settings.audit.as_deref(), settings.audit_required, Arc::clone(&counts))
            .map_err(|wrong| vec![*wrong])?;
        Ok(Self { settings, access, certificate, audit, counts, reserved })
    }
}

impl ApiState {
    /// Makes the state from the objects in force.
    pub(crate) fn new(
        engine: Arc<Engine>,
        (changer, progress): (Changer, Arc<ReloadStatus>),
        opened: Opened,
    ) -> Arc<Self> {
        let Opened { settings, access, certificate, audit, counts, reserved } = opened;
        let snapshot = Arc::clone(&engine.view().snapshot);
        // Of files that a person wrote into the folder, too: an id is never given out twice.
        let ids = ObjectIds::after(snapshot.records().map(ApiTable::id));
        let writer = Mutex::new(WriterState::new(&snapshot, &settings));
        Arc::new(Self {
            engine,
            changer,
            settings,
            access,
            certificate,
            audit,
            counts,
            progress,
            probe: FileProbe::default(),
            ids,
            writer,
            changed: watch::Sender::default(),
            builds: Builds::default(),
            idempotency: IdempotencyCache::default(),
            quotas: Quotas::default(),
            reserved,
        })
    }

    /// Returns the errors of the files that `[control]` names, one on each line. It waits for their file system for a
    /// bounded time.
    pub(crate) async fn error(self: Arc<Self>) -> Option<String> {
        let this = Arc::clone(&self);
        let look = move || {
            this.access.look();
            if let Some(certificate) = &this.certificate {
                certificate.look();
            }
        };
        // The status must not hang with the file system: it is what an operator looks at first.
        let looked = self.probe.look(look).await;
        let errors = [
            looked.is_none().then(|| "the file system of the token file or the certificate does not answer".to_owned()),
            self.access.error().map(|(_, error, _)| format!("nobody is let in: {error}")),
            self.certificate.as_ref().and_then(|certificate| certificate.error()).map(|(_, error, _)| error),
            self.audit.error().map(|error| format!("the audit file: {error}")),
        ];
        let errors = errors.into_iter().flatten().map(|error| shortened(&error, MAX_TOLD_LINE).into_owned());
        errors.reduce(|all, error| format!("{all}\n{error}"))
    }

    /// Returns the reason why changes are not in the audit file; `None` while they are, or without such a file.
    pub(crate) fn audit_error(&self) -> Option<String> {
        self.audit.error()
    }

    /// Probes the files that `[control]` names each second: a request need not wait for a file system that is known to
    /// hang, and the log has their errors although nobody sends a request.
    async fn probe_files(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PROBE).await;
            self.access.probe().await;
            if let Some(certificate) = &self.certificate {
                certificate.probe().await;
            }
        }
    }

    /// Returns whether a request that changes something is running.
    pub(crate) fn is_changing(&self) -> bool {
        self.quotas.changing.used() > 0
    }

    /// Returns the files of `[control]` that are on disk and not in force.
    pub(crate) fn out_of_date(&self) -> impl Iterator<Item = Entry> {
        let tokens = self.access.error().map(|error| (Kind::Tokens, error));
        let certificate = self.certificate.as_ref().and_then(|certificate| certificate.error());
        let all = tokens.into_iter().chain(certificate.map(|error| (Kind::Certificate, error)));
        all.map(|(kind, (path, why, since))| Entry::new(kind, Some(path), since, &why))
    }

    /// Returns the snapshot in force.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.engine.view().snapshot)
    }

    /// Runs work that parses files, on a thread for blocking work.
    ///
    /// The requester's turn is waited for before a thread is taken: the heap of each thread keeps what its largest file
    /// took, so there should not be more of them than work at once.
    ///
    /// # Errors
    /// The error of `work`, or that it panicked, or too many requests wait.
    async fn read<T: Send + 'static>(
        &self,
        requester: Requester,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.quotas.readers.wait(requester, 1, quotas::deadline()).await;
        let turn = turn.ok_or_else(|| ApiError::busy("too many requests read: try again"))?;
        // The turn ends with the work, also if the client has disconnected.
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal())?
    }
}

/// Returns the errors of files that would keep the API closed.
pub(crate) fn closed_by(settings: &config::Control) -> Vec<String> {
    let tokens = Access::open(settings);
    let tokens = tokens.error().map(|(_, why, _)| why);
    let certificate = settings.tls.as_ref().map(Certificate::open);
    let certificate = certificate.as_ref().and_then(|certificate| certificate.error()).map(|(_, why, _)| why);
    tokens.into_iter().chain(certificate).collect()
}

/// Returns the time in milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
