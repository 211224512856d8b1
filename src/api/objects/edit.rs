//! What those who change something need besides what is in force; one of them at a time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::api::auth::Principal;
use crate::api::builds::{BUILDING, QUEUED};
use crate::api::objects::address::{self, Pool};
use crate::api::objects::devboxes::{COMMENT, SHUTDOWN};
use crate::api::objects::id::now_ms;
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::{kept_of, without};
use crate::api::{Control, Edit, kept};
use crate::bounds::MAX_SHUT_DOWN;
use crate::config;
use crate::policy::{ApiTable, Snapshot};
use crate::util::millis;

/// Held from what a change is made of until it is in force.
#[derive(Debug, Default)]
pub(in crate::api) struct Writer {
    /// Addresses of devboxes.
    pub(in crate::api) devboxes: Option<Pool>,
    /// Addresses of build containers.
    pub(in crate::api) builds: Option<Pool>,
    /// The blueprints that were being built when the last process ended.
    pub(in crate::api) unfinished: Vec<Arc<str>>,
    /// The devboxes that were shut down, oldest first, and when that was, in milliseconds since 1970 began.
    retired: VecDeque<(u64, Arc<str>)>,
    /// How long they can still be shown, in milliseconds.
    kept_for: u64,
}

impl Writer {
    /// Makes it for what the API keeps, in the order of the ids. Of thousands of devboxes few are read for it: those that
    /// were shut down, and the newest one.
    pub(in crate::api) fn new(snapshot: &Snapshot, kept: &[&ApiTable], settings: &config::Control) -> Self {
        let of_kind = |kind| kept.iter().copied().filter(move |record| Kind::of(record.id()) == Some(kind));
        let unfinished = of_kind(Kind::Blueprint).filter(|record| matches!(&*record.status(), QUEUED | BUILDING));
        let retired = of_kind(Kind::Devbox).filter(|record| record.status() == SHUTDOWN);
        let mut retired: Vec<(u64, Arc<str>)> = retired.map(|record| (ended(record), record.id().into())).collect();
        retired.sort_unstable();
        let devboxes: Vec<&ApiTable> = of_kind(Kind::Devbox).collect();
        let last = devboxes.into_iter().rev().find_map(|record| address_of(snapshot, record));
        Self {
            devboxes: settings.devbox_pool.map(|net| Pool::new(net, last)),
            builds: settings.build_pool.map(|net| Pool::new(net, None)),
            unfinished: unfinished.map(|record| record.id().into()).collect(),
            retired: retired.into(),
            kept_for: millis(settings.forget_after),
        }
    }

    /// Notes that a devbox was shut down; those of which it is time are forgotten.
    pub(in crate::api) async fn retire(&mut self, control: &Control, principal: &Principal, id: &str) {
        self.retired.push_back((now_ms(), id.into()));
        self.forget(control, principal, FORGOTTEN_AT_ONCE).await;
    }

    /// Forgets devboxes that were shut down long ago, and the oldest ones beyond [`MAX_SHUT_DOWN`], as when the API deletes: the
    /// audit record stays. Returns whether more of them, than so many, are to be forgotten.
    pub(in crate::api) async fn forget(&mut self, control: &Control, principal: &Principal, most: usize) -> bool {
        for _ in 0..most {
            if !self.is_one_due(now_ms()) {
                return false;
            }
            let Some((_, oldest)) = self.retired.pop_front() else { return false };
            let Some(before) = kept(&control.snapshot(), &oldest).map(|record| Arc::clone(record.source().text()))
            else {
                continue;
            };
            let edit = |_: &Snapshot| {
                let after = without(&before, COMMENT, &[("api", &oldest)])?;
                Ok(Edit { id: Arc::clone(&oldest), before: Some(Arc::clone(&before)), after })
            };
            // A file that cannot be removed, as somebody is editing it, is theirs.
            if let Err(error) = control.change(principal, "devbox.forget", edit).await {
                tracing::warn!(path = %crate::api::path_of(&oldest).display(), error = error.message, "devbox not forgotten; its file stays");
            }
        }
        self.is_one_due(now_ms())
    }

    /// Returns whether it is time to forget the oldest one.
    fn is_one_due(&self, now: u64) -> bool {
        let is_old = |(ended, _): &(u64, Arc<str>)| ended.saturating_add(self.kept_for) <= now;
        self.retired.len() > MAX_SHUT_DOWN || self.retired.front().is_some_and(is_old)
    }
}

/// Devboxes that one change of somebody's forgets at most: it is not to wait for more.
const FORGOTTEN_AT_ONCE: usize = 4;

/// Devboxes forgotten in a row, before others may make changes.
const FORGOTTEN_IN_A_ROW: usize = 20;

/// How often it is looked whether it is time to forget one, where none was left over.
const FORGET_EVERY: Duration = Duration::from_secs(1);

impl Control {
    /// Forgets devboxes that were shut down long ago, until told to stop.
    pub(in crate::api) async fn forget(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let principal = Principal::own();
        loop {
            let mut is_more = false;
            if self.writer.lock().await.is_one_due(now_ms())
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

/// Returns when a devbox was shut down, in milliseconds since 1970 began.
fn ended(record: &ApiTable) -> u64 {
    kept_of(record).get("end_time_ms").and_then(Value::as_u64).unwrap_or_default()
}

/// Returns the address that a devbox was given: its client's, or what is kept of it once that is gone.
fn address_of(snapshot: &Snapshot, record: &ApiTable) -> Option<IpAddr> {
    if let Some(client) = snapshot.client(record.id()) {
        return client.sources().next().map(|source| source.addr());
    }
    kept_of(record).get("metadata")?.get(address::KEY)?.as_str()?.parse().ok()
}
