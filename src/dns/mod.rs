//! The wire format: pure functions over bytes. No socket, clock, log or policy in here.

pub mod answer;
#[cfg(test)]
mod differential;
pub mod name;
pub mod query;
pub mod rcode;
pub mod rebinding;
pub mod response;
pub mod reverse;
pub mod rtype;
#[cfg(test)]
mod sample;
mod wire;
