//! A query that waits for an upstream, counted against the limits of waiting queries meanwhile.

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
    /// The query as it was parsed.
    pub(super) query: OwnedQuery,
    /// The source of the query and its transport.
    pub(super) asked: Asked,
    /// The view with which the query began.
    pub(super) view: Arc<View>,
    /// The policy's decision on the question.
    pub(super) decision: OwnedDecision,
    /// The holder of the share that the query, and its answer in the cache, counts in.
    pub(super) holder: Holder,
    /// `true` if the cache has stale data, which is the answer if no upstream replies soon.
    pub(super) has_stale: bool,
    /// The spent limit of the budget, if the policy only records that.
    pub(super) over: Option<Limit>,
    /// The count of waiting queries that this one is in.
    pub(super) _counted: Counted,
}

/// The count that a pending query is in until it is dropped.
pub(super) enum Counted {
    /// Queries that clients wait for.
    Client {
        /// The permit, a part of the client's share.
        _permit: Permit,
    },
    /// Renewals of cached answers, which no client waits for.
    Renewal {
        /// The place in the count of all renewals.
        _all: Waiting,
    },
}

impl Pending {
    /// Returns the question to ask upstream.
    pub(crate) fn question(&self) -> &Arc<Question> {
        self.query.asked()
    }

    /// Returns the holder of the share that the answer counts in.
    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }

    /// Returns whether the cache has stale data, which is the answer if no upstream replies soon.
    pub(crate) fn has_stale(&self) -> bool {
        self.has_stale
    }

    /// Returns the upstreams to ask.
    pub(crate) fn upstreams(&self) -> &Arc<Upstreams> {
        &self.view.upstreams
    }
}

/// Counts a pending query in, and out again however its waiting ends.
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Adds one to the count, until this is dropped.
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
