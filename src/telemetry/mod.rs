//! Telemetry: metrics, the decision log, the process's log, and the heartbeats and CPU times of the process's
//! threads.
//!
//! Nothing here may delay an answer: a thread that answers a query only updates counters or appends to a buffer, and
//! other threads write the files. `record_file` and `append` are what the decision log and the API's audit file
//! have in common.

pub(crate) mod append;
pub(crate) mod cpu_time;
pub mod decision_log;
pub(crate) mod heartbeat;
pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod log_filter;
pub(crate) mod metrics;
pub(crate) mod record_file;
