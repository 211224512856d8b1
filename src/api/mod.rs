//! The API: policies, blueprints and devboxes, created and changed over HTTP by those who run devboxes.
//!
//! ```text
//!   connection  HTTP/1.1 and HTTP/2: places (seats), TLS, octets (stream) and times (pulse)
//!   access      who may: tokens and roles, and nobody whom a policy is for
//!   request     one request: body, route, call, answer; what it is refused with, what is listed, waited for, sent again
//!   objects     what policies, blueprints and devboxes are: their fields, files (record), ids and addresses
//!   build       builds: a command (process), and what it says (log)
//!   audit       who changed what
//!   disk        looks at files that may not answer
//!   quotas      what callers share by token
//! ```
//!
//! It has no store of its own. What it shows is the snapshot that queries are answered from; what it changes is one file
//! of the policies directory a time, handed to [`crate::reload`], whose answer comes when the change is in force. The
//! wire contract is that of the SDKs people have for this already, so that a `base_url` is all they change.

mod audit;
mod auth;
mod builds;
pub(crate) mod connection;
mod file_probe;
pub(crate) mod idempotency;
mod objects;
mod quotas;
mod request;
pub(crate) mod routes;

use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, watch};

use self::audit::Audit;
use self::auth::{Access, Principal};
use self::builds::Builds;
use self::connection::tls::Tls;
use self::file_probe::Disk;
use self::idempotency::IdempotencyCache;
use self::objects::edit::Writer;
use self::objects::id::Ids;
use self::objects::kind::Kind;
use self::objects::object_file::File;
pub(crate) use self::objects::reserved::Reserved;
use self::quotas::Quotas;
use self::request::call::{Call, Done};
pub(crate) use self::request::counts::RequestCounts;
use self::request::error::ApiError;
use crate::bounds::{MAX_OBJECT, MAX_TOLD_LINE};
use crate::config;
use crate::document::{Diagnostic, Place, Source, shortened};
use crate::engine::Engine;
use crate::fair_share::quota::{Requester, Reservation};
use crate::policy::{ApiTable, BUILT_IN, Snapshot, sealed};
use crate::reload::out_of_date::{Entry, Kind as Lag};
use crate::reload::{Change, Changer, Refused, ReloadStatus};

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
    tls: Option<Arc<Tls>>,
    /// Who changed what.
    audit: Audit,
    /// What has been done.
    counts: Arc<RequestCounts>,
    /// What is held back.
    progress: Arc<ReloadStatus>,
    /// Looks at files for the status.
    disk: Disk,
    /// Makes ids.
    ids: Ids,
    /// Held by whoever changes something, from what the change is made of until it is in force: see [`Control::write`].
    writer: Mutex<Writer>,
    /// Told after each change.
    changed: watch::Sender<()>,
    /// Builds under way.
    builds: Builds,
    /// The responses to requests that may be retried.
    idempotency: IdempotencyCache,
    /// The capacities that callers share.
    quotas: Quotas,
    /// The addresses that are given to nobody.
    reserved: Reserved,
}

/// The right to make a change, one at a time, with what that needs besides the snapshot.
struct Writing<'w> {
    /// What it needs.
    writer: MutexGuard<'w, Writer>,
    /// Its turn among the tokens, given back after the lock.
    _turn: Reservation,
}

impl Deref for Writing<'_> {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

/// What `[control]` names, read and good, before anything is bound.
pub(crate) struct Opened {
    /// What it says.
    settings: config::Control,
    /// Who is let in.
    access: Access,
    /// The certificate, if there is one.
    tls: Option<Arc<Tls>>,
    /// Who changed what.
    audit: Audit,
    /// What has been done.
    counts: Arc<RequestCounts>,
    /// The addresses that are given to nobody.
    reserved: Reserved,
}

impl Opened {
    /// Reads and opens what the table names; what is done is counted in `counts`, and no address of `reserved` is given to
    /// anybody.
    ///
    /// # Errors
    /// Everything that is wrong with those files.
    pub(crate) fn new(
        settings: config::Control,
        reserved: Reserved,
        counts: Arc<RequestCounts>,
    ) -> Result<Self, Vec<Diagnostic>> {
        // A token file or certificate that is bad closes the API, and never the resolver: it opens when they are good.
        let access = Access::open(&settings);
        let tls = settings.tls.as_ref().map(Tls::open);
        let audit = Audit::open(settings.audit.as_deref(), settings.audit_required, Arc::clone(&counts))
            .map_err(|wrong| vec![*wrong])?;
        Ok(Self { settings, access, tls, audit, counts, reserved })
    }
}

/// What a change does to one object's file.
struct Edit {
    /// The object.
    id: Arc<str>,
    /// What the file holds now; `None` is that there is none.
    before: Option<Arc<str>>,
    /// What it is to hold; `None` removes it.
    after: Option<Arc<str>>,
}

