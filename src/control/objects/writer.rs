//! What those who change something need besides what is in force; one of them at a time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::bounds::MAX_SHUT_DOWN;
use crate::config;
use crate::control::access::Principal;
use crate::control::build::{BUILDING, QUEUED};
use crate::control::objects::address::{self, Pool};
use crate::control::objects::devboxes::{COMMENT, SHUTDOWN};
use crate::control::objects::kind::Kind;
use crate::control::objects::record::{Fields, without};
use crate::control::{Control, Edit, kept};
use crate::policy::Snapshot;

/// Held from what a change is made of until it is in force.
#[derive(Debug, Default)]
pub(in crate::control) struct Writer {
    /// Addresses of devboxes.
    pub(in crate::control) devboxes: Option<Pool>,
    /// Addresses of build containers.
    pub(in crate::control) builds: Option<Pool>,
    /// The blueprints that were being built when the last process ended.
    pub(in crate::control) unfinished: Vec<Arc<str>>,
    /// The devboxes that were shut down, oldest first.
    retired: VecDeque<Arc<str>>,
}

/// Goes through what the API keeps, at the start.
#[derive(Debug, Default)]
pub(in crate::control) struct Survey {
    /// The devboxes that were shut down, and when.
    retired: Vec<(u64, Arc<str>)>,
    /// The blueprints that were being built.
    unfinished: Vec<Arc<str>>,
    /// The newest devbox, and its address.
    newest: Option<(Arc<str>, IpAddr)>,
}

impl Survey {
    /// Sees what is kept of an object.
    pub(in crate::control) fn see(&mut self, id: &str, fields: &Fields) {
        let status = fields.get("status").and_then(Value::as_str);
        if Kind::of(id) == Some(Kind::Blueprint) && matches!(status, Some(QUEUED | BUILDING)) {
            self.unfinished.push(id.into());
        }
        if Kind::of(id) != Some(Kind::Devbox) {
            return;
        }
        if status == Some(SHUTDOWN) {
            let ended = fields.get("end_time_ms").and_then(Value::as_u64).unwrap_or_default();
            self.retired.push((ended, id.into()));
        }
        let address = fields.get("metadata").and_then(|metadata| metadata.get(address::KEY)).and_then(Value::as_str);
        if let Some(address) = address.and_then(|address| address.parse().ok())
            && self.newest.as_ref().is_none_or(|(newest, _)| **newest < *id)
        {
            self.newest = Some((id.into(), address));
        }
    }

    /// Makes what writers need.
    pub(in crate::control) fn finish(mut self, settings: &config::Control) -> Writer {
        self.retired.sort_unstable();
        let last = self.newest.map(|(_, address)| address);
        Writer {
            devboxes: settings.devbox_pool.map(|net| Pool::new(net, last)),
            builds: settings.build_pool.map(|net| Pool::new(net, None)),
            unfinished: self.unfinished,
            retired: self.retired.into_iter().map(|(_, id)| id).collect(),
        }
    }
}

impl Writer {
    /// Notes that a devbox was shut down; beyond [`MAX_SHUT_DOWN`] the oldest one goes, as when the API deletes.
    pub(in crate::control) async fn retire(&mut self, control: &Control, principal: &Principal, id: &str) {
        self.retired.push_back(id.into());
        while self.retired.len() > MAX_SHUT_DOWN
            && let Some(oldest) = self.retired.pop_front()
        {
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
                tracing::warn!(path = %crate::control::path_of(&oldest).display(), error = error.message, "devbox not forgotten; its file stays");
            }
        }
    }
}
