//! Answers so many queries and ends: `instructions CASE COUNT`, for `tests/bench/instructions` to count under callgrind.

use std::hint::black_box;

use fixture::{Fixture, ROUND};

mod fixture;

/// What can be counted: the name, whether the queries are for allowed names, whether they have an OPT record.
const CASES: &[(&str, bool, bool)] =
    &[("denied", false, false), ("denied-opt", false, true), ("cached", true, false), ("cached-opt", true, true)];

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    // Without a case, as `cargo test --all-targets` runs it: each once, to see that it works.
    let chosen = CASES.iter().filter(|(name, ..)| words.first().is_none_or(|word| word == name));
    let count = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(1);
    for &(_, allowed, with_opt) in chosen {
        let fixture = Fixture::new(ROUND, with_opt);
        let messages = if allowed { &fixture.allowed } else { &fixture.denied };
        let mut out = Vec::with_capacity(1232);
        for message in messages.iter().cycle().take(count) {
            assert!(fixture.answer(black_box(message), &mut out), "it needs no upstream");
        }
    }
}
