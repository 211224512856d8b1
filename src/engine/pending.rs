//! A query that waits for an upstream, and what it is counted by meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Asked, View};
use crate::dns::query::OwnedQuery;
use crate::dns::response::Question;
use crate::fair_share::{Holder, Permit};
use crate::policy::{Limit, OwnedDecision};
use crate::upstream::Upstreams;

/// A query that waits for an upstream.
pub(crate) struct Pending {
    /// What was asked.
    pub(super) query: OwnedQuery,
    /// Who asks.
    pub(super) asked: Asked,
    /// What the answer depends on.
    pub(super) view: Arc<View>,
    /// What the policy says.
    pub(super) decision: OwnedDecision,
    /// Whose share it, and what comes of it, counts in.
    pub(super) holder: Holder,
    /// Whether stale data is there that serves if no answer comes soon.
    pub(super) has_stale: bool,
    /// The limit of the policy's budget that is spent, where that is recorded and no more.
    pub(super) over: Option<Limit>,
    /// Counts it while it waits.
    pub(super) _counted: Counted,
}

/// What a pending query is counted by.
pub(super) enum Counted {
    /// A client waits for it.
    Client {
        /// A part of the client's share.
        _permit: Permit,
    },
    /// Nobody waits for it: its answer is renewed ahead of time.
    Renewal {
        /// Of all renewals.
        _all: Waiting,
    },
}

impl Pending {
    /// Returns what is asked upstream.
    pub(crate) fn question(&self) -> &Arc<Question> {
        self.query.asked()
    }

    /// Returns whose share the answer counts in.
    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }

    /// Returns whether stale data is there that serves if no answer comes soon.
    pub(crate) fn has_stale(&self) -> bool {
        self.has_stale
    }

    /// Returns whom to ask.
    pub(crate) fn upstreams(&self) -> &Arc<Upstreams> {
        &self.view.upstreams
    }
}

/// Counts a pending query in, and out again however its waiting ends.
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Counts one in.
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
