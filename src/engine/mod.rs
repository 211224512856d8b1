//! The way of a query: bytes and a source in, bytes out.

pub mod cache;
pub mod inflight;
