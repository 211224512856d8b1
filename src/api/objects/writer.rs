//! Writes to the files of objects: one at a time, each with its audit record.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{MutexGuard, watch};

use crate::api::audit::AuditAction;
use crate::api::auth::Principal;
use crate::api::objects::address::{self, AddressPool};
use crate::api::objects::object_file::{ObjectFile, api_fields, without};
use crate::api::objects::{ApiKind, BUILDING, QUEUED, SHUTDOWN, api_table, held, path_of, view};
use crate::api::request::call::{Call, Done};
use crate::api::request::error::ApiError;
use crate::api::{ApiState, now_ms, quotas};
use crate::bounds::{MAX_OBJECT, MAX_SHUT_DOWN};
use crate::config;
use crate::fair_share::quota::Reservation;
use crate::policy::{ApiTable, Snapshot, sealed};
use crate::reload::{Change, Refused};
use crate::util::millis;

/// The attempts at a write whose file is edited meanwhile.
const ATTEMPTS: usize = 3;
/// The longest pause before a write whose file somebody has open is tried again: all pauses add up to 1.3 seconds.
const OPEN_FILE_PAUSE: Duration = Duration::from_millis(640);
/// The longest pause before a write to a held-back file is tried again: all pauses add up to 150 milliseconds.
const HELD_BACK_PAUSE: Duration = Duration::from_millis(80);
/// The number of errors of a file that a message repeats.
const MOST_TOLD: usize = 5;
/// The devboxes that are forgotten after one was shut down, while its client waits.
const FORGOTTEN_AT_ONCE: usize = 4;
/// The devboxes that are forgotten before other writes get their turn.
const FORGOTTEN_IN_A_ROW: usize = 20;
/// The interval of looking for devboxes to forget.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// A write to one object's file.
pub(in crate::api) struct FileEdit {
    pub(in crate::api) id: Arc<str>,
    /// The text of the file before; `None` if no file exists.
    pub(in crate::api) before: Option<Arc<str>>,
    /// The text after; `None` removes the file.
    pub(in crate::api) after: Option<Arc<str>>,
    /// Whether the object's addresses are held, as its file is bad or gone: whatever is there is replaced.
    pub(in crate::api) is_held: bool,
}

impl FileEdit {
    /// Makes the edit that replaces the text of an object's file.
    pub(in crate::api) fn update(id: &str, before: &Arc<str>, file: &ObjectFile) -> Self {
        let after = file.text();
        let kind = ApiKind::of_id(id).map_or("file", ApiKind::name);
        let after = if after == *before { after } else { sealed(&after, kind).into() };
        Self { id: id.into(), before: Some(Arc::clone(before)), after: Some(after), is_held: false }
    }

    /// Makes the edit that writes the file of an object whose addresses are held, or removes it.
    ///
    /// # Errors
    /// They are not held any more.
    pub(in crate::api) fn of_held(
        snapshot: &Snapshot,
        kind: ApiKind,
        id: &str,
        after: Option<Arc<str>>,
    ) -> Result<Self, ApiError> {
        held(snapshot, kind, id).ok_or_else(|| ApiError::not_found(kind, id))?;
        Ok(Self { id: id.into(), before: None, after, is_held: true })
    }
}

/// The state that a write needs besides the snapshot. Its lock serialises writes.
#[derive(Debug, Default)]
pub(in crate::api) struct WriterState {
    pub(in crate::api) devbox_pool: Option<AddressPool>,
    pub(in crate::api) build_pool: Option<AddressPool>,
    /// The blueprints whose build was running when the last process ended.
    pub(in crate::api) unfinished: Vec<Arc<str>>,
    /// The devboxes that were shut down, oldest first, with the time in milliseconds since 1970.
    shut_down: VecDeque<(u64, Arc<str>)>,
    /// The milliseconds for which a devbox that was shut down can be read.
    kept_for: u64,
}

/// The lock on the state of writes, and the turn of its token.
pub(in crate::api) struct Writing<'w> {
    // Released first, so that whoever gets the turn finds no lock.
    state: MutexGuard<'w, WriterState>,
    _turn: Reservation,
}

impl Deref for Writing<'_> {
    type Target = WriterState;

    fn deref(&self) -> &WriterState {
        &self.state
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut WriterState {
        &mut self.state
    }
}

