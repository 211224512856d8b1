//! The fuzz targets over their seeds, and over those with small damage: what `tests/fuzz/run` begins with.

#[path = "../fuzz/targets/recorded.rs"]
mod recorded;
#[expect(unreachable_pub, dead_code, reason = "the targets are a library of their own too")]
#[path = "../fuzz/targets/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

use recorded::recorded;

/// Returns the text of a file of recorded messages.
fn messages(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages").join(file)).unwrap()
}

/// Runs `target` over messages, over each cut short everywhere, and over each with a bit of every octet flipped.
fn replay(text: &str, target: fn(&[u8])) {
    let messages = recorded(text);
    assert!(messages.len() > 50, "the recorded messages are there");
    for (_, message) in &messages {
        target(message);
        // The long ones differ from these in length alone.
        for at in 0..message.len().min(300) {
            target(&message[..at]);
            let mut damaged = message.clone();
            damaged[at] ^= 1 << (at % 8);
            target(&damaged);
        }
    }
}

/// Runs `target` over the seeds of a folder.
fn replay_texts(folder: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(folder);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        target(&fs::read(seed).unwrap());
    }
}

#[test]
fn recorded_queries_hold_every_invariant() {
    replay(&messages("queries.txt"), targets::query::run);
}

#[test]
fn recorded_responses_hold_every_invariant() {
    replay(&messages("responses.txt"), targets::response::run);
}

#[test]
fn policy_seeds_hold_every_invariant() {
    replay_texts("policies", targets::policies::run);
}

#[test]
fn text_seeds_hold_every_invariant() {
    replay_texts("config", targets::config::run);
    targets::config::run(include_bytes!("../../systemd/hostgate.toml"));
}
