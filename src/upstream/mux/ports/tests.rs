//! Late replies and replaced ports.

use tokio::sync::Semaphore;

use super::*;
use crate::bounds::MAX_APART;
use crate::dns::name::LowerName;
use crate::dns::rtype::RecordType;
use crate::upstream::Server;

/// Returns an upstream at an address where this socket listens.
fn endpoint(socket: &UdpSocket) -> (Arc<Endpoint>, Arc<Surroundings>) {
    let server = Server::new(socket.local_addr().unwrap(), Transport::Udp).unwrap();
    let around = Surroundings {
        epoch: tokio::time::Instant::now(),
        timeout: Duration::from_secs(2),
        case_randomisation: true,
        reach: crate::dns::rebinding::Reach::default(),
        sockets: Arc::new(Semaphore::new(1)),
        sockets_of_first_tries: 0,
        observer: Arc::new(()),
        returns: Arc::default(),
        probe_every: std::sync::atomic::AtomicU64::default(),
    };
    (Arc::new(Endpoint::new(server, Duration::ZERO)), Arc::new(around))
}

#[test]
fn late_replies_are_known_by_their_question_and_ports_with_many_take_no_new_queries() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (endpoint, around) = endpoint(&socket);
    let mut ports = Ports::new(Poll::new().unwrap());
    let qname = LowerName::from_text("late.example").unwrap();
    let question = Arc::new(Question {
        qname,
        qtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
        authentic_data: false,
        recursion_desired: true,
        partition: 0,
    });
    let last = ports.choose(&endpoint, &around, Holder::NOBODY).unwrap();
    ports.send(last, &question, (Casing::of_bits(5), Edns::Full), 0);
    let token = last.port;
    let mut given_up = Vec::new();
    for _ in 0..MAX_GIVEN_UP {
        let key = ports.choose(&endpoint, &around, Holder::NOBODY).unwrap();
        assert_eq!(key.port, token);
        ports.send(key, &question, (Casing::of_bits(5), Edns::Full), 0);
        ports.give_up(key, &question);
        given_up.push(key.id);
    }
    let mut reply = Vec::new();
    for id in given_up {
        reply.clear();
        query_upstream(&question, Casing::of_bits(5), id, &mut reply);
        reply[2] |= 0x80;
        assert!(ports.is_late(token, &reply), "{id}");
        reply[13] ^= 0x03;
        assert!(!ports.is_late(token, &reply), "another question");
    }
    assert!(!ports.is_late(token, &last.id.to_be_bytes()) && !ports.is_late(token, &[]));
    let next = ports.choose(&endpoint, &around, Holder::NOBODY).unwrap();
    assert_ne!(next.port, token, "a port of its own");
    ports.flush();
    assert!(ports.get(token).is_some(), "a reply is awaited on it");
    ports.release(last);
    ports.flush();
    assert!(ports.get(token).is_none() && ports.retired.is_empty());
}

#[test]
fn holder_that_is_set_apart_has_ports_of_its_own() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (endpoint, around) = endpoint(&socket);
    let server = endpoint.server.address;
    let mut ports = Ports::new(Poll::new().unwrap());
    let holders: Vec<_> = (0..=MAX_APART).map(|number| Holder::named(&number.to_string())).collect();
    let shared = ports.choose(&endpoint, &around, holders[0]).unwrap().port;
    for &holder in &holders[..MAX_APART] {
        ports.set_apart(holder, server);
        ports.set_apart(holder, server);
    }
    let own: Vec<_> = holders.iter().map(|holder| ports.choose(&endpoint, &around, *holder).unwrap().port).collect();
    let (last, own) = own.split_last().unwrap();
    assert_eq!(*last, shared, "who is not set apart asks as before");
    for (index, port) in own.iter().enumerate() {
        assert!(*port != shared && !own[..index].contains(port), "{index}");
    }
    let again = ports.choose(&endpoint, &around, holders[1]).unwrap().port;
    assert_eq!(again, own[1], "the same port until it is left");
    ports.close(again);
    ports.set_apart(holders[MAX_APART], server);
    assert_eq!(ports.apart.len(), MAX_APART);
    ports.flush();
    assert!(ports.get(own[0]).is_none(), "the first one made place, and its socket is closed");
    assert!(own[2..].iter().all(|port| ports.get(*port).is_some()), "the others have theirs");
}
