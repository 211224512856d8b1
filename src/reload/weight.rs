//! The memory that files would take, estimated before they are parsed.
//!
//! All new and changed files of one reload are weighed together, against what is left below the limits of this process.
//! A file that does not fit any more is held back with the numbers; without this check, the process would end: by the
//! kernel's out-of-memory killer, or by a failed allocation under `RLIMIT_AS`.
//!
//! The weight of a policy file is estimated from its [`Shape`], as a policy written with ten octets takes 1,600 in memory.

use std::cell::RefCell;
use std::path::Path;
use std::thread::available_parallelism;

use crate::bounds::MAX_TABLES;
use crate::bounds::machine::{MemoryLeft, memory_left};
use crate::document::{Contents, Shape};

/// The weight in octets of one reload up to which the memory left is not looked at: a small change goes into force even
/// if there is hardly any memory left.
const SMALL: u64 = 4 << 20;
/// The octets that must stay free for everything else: answers, connections, the next reload.
const SPARE: u64 = 16 << 20;
/// The octets that a reload which looks at all files takes for each object in force, and frees at its end: 255 measured.
const RELOAD: u64 = 300;
/// The octets of address space that reading a large file reserves and never writes, as for a file of the largest size;
/// and once more for each thread that reads.
const ROOM: u64 = 80 << 20;
/// The size of a file in octets above which address space is reserved in this way.
const LARGE_FILE: u64 = 256 << 10;

/// The weight of one file, in octets of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// The size of the file.
    octets: u64,
    /// The memory that is free again when the file is parsed.
    transient: u64,
    /// The memory that is in use until the end of the reload, and mostly as long as the file is in force.
    lasting: u64,
}

impl Weight {
    /// Returns the weight of a list file of this size.
    ///
    /// Measured on 2026-11-30: an octet takes 3.9 octets for names of 22 octets, 5.8 for names of 9; after the load, 1.6
    /// and 2.4 stay in use.
    pub(super) const fn of_list(octets: u64) -> Self {
        Self { octets, transient: 3 * octets, lasting: 3 * octets }
    }

    /// Returns the weight of the text of a file that is read and not parsed.
    pub(super) const fn of_text(octets: u64) -> Self {
        Self { octets, transient: octets, lasting: 2 * octets }
    }

    /// Returns the weight of a policy file.
    ///
    /// The factors are octets, measured on 2026-11-30 with files of one kind of content each (1,600 a policy, 3,200 with
    /// a hostname, 2,250 a client, 440 a blueprint, 240 an address, 175 a hostname, 1,150 a table within a table, 48 a
    /// token; 1,400 a file of the API with a devbox), and rounded up: the tests compare them with what loading such
    /// files takes.
    pub(super) fn of_policies(shape: &Shape) -> Self {
        /// The record of a file in all tables of files.
        const FILE: u64 = 512;
        let contents = |of: Contents, table, array, string| of.tables * table + of.arrays * array + of.strings * string;
        let &Shape { octets, tokens, dots, brackets, entries, values, small, large } = shape;
        Self {
            octets,
            transient: 48 * tokens + 1_200 * dots + 300 * brackets + 400 * entries + 64 * values,
            // The text is read, kept, and written into the last good state.
            lasting: FILE
                + 3 * octets
                + contents(large, 1_400, 700, 120)
                + contents(small, 350, 60, 40)
                + RELOAD * shape.tables(),
        }
    }

    const fn sum(self) -> u64 {
        self.transient + self.lasting
    }
}

/// The kinds of tables that take little memory.
fn is_small(key: &str) -> bool {
    ["client", "blueprint", "api", "test"].contains(&key)
}

/// The memory that the files of one reload may take together.
#[derive(Debug, Default)]
pub(crate) struct MemoryBudget(RefCell<Reserved>);

/// The weights of the files that a reload has admitted so far.
#[derive(Debug, Default)]
struct Reserved {
    /// The memory that a reload takes for what is in force.
    in_force: u64,
    /// The sum of what lasts.
    lasting: u64,
    /// The largest memory that is needed for one file at a time.
    transient: u64,
    /// Whether a file was so large that address space is reserved to read it.
    has_large: bool,
    /// The memory left below each limit at the first look in this reload; `None` before it.
    left: Option<Vec<MemoryLeft>>,
}

impl MemoryBudget {
    /// Starts the next reload, for which no file has been admitted. `objects` is the number of those in force.
    pub(super) fn restart(&self, objects: usize) {
        let transient = RELOAD * u64::try_from(objects).unwrap_or(u64::MAX / RELOAD);
        self.0.replace(Reserved { in_force: transient, ..Reserved::default() });
    }

    /// Checks that the text of a file of this many octets can be read.
    ///
    /// # Errors
    /// It does not fit into the memory left.
    pub(super) fn check_size(&self, octets: u64) -> Result<(), String> {
        self.check(Weight::of_text(octets)).map(drop)
    }

    /// Admits a policy file to the reload.
    ///
    /// # Errors
    /// The file does not fit, or has too many tables.
    pub(super) fn admit_policies(&self, text: &str) -> Result<(), Refusal> {
        let shape = Shape::of(text, is_small);
        let tables = shape.tables();
        if tables > MAX_TABLES {
            let why = format!("{tables} tables are too many: a file may have {MAX_TABLES}; split the file");
            return Err(Refusal::TooMany(why));
        }
        self.admit(Weight::of_policies(&shape)).map_err(Refusal::TooHeavy)
    }

