//! Telemetry: metrics, the decision log, the files of records, the process's log, and the heartbeats of its threads.
//!
//! Nothing here may delay an answer: queries add to atomics or to memory, and threads of their own do the writing.

pub(crate) mod append;
pub mod decision_log;
pub(crate) mod heartbeat;
pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod log_filter;
pub(crate) mod metrics;
pub(crate) mod record_file;
