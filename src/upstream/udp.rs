//! One question to one upstream over UDP.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::reply::is_unwilling;
use super::{Event, Observer, Transport, scope};
use crate::dns::rcode::Rcode;
use crate::dns::response::{Casing, Edns, Question, ReplyCheck, bare_rcode, is_reply_to, query_upstream};

/// The largest reply that is read, in octets. We ask for at most 1232; some send more, and what is longer than this is asked
/// for over TCP.
const MAX_REPLY: usize = 4096;

/// How many datagrams that are no reply to our query a socket takes before it is given up: more is an attempt to
/// guess the ID, and each costs the attacker a new port.
pub(super) const MAX_IGNORED: usize = 64;

/// How long the true reply is waited for after one with the right ID that cannot be used.
const GARBLED_FOR: Duration = Duration::from_secs(1);

/// How long the true reply is waited for after one without a question, which anybody can send who guesses the ID.
const BARE_FOR: Duration = Duration::from_millis(200);

/// What came back over UDP.
pub(super) enum Reply {
    /// A reply to the question, complete.
    Complete(Vec<u8>),
    /// A reply that did not fit.
    Truncated,
    /// A reply to the question in another case.
    OtherCase,
    /// A reply with this RCODE and without a question: what some say to a query that they cannot or will not read.
    Bare(Rcode),
    /// Replies with the right ID that cannot be used, and for a while no other.
    Garbled,
    /// Nothing before [`MAX_IGNORED`] datagrams that are no reply to the query.
    Flooded,
}

/// Why nothing came back.
#[derive(Debug)]
pub(super) enum UdpError {
    /// No socket, or no random ID: our own lack.
    Local(io::Error),
    /// The network refused, as by an ICMP message.
    Network(io::Error),
}

/// Asks `question` in this case and with this much of EDNS at `server` from a socket of its own and waits for the reply, for ever.
///
/// The socket's port is random (the kernel's choice, RFC 5452 §9.2) and so is the ID. It is connected: the kernel
/// drops what comes from elsewhere, and an ICMP refusal is an error at once instead of silence.
///
/// # Errors
/// No socket, an ICMP refusal.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    (casing, edns): (Casing, Edns),
    observer: &dyn Observer,
) -> Result<Reply, UdpError> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| UdpError::Local(error.into()))?;
    let id = u16::from_be_bytes(id);
    let mut query = Vec::with_capacity(512);
    query_upstream(question, casing, id, &mut query);
    edns.limit(&mut query);
    let server = scope::target(server).map_err(UdpError::Network)?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(UdpError::Local)?;
    socket.connect(server).await.map_err(UdpError::Network)?;
    observer.observe(Event::Sent(Transport::Udp));
    socket.send(&query).await.map_err(UdpError::Network)?;
    // One octet more shows that a reply is longer.
    let mut buffer = vec![0; MAX_REPLY + 1];
    // What it comes to if the true reply does not come by then.
    let mut doubted = None;
    for _ in 0..MAX_IGNORED {
        let received = match doubted.take() {
            None => socket.recv(&mut buffer).await,
            Some((until, reply)) => match timeout_at(until, socket.recv(&mut buffer)).await {
                Ok(received) => {
                    doubted = Some((until, reply));
                    received
                }
                Err(_) => return Ok(reply),
            },
        };
        let length = received.map_err(UdpError::Network)?;
        match is_reply_to(&buffer[..length], id, question, casing) {
            ReplyCheck::Ours { truncated, .. } if truncated || length > MAX_REPLY => return Ok(Reply::Truncated),
            ReplyCheck::Ours { .. } => {
                buffer.truncate(length);
                return Ok(Reply::Complete(buffer));
            }
            ReplyCheck::OtherCase => {
                observer.observe(Event::OtherCase);
                return Ok(Reply::OtherCase);
            }
            ReplyCheck::NotOurs => {
                if let Some(rcode) = bare_failure(&buffer[..length], id) {
                    doubted.get_or_insert((Instant::now() + BARE_FOR, Reply::Bare(rcode)));
                    continue;
                }
                observer.observe(Event::Ignored);
                // It has the ID: the upstream is not silent. But it may be forged, so the true one is waited for.
                if buffer[..length].first_chunk() == Some(&id.to_be_bytes()) {
                    doubted.get_or_insert((Instant::now() + GARBLED_FOR, Reply::Garbled));
                }
            }
        }
    }
    Ok(Reply::Flooded)
}

/// Returns the RCODE of a reply to the query `id` that holds no question, if it is no answer. Forging one takes as much as
/// forging an answer, and gains less.
pub(super) fn bare_failure(bytes: &[u8], id: u16) -> Option<Rcode> {
    bare_rcode(bytes, id).filter(|rcode| is_unwilling(*rcode))
}
