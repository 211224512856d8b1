//! The listening sockets and the threads and tasks that serve them: UDP, TCP, the admin endpoint, take-overs.
//!
//! `udp` and `tcp` receive queries, let the engine answer them and send the answers. `admin` serves metrics and status.
//! `takeover` passes the sockets on to a successor process, so that a restart loses no query.

pub(crate) mod admin;
pub(crate) mod bind_trial;
pub(crate) mod connection_limits;
pub(crate) mod missing_sockets;
mod overload;
pub(crate) mod resolver;
pub(crate) mod sockets;
pub(crate) mod takeover;
pub(crate) mod tcp;
pub(crate) mod udp;
mod unix;

use std::io;

/// An event that the main thread handles.
#[derive(Debug)]
pub(crate) enum Event {
    /// A signal with this number was received.
    Signal(i32),
    /// A successor process has taken over the sockets and serves, so this process ends.
    TakenOver,
    /// This process could not make its predecessor end. As the predecessor continues to serve, this one must end.
    NotTakenOver(io::Error),
}
