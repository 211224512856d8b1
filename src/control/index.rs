//! Names and states of what the API keeps, so that a list of many objects reads few files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::record::{Fields, kept};
use crate::policy::{Blueprint, Record, Snapshot};

/// Summaries by id, made when they are first asked for; each is that of the text it was made from.
#[derive(Default)]
pub(super) struct Index(Mutex<HashMap<Box<str>, Known>>);

/// A summary, and the text it was made from.
type Known = (Arc<str>, Arc<Summary>);

/// What lists look at.
#[derive(Debug)]
pub(super) struct Summary {
    /// The name, empty where it has none.
    pub(super) name: String,
    /// The status, empty where it has none.
    pub(super) status: String,
}

impl Index {
    /// Returns the summary of a record.
    pub(super) fn summary(&self, record: &Record) -> Arc<Summary> {
        let text = record.source().text();
        let mut summaries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, summary)) = summaries.get(record.id())
            && Arc::ptr_eq(seen, text)
        {
            return Arc::clone(summary);
        }
        let summary = Arc::new(Summary::of(&fields(record)));
        summaries.insert(record.id().into(), (Arc::clone(text), Arc::clone(&summary)));
        summary
    }

    /// Returns the summary of a blueprint that the API made.
    pub(super) fn of_blueprint(&self, snapshot: &Snapshot, blueprint: &Blueprint) -> Option<Arc<Summary>> {
        let made = super::is_made(snapshot, blueprint.id(), blueprint.source());
        snapshot.record(blueprint.id()).filter(|_| made).map(|record| self.summary(record))
    }

    /// Forgets what is gone, when that is much.
    pub(super) fn tidy(&self, snapshot: &Snapshot) {
        let mut summaries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if summaries.len() > snapshot.records().len() + SLACK {
            summaries.retain(|id, _| snapshot.record(id).is_some());
        }
    }
}

impl Summary {
    /// Makes the summary of what the API keeps.
    fn of(fields: &Fields) -> Self {
        let text = |key| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { name: text("name"), status: text("status") }
    }
}

/// Returns what a record holds.
pub(super) fn fields(record: &Record) -> Fields {
    kept(record.source().text(), record.id()).unwrap_or_default()
}

/// How many summaries of objects that are gone are kept.
const SLACK: usize = 1_000;
