//! What hostgate tells people and programs about itself: metrics and the decision log.

pub(crate) mod decision_log;
pub(crate) mod exposition;
pub(crate) mod metrics;
