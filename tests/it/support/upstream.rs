//! A scripted upstream on UDP and TCP that records every query it gets.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use super::client::{framed, tcp_read};
use super::{Answer, DEADLINE, GLOBAL, GLOBAL_V6, pause};

/// A query that reached the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Whether it came over TCP.
    pub(crate) tcp: bool,
    /// Where it came from.
    pub(crate) source: SocketAddr,
    /// As it came.
    pub(crate) bytes: Vec<u8>,
    /// Read by hickory-proto.
    pub(crate) message: Message,
    /// QNAME as text, lower case, no trailing dot.
    pub(crate) qname: String,
    /// QTYPE.
    pub(crate) qtype: RecordType,
}

/// What the upstream does with a query: the messages it sends back, in order; none is silence.
#[derive(Clone)]
pub(crate) struct Reply(Arc<Script>);

/// Computes the messages from the query.
type Script = dyn Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync;

impl Reply {
    /// Computes the messages from the query.
    pub(crate) fn by(script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(script))
    }

    /// Says nothing.
    pub(crate) fn silence() -> Self {
        Self::by(|_| Vec::new())
    }

    /// Says one thing over UDP and another over TCP.
    pub(crate) fn by_transport(udp: impl Into<Self>, tcp: impl Into<Self>) -> Self {
        let (udp, tcp) = (udp.into(), tcp.into());
        Self::by(move |seen| if seen.tcp { tcp.0(seen) } else { udp.0(seen) })
    }

    /// Says `first` once, then `later`.
    pub(crate) fn first_then(first: impl Into<Self>, later: impl Into<Self>) -> Self {
        let (first, later) = (first.into(), later.into());
        let used = AtomicBool::new(false);
        Self::by(move |seen| if used.swap(true, Ordering::SeqCst) { later.0(seen) } else { first.0(seen) })
    }

    /// Says `reply` once `gate` is open.
    pub(crate) fn held(gate: &Gate, reply: impl Into<Self>) -> Self {
        let (gate, reply) = (gate.clone(), reply.into());
        Self::by(move |seen| {
            gate.wait();
            reply.0(seen)
        })
    }

    /// Says `reply` after `time`.
    pub(crate) fn late(time: Duration, reply: impl Into<Self>) -> Self {
        let reply = reply.into();
        Self::by(move |seen| {
            pause(time);
            reply.0(seen)
        })
    }

    /// Says `reply` with its bytes changed.
    pub(crate) fn changed(reply: impl Into<Self>, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Self {
        let reply = reply.into();
        Self::by(move |seen| {
            let mut messages = reply.0(seen);
            messages.iter_mut().for_each(&change);
            messages
        })
    }

    /// Says `first` and at once `second`.
    pub(crate) fn both(first: impl Into<Self>, second: impl Into<Self>) -> Self {
        let (first, second) = (first.into(), second.into());
        Self::by(move |seen| [first.0(seen), second.0(seen)].concat())
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::by(move |seen| vec![answer.to(seen)])
    }
}

/// Holds replies back until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets all held replies go.
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate is open; gives up after a while so that no thread stays forever.
    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(open, DEADLINE * 2, |open| !*open).unwrap());
    }
}

/// What an upstream knows and has seen.
#[derive(Default)]
struct State {
    /// What to say, by QNAME.
    rules: HashMap<String, Reply>,
    /// What to say to all else; none: [`usual`].
    otherwise: Option<Reply>,
    /// All queries in order.
    seen: Vec<Seen>,
}

/// A scripted DNS server on one loopback port, UDP and TCP; it goes silent when dropped.
///
/// Without a rule it answers A and AAAA with [`GLOBAL`] and [`GLOBAL_V6`], other types with NODATA.
pub(crate) struct FakeUpstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it knows and has seen.
    state: Arc<Mutex<State>>,
    /// Set when it is to go.
    gone: Arc<AtomicBool>,
}

