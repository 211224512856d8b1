//! One TCP connection to an upstream: a task that writes queries, reads replies, and gives each to the question it
//! answers, in whatever order they come (RFC 7766 §7).
//!
//! The octets of a reply are handed on as they came. Whether they are the reply to the question is for the caller to check,
//! by the same code that checks datagrams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::StreamError;
use crate::upstream::udp::MAX_IGNORED;
use crate::util::lock;

/// How many questions may wait on one connection, those that were given up and not answered included.
const MAX_ACTIVE: usize = 1024;

/// How long an idle connection stays open. Longer, and something between us and the upstream may have forgotten it
/// without a word.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// How many octets are read at a time.
const CHUNK: usize = 8192;

/// A message cannot be shorter than its header (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// An open connection. Its task ends when no question waits and nobody holds the connection any more.
#[derive(Clone)]
pub(super) struct Connection {
    /// The way to the task: queries with their length before them.
    queries: mpsc::Sender<Vec<u8>>,
    /// What the task and the questions share.
    shared: Arc<Shared>,
}

/// What the task of a connection and its questions share.
struct Shared(Mutex<State>);

/// The state of a connection.
struct State {
    /// The questions without a reply, by the ID of their query; `None` for those given up, so that a late reply is not taken
    /// for another question's.
    waiting: HashMap<u16, Option<oneshot::Sender<Vec<u8>>>>,
    /// How many of them still wait.
    active: usize,
    /// Since when replies have been owed and nothing was received; `None` if nothing is owed.
    silent_since: Option<Instant>,
    /// When a query or reply passed last.
    used_at: Instant,
    /// How many questions were asked over it.
    asked: usize,
    /// Messages that answer nothing.
    ignored: usize,
    /// Why it ended, once it has.
    end: Option<String>,
}

impl Connection {
    /// Starts the task that serves a connection.
    pub(super) fn start(socket: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        let state = State {
            waiting: HashMap::new(),
            active: 0,
            silent_since: None,
            used_at: Instant::now(),
            asked: 0,
            ignored: 0,
            end: None,
        };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let (queries, queue) = mpsc::channel(MAX_ACTIVE);
        let ending =
            Ending { shared: Arc::clone(&shared), reason: "connection task ended".to_owned(), _permit: permit };
        tokio::spawn(serve(socket, queue, ending));
        Self { queries, shared }
    }

    /// Returns whether a question can be asked over it: it is open, there is room, and it has not owed replies for
    /// `stalled` with nothing received.
    pub(super) fn is_usable(&self, stalled: Duration) -> bool {
        let state = self.shared.lock();
        let is_stalled = state.silent_since.is_some_and(|since| since.elapsed() >= stalled);
        state.end.is_none() && state.waiting.len() < MAX_ACTIVE && !is_stalled
    }

    /// Returns whether it served other questions as well: then that it ended may be because of those.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.lock().asked > 1
    }

    /// Sends `query` under an ID of its own and waits for the message with that ID.
    pub(super) async fn exchange(&self, query: &[u8]) -> Result<Vec<u8>, StreamError> {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.shared.enter(sender)?;
        let length = u16::try_from(query.len()).map_err(|_| StreamError::Busy)?;
        let framed = [&length.to_be_bytes(), &waiting.id.to_be_bytes(), query.get(2..).unwrap_or_default()].concat();
        self.queries.try_send(framed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StreamError::Busy,
            mpsc::error::TrySendError::Closed(_) => self.shared.closed(),
        })?;
        receiver.await.map_err(|_| self.shared.closed())
    }
}

impl Shared {
    /// Locks the state. Each change is complete in itself, so a poisoned lock is as good.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Adds a question that waits for its reply.
    fn enter(self: &Arc<Self>, sender: oneshot::Sender<Vec<u8>>) -> Result<Waiting, StreamError> {
        let mut state = self.lock();
        if let Some(end) = &state.end {
            return Err(StreamError::Closed(end.clone()));
        }
        if state.waiting.len() >= MAX_ACTIVE {
            return Err(StreamError::Busy);
        }
        // Most IDs are free, so this ends soon.
        let id = loop {
            let mut id = [0; 2];
            getrandom::fill(&mut id).map_err(|error| StreamError::Refused(error.into()))?;
            let id = u16::from_be_bytes(id);
            if !state.waiting.contains_key(&id) {
                break id;
            }
        };
        let now = Instant::now();
        state.waiting.insert(id, Some(sender));
        state.active += 1;
        state.silent_since.get_or_insert(now);
        state.used_at = now;
        state.asked += 1;
        Ok(Waiting { shared: Arc::clone(self), id })
    }