impl WriterState {
    /// Makes the state from the objects of a snapshot.
    ///
    /// Of the devboxes' files, only those that were shut down and the newest one are parsed: there may be thousands.
    pub(in crate::api) fn new(snapshot: &Snapshot, settings: &config::Control) -> Self {
        let tables: Vec<&ApiTable> = snapshot.records().filter(|table| super::is_in_own_file(table)).collect();
        let of_kind = |kind| tables.iter().copied().filter(move |table| ApiKind::of_id(table.id()) == Some(kind));
        let unfinished = of_kind(ApiKind::Blueprint).filter(|table| matches!(&*table.status(), QUEUED | BUILDING));
        let shut_down = of_kind(ApiKind::Devbox).filter(|table| table.status() == SHUTDOWN);
        let ended = |table: &ApiTable| api_fields(table).get("end_time_ms").and_then(Value::as_u64).unwrap_or_default();
        let mut shut_down: Vec<(u64, Arc<str>)> = shut_down.map(|table| (ended(table), table.id().into())).collect();
        shut_down.sort_unstable();
        let devboxes: Vec<&ApiTable> = of_kind(ApiKind::Devbox).collect();
        // Ids sort by time: the last address given out is that of the last devbox.
        let last = devboxes.into_iter().rev().find_map(|table| address_of(snapshot, table));
        Self {
            devbox_pool: settings.devbox_pool.map(|net| AddressPool::new(net, last)),
            build_pool: settings.build_pool.map(|net| AddressPool::new(net, None)),
            unfinished: unfinished.map(|table| table.id().into()).collect(),
            shut_down: shut_down.into(),
            kept_for: millis(settings.forget_after),
        }
    }

    /// Adds a devbox that was shut down, and forgets those that are due.
    pub(in crate::api) async fn add_shut_down(&mut self, control: &ApiState, principal: &Principal, id: &str) {
        self.shut_down.push_back((now_ms(), id.into()));
        self.forget(control, principal, FORGOTTEN_AT_ONCE).await;
    }

    /// Removes up to `most` devboxes that were shut down long ago or are more than [`MAX_SHUT_DOWN`]. Their audit records
    /// stay. Returns whether more are due.
    async fn forget(&mut self, control: &ApiState, principal: &Principal, most: usize) -> bool {
        for _ in 0..most {
            if !self.is_one_due() {
                return false;
            }
            let Some((_, id)) = self.shut_down.pop_front() else { return false };
            let Some(before) = api_table(&control.snapshot(), &id).map(|table| Arc::clone(table.source().text()))
            else {
                continue;
            };
            let edit = |_: &Snapshot| {
                let after = without(&before, ApiKind::Devbox, &[("api", &id)])?;
                Ok(FileEdit { id: Arc::clone(&id), before: Some(Arc::clone(&before)), after, is_held: false })
            };
            // A file that a person edits is left to that person.
            if let Err(error) = control.apply(principal, AuditAction::Forget, edit).await {
                tracing::warn!(path = %path_of(&id).display(), error = error.message, "devbox not forgotten; its file stays");
            }
        }
        self.is_one_due()
    }

    /// Returns whether the oldest devbox is to be forgotten.
    fn is_one_due(&self) -> bool {
        let is_old = |(ended, _): &(u64, Arc<str>)| ended.saturating_add(self.kept_for) <= now_ms();
        self.shut_down.len() > MAX_SHUT_DOWN || self.shut_down.front().is_some_and(is_old)
    }
}

