//! The fuzz targets: each takes any bytes and panics when something that must always hold does not.
//!
//! They are functions of their input alone, so that libFuzzer (`tests/fuzz/run`) and `cargo test` (which replays the
//! seeds) find the same. Expected values come from hickory or from [`naive`], never from the code under test.

pub mod config;
pub mod naive;
pub mod places;
pub mod policies;
pub mod query;
pub mod response;
