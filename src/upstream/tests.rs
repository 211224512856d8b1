//! Questions to scripted upstreams on loopback sockets.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::dns::name::LowerName;
use crate::dns::rcode::Rcode;
use crate::dns::response::{Casing, Edns, Question};
use crate::dns::rtype::RecordType;

/// What an upstream does with a query.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Answers with an address.
    Answer,
    /// Answers with an address, later.
    AnswerAfter(Duration),
    /// Says that the answer does not fit.
    Truncate,
    /// Says NXDOMAIN.
    NxDomain,
    /// Says this RCODE, with the question.
    Rcode(u8),
    /// Says this RCODE in a header and nothing more.
    Bare(u8),
    /// Says nothing.
    Silence,
    /// Answers with another ID, then another question, then as no reply, and then as it should.
    WrongThenAnswer,
    /// Answers with other IDs, many times.
    Flood,
    /// Answers with bytes that end in the middle of a record.
    Malformed,
    /// Answers with a record of an unknown type and an EDE option.
    Unusual,
    /// Answers and closes the connection (TCP).
    AnswerAndClose,
}

/// An upstream on a port of its own, UDP and TCP.
struct Scripted {
    /// Where it listens.
    address: SocketAddr,
    /// How many queries came over UDP and over TCP, and how many connections.
    seen: Arc<Seen>,
    /// Its tasks; they end with it.
    _tasks: JoinSet<()>,
}

/// What an upstream saw.
#[derive(Default)]
struct Seen {
    /// Queries over UDP.
    udp: AtomicUsize,
    /// Queries over TCP.
    tcp: AtomicUsize,
    /// Connections.
    connections: AtomicUsize,
}

impl Scripted {
    /// Starts an upstream that does as `script` says; it is told the transport and how many queries of it came before.
    async fn start(script: impl Fn(Transport, usize) -> Act + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Somebody else may hold the same port of the other transport: then another one is as good.
            match TcpListener::bind(udp.local_addr().unwrap()).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            }
        };
        let address = udp.local_addr().unwrap();
        let (seen, script) = (Arc::new(Seen::default()), Arc::new(script));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&seen), Arc::clone(&script)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&seen), script));
        Self { address, seen, _tasks: tasks }
    }

    /// Starts an upstream that always does the same.
    async fn always(act: Act) -> Self {
        Self::start(move |_, _| act).await
    }

    /// Returns it as configured, over UDP.
    fn server(&self) -> Server {
        Server::new(self.address, Transport::Udp).unwrap()
    }

    /// Returns how many queries came over UDP and TCP.
    fn queries(&self) -> (usize, usize) {
        (self.seen.udp.load(Ordering::Relaxed), self.seen.tcp.load(Ordering::Relaxed))
    }
}

/// Answers datagrams.
async fn serve_udp(socket: UdpSocket, seen: Arc<Seen>, script: Arc<impl Fn(Transport, usize) -> Act + Send + Sync>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let act = script(Transport::Udp, seen.udp.fetch_add(1, Ordering::Relaxed));
        let (socket, query) = (Arc::clone(&socket), buffer[..length].to_vec());
        tokio::spawn(async move {
            for reply in replies(act, &query).await {
                drop(socket.send_to(&reply, from).await);
            }
        });
    }
}

/// Answers connections.
async fn serve_tcp(
    listener: TcpListener,
    seen: Arc<Seen>,
    script: Arc<impl Fn(Transport, usize) -> Act + Send + Sync + 'static>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
        tokio::spawn(async move {
            while let Ok(query) = read_message(&mut stream).await {
                let act = script(Transport::Tcp, seen.tcp.fetch_add(1, Ordering::Relaxed));
                for reply in replies(act, &query).await {
                    let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                    drop(stream.write_all(&[&length, &reply[..]].concat()).await);
                }
                if matches!(act, Act::AnswerAndClose) {
                    return;
                }
            }
        });
    }
}

