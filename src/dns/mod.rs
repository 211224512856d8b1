//! The wire format: pure functions over bytes. No socket, clock, log or policy in here.

pub mod name;
pub mod rtype;
