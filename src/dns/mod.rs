//! The DNS wire format as pure functions over bytes: queries read, responses read and filtered, answers written.
//!
//! Nothing here opens a socket, reads a clock, logs or knows a policy, so each function can be fuzzed and compared with
//! another implementation; `differential` does so against hickory.

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
