//! Which addresses a public name may not answer with.

use std::net::IpAddr;

/// Returns whether `address` is globally reachable.
#[must_use]
pub fn is_globally_reachable(address: IpAddr) -> bool {
    !address.is_loopback()
}