impl Edit {
    /// Plans to change what an object's file holds, which is `text` now.
    ///
    /// # Errors
    /// It is no TOML; what is in force always is.
    fn of(id: &str, text: &Arc<str>, change: impl FnOnce(&mut File)) -> Result<Self, ApiError> {
        let mut file = File::read(text)?;
        change(&mut file);
        let after = file.text();
        let after = if after == *text { after } else { sealed(&after, Kind::what(id)).into() };
        Ok(Self { id: id.into(), before: Some(Arc::clone(text)), after: Some(after) })
    }
}

impl Control {
    /// Makes what requests share.
    pub(crate) fn new(
        engine: Arc<Engine>,
        (changer, progress): (Changer, Arc<ReloadStatus>),
        opened: Opened,
    ) -> Arc<Self> {
        let Opened { settings, access, tls, audit, counts, reserved } = opened;
        let snapshot = Arc::clone(&engine.view().snapshot);
        let ids = Ids::after(snapshot.records().map(ApiTable::id));
        let kept: Vec<&ApiTable> = snapshot.records().filter(|record| is_kept(record)).collect();
        let (changed, writer) = (watch::Sender::default(), Mutex::new(Writer::new(&snapshot, &kept, &settings)));
        Arc::new(Self {
            engine,
            changer,
            settings,
            access,
            tls,
            audit,
            counts,
            progress,
            disk: Disk::default(),
            ids,
            writer,
            changed,
            builds: Builds::default(),
            idempotency: IdempotencyCache::default(),
            quotas: Quotas::default(),
            reserved,
        })
    }

    /// Returns what is wrong with the files that `[control]` names, a line each; waits for their file system for a bounded time.
    pub(crate) async fn error(self: Arc<Self>) -> Option<String> {
        let this = Arc::clone(&self);
        let look = move || {
            this.access.look();
            this.tls.iter().for_each(|tls| tls.look());
        };
        let looked = self.disk.look(look).await;
        let wrong = [
            looked.is_none().then(|| "the file system of the token file or the certificate does not answer".to_owned()),
            self.access.error().map(|(_, error, _)| format!("nobody is let in: {error}")),
            self.tls.as_ref().and_then(|tls| tls.error()).map(|(_, error, _)| error),
            self.audit.error().map(|error| format!("the audit file: {error}")),
        ];
        let wrong = wrong.map(|error| Some(shortened(&error?, MAX_TOLD_LINE).into_owned()));
        wrong.into_iter().flatten().reduce(|all, error| format!("{all}\n{error}"))
    }

    /// Returns why records of changes are not in the audit file; `None` while they are, or where there is none.
    pub(crate) fn audit_error(&self) -> Option<String> {
        self.audit.error()
    }

