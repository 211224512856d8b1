//! Tests of the decision log as a whole, on real files.

use std::time::Instant;

use super::*;

/// Polls `fact` until it is true, for at most ten seconds.
fn wait_for(what: &str, fact: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !fact() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// Adds a record that holds a number.
fn record(log: &DecisionLog, number: usize) {
    log.record(|_, line| line.extend(number.to_string().bytes()));
}

#[test]
fn reopening_after_a_move_loses_no_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let moved = directory.path().join("log.1");
    let log = DecisionLog::open(&path, Arc::default()).unwrap();
    std::fs::rename(&path, &moved).unwrap();
    record(&log, 1);
    log.reopen();
    wait_for("new file", || path.exists());
    record(&log, 2);
    assert!(log.close(Duration::from_secs(5)));
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "1\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
}

#[test]
fn moved_file_is_noticed_without_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let _log = DecisionLog::open(&path, Arc::default()).unwrap();
    std::fs::rename(&path, directory.path().join("log.1")).unwrap();
    wait_for("new file", || path.exists());
}

#[test]
fn single_record_is_written_without_further_ones() {
    let directory = tempfile::tempdir().unwrap();
    let counts = Arc::new(DecisionLogCounts::default());
    let log = DecisionLog::open(&directory.path().join("log"), Arc::clone(&counts)).unwrap();
    for number in 1..4 {
        record(&log, 1);
        wait_for("written", || counts.written.load(Ordering::Relaxed) == number);
    }
}

#[test]
fn records_are_dropped_and_counted_when_the_disk_is_full() {
    let counts = Arc::new(DecisionLogCounts::default());
    let log = DecisionLog::open(Path::new("/dev/full"), Arc::clone(&counts)).unwrap();
    for number in 0..100_000 {
        record(&log, number);
    }
    assert!(log.close(Duration::from_secs(5)));
    record(&log, 100_000);
    assert_eq!(counts.written.load(Ordering::Relaxed), 0);
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 100_001);
}

#[test]
fn records_are_written_in_order_by_thread_or_counted_as_dropped() {
    const THREADS: usize = 20;
    const EACH: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let counts = Arc::new(DecisionLogCounts::default());
    let log = DecisionLog::open(&path, Arc::clone(&counts)).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for number in 0..EACH {
                    log.record(|_, line| line.extend(format!("{thread} {number}").bytes()));
                }
            });
        }
    });
    assert!(log.close(Duration::from_secs(5)));
    let text = std::fs::read_to_string(&path).unwrap();
    let (written, dropped) = (counts.written.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed));
    assert_eq!(u64::try_from(text.lines().count()).unwrap(), written);
    assert_eq!(usize::try_from(written + dropped).unwrap(), THREADS * EACH);
    let mut last = [None; THREADS];
    for line in text.lines() {
        let (thread, number) = line.split_once(' ').unwrap();
        let (thread, number): (usize, usize) = (thread.parse().unwrap(), number.parse().unwrap());
        assert!(last[thread] < Some(number), "{line} after {:?}", last[thread]);
        last[thread] = Some(number);
    }
}

#[test]
fn panic_loses_only_the_line_being_formatted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&path, Arc::default()).unwrap();
    record(&log, 1);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        log.record(|_, line| {
            line.extend(b"half a li");
            panic!("on purpose");
        });
    }));
    assert!(panicked.is_err());
    record(&log, 2);
    assert!(log.close(Duration::from_secs(5)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n");
}