impl ApiState {
    /// Waits for the turn to write. Tokens take turns, so that one token's writes delay another one's by one at most.
    ///
    /// # Errors
    /// Too many requests wait, or this one has waited for too long.
    pub(in crate::api) async fn write(&self, principal: &Principal) -> Result<Writing<'_>, ApiError> {
        let turn = self.quotas.writers.wait(principal.requester(), 1, quotas::write_deadline()).await;
        let turn = turn.ok_or_else(|| ApiError::busy("too many changes wait: try again"))?;
        Ok(Writing { state: self.writer.lock().await, _turn: turn })
    }

    /// Writes the file of a new object.
    ///
    /// # Errors
    /// The errors of [`ApiState::apply`].
    pub(in crate::api) async fn create(
        &self,
        call: &Call,
        (kind, id): (ApiKind, &Arc<str>),
        file: &ObjectFile,
    ) -> Result<Done, ApiError> {
        let text: Arc<str> = sealed(&file.text(), kind.name()).into();
        let edit = |_: &Snapshot| {
            Ok(FileEdit { id: Arc::clone(id), before: None, after: Some(Arc::clone(&text)), is_held: false })
        };
        self.apply(&call.principal, AuditAction::Create, edit).await?;
        Ok(Done { view: view(&self.snapshot(), kind, id)?, created: Some(Arc::clone(id)) })
    }

    /// Writes the file that `plan` makes of the present snapshot. On return the change is in force, on disk and in the
    /// audit file. Callers hold [`Writing`].
    ///
    /// A person may be editing the file: a text on disk that was read meanwhile is planned for again. As the kernel may
    /// report an edit late, some errors say for how long the request is worth further attempts without the lock.
    ///
    /// # Errors
    /// The error of `plan`, or the file could not be written.
    pub(in crate::api) async fn apply(
        &self,
        principal: &Principal,
        action: AuditAction,
        mut plan: impl FnMut(&Snapshot) -> Result<FileEdit, ApiError>,
    ) -> Result<(), ApiError> {
        let mut path = PathBuf::new();
        for _ in 0..ATTEMPTS {
            let FileEdit { id, before, after, is_held } = plan(&self.snapshot())?;
            if before == after && !is_held {
                return Ok(());
            }
            check_size(action, &id, before.as_deref(), after.as_deref())?;
            path = path_of(&id);
            let texts = [before.as_deref(), after.as_deref()];
            // Before the file is written: with `audit_required`, no change may be in force without a record.
            self.audit.announce(principal, (action, &id), texts).await.map_err(ApiError::unavailable)?;
            let change = Change { path: path.clone(), before: before.clone(), after: after.clone(), is_held };
            match self.changer.apply(change).await {
                Ok(generation) => {
                    self.audit.append(principal, (action, &id), texts, generation).await;
                    // After the record, so that a client that waits for a status never sees a change without one.
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
        Err(ApiError::unavailable(message).after_retries(OPEN_FILE_PAUSE))
    }

    /// Makes the error that a file on disk is held back, with its errors.
    fn held_back(&self, path: &Path) -> ApiError {
        let state = self.progress.state();
        let file = path.display().to_string();
        let errors: Vec<&str> = state.error.as_deref().unwrap_or_default().lines().collect();
        let own: Vec<&str> = errors.iter().copied().filter(|line| line.contains(&file)).collect();
        let mut told = if own.is_empty() { errors } else { own };
        told.truncate(MOST_TOLD);
        let told = told.join("; ");
        let message = format!("{file} on disk is not what is in force: {told}: mend the file, then try again");
        // The file may have been corrected a moment ago.
        ApiError::bad(message).after_retries(HELD_BACK_PAUSE)
    }

    /// Forgets devboxes that were shut down long ago, until the process stops.
    pub(in crate::api) async fn forget(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let principal = Principal::own();
        loop {
            let mut is_more = false;
            if self.writer.lock().await.is_one_due()
                && let Ok(mut writing) = self.write(&principal).await
            {
                is_more = writing.forget(&self, &principal, FORGOTTEN_IN_A_ROW).await;
            }
            let pause = if is_more { FORGET_EVERY / 50 } else { FORGET_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

/// Returns the address that a devbox was given: its client's, or the one in its metadata once it was shut down.
fn address_of(snapshot: &Snapshot, table: &ApiTable) -> Option<IpAddr> {
    if let Some(client) = snapshot.client(table.id()) {
        return client.sources().next().map(|source| source.addr());
    }
    api_fields(table).get("metadata")?.get(address::KEY)?.as_str()?.parse().ok()
}

/// Checks that a client's fields do not make a file too large. A devbox can be shut down however large its file is.
fn check_size(action: AuditAction, id: &str, before: Option<&str>, after: Option<&str>) -> Result<(), ApiError> {
    let octets = |text: Option<&str>| text.map_or(0, str::len);
    let (before, after) = (octets(before), octets(after));
    if !matches!(action, AuditAction::Create | AuditAction::Update) || after <= MAX_OBJECT.max(before) {
        return Ok(());
    }
    let (after, most) = (after.div_ceil(1 << 10), MAX_OBJECT >> 10);
    Err(ApiError::bad(format!(
        "`{id}` would take {after} KiB as a file, and {most} KiB is the most: leave out what is not needed, or make \
         several of it"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_make_no_file_too_large_and_can_end_what_is() {
        let [fit, over, more] = [0, 1, 2].map(|more| "x".repeat(MAX_OBJECT + more));
        let check = |action, before, after| check_size(action, "npol_1", before, after);
        assert!(check(AuditAction::Create, None, Some(&fit)).is_ok());
        let told = check(AuditAction::Create, None, Some(&over)).unwrap_err().message;
        assert!(told.starts_with("`npol_1` would take 2049 KiB as a file, and 2048 KiB is the most: "), "{told}");
        assert!(check(AuditAction::Update, Some(&over), Some(&more)).is_err());
        assert!(check(AuditAction::Update, Some(&more), Some(&over)).is_ok(), "it becomes smaller");
        assert!(check(AuditAction::Shutdown, Some(&over), Some(&more)).is_ok());
        assert!(check(AuditAction::Forget, Some(&over), None).is_ok());
    }
}
