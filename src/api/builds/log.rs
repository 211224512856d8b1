//! The output of a build: its last lines.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::api::now_ms;
use crate::bounds::{MAX_BUILD_LINE, MAX_BUILD_LOG};
use crate::util::lock;

/// The memory of a line in addition to its text, in octets.
const OVERHEAD: usize = size_of::<LogLine>();

/// The last lines of a build.
#[derive(Default)]
pub(in crate::api) struct BuildLog(Mutex<LogLines>);

#[derive(Default)]
struct LogLines {
    /// The lines, oldest first.
    lines: VecDeque<LogLine>,
    octets: usize,
}

struct LogLine {
    time_ms: u64,
    level: &'static str,
    text: String,
}

impl BuildLog {
    pub(in crate::api) fn add(&self, level: &'static str, text: &str) {
        let mut lines = lock(&self.0);
        lines.octets += text.len() + OVERHEAD;
        lines.lines.push_back(LogLine { time_ms: now_ms(), level, text: text.to_owned() });
        while lines.octets > MAX_BUILD_LOG
            && let Some(oldest) = lines.lines.pop_front()
        {
            lines.octets -= oldest.text.len() + OVERHEAD;
        }
    }

    /// Adds the lines of a stream until its end.
    pub(in crate::api) async fn read(&self, level: &'static str, mut stream: impl AsyncRead + Unpin) {
        let (mut line, mut buffer) = (Vec::new(), [0; 8 << 10]);
        let add = |line: &mut Vec<u8>| {
            self.add(level, String::from_utf8_lossy(line).trim_end_matches('\r'));
            line.clear();
        };
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            for &byte in &buffer[..count] {
                if byte == b'\n' {
                    add(&mut line);
                } else if line.len() < MAX_BUILD_LINE {
                    line.push(byte);
                }
            }
        }
        if !line.is_empty() {
            add(&mut line);
        }
    }

    /// Returns the lines as the API shows them.
    pub(in crate::api) fn lines(&self) -> Vec<Value> {
        let view = |line: &LogLine| json!({ "level": line.level, "message": line.text, "timestamp_ms": line.time_ms });
        lock(&self.0).lines.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_within_bounds() {
        let log = BuildLog::default();
        log.read("info", &b"one\r\ntwo \xff\n\nno end"[..]).await;
        let texts: Vec<String> = log.lines().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
        assert_eq!(texts, ["one", "two \u{fffd}", "", "no end"]);
        log.read("warn", &vec![b'x'; 3 * MAX_BUILD_LINE][..]).await;
        assert_eq!(log.lines()[4]["message"].as_str().unwrap().len(), MAX_BUILD_LINE);
        for number in 0..100_000 {
            log.add("info", &format!("line {number}"));
        }
        let lines = lock(&log.0);
        assert!(lines.octets <= MAX_BUILD_LOG && lines.lines.back().unwrap().text == "line 99999");
    }
}
