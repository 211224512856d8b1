//! Sockets and what answers on them: UDP, TCP, the admin endpoint, take-overs.
//!
//! `udp` and `tcp` take queries to the engine and its answers back; `admin` serves metrics and status.

pub(crate) mod admin;
pub(crate) mod connection_limits;
pub(crate) mod missing_sockets;
mod overload;
pub(crate) mod sockets;
pub(crate) mod takeover;
pub(crate) mod tcp;
pub(crate) mod udp;
mod unix;

use std::io;

/// What the main thread is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A signal came.
    Signal(i32),
    /// A successor serves.
    TakenOver,
    /// The predecessor could not be told to end, and serves on.
    NotTakenOver(io::Error),
}
