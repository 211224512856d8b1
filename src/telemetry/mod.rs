//! What hostgate tells people and programs about itself: metrics and the decision log.

pub(crate) mod append;
pub mod decision_log;
pub(crate) mod exposition;
pub(crate) mod json;
pub(crate) mod metrics;
