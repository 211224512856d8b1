//! What hostgate tells people and programs about itself: metrics, the decision log and the log's way out.

pub(crate) mod append;
pub mod decision_log;
pub(crate) mod heartbeat;
pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod log_filter;
pub(crate) mod metrics;
pub(crate) mod record_file;
