//! A scripted API: takes requests over HTTP/1.1 and says what a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::{DEADLINE, pause};

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Requested {
    /// Method and target: `GET /v1/blueprints?limit=1`.
    pub(crate) line: String,
    /// The header lines as they came.
    pub(crate) head: String,
    /// The body; null when there is none.
    pub(crate) body: Value,
}

impl Requested {
    /// Returns the value of a header field by its name as it came.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What is said to a request.
pub(crate) enum Said {
    /// A status and a body.
    Answer(u16, String),
    /// Nothing: the connection is closed.
    Nothing,
}

impl Said {
    /// Says yes, and this.
    pub(crate) fn yes(body: &Value) -> Self {
        Self::Answer(200, body.to_string())
    }
}

/// A scripted API on a free port of 127.0.0.1; it goes away when dropped.
pub(crate) struct FakeApi {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The requests so far.
    requests: Arc<Mutex<Vec<Requested>>>,
    /// Set when it is to go.
    gone: Arc<AtomicBool>,
}

impl FakeApi {
    /// Starts an API that says what `script` makes of a request and its number, from 0.
    pub(crate) fn start(script: impl Fn(usize, &Requested) -> Said + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (requests, gone) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let api = Self { address: listener.local_addr().unwrap(), requests, gone };
        let (requests, gone) = (Arc::clone(&api.requests), Arc::clone(&api.gone));
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            while !gone.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => serve(stream, &requests, &script),
                    Err(_) => pause(std::time::Duration::from_millis(2)),
                }
            }
        });
        api
    }

    /// Returns the requests so far.
    pub(crate) fn requests(&self) -> Vec<Requested> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns where it is, as the command line takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

/// Answers one request and closes the connection.
fn serve(stream: TcpStream, requests: &Mutex<Vec<Requested>>, script: &impl Fn(usize, &Requested) -> Said) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut reader = BufReader::new(stream);
    let Some(requested) = read(&mut reader) else { return };
    let number = {
        let mut requests = requests.lock().unwrap();
        requests.push(requested.clone());
        requests.len() - 1
    };
    if let Said::Answer(status, body) = script(number, &requested) {
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = reader.get_mut().write_all((head + &body).as_bytes());
    }
}

/// Reads a request.
fn read(reader: &mut impl BufRead) -> Option<Requested> {
    let (mut line, mut head) = (String::new(), String::new());
    reader.read_line(&mut line).ok()?;
    while !head.ends_with("\r\n\r\n") && head != "\r\n" {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let line = line.trim_end().strip_suffix(" HTTP/1.1")?.to_owned();
    let mut requested = Requested { line, head: head.replace("\r\n", "\n"), body: Value::Null };
    let length = requested.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    requested.body = serde_json::from_slice(&body).unwrap_or_default();
    Some(requested)
}
