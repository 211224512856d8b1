//! What a build says: its last lines.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::api::objects::id::now_ms;
use crate::bounds::{MAX_BUILD_LINE, MAX_BUILD_LOG};
use crate::util::lock;

/// The last lines of a build.
#[derive(Default)]
pub(in crate::api) struct Log(Mutex<Lines>);

/// What is kept.
#[derive(Default)]
struct Lines {
    /// The lines, oldest first.
    lines: VecDeque<Line>,
    /// Their octets.
    octets: usize,
}

/// A line.
struct Line {
    /// When it was said, in milliseconds since 1970 began.
    time: u64,
    /// How bad it is.
    level: &'static str,
    /// The text.
    text: String,
}

impl Log {
    /// Adds a line.
    pub(in crate::api) fn add(&self, level: &'static str, text: &str) {
        let mut lines = lock(&self.0);
        lines.octets += text.len() + OVERHEAD;
        lines.lines.push_back(Line { time: now_ms(), level, text: text.to_owned() });
        while lines.octets > MAX_BUILD_LOG
            && let Some(oldest) = lines.lines.pop_front()
        {
            lines.octets -= oldest.text.len() + OVERHEAD;
        }
    }

    /// Adds the lines that come out of a stream, until its end.
    pub(in crate::api) async fn listen(&self, level: &'static str, mut stream: impl AsyncRead + Unpin) {
        let (mut line, mut buffer) = (Vec::new(), [0; 8 << 10]);
        let say = |line: &mut Vec<u8>| {
            self.add(level, String::from_utf8_lossy(line).trim_end_matches('\r'));
            line.clear();
        };
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            for &byte in &buffer[..count] {
                if byte == b'\n' {
                    say(&mut line);
                } else if line.len() < MAX_BUILD_LINE {
                    line.push(byte);
                }
            }
        }
        if !line.is_empty() {
            say(&mut line);
        }
    }

    /// Returns the lines as the API shows them.
    pub(in crate::api) fn lines(&self) -> Vec<Value> {
        let lines = lock(&self.0);
        let shown = |line: &Line| json!({ "level": line.level, "message": line.text, "timestamp_ms": line.time });
        lines.lines.iter().map(shown).collect()
    }
}

/// What a line costs besides its text, in octets.
const OVERHEAD: usize = size_of::<Line>();

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_within_bounds() {
        let log = Log::default();
        log.listen("info", &b"one\r\ntwo \xff\n\nno end"[..]).await;
        let texts: Vec<String> = log.lines().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
        assert_eq!(texts, ["one", "two \u{fffd}", "", "no end"]);
        log.listen("warn", &vec![b'x'; 3 * MAX_BUILD_LINE][..]).await;
        assert_eq!(log.lines()[4]["message"].as_str().unwrap().len(), MAX_BUILD_LINE);
        for number in 0..100_000 {
            log.add("info", &format!("line {number}"));
        }
        let lines = log.0.lock().unwrap();
        assert!(lines.octets <= MAX_BUILD_LOG && lines.lines.back().unwrap().text == "line 99999");
    }
}