/// Reads one message with its length before it.
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Returns what an upstream says to `query`.
async fn replies(act: Act, query: &[u8]) -> Vec<Vec<u8>> {
    let with_id = |change: u8| {
        let mut reply = answer(query);
        reply[1] ^= change;
        reply
    };
    match act {
        Act::Answer | Act::AnswerAndClose => vec![answer(query)],
        Act::AnswerAfter(delay) => {
            sleep(delay).await;
            vec![answer(query)]
        }
        Act::Truncate => {
            let mut reply = head(query, 0);
            reply[2] |= 0x02;
            vec![reply]
        }
        Act::NxDomain => vec![head(query, 3)],
        Act::Rcode(rcode) => vec![head(query, rcode)],
        Act::Bare(rcode) => {
            let mut reply = head(query, rcode);
            reply.truncate(12);
            reply[5] = 0;
            vec![reply]
        }
        Act::Silence => vec![],
        Act::Unusual => vec![unusual(query)],
        Act::WrongThenAnswer => {
            let mut other_name = answer(query);
            other_name[13] ^= 0x03;
            let mut no_reply = answer(query);
            no_reply[2] &= 0x7f;
            vec![with_id(1), other_name, no_reply, vec![0], with_id(0)]
        }
        Act::Flood => vec![with_id(1); 100],
        Act::Malformed => {
            let mut reply = answer(query);
            reply.truncate(reply.len() - 2);
            vec![reply]
        }
    }
}

/// Returns the header and question of a reply to `query`, with an RCODE and no records.
fn head(query: &[u8], rcode: u8) -> Vec<u8> {
    let (_, name) = LowerName::from_uncompressed(&query[12..]).unwrap();
    let mut reply = query[..12 + name + 4].to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | rcode;
    reply[6..12].fill(0);
    reply
}

/// Returns a reply to `query` with one address, 198.51.100.7, for 60 seconds.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut reply = head(query, 0);
    reply[7] = 1;
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    reply
}

/// Returns a reply to `query` with a record of TYPE65400 and an OPT record with EDE 22 and a text.
fn unusual(query: &[u8]) -> Vec<u8> {
    let mut reply = head(query, 0);
    (reply[7], reply[11]) = (1, 1);
    reply.extend([0xc0, 12, 0xff, 0x78, 0, 1, 0, 0, 0, 60, 0, 3, 1, 2, 3]);
    reply.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 8, 0, 15, 0, 4, 0, 22, b'h', b'm']);
    reply
}

/// Returns a question for an address of a name.
fn question() -> Question {
    Question {
        qname: LowerName::from_text("www.example").unwrap(),
        qtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
        authentic_data: false,
        recursion_desired: true,
        partition: 0,
    }
}

/// Returns settings with so many milliseconds for a question.
fn within(millis: u64) -> Settings {
    Settings { timeout: Duration::from_millis(millis), ..Settings::default() }
}

/// Returns these upstreams, so used to slow answers that only a failure makes them go on to the next.
fn patient(servers: &[Server]) -> Upstreams {
    let upstreams = Upstreams::new(servers, within(60_000), Arc::new(()));
    for endpoint in &upstreams.endpoints {
        endpoint.health().answered(Duration::from_secs(3), Duration::ZERO);
    }
    upstreams
}

/// The time in which something happens at once, on a busy machine; well below what [`patient`] ones wait.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Returns an address where nothing listens.
async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Keeps events.
#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

