//! The fuzz targets over their seeds, and over those with small damage: what `tests/fuzz/run` begins with.

#[expect(unreachable_pub, dead_code, reason = "the targets are a library of their own too")]
#[path = "../fuzz/targets/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Returns the recorded messages of a file: what each is, and its octets.
fn recorded(file: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages").join(file);
    let text = fs::read_to_string(path).unwrap();
    let mut messages = Vec::new();
    let mut what = "";
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            what = comment;
            continue;
        }
        let octets = line.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
        let message = octets.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
        messages.push((what.to_owned(), message));
    }
    messages
}

/// Runs `target` over messages, over each cut short everywhere, and over each with a bit of every octet flipped.
fn replay(messages: &[(String, Vec<u8>)], target: fn(&[u8])) {
    assert!(messages.len() > 50, "the recorded messages are there");
    for (_, message) in messages {
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
    replay(&recorded("queries.txt"), targets::query::run);
}

#[test]
fn recorded_responses_hold_every_invariant() {
    replay(&recorded("responses.txt"), targets::response::run);
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