    /// Admits a file to the reload.
    ///
    /// # Errors
    /// It does not fit into the memory left beside the files admitted before.
    pub(super) fn admit(&self, weight: Weight) -> Result<(), String> {
        let (lasting, transient) = self.check(weight)?;
        let mut reserved = self.0.borrow_mut();
        (reserved.lasting, reserved.transient) = (lasting, transient);
        reserved.has_large |= weight.octets > LARGE_FILE;
        Ok(())
    }

    /// Checks that a file fits; returns what is needed with it.
    fn check(&self, weight: Weight) -> Result<(u64, u64), String> {
        let mut reserved = self.0.borrow_mut();
        let needed = (reserved.lasting + weight.lasting, reserved.transient.max(weight.transient));
        if needed.0 + needed.1 <= SMALL {
            return Ok(needed);
        }
        let has_large = reserved.has_large || weight.octets > LARGE_FILE;
        let threads = available_parallelism().map_or(1, |threads| u64::try_from(threads.get()).unwrap_or(1));
        let room = if has_large { ROOM * (threads + 1) } else { 0 };
        let in_force = reserved.in_force;
        let left = reserved.left.get_or_insert_with(|| memory_left(Path::new("/")));
        match overweight(weight, in_force + needed.0 + needed.1, room, left) {
            Some(error) => Err(error),
            None => Ok(needed),
        }
    }
}

/// The reason why a policy file is not admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The file has more tables than any may have.
    TooMany(String),
    /// The file does not fit into the memory left, which may change.
    TooHeavy(String),
}

/// Returns the error of a file with which one of these limits is exceeded; `None` if it fits into all. `all` is the
/// memory for all files of the reload, `room` the address space reserved for them.
fn overweight(weight: Weight, all: u64, room: u64, left: &[MemoryLeft]) -> Option<String> {
    let needs = |left: &MemoryLeft| all + SPARE + if left.is_of_addresses { room } else { 0 };
    // The error names the tightest limit: raising another one would not help.
    let tight = left.iter().filter(|left| left.octets < needs(left)).min_by_key(|left| left.octets)?;
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    let others = mib(all.saturating_sub(weight.sum()));
    let others = if others > 0 { format!(", beside {others} MiB for others") } else { String::new() };
    Some(format!(
        "{} octets take about {} MiB of memory while they are loaded{others}, and {} MiB of {} MiB are left of {}: make the file \
         shorter, or raise that limit",
        weight.octets,
        mib(weight.sum()),
        tight.octets >> 20,
        mib(tight.limit),
        tight.limited_by
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a limit with so much left.
    fn left(mib: u64, is_of_addresses: bool) -> MemoryLeft {
        MemoryLeft { octets: mib << 20, limit: 1 << 30, limited_by: "RLIMIT_AS".to_owned(), is_of_addresses }
    }

    #[test]
    fn file_that_does_not_fit_into_memory_is_refused_with_the_numbers() {
        let list = Weight::of_list(10 << 20);
        let refusal = |left: &[MemoryLeft]| overweight(list, list.sum(), ROOM, left);
        assert_eq!(refusal(&[left(76, false)]), None);
        let message = refusal(&[left(75, false)]).unwrap();
        assert!(
            message
                .starts_with("10485760 octets take about 60 MiB of memory while they are loaded, and 75 MiB of 1024")
        );
        assert!(refusal(&[left(76, true)]).is_some(), "address space is needed beyond memory");
        assert_eq!(refusal(&[]), None, "nothing is known");
        let message = refusal(&[left(70, false), left(5, false)]).unwrap();
        assert!(message.contains("5 MiB of 1024"), "the tightest limit is named: {message}");
        let message = overweight(list, list.sum() + (40 << 20), 0, &[left(100, false)]).unwrap();
        assert!(message.contains("beside 40 MiB for others"), "{message}");
    }

    /// Returns a budget with so much memory left.
    fn budget(mib: u64) -> MemoryBudget {
        MemoryBudget(RefCell::new(Reserved { left: Some(vec![left(mib, false)]), ..Reserved::default() }))
    }

    #[test]
    fn files_of_one_reload_are_weighed_together() {
        let text = (0..10_000).fold(String::new(), |text, number| text + &format!("[policy.p{number}]\n"));
        let weight = Weight::of_policies(&Shape::of(&text, is_small));
        assert!(text.len() < 200 << 10 && weight.sum() > 16 << 20, "{weight:?}");
        let fit = |mib| {
            let budget = budget(mib);
            (0..100).take_while(|_| budget.admit_policies(&text).is_ok()).count()
        };
        // The transient memory is needed once.
        assert_eq!((fit(100), fit(300)), (4, 16));
        let budget = budget(17);
        assert!(matches!(budget.admit_policies(&text), Err(Refusal::TooHeavy(_))));
        assert_eq!(budget.admit_policies("[policy.p]\n"), Ok(()), "a small file fits beside one that does not");
        budget.restart(0);
        assert_eq!(budget.0.borrow().left, None, "the next reload looks again");
    }

    #[test]
    fn file_with_too_many_tables_is_refused() {
        let text = |tables: u64| (0..tables).fold(String::new(), |text, number| text + &format!("{number}={{}}\n"));
        let budget = budget(1 << 20);
        assert_eq!(budget.admit_policies(&format!("[policy]\n{}", text(MAX_TABLES - 1))), Ok(()));
        let Err(Refusal::TooMany(why)) = budget.admit_policies(&format!("[policy]\n{}", text(MAX_TABLES))) else {
            panic!("{MAX_TABLES} and the header are too many")
        };
        assert!(why.starts_with("100001 tables are too many"), "{why}");
    }
}
