//! Answers so many queries and ends: `instructions CASE COUNT`, for `tests/bench/instructions` to count under callgrind.

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hostgate::dns::query::Transport;
use hostgate::policy;

use fixture::{CLIENT, Fixture, INSPECTED, ROUND, decision_log, parsed, record};

mod fixture;

/// What can be counted: the name, which queries, whether they have an OPT record.
///
/// The last two count the record in the decision log alone, with the writer's part in it.
const CASES: &[(&str, Queries, bool)] = &[
    ("denied", Queries::Denied, false),
    ("denied-opt", Queries::Denied, true),
    ("cached", Queries::Allowed, false),
    ("cached-opt", Queries::Allowed, true),
    ("cached-heavy", Queries::Heavy, true),
    ("record-denied", Queries::Denied, false),
    ("record-cached", Queries::Allowed, false),
];

/// Which queries of the fixture are asked.
#[derive(Clone, Copy)]
enum Queries {
    /// Those for names that the policy does not list.
    Denied,
    /// Those for names that it lists.
    Allowed,
    /// Those whose answers hold as much as an attacker can put there.
    Heavy,
}

/// Records for which the decision log has room without its writer.
const AT_ONCE: usize = 10_000;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    // Without a case, as `cargo test --all-targets` runs it: each once, to see that it works.
    let chosen = CASES.iter().filter(|(name, ..)| words.first().is_none_or(|word| word == name));
    let count = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(1);
    for &(name, queries, with_opt) in chosen {
        let fixture = Fixture::new(ROUND, with_opt);
        let messages = match queries {
            Queries::Denied => &fixture.denied,
            Queries::Allowed => &fixture.allowed,
            Queries::Heavy => &fixture.heavy,
        };
        if name.starts_with("record") {
            record_all(&fixture, messages, count);
            continue;
        }
        let mut out = Vec::with_capacity(1232);
        for message in messages.iter().cycle().take(count) {
            // The address is a constant, as it was when this was first counted.
            let is_answered = match queries {
                Queries::Heavy => fixture.answer_to(INSPECTED, Transport::Udp, black_box(message), &mut out),
                _ => fixture.answer_to(CLIENT, Transport::Udp, black_box(message), &mut out),
            };
            assert!(is_answered, "it needs no upstream");
        }
    }
}

/// Records so many decisions, and waits until they are written.
fn record_all(fixture: &Fixture, messages: &[Vec<u8>], count: usize) {
    let asker = fixture.snapshot.asker(CLIENT, 0);
    let decided: Vec<_> = messages
        .iter()
        .map(|message| parsed(message))
        .map(|query| (policy::decide(&asker, &query.qname, query.qtype), query))
        .collect();
    let since = Instant::now();
    let mut left = decided.iter().cycle().take(count).peekable();
    // Under callgrind one thread runs at a time, and the writer may not come to it before the blocks run out: what is
    // dropped would not be counted.
    while left.peek().is_some() {
        let (log, counts) = decision_log();
        for (decision, query) in left.by_ref().take(AT_ONCE) {
            record(&log, black_box(query), asker, *decision, since);
        }
        assert!(log.close(Duration::from_mins(1)));
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 0, "every record is written");
    }
}
