//! The memory that a file would take, estimated before it is read.
//!
//! A file that does not fit into the memory left is an error of that file, with the numbers. Without this check, the
//! process would end: by the kernel's out-of-memory killer, or by a failed allocation under `RLIMIT_AS`.

use std::path::Path;
use std::thread::available_parallelism;

use super::trusted::Use;
use crate::bounds::machine::{MemoryLeft, memory_left};

/// The size in octets up to which a file is read without a check of the memory left.
const SMALL: u64 = 256 << 10;

/// The octets of memory that an octet of a list takes while it is loaded.
///
/// Measured on 2026-11-30: 3.9 for names of 22 octets, 5.8 for names of 9; after the load, 1.6 and 2.4 stay in use.
const LIST: u64 = 6;

/// The octets of memory that an octet of a policy file takes while it is loaded: 10.5 measured, for a TOML array of
/// entries.
const POLICIES: u64 = 12;

/// The octets that must stay free for everything else: answers, connections, the next reload.
const SPARE: u64 = 16 << 20;

/// The octets of address space that a load reserves and never writes, as for a file of the largest size; and
/// once more for each thread that reads.
const ROOM: u64 = 80 << 20;

/// Checks that a file of this many octets can be loaded.
///
/// # Errors
/// The file does not fit into the memory that is left of a limit: which, and how much it needs.
pub(super) fn check(octets: u64, as_what: Use) -> Result<(), String> {
    if octets <= SMALL {
        return Ok(());
    }
    let threads = available_parallelism().map_or(1, |threads| u64::try_from(threads.get()).unwrap_or(1));
    match overweight(octets, as_what, threads, memory_left(Path::new("/"))) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Returns the error of a file that does not fit into one of these limits; `None` if it fits into all.
fn overweight(octets: u64, as_what: Use, threads: u64, left: Vec<MemoryLeft>) -> Option<String> {
    let factor = if as_what == Use::List { LIST } else { POLICIES };
    let needed = octets * factor;
    let needs = |left: &MemoryLeft| needed + SPARE + if left.is_of_addresses { ROOM * (threads + 1) } else { 0 };
    // The error names the tightest limit: raising another one would not help.
    let tight = left.into_iter().filter(|left| left.octets < needs(left)).min_by_key(|left| left.octets)?;
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    Some(format!(
        "{octets} octets take about {} MiB of memory while they are loaded, and {} MiB of {} MiB are left of {}: make the list \
         shorter, or raise that limit",
        mib(needs(&tight)),
        tight.octets >> 20,
        mib(tight.limit),
        tight.limited_by
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_does_not_fit_into_memory_is_refused_with_the_numbers() {
        let left = |mib: u64, is_of_addresses| MemoryLeft {
            octets: mib << 20,
            limit: 1 << 30,
            limited_by: "RLIMIT_AS".to_owned(),
            is_of_addresses,
        };
        let list = |octets, left| overweight(octets, Use::List, 2, vec![left]);
        assert_eq!(list(10 << 20, left(76, false)), None);
        let message = list(10 << 20, left(75, false)).unwrap();
        assert!(
            message
                .starts_with("10485760 octets take about 76 MiB of memory while they are loaded, and 75 MiB of 1024")
        );
        assert!(list(10 << 20, left(76, true)).is_some(), "address space is needed beyond memory");
        assert!(overweight(10 << 20, Use::Policies, 2, vec![left(76, false)]).is_some());
        assert_eq!(overweight(1 << 40, Use::List, 2, Vec::new()), None, "nothing is known");
        let two = vec![left(1000, false), left(5, false)];
        assert!(
            overweight(10 << 20, Use::List, 2, two).unwrap().contains("5 MiB of 1024"),
            "the tightest limit is named"
        );
    }
}
