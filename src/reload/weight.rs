//! The weight of a file, found before it is read: what does not fit into memory is an error of the file, with the numbers, and
//! not the end of the process.

use std::path::Path;
use std::thread::available_parallelism;

use super::trusted::Use;
use crate::bounds::machine::{MemoryLeft, memory_left};

/// Files up to this many octets are read without looking at what is left.
const SMALL: u64 = 256 << 10;

/// Octets of memory that an octet of a list takes while it is loaded: 3.9 measured for names of 22 octets, 5.8 for names of 9
/// (2026-11-30; after that 1.6 and 2.4 stay).
const LIST: u64 = 6;

/// The same of a policy file, with its entries in a TOML array: 10.5 measured.
const POLICIES: u64 = 12;

/// Octets that are left for everything else: answers, connections, the next reload.
const SPARE: u64 = 16 << 20;

/// Addresses that are taken beside that and not written to, as for the largest file; and those of each thread that reads.
const ROOM: u64 = 80 << 20;

/// Returns why a file of this many octets cannot be loaded, if that is so.
///
/// # Errors
/// It does not fit into what is left of a limit.
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

/// Returns the error of a file that does not fit into one of these limits.
fn overweight(octets: u64, as_what: Use, threads: u64, left: Vec<MemoryLeft>) -> Option<String> {
    let factor = if as_what == Use::List { LIST } else { POLICIES };
    let needed = octets * factor;
    let needs = |left: &MemoryLeft| needed + SPARE + if left.is_of_addresses { ROOM * (threads + 1) } else { 0 };
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
    fn file_that_does_not_fit_is_refused_with_the_numbers() {
        let left = |mib: u64, is_of_addresses| MemoryLeft {
            octets: mib << 20,
            limit: 1 << 30,
            limited_by: "RLIMIT_AS".to_owned(),
            is_of_addresses,
        };
        let list = |octets, left| overweight(octets, Use::List, 2, vec![left]);
        assert_eq!(list(10 << 20, left(76, false)), None);
        let told = list(10 << 20, left(75, false)).unwrap();
        assert!(
            told.starts_with("10485760 octets take about 76 MiB of memory while they are loaded, and 75 MiB of 1024")
        );
        assert!(list(10 << 20, left(76, true)).is_some(), "addresses are more than memory");
        assert!(overweight(10 << 20, Use::Policies, 2, vec![left(76, false)]).is_some());
        assert_eq!(overweight(1 << 40, Use::List, 2, Vec::new()), None, "nothing is known");
        let two = vec![left(1000, false), left(5, false)];
        assert!(overweight(10 << 20, Use::List, 2, two).unwrap().contains("5 MiB of 1024"), "the tightest is told");
    }
}
