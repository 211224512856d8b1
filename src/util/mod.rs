//! Data structures and system calls that several modules use and no crate offers in the form needed.

pub(crate) mod content_hash;
pub(crate) mod persistent_map;
pub(crate) mod regular_file;
pub(crate) mod reserve;
pub(crate) mod small_list;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, whether or not a thread panicked while it held it: a panic costs the query or request that caused it, and
/// no other. Only for values that a panic between two changes leaves usable.
#[inline]
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