    /// Gives a message to the question it has the ID of; breaks when too many answer nothing.
    fn deliver(&self, message: &[u8]) -> ControlFlow<()> {
        let mut state = self.lock();
        let id = message.first_chunk().filter(|_| message.len() >= HEADER).map(|id| u16::from_be_bytes(*id));
        let Some(sender) = id.and_then(|id| state.waiting.remove(&id)) else {
            state.ignored += 1;
            return if state.ignored < MAX_IGNORED { Continue(()) } else { Break(()) };
        };
        let now = Instant::now();
        state.used_at = now;
        if let Some(sender) = sender {
            state.active -= 1;
            // Fails when the question was given up just now.
            let _ = sender.send(message.to_vec());
        }
        state.silent_since = (state.active > 0).then_some(now);
        Continue(())
    }

    /// Returns when the connection ends if nothing passes over it any more; `None` while a question waits.
    fn idle_at(&self) -> Option<Instant> {
        let state = self.lock();
        (state.active == 0).then_some(state.used_at + IDLE_FOR)
    }

    /// Ends the connection if it is idle; no question can come in between.
    fn end_if_idle(&self) -> bool {
        let mut state = self.lock();
        let is_idle = state.active == 0 && state.used_at.elapsed() >= IDLE_FOR;
        if is_idle {
            state.end = Some("idle connection closed".to_owned());
        }
        is_idle
    }

    /// Returns the error of a question whose connection ended.
    fn closed(&self) -> StreamError {
        StreamError::Closed(self.lock().end.clone().unwrap_or_else(|| "connection closed".to_owned()))
    }
}

/// The wait of one question for its reply; dropping it gives the question up.
struct Waiting {
    /// The connection's state.
    shared: Arc<Shared>,
    /// The ID of its query.
    id: u16,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Entry::Occupied(mut entry) = state.waiting.entry(self.id)
            && entry.get_mut().take().is_some()
        {
            state.active -= 1;
        }
    }
}

/// Marks a connection as ended when its task does, however that comes.
struct Ending {
    /// The connection's state.
    shared: Arc<Shared>,
    /// Why.
    reason: String,
    /// Counts it as open until then.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let reason = std::mem::take(&mut self.reason);
        state.end.get_or_insert(reason);
        // Dropping the senders tells the questions.
        state.waiting.clear();
        state.active = 0;
    }
}

/// Writes queries and reads replies until the connection breaks, idles, or nobody needs it.
async fn serve(mut socket: TcpStream, mut queries: mpsc::Receiver<Vec<u8>>, mut ending: Ending) {
    let shared = Arc::clone(&ending.shared);
    let (mut reader, mut writer) = socket.split();
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
    ending.reason = loop {
        incoming.reserve(CHUNK);
        let idle_at = shared.idle_at();
        tokio::select! {
            query = queries.recv(), if outgoing.is_empty() => match query {
                Some(query) => outgoing = query,
                None => break "connection no longer needed".to_owned(),
            },
            written = writer.write(&outgoing), if !outgoing.is_empty() => match written {
                Ok(0) => break "connection closed by the upstream".to_owned(),
                Ok(count) => drop(outgoing.drain(..count)),
                Err(error) => break error.to_string(),
            },
            read = reader.read_buf(&mut incoming) => match read {
                Ok(0) => break "connection closed by the upstream".to_owned(),
                Ok(_) if take_messages(&mut incoming, &shared).is_break() => {
                    break "too many messages that answer nothing".to_owned();
                }
                Ok(_) => {}
                Err(error) => break error.to_string(),
            },
            () = sleep_until(idle_at.unwrap_or_else(|| Instant::now() + IDLE_FOR)) => {
                if shared.end_if_idle() {
                    break String::new();
                }
            }
        }
    };
}

/// Takes the whole messages out of `incoming`, each with its length before it (RFC 1035 §4.2.2), and delivers them. What
/// is left is less than one message.
fn take_messages(incoming: &mut Vec<u8>, shared: &Shared) -> ControlFlow<()> {
    let mut start = 0;
    while let Some(length) = incoming.get(start..).and_then(<[u8]>::first_chunk) {
        let from = start + 2;
        let end = from + usize::from(u16::from_be_bytes(*length));
        let Some(message) = incoming.get(from..end) else { break };
        shared.deliver(message)?;
        start = end;
    }
    incoming.drain(..start);
    Continue(())
}
