//! A steady load that accounts for every query: what was sent is answered, or the test fails.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{framed, tcp_connect, tcp_read};
use super::{DEADLINE, Heard, RecordType, ResponseCode, ask, pause};

/// A query of the load, and the RCODE its answer must have.
pub(crate) type Expected<'a> = (&'a str, ResponseCode);

/// Queries of one UDP client that may be unanswered at once. The kernel's queue holds many more, so none is lost for
/// want of room, however slow the machine is.
const WINDOW: usize = 32;
/// How long a connection may be silent before the server may close it at any moment, a little less than it promises.
const SILENT: Duration = Duration::from_millis(200);
/// The pause between two queries of one client.
const PACE: Duration = Duration::from_micros(500);

/// A load that runs until it is stopped.
pub(crate) struct Load<'scope> {
    /// Set once.
    stop: &'scope AtomicBool,
    /// The clients, each with the number of its queries.
    clients: Vec<thread::ScopedJoinHandle<'scope, usize>>,
}

impl<'scope> Load<'scope> {
    /// Starts clients that send `queries` in turn: several over UDP, one that opens a TCP connection for each query, and
    /// one that keeps its TCP connection as long as it gets one answer after the other.
    pub(crate) fn start<'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        address: SocketAddr,
        queries: &'scope [Expected<'scope>],
        stop: &'scope AtomicBool,
    ) -> Self {
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(scope.spawn(move || ask_over_udp(address, queries, stop)));
        }
        clients.push(scope.spawn(move || ask_over_connections(address, queries, stop)));
        clients.push(scope.spawn(move || ask_over_one_connection(address, queries, stop)));
        Self { stop, clients }
    }

    /// Stops the load and waits for what is unanswered; returns how many queries each client sent, the first ones over UDP.
    ///
    /// Panics when one was not answered, or not as expected.
    #[track_caller]
    pub(crate) fn stop(self) -> Vec<usize> {
        self.stop.store(true, Ordering::SeqCst);
        let join = |client: thread::ScopedJoinHandle<'_, usize>| client.join().expect("the client was answered");
        self.clients.into_iter().map(join).collect()
    }
}

/// Sends at a steady pace from one socket; returns how many queries, all answered as expected.
fn ask_over_udp(address: SocketAddr, queries: &[Expected<'_>], stop: &AtomicBool) -> usize {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(address).unwrap();
    let mut waiting: HashMap<u16, (Expected<'_>, Instant)> = HashMap::new();
    let mut buffer = [0; 4096];
    let mut sent = 0;
    loop {
        let going = !stop.load(Ordering::SeqCst);
        if !going && waiting.is_empty() {
            return sent;
        }
        if going && waiting.len() < WINDOW {
            let (name, rcode) = queries[sent % queries.len()];
            let id = u16::try_from(sent % 65_536).unwrap();
            socket.send(&ask(name, RecordType::A).id(id).bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(waiting.insert(id, ((name, rcode), Instant::now())).is_none(), "65,536 queries ago: no answer");
            sent += 1;
        }
        socket.set_read_timeout(Some(PACE)).unwrap();
        let end = Instant::now() + PACE;
        while Instant::now() < end {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let heard = Heard::read(buffer[..length].to_vec());
                    let ((name, rcode), _) = waiting.remove(&heard.message.metadata.id).expect("asked once");
                    assert_eq!(heard.rcode(), rcode, "{name}: {heard:#?}");
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(error) => panic!("after {sent} queries: {error}"),
            }
        }
        for (id, ((name, _), since)) in &waiting {
            assert!(since.elapsed() < DEADLINE, "query {id} of {sent} for {name} was never answered");
        }
    }
}

/// Opens a connection for each query; returns how many queries.
fn ask_over_connections(address: SocketAddr, queries: &[Expected<'_>], stop: &AtomicBool) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        let (name, rcode) = queries[sent % queries.len()];
        let heard = ask(name, RecordType::A).tcp_to(address);
        let heard = heard.unwrap_or_else(|error| panic!("query {sent} for {name} on its own connection: {error}"));
        assert_eq!(heard.rcode(), rcode, "{name}: {heard:#?}");
        sent += 1;
        pause(PACE);
    }
    sent
}

/// Asks one query after the other over one connection; opens another one only after the server has closed it.
fn ask_over_one_connection(address: SocketAddr, queries: &[Expected<'_>], stop: &AtomicBool) -> usize {
    let mut sent = 0;
    'connections: loop {
        let mut stream = tcp_connect(Ipv4Addr::LOCALHOST.into(), address).unwrap();
        let mut answered = Instant::now();
        loop {
            if stop.load(Ordering::SeqCst) {
                return sent;
            }
            // A connection that is closed between two queries is no loss (RFC 7766 §6.2.4).
            stream.set_nonblocking(true).unwrap();
            let closed = stream.peek(&mut [0]).is_ok_and(|length| length == 0);
            stream.set_nonblocking(false).unwrap();
            if closed {
                continue 'connections;
            }
            let (name, rcode) = queries[sent % queries.len()];
            let query = framed(&ask(name, RecordType::A).bytes());
            let written = io::Write::write_all(&mut stream, &query);
            let silence = answered.elapsed();
            match written.and_then(|()| tcp_read(&mut stream)) {
                Ok(answer) => assert_eq!(Heard::read(answer).rcode(), rcode, "{name}"),
                // A busy machine kept this client from asking, and the end came between the look and the query.
                Err(_) if silence > SILENT => continue 'connections,
                Err(error) => panic!("query {sent} for {name} on a kept connection: {error}"),
            }
            answered = Instant::now();
            sent += 1;
            pause(PACE);
        }
    }
}