impl FakeUpstream {
    /// Starts an upstream on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        let bound = (0..100).find_map(|_| {
            let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
            let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
            Some((tcp, udp))
        });
        let (tcp, udp) = bound.expect("a port is free for both UDP and TCP");
        Self::on_sockets(tcp, udp)
    }

    /// Starts an upstream at an address that nothing else has, as in a network namespace of the test's own.
    pub(crate) fn at(address: &str) -> Self {
        Self::on_sockets(TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap())
    }

    /// Starts an upstream that answers questions for addresses, or says nothing while it is told not to.
    pub(crate) fn switched() -> (Self, Arc<AtomicBool>) {
        let (upstream, is_silent) = (Self::start(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&is_silent);
        upstream.otherwise(Reply::by(move |seen| {
            let is_silent = flag.load(Ordering::SeqCst);
            if is_silent { Vec::new() } else { vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)] }
        }));
        (upstream, is_silent)
    }

    /// Starts an upstream on these sockets.
    fn on_sockets(tcp: TcpListener, udp: UdpSocket) -> Self {
        let upstream =
            Self { address: udp.local_addr().unwrap(), state: Arc::default(), gone: Arc::new(AtomicBool::new(false)) };
        let (state, gone) = (Arc::clone(&upstream.state), Arc::clone(&upstream.gone));
        thread::spawn(move || serve_udp(&udp, &state, &gone));
        let (state, gone) = (Arc::clone(&upstream.state), Arc::clone(&upstream.gone));
        thread::spawn(move || serve_tcp(&tcp, &state, &gone));
        upstream
    }

    /// Says `reply` to every query for `qname`.
    pub(crate) fn on(&self, qname: &str, reply: impl Into<Reply>) -> &Self {
        self.state.lock().unwrap().rules.insert(qname.to_owned(), reply.into());
        self
    }

    /// Says `reply` to every query without a rule.
    pub(crate) fn otherwise(&self, reply: impl Into<Reply>) -> &Self {
        self.state.lock().unwrap().otherwise = Some(reply.into());
        self
    }

    /// Says to every query without a rule what upstreams say usually.
    pub(crate) fn as_usual(&self) {
        self.state.lock().unwrap().otherwise = None;
    }

    /// Returns all queries so far but probes for random names.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.iter().filter(|seen| !is_name_probe(&seen.qname)).cloned().collect()
    }

    /// Returns the number of probes for random names so far.
    pub(crate) fn name_probes(&self) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| is_name_probe(&seen.qname)).count()
    }

    /// Returns the queries for `qname` so far.
    pub(crate) fn seen_for(&self, qname: &str) -> Vec<Seen> {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.qname == qname).cloned().collect()
    }

    /// Returns the number of queries for `qname` so far.
    pub(crate) fn count(&self, qname: &str) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.qname == qname).count()
    }

    /// Returns the number of queries so far but probes for random names.
    pub(crate) fn total(&self) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| !is_name_probe(&seen.qname)).count()
    }
}

/// Returns whether a name is the random one of a probe.
pub(crate) fn is_name_probe(qname: &str) -> bool {
    qname.starts_with("hostgate-probe.")
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

/// Answers queries over UDP, each on a thread of its own, until `gone`.
fn serve_udp(socket: &UdpSocket, state: &Arc<Mutex<State>>, gone: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = vec![0; 65_535];
    while !gone.load(Ordering::SeqCst) {
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        let Some((seen, reply)) = take(state, false, source, &buffer[..length]) else { continue };
        let socket = socket.try_clone().unwrap();
        thread::spawn(move || {
            for message in reply.0(&seen) {
                let _ = socket.send_to(&message, source);
            }
        });
    }
}

/// Answers queries over TCP until `gone`.
fn serve_tcp(listener: &TcpListener, state: &Arc<Mutex<State>>, gone: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !gone.load(Ordering::SeqCst) {
        let Ok((stream, source)) = listener.accept() else {
            pause(Duration::from_millis(5));
            continue;
        };
        let state = Arc::clone(state);
        thread::spawn(move || serve_connection(stream, source, &state));
    }
}

/// Answers the queries of one TCP connection.
fn serve_connection(mut stream: TcpStream, source: SocketAddr, state: &Mutex<State>) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    while let Ok(bytes) = tcp_read(&mut stream) {
        let Some((seen, reply)) = take(state, true, source, &bytes) else { return };
        for message in reply.0(&seen) {
            let _ = stream.write_all(&framed(&message));
        }
    }
}

/// Records a query and finds what to say to it; none when it is no query.
fn take(state: &Mutex<State>, tcp: bool, source: SocketAddr, bytes: &[u8]) -> Option<(Seen, Reply)> {
    let message = Message::from_vec(bytes).ok()?;
    let query = message.queries.first()?;
    let qname = query.name().to_lowercase().to_ascii().trim_end_matches('.').to_owned();
    let qtype = query.query_type();
    let seen = Seen { tcp, source, bytes: bytes.to_vec(), qname, qtype, message: message.clone() };
    let mut state = state.lock().unwrap();
    state.seen.push(seen.clone());
    let reply = state.rules.get(&seen.qname).or(state.otherwise.as_ref()).cloned().unwrap_or_else(usual);
    Some((seen, reply))
}

/// Returns what an upstream says without a rule: addresses, and NODATA for the other types.
fn usual() -> Reply {
    Reply::by(|seen| {
        let answer = match seen.qtype {
            RecordType::A => Answer::new().a(&seen.qname, GLOBAL),
            RecordType::AAAA => Answer::new().aaaa(&seen.qname, GLOBAL_V6),
            _ => Answer::new().soa(seen.qname.split_once('.').map_or("", |(_, parent)| parent), 300, 300),
        };
        vec![answer.to(seen)]
    })
}
