//! hostgate: a DNS-level policy resolver.

pub mod cli;
pub mod config;
pub mod dns;
pub mod document;
pub mod engine;
pub mod policy;
mod reload;
mod server;
mod telemetry;
pub mod upstream;