impl Observer for Events {
    fn observe(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

#[tokio::test]
async fn an_upstream_that_fails_is_passed_over_at_once() {
    for act in [Act::Rcode(1), Act::Rcode(2), Act::Rcode(4), Act::Rcode(5), Act::Bare(1), Act::Malformed] {
        let (bad, good) = (Scripted::always(act).await, Scripted::always(Act::Answer).await);
        let upstreams = patient(&[bad.server(), good.server()]);
        for _ in 0..3 {
            let answered = upstreams.ask(&question()).await.unwrap_or_else(|failure| panic!("{act:?}: {failure}"));
            assert_eq!(answered.upstream, good.address, "{act:?}");
            assert!(answered.elapsed < AT_ONCE, "{act:?}: {:?}", answered.elapsed);
        }
        // What may be because of EDNS is asked again without it.
        let asked = if matches!(act, Act::Rcode(1 | 4) | Act::Bare(_)) { 6 } else { 3 };
        assert_eq!((bad.queries(), good.queries()), ((asked, 0), (3, 0)), "{act:?}");
        upstreams.ask(&question()).await.unwrap();
        assert_eq!((bad.queries(), good.queries()), ((asked, 0), (4, 0)), "{act:?}: three times is enough");
        assert_eq!(upstreams.status().map(|status| status.is_down).collect::<Vec<_>>(), [true, false], "{act:?}");
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_passed_over_at_once() {
    let good = Scripted::always(Act::Answer).await;
    let dead = Server::new(nobody().await, Transport::Udp).unwrap();
    for dead in [dead, Server { transport: Transport::Tcp, ..dead }] {
        let upstreams = patient(&[dead, good.server()]);
        let answered = upstreams.ask(&question()).await.unwrap();
        assert_eq!(answered.upstream, good.address, "{dead}");
        assert!(answered.elapsed < AT_ONCE, "{dead}: {:?}", answered.elapsed);
        assert!(upstreams.status().next().unwrap().is_down, "{dead}");
    }
}

#[tokio::test]
async fn a_silent_upstream_gets_company_after_a_while_and_then_goes_last() {
    let (silent, good) = (Scripted::always(Act::Silence).await, Scripted::always(Act::Answer).await);
    let upstreams = Upstreams::new(&[silent.server(), good.server()], within(5000), Arc::new(()));
    let answered = upstreams.ask(&question()).await.unwrap();
    assert_eq!(answered.upstream, good.address);
    assert!(answered.elapsed >= Duration::from_millis(250) && answered.elapsed < AT_ONCE);
    for _ in 0..5 {
        assert_eq!(upstreams.ask(&question()).await.unwrap().upstream, good.address);
    }
    assert!(silent.queries().0 <= 2, "once, and once aside: {:?}", silent.queries());
}

#[tokio::test]
async fn a_slow_upstream_may_still_answer_when_the_next_was_asked() {
    let slow = Scripted::always(Act::AnswerAfter(Duration::from_millis(450))).await;
    let silent = Scripted::always(Act::Silence).await;
    let upstreams = Upstreams::new(&[slow.server(), silent.server()], within(5000), Arc::new(()));
    let answered = upstreams.ask(&question()).await.unwrap();
    assert_eq!((answered.upstream, silent.queries()), (slow.address, (1, 0)));
}

#[tokio::test]
async fn a_lone_upstream_is_asked_again_when_a_datagram_is_lost() {
    let lossy = Scripted::start(|_, before| if before == 0 { Act::Silence } else { Act::Answer }).await;
    let upstreams = Upstreams::new(&[lossy.server()], within(400), Arc::new(()));
    let answered = upstreams.ask(&question()).await.unwrap();
    assert_eq!(lossy.queries(), (2, 0));
    assert!(answered.elapsed >= Duration::from_millis(200), "{:?}", answered.elapsed);
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_names_the_upstreams() {
    let silent = Scripted::always(Act::Silence).await;
    let upstreams = Upstreams::new(&[silent.server()], within(200), Arc::new(()));
    let started = Instant::now();
    let failure = upstreams.ask(&question()).await.unwrap_err();
    assert!(started.elapsed() >= Duration::from_secs(5) && started.elapsed() < Duration::from_secs(7));
    assert_eq!(failure.kind, FailureKind::Timeout);
    let told = failure.to_string();
    assert!(told.starts_with(&format!("upstream timed out: {}: no reply in 5", silent.address)), "{told}");
    assert!(silent.queries().0 >= 2);
}

#[tokio::test]
async fn when_all_fail_the_answer_that_says_most_is_handed_on_at_once() {
    let (first, second) = (Scripted::always(Act::Rcode(5)).await, Scripted::always(Act::Rcode(2)).await);
    let dead = Server::new(nobody().await, Transport::Udp).unwrap();
    let upstreams = patient(&[second.server(), first.server(), dead]);
    let failure = timeout(AT_ONCE, upstreams.ask(&question())).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::ServFail);
    assert_eq!(failure.response.unwrap().rcode(), Rcode::SERVFAIL);
    assert_eq!(failure.detail, format!("{}: SERVFAIL", second.address));
}

#[tokio::test]
async fn a_name_that_all_upstreams_fail_at_is_not_their_failure() {
    let (first, second) = (Scripted::always(Act::Rcode(2)).await, Scripted::always(Act::Rcode(2)).await);
    let upstreams = patient(&[first.server(), second.server()]);
    for _ in 0..5 {
        assert_eq!(upstreams.ask(&question()).await.unwrap_err().kind, FailureKind::ServFail);
    }
    assert!(upstreams.status().all(|status| !status.is_down && status.failed == 5));
    assert_eq!((first.queries(), second.queries()), ((5, 0), (5, 0)));
}

#[tokio::test]
async fn no_upstream_is_a_failure_of_its_own() {
    let upstreams = Upstreams::new(&[], Settings::default(), Arc::new(()));
    assert!(upstreams.is_empty());
    assert_eq!(upstreams.ask(&question()).await.unwrap_err().kind, FailureKind::NoUpstream);
}

#[tokio::test]
async fn nxdomain_is_an_answer_and_counts_as_health() {
    let (first, second) = (Scripted::always(Act::NxDomain).await, Scripted::always(Act::Answer).await);
    let upstreams = Upstreams::new(&[first.server(), second.server()], within(5000), Arc::new(()));
    for _ in 0..60 {
        assert_eq!(upstreams.ask(&question()).await.unwrap().response.rcode(), Rcode::NXDOMAIN);
    }
    let status = upstreams.status().next().unwrap();
    assert_eq!((status.asked, status.answered, status.failed, status.is_down), (60, 60, 0, false));
    assert!(status.round_trip.unwrap() < Duration::from_millis(100));
    assert_eq!(second.queries(), (0, 0));
}

#[tokio::test]
async fn datagrams_that_are_no_reply_to_the_query_are_ignored() {
    let upstream = Scripted::always(Act::WrongThenAnswer).await;
    let events = Arc::new(Events::default());
    let upstreams = Upstreams::new(&[upstream.server()], within(5000), Arc::clone(&events) as Arc<dyn Observer>);
    assert_eq!(upstreams.ask(&question()).await.unwrap().response.rcode(), Rcode::NOERROR);
    assert_eq!(upstream.queries(), (1, 0));
    let ignored = events.0.lock().unwrap().iter().filter(|event| **event == Event::Ignored).count();
    assert_eq!(ignored, 4);
}

#[tokio::test]
async fn a_flood_of_wrong_replies_is_escaped_by_another_port_and_then_by_tcp() {
    for floods in 1..=2 {
        let flooded = Scripted::start(move |transport, before| match transport {
            Transport::Udp if before < floods => Act::Flood,
            _ => Act::Answer,
        });
        let flooded = flooded.await;
        let upstreams = Upstreams::new(&[flooded.server()], within(5000), Arc::new(()));
        let answered = upstreams.ask(&question()).await.unwrap();
        assert_eq!(answered.transport, if floods == 1 { Transport::Udp } else { Transport::Tcp });
        assert_eq!(flooded.queries(), if floods == 1 { (2, 0) } else { (2, 1) });
        let status = upstreams.status().next().unwrap();
        assert_eq!((status.failed, status.is_down), (0, false), "that is not the upstream's doing");
    }
    // One that has only the wrong replies to give does not keep the next from answering.
    let (flooded, good) = (Scripted::always(Act::Flood).await, Scripted::always(Act::Answer).await);
    let upstreams = Upstreams::new(&[flooded.server(), good.server()], within(5000), Arc::new(()));
    assert_eq!(upstreams.ask(&question()).await.unwrap().upstream, good.address);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp_on_one_connection() {
    let upstream =
        Scripted::start(|transport, _| if transport == Transport::Udp { Act::Truncate } else { Act::Answer }).await;
    let events = Arc::new(Events::default());
    let upstreams = Upstreams::new(&[upstream.server()], within(5000), Arc::clone(&events) as Arc<dyn Observer>);
    for _ in 0..3 {
        let answered = upstreams.ask(&question()).await.unwrap();
        assert_eq!((answered.transport, answered.response.rcode()), (Transport::Tcp, Rcode::NOERROR));
    }
    assert_eq!(upstream.queries(), (3, 3));
    assert_eq!(upstream.seen.connections.load(Ordering::Relaxed), 1);
    let events = events.0.lock().unwrap();
    assert!(matches!(
        events[..4],
        [
            Event::Sent(Transport::Udp),
            Event::Truncated,
            Event::Sent(Transport::Tcp),
            Event::Answered(Transport::Tcp, _)
        ]
    ));
}

#[tokio::test]
async fn an_answer_truncated_over_tcp_too_is_no_answer() {
    let upstream = Scripted::always(Act::Truncate).await;
    let upstreams = Upstreams::new(&[upstream.server()], within(5000), Arc::new(()));
    assert_eq!(upstreams.ask(&question()).await.unwrap_err().kind, FailureKind::Malformed);
}

#[tokio::test]
async fn a_connection_that_was_closed_is_opened_anew() {
    let upstream = Scripted::always(Act::AnswerAndClose).await;
    let server = Server { transport: Transport::Tcp, ..upstream.server() };
    let upstreams = Upstreams::new(&[server], within(5000), Arc::new(()));
    for number in 0..5 {
        let answered = upstreams.ask(&question()).await.unwrap_or_else(|failure| panic!("{number}: {failure}"));
        assert_eq!(answered.transport, Transport::Tcp);
    }
    assert_eq!(upstreams.status().next().unwrap().failed, 0);
    assert_eq!(upstream.queries().0, 0);
}

#[tokio::test]
async fn a_connection_that_went_silent_is_not_used_for_the_next_try() {
    let upstream = Scripted::start(|_, before| if before < 2 { Act::Silence } else { Act::Answer }).await;
    let server = Server { transport: Transport::Tcp, ..upstream.server() };
    let upstreams = Upstreams::new(&[server], within(300), Arc::new(()));
    assert_eq!(upstreams.ask(&question()).await.unwrap().transport, Transport::Tcp);
    assert_eq!(upstreams.ask(&question()).await.unwrap().transport, Transport::Tcp);
    assert_eq!(upstream.seen.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn many_questions_share_a_connection_and_end_out_of_order() {
    let upstream = Scripted::always(Act::Answer).await;
    let server = Server { transport: Transport::Tcp, ..upstream.server() };
    let upstreams = Arc::new(Upstreams::new(&[server], within(5000), Arc::new(())));
    let mut asks = JoinSet::new();
    for number in 0..200 {
        let upstreams = Arc::clone(&upstreams);
        let qname = LowerName::from_text(&format!("n{number}.example")).unwrap();
        asks.spawn(async move { upstreams.ask(&Question { qname, ..question() }).await.map(drop) });
    }
    for result in asks.join_all().await {
        result.unwrap();
    }
    assert_eq!(upstream.seen.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn questions_beyond_the_bound_on_sockets_wait_and_then_fail() {
    let silent = Scripted::always(Act::Silence).await;
    let settings = Settings { max_sockets: 1, ..within(800) };
    let upstreams = Arc::new(Upstreams::new(&[silent.server()], settings, Arc::new(())));
    let first = tokio::spawn({
        let upstreams = Arc::clone(&upstreams);
        async move { upstreams.ask(&question()).await.map(drop) }
    });
    let deadline = Instant::now() + Duration::from_secs(2);
    while silent.queries().0 == 0 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(upstreams.ask(&question()).await.unwrap_err().kind, FailureKind::Busy);
    assert!(!upstreams.status().next().unwrap().is_down, "that is not the upstream's doing");
    let failure = first.await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout, "the one that has a socket waits for its reply");
}

#[tokio::test]
async fn what_is_known_of_an_upstream_survives_a_reload() {
    let (bad, good) = (Scripted::always(Act::Rcode(5)).await, Scripted::always(Act::Answer).await);
    let upstreams = patient(&[bad.server(), good.server()]);
    for _ in 0..3 {
        upstreams.ask(&question()).await.unwrap();
    }
    let upstreams = upstreams.replaced_by(&[bad.server(), good.server(), good.server()], within(2000));
    assert_eq!(upstreams.status().map(|status| status.is_down).collect::<Vec<_>>(), [true, false]);
    upstreams.ask(&question()).await.unwrap();
    assert_eq!((bad.queries(), good.queries()), ((3, 0), (4, 0)));
}

#[tokio::test]
async fn every_query_has_a_port_and_an_id_of_its_own() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(socket.local_addr().unwrap(), Transport::Udp).unwrap();
    let upstreams = Upstreams::new(&[server], within(5000), Arc::new(()));
    let mut seen = std::collections::HashSet::new();
    for _ in 0..16 {
        let question = question();
        let ask = upstreams.ask(&question);
        let serve = async {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&answer(&buffer[..length]), from).await.unwrap();
            (from.port(), [buffer[0], buffer[1]])
        };
        let (answered, sender) = tokio::join!(ask, serve);
        answered.unwrap();
        seen.insert(sender);
    }
    let ports: std::collections::HashSet<_> = seen.iter().map(|(port, _)| port).collect();
    let ids: std::collections::HashSet<_> = seen.iter().map(|(_, id)| id).collect();
    assert!(ports.len() > 12 && ids.len() > 12, "{seen:?}");
}

#[tokio::test]
async fn an_upstream_that_is_down_is_asked_aside_and_comes_back() {
    let bad = Scripted::start(|_, before| if before < 3 { Act::Rcode(5) } else { Act::Answer }).await;
    let good = Scripted::always(Act::Answer).await;
    let upstreams = patient(&[bad.server(), good.server()]);
    for _ in 0..3 {
        upstreams.ask(&question()).await.unwrap();
    }
    assert!(upstreams.status().next().unwrap().is_down);
    let deadline = Instant::now() + Duration::from_secs(20);
    while upstreams.status().next().unwrap().is_down {
        assert!(Instant::now() < deadline, "never probed");
        assert_eq!(upstreams.ask(&question()).await.unwrap().upstream, good.address, "a probe answers nobody");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bad.queries(), (4, 0));
}

#[tokio::test]
async fn a_reply_over_tcp_comes_as_it_was_sent() {
    let upstream = Scripted::always(Act::Unusual).await;
    let stream = stream::Stream::new(upstream.address);
    let question = question();
    let reply = stream.ask(&question, Edns::Full, stream::STALLED_AFTER).await.unwrap();
    let mut query = Vec::new();
    crate::dns::response::query_upstream(&question, Casing::LOWER, 0, &mut query);
    assert_eq!(reply[2..], unusual(&query)[2..]);
}

#[tokio::test]
async fn a_server_that_closes_after_each_reply_answers_all_that_were_asked_at_once() {
    let upstream = Scripted::always(Act::AnswerAndClose).await;
    let server = Server { transport: Transport::Tcp, ..upstream.server() };
    let upstreams = Arc::new(Upstreams::new(&[server], within(5000), Arc::new(())));
    let mut asks = JoinSet::new();
    for number in 0..100 {
        let upstreams = Arc::clone(&upstreams);
        let qname = LowerName::from_text(&format!("n{number}.example")).unwrap();
        asks.spawn(async move { upstreams.ask(&Question { qname, ..question() }).await.map(drop) });
    }
    for result in asks.join_all().await {
        result.unwrap();
    }
    assert!(!upstreams.status().next().unwrap().is_down);
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_costs_one_patience() {
    // The first connection answers once and then nothing, as when an address or a translation is gone.
    let upstream = Scripted::start(|_, before| if before == 1 { Act::Silence } else { Act::Answer }).await;
    let server = Server { transport: Transport::Tcp, ..upstream.server() };
    let upstreams = Upstreams::new(&[server], within(5000), Arc::new(()));
    upstreams.ask(&question()).await.unwrap();
    let answered = upstreams.ask(&question()).await.unwrap();
    assert!(answered.elapsed < Duration::from_secs(1), "{:?}", answered.elapsed);
    assert_eq!(upstream.seen.connections.load(Ordering::Relaxed), 2);
    upstreams.ask(&question()).await.unwrap();
    assert_eq!(upstream.seen.connections.load(Ordering::Relaxed), 2, "the new one serves on");
}

#[tokio::test]
async fn a_reply_in_pieces_and_several_in_one_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = Arc::new(stream::Stream::new(listener.local_addr().unwrap()));
    let mut asks = JoinSet::new();
    for number in 0..3 {
        let stream = Arc::clone(&stream);
        let qname = LowerName::from_text(&format!("n{number}.example")).unwrap();
        asks.spawn(async move {
            let question = Question { qname, ..question() };
            let reply = stream.ask(&question, Edns::Full, stream::STALLED_AFTER).await.unwrap();
            crate::dns::response::is_reply_to(
                &reply,
                u16::from_be_bytes([reply[0], reply[1]]),
                &question,
                Casing::LOWER,
            )
        });
    }
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut framed = Vec::new();
    for _ in 0..3 {
        let reply = answer(&read_message(&mut socket).await.unwrap());
        framed.extend(u16::try_from(reply.len()).unwrap().to_be_bytes());
        framed.extend(reply);
    }
    // A message that answers nothing is passed over.
    socket.write_all(&[&[0, 2, 7, 7][..], &framed[..1]].concat()).await.unwrap();
    for piece in framed[1..].chunks(29) {
        socket.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    for check in asks.join_all().await {
        assert!(matches!(check, crate::dns::response::ReplyCheck::Ours { truncated: false, .. }), "{check:?}");
    }
}

#[tokio::test]
async fn a_reply_over_tcp_that_cannot_be_read_is_as_good_as_none() {
    let (bad, good) = (Scripted::always(Act::Malformed).await, Scripted::always(Act::Answer).await);
    let bad = Server { transport: Transport::Tcp, ..bad.server() };
    let upstreams = Upstreams::new(&[bad, good.server()], within(20_000), Arc::new(()));
    let answered = upstreams.ask(&question()).await.unwrap();
    assert_eq!(answered.upstream, good.address);
    assert!(answered.elapsed < AT_ONCE, "{:?}", answered.elapsed);
}
