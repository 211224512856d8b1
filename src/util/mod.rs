//! Data structures and system calls that several modules use and no crate offers in the form needed.

pub(crate) mod content_hash;
pub(crate) mod mount;
pub(crate) mod persistent_map;
pub(crate) mod regular_file;
pub(crate) mod reserve;
pub(crate) mod small_list;
pub(crate) mod trusted_link;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::digest::{SHA256, digest};

/// Locks a mutex, whether or not a thread panicked while it held it: a panic costs the query or request that caused it, and
/// no other. Only for values that a panic between two changes leaves usable.
#[inline]
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a duration in whole milliseconds.
#[inline]
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A multiplier for hashes: 2⁶⁴ divided by the golden ratio, odd (Knuth, TAOCP volume 3, 6.4).
pub(crate) const HASH_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the exclusive or of both halves of a product: one step of a hash that costs a multiplication. The lower half
/// alone would keep the high bits of the factors high.
#[inline]
pub(crate) fn folded_multiply(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    let [low, high] = [product, product >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
    low ^ high
}

/// Returns octets in hexadecimal digits.
pub(crate) fn hex(octets: &[u8]) -> String {
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('?');
    octets.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 15)]).collect()
}

/// Returns the SHA-256 of octets in hexadecimal digits.
pub(crate) fn sha256(octets: &[u8]) -> String {
    hex(digest(&SHA256, octets).as_ref())
}
