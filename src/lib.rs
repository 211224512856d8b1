//! hostgate: a DNS-level policy resolver.

pub mod dns;
pub mod document;
pub mod engine;
pub mod policy;
pub mod upstream;