    /// Looks each second whether the files that `[control]` names answer, so that no thread that serves looks at them where they
    /// do not; and so that the log tells of what is wrong with them although nobody asks for anything.
    async fn probe_files(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PROBE).await;
            self.access.probe().await;
            if let Some(tls) = &self.tls {
                tls.probe().await;
            }
        }
    }

    /// Returns whether a change that was asked for is being made.
    pub(crate) fn is_changing(&self) -> bool {
        self.quotas.changing.used() > 0
    }

    /// Returns what of the files that `[control]` names is on disk and not in force.
    pub(crate) fn out_of_date(&self) -> impl Iterator<Item = Entry> {
        let tokens = self.access.error().map(|error| (Lag::Tokens, error));
        let certificate = self.tls.as_ref().and_then(|tls| tls.error()).map(|error| (Lag::Certificate, error));
        let all = tokens.into_iter().chain(certificate);
        all.map(|(kind, (path, why, since))| Entry::new(kind, Some(path), since, &why))
    }

    /// Returns what is in force now.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.engine.view().snapshot)
    }

    /// Reads files to answer, away from the threads that serve connections.
    ///
    /// The turn is waited for before there is a thread for it: as many threads as ever read at once each keep in their
    /// heap what the largest file took.
    ///
    /// # Errors
    /// What `work` says, that it panicked, or that too many others read.
    async fn read<T: Send + 'static>(
        &self,
        requester: Requester,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.quotas.readers.wait(requester, 1, quotas::deadline()).await;
        let turn = turn.ok_or_else(|| ApiError::busy("too many requests read: try again"))?;
        // Whoever goes meanwhile leaves no turn to another one before the thread is free.
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal())?
    }

    /// Waits for the right to make a change. Tokens get it in turns, so that no number of changes of one token holds up
    /// another one's by more than one.
    ///
    /// # Errors
    /// Too many others wait, or for too long.
    async fn write(&self, principal: &Principal) -> Result<Writing<'_>, ApiError> {
        let turn = self.quotas.writers.wait(principal.requester(), 1, quotas::write_deadline()).await;
        let turn = turn.ok_or_else(|| ApiError::busy("too many changes wait: try again"))?;
        Ok(Writing { writer: self.writer.lock().await, _turn: turn })
    }

    /// Returns an object as it is in force now.
    ///
    /// # Errors
    /// There is none.
    fn view(&self, kind: Kind, id: &str) -> Result<Value, ApiError> {
        objects::view(&self.snapshot(), kind, id)
    }

    /// Makes the file of a new object that a request asks for, as [`Control::change`] does.
    ///
    /// # Errors
    /// Why it is not made, as the client is told.
    async fn make(
        &self,
        call: &Call,
        action: &'static str,
        (kind, id): (Kind, &Arc<str>),
        file: File,
    ) -> Result<Done, ApiError> {
        let text: Arc<str> = sealed(&file.text(), kind.word()).into();
        let edit = |_: &Snapshot| Ok(Edit { id: Arc::clone(id), before: None, after: Some(Arc::clone(&text)) });
        self.change(&call.principal, action, edit).await?;
        Ok(Done { view: self.view(kind, id)?, created: Some(Arc::clone(id)) })
    }

    /// Changes an object's file as `plan` makes of what is in force; when this returns, the change is in force, on disk
    /// and in the audit record. `action` is what is done, as that has it: `network_policy.create`.
    ///
    /// A file that is to hold what it holds is left alone. Somebody may be editing it: what is then on disk has gone into
    /// force when it is planned again. The kernel tells of an edit when it will, so the whole is worth another try a moment
    /// later, without the lock: callers hold [`Control::writer`].
    ///
    /// # Errors
    /// Why it is not, as the client is told.
    async fn change(
        &self,
        principal: &Principal,
        action: &'static str,
        mut plan: impl FnMut(&Snapshot) -> Result<Edit, ApiError>,
    ) -> Result<(), ApiError> {
        let mut path = PathBuf::new();
        for _ in 0..TRIES {
            let Edit { id, before, after } = plan(&self.snapshot())?;
            if before == after {
                return Ok(());
            }
            fits(action, &id, before.as_deref(), after.as_deref())?;
            path = path_of(&id);
            let texts = [before.as_deref(), after.as_deref()];
            self.audit.announce(principal, (action, &id), texts).await.map_err(ApiError::unavailable)?;
            let change = Change { path: path.clone(), before: before.clone(), after: after.clone() };
            match self.changer.apply(change).await {
                Ok(generation) => {
                    self.audit.record(principal, (action, &id), texts, generation).await;
                    self.changed.send_replace(());
                    return Ok(());
                }
                Err(Refused::Stale) => {}
                Err(Refused::HeldBack) => return Err(self.held_back(&path)),
                Err(refused) => return Err(refused.into()),
            }
        }
        let message =
            format!("{} on disk is not what is in force: somebody is writing to it: try again", path.display());
        Err(ApiError { last_pause: WRITTEN_PAUSE, ..ApiError::unavailable(message) })
    }

    /// Says that of a file an older version is in force than is on disk, and why.
    fn held_back(&self, path: &Path) -> ApiError {
        let state = self.progress.state();
        let file = path.display().to_string();
        let errors: Vec<&str> = state.error.as_deref().unwrap_or_default().lines().collect();
        let own: Vec<&str> = errors.iter().copied().filter(|line| line.contains(&file)).collect();
        let mut told = if own.is_empty() { errors } else { own };
        told.truncate(MOST_TOLD);
        let told = told.join("; ");
        let message = format!("{file} on disk is not what is in force: {told}: mend the file, then try again");
        // It may have been mended a moment ago.
        ApiError { last_pause: MENDED_PAUSE, ..ApiError::bad(message) }
    }
}

/// Returns what of the files that `[control]` names would keep the API closed.
pub(crate) fn closed_by(settings: &config::Control) -> Vec<String> {
    let tokens = Access::open(settings);
    let tokens = tokens.error().map(|(_, why, _)| why);
    let tls = settings.tls.as_ref().map(Tls::open);
    let certificate = tls.as_ref().and_then(|tls| tls.error()).map(|(_, why, _)| why);
    tokens.into_iter().chain(certificate).collect()
}

/// How often it is looked whether files answer.
const PROBE: Duration = Duration::from_secs(1);

/// Returns octets in hexadecimal.
fn hex(octets: &[u8]) -> String {
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('?');
    octets.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 15)]).collect()
}

/// Returns the file of an object that the API made, relative to the policies directory.
fn path_of(id: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{id}.toml"))
}

/// Returns whether a path is that of an object's file; lists ask it of all of them.
fn is_file_of(path: &Path, id: &str) -> bool {
    let folder = path.as_os_str().as_bytes().strip_suffix(b".toml").and_then(|path| path.strip_suffix(id.as_bytes()));
    let above = folder.and_then(|folder| folder.strip_suffix(b"/")?.strip_suffix(FOLDER.as_bytes()));
    above.is_some_and(|above| above.is_empty() || above.ends_with(b"/"))
}

/// Returns whether the object that `source` defines is the API's: in the file of its id, and recorded there.
fn is_made(snapshot: &Snapshot, id: &str, source: &Source) -> bool {
    let is_there = |record: &ApiTable| Arc::ptr_eq(record.source().text(), source.text());
    is_file_of(source.path(), id) && snapshot.record(id).is_some_and(is_there)
}

/// Returns what the API keeps of an object; a table `[api.ID]` in any other file than the object's own means nothing.
fn kept<'s>(snapshot: &'s Snapshot, id: &str) -> Option<&'s ApiTable> {
    snapshot.record(id).filter(|record| is_kept(record))
}

/// Returns whether a record is in the file of its object.
fn is_kept(record: &ApiTable) -> bool {
    is_file_of(record.source().path(), record.id())
}

/// Refuses to make a file larger than it may be, in what clients say about it: a devbox can be shut down however large it
/// is.
fn fits(action: &str, id: &str, before: Option<&str>, after: Option<&str>) -> Result<(), ApiError> {
    let octets = |text: Option<&str>| text.map_or(0, str::len);
    let (before, after) = (octets(before), octets(after));
    let is_said = action.ends_with(".create") || action.ends_with(".update");
    if !is_said || after <= MAX_OBJECT.max(before) {
        return Ok(());
    }
    let (after, most) = (after.div_ceil(1 << 10), MAX_OBJECT >> 10);
    Err(ApiError::bad(format!(
        "`{id}` would take {after} KiB as a file, and {most} KiB is the most: leave out what is not needed, or make \
         several of it"
    )))
}

/// Refuses to change what a person wrote.
fn by_hand(what: &str, id: &str, place: &Place) -> ApiError {
    let id = id.escape_debug();
    if place.path.starts_with(BUILT_IN) {
        let file = place.path.strip_prefix(BUILT_IN).unwrap_or(&place.path).display();
        return ApiError::bad(format!(
            "{what} `{id}` is built in: a file `{file}` in the policies directory replaces it, or include it in a policy \
             of your own"
        ));
    }
    ApiError::bad(format!("{what} `{id}` is written by hand in {place}: edit it there"))
}

/// Names those who use something, ten at most.
fn named(users: &[String]) -> String {
    let more = users.len().saturating_sub(MOST_NAMED);
    let first = users.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// The folder of the API's files below the policies directory.
const FOLDER: &str = "api";

/// How often a change is planned at once while its file is being edited.
const TRIES: usize = 3;

/// The longest pause of a change whose file somebody is writing to: all take some 1.3 seconds.
const WRITTEN_PAUSE: Duration = Duration::from_millis(640);

/// The longest pause of a change whose file was held back: all take 150 milliseconds.
const MENDED_PAUSE: Duration = Duration::from_millis(80);

/// How many users of an object a message names.
const MOST_NAMED: usize = 10;

/// How many errors of a file a message tells.
const MOST_TOLD: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_make_no_file_too_large_and_can_end_what_is() {
        let [fit, over, more] = [0, 1, 2].map(|more| "x".repeat(MAX_OBJECT + more));
        let fits = |action, before, after| fits(action, "npol_1", before, after);
        assert!(fits("network_policy.create", None, Some(&fit)).is_ok());
        let told = fits("network_policy.create", None, Some(&over)).unwrap_err().message;
        assert!(told.starts_with("`npol_1` would take 2049 KiB as a file, and 2048 KiB is the most: "), "{told}");
        assert!(fits("devbox.update", Some(&over), Some(&more)).is_err());
        assert!(fits("devbox.update", Some(&more), Some(&over)).is_ok(), "it becomes smaller");
        assert!(fits("devbox.shutdown", Some(&over), Some(&more)).is_ok());
        assert!(fits("devbox.forget", Some(&over), None).is_ok());
    }

    #[test]
    fn a_file_of_the_api_is_in_its_folder_and_named_as_its_object() {
        const CASES: &[(&str, bool)] = &[
            ("policies/api/npol_1.toml", true),
            ("/api/npol_1.toml", true),
            ("api/npol_1.toml", true),
            ("policies/myapi/npol_1.toml", false),
            ("policies/api/npol_2.toml", false),
            ("policies/api/xnpol_1.toml", false),
            ("policies/api/npol_1.tom", false),
            ("npol_1.toml", false),
        ];
        for (path, expected) in CASES {
            assert_eq!(is_file_of(Path::new(path), "npol_1"), *expected, "{path}");
            assert_eq!(Path::new(path).ends_with(path_of("npol_1")), *expected, "{path}");
        }
    }
}
