//! A DNS client: queries built byte by byte, sent from any loopback address, answers read by hickory-proto.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, RecordType};

use super::{DEADLINE, Server};

/// A query to be sent; [`ask`] starts one.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The message ID.
    pub(crate) id: u16,
    /// The second 16 bits of the header.
    flags: u16,
    /// The QNAME in wire form.
    qname: Vec<u8>,
    /// The QTYPE.
    qtype: u16,
    /// The QCLASS.
    qclass: u16,
    /// The OPT record: payload size, the TTL field (extended RCODE, version, flags), options.
    opt: Option<(u16, u32, Vec<u8>)>,
    /// The address that the query comes from.
    source: IpAddr,
}

/// Starts a query as a stub resolver sends it: RD set, EDNS with 1232 octets, from 127.0.0.1.
pub(crate) fn ask(name: &str, qtype: RecordType) -> Ask {
    static NEXT_ID: AtomicU16 = AtomicU16::new(0x1001);
    Ask {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        flags: 0x0100,
        qname: wire_name(name),
        qtype: qtype.into(),
        qclass: 1,
        opt: Some((1232, 0, Vec::new())),
        source: IpAddr::from([127, 0, 0, 1]),
    }
}

impl Ask {
    /// Sends the query from this loopback address.
    pub(crate) fn from(mut self, source: &str) -> Self {
        self.source = source.parse().unwrap();
        self
    }

    /// Sets the labels of QNAME, any bytes.
    pub(crate) fn labels(mut self, labels: &[&[u8]]) -> Self {
        self.qname = wire_labels(labels);
        self
    }

    /// Sets the second 16 bits of the header.
    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Sets QCLASS.
    pub(crate) fn class(mut self, class: u16) -> Self {
        self.qclass = class;
        self
    }

    /// Sets the message ID.
    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// Sends no OPT record.
    pub(crate) fn no_edns(mut self) -> Self {
        self.opt = None;
        self
    }

    /// Sends an OPT record with this payload size.
    pub(crate) fn payload(mut self, size: u16) -> Self {
        self.opt_mut().0 = size;
        self
    }

    /// Sets the DO bit.
    pub(crate) fn dnssec_ok(self) -> Self {
        self.edns_flags(0x8000)
    }

    /// Sets the EDNS flags, DO among them.
    pub(crate) fn edns_flags(mut self, flags: u16) -> Self {
        self.opt_mut().1 |= u32::from(flags);
        self
    }

    /// Sets the EDNS version.
    pub(crate) fn version(mut self, version: u8) -> Self {
        self.opt_mut().1 |= u32::from(version) << 16;
        self
    }

    /// Sets the CD bit.
    pub(crate) fn checking_disabled(mut self) -> Self {
        self.flags |= 0x0010;
        self
    }

    /// Adds an EDNS option.
    pub(crate) fn option(mut self, code: u16, data: &[u8]) -> Self {
        let options = &mut self.opt_mut().2;
        options.extend(code.to_be_bytes());
        options.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        options.extend(data);
        self
    }

    /// Returns the OPT record, added when there was none.
    fn opt_mut(&mut self) -> &mut (u16, u32, Vec<u8>) {
        self.opt.get_or_insert((1232, 0, Vec::new()))
    }

    /// Returns the query's wire form.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.id.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.opt.is_some())]);
        out.extend(self.question());
        if let Some((payload, ttl, options)) = &self.opt {
            out.extend([0, 0, 41]);
            out.extend(payload.to_be_bytes());
            out.extend(ttl.to_be_bytes());
            out.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
            out.extend(options);
        }
        out
    }

    /// Returns the question's wire form.
    pub(crate) fn question(&self) -> Vec<u8> {
        let mut out = self.qname.clone();
        out.extend(self.qtype.to_be_bytes());
        out.extend(self.qclass.to_be_bytes());
        out
    }

    /// Asks over UDP.
    #[track_caller]
    pub(crate) fn udp(&self, server: &Server) -> Heard {
        self.udp_to(server.address()).unwrap_or_else(|error| panic!("{self:?}: {error}\n{}", server.log()))
    }

    /// Asks over UDP at `address`.
    pub(crate) fn udp_to(&self, address: SocketAddr) -> io::Result<Heard> {
        udp_exchange(self.source, address, &self.bytes(), DEADLINE).map(Heard::read)
    }

    /// Asks over TCP.
    #[track_caller]
    pub(crate) fn tcp(&self, server: &Server) -> Heard {
        self.tcp_to(server.address()).unwrap_or_else(|error| panic!("{self:?}: {error}\n{}", server.log()))
    }

    /// Asks over TCP at `address`.
    pub(crate) fn tcp_to(&self, address: SocketAddr) -> io::Result<Heard> {
        tcp_exchange(self.source, address, &self.bytes()).map(Heard::read)
    }

    /// Asks over UDP and then over TCP; panics unless both say the same, byte for byte.
    ///
    /// A pair that straddles a second's end differs in a TTL, so a few pairs are tried.
    #[track_caller]
    pub(crate) fn both(&self, server: &Server) -> Heard {
        let mut pairs = (0..3).map(|_| (self.udp(server), self.tcp(server)));
        let (udp, tcp) = pairs.next().unwrap();
        if udp.bytes == tcp.bytes {
            return udp;
        }
        match pairs.find(|(udp, tcp)| udp.bytes == tcp.bytes) {
            Some((udp, _)) => udp,
            None => panic!("UDP said {:#?}\nTCP said {:#?}", udp.message, tcp.message),
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// As it came.
    pub(crate) bytes: Vec<u8>,
    /// Read by hickory-proto.
    pub(crate) message: Message,
}

impl Heard {
    /// Reads an answer; panics when it is malformed.
    pub(crate) fn read(bytes: Vec<u8>) -> Self {
        match Message::from_vec(&bytes) {
            Ok(message) => Self { bytes, message },
            Err(error) => panic!("malformed answer: {error}: {bytes:02x?}"),
        }
    }

    /// Returns the RCODE, the extended bits included.
    pub(crate) fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// Returns the header's second 16 bits.
    pub(crate) fn flags(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// Returns the addresses of the answer section in order.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        self.message.answers.iter().filter_map(|record| address(&record.data)).collect()
    }

    /// Returns the Extended DNS Errors: INFO-CODE and EXTRA-TEXT (RFC 8914 §2).
    pub(crate) fn edes(&self) -> Vec<(u16, String)> {
        let Some(edns) = &self.message.edns else { return Vec::new() };
        let ede = |option: &EdnsOption| match option {
            EdnsOption::Unknown(15, data) => {
                Some((u16::from_be_bytes([data[0], data[1]]), String::from_utf8(data[2..].to_vec()).unwrap()))
            }
            _ => None,
        };
        edns.options().options.iter().filter_map(|(_, option)| ede(option)).collect()
    }

    /// Returns the INFO-CODEs of the Extended DNS Errors.
    pub(crate) fn ede_codes(&self) -> Vec<u16> {
        self.edes().into_iter().map(|(code, _)| code).collect()
    }

    /// Returns the SOA record of the authority section with its owner and TTL.
    pub(crate) fn soa(&self) -> Option<(String, u32, SOA)> {
        self.message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some((record.name.to_ascii(), record.ttl, soa.clone())),
            _ => None,
        })
    }

    /// Returns the smallest TTL of the answer section.
    pub(crate) fn ttl(&self) -> u32 {
        self.message.answers.iter().map(|record| record.ttl).min().unwrap_or_else(|| panic!("no answer: {self:#?}"))
    }

    /// Panics unless this is how a denied name is answered.
    #[track_caller]
    pub(crate) fn expect_denied(&self) {
        assert_eq!(self.rcode(), ResponseCode::NXDomain, "{self:#?}");
        assert!(self.message.metadata.authoritative, "a denial has AA set: {self:#?}");
        assert!(self.message.answers.is_empty(), "{self:#?}");
    }

    /// Panics unless this answer holds exactly these addresses.
    #[track_caller]
    pub(crate) fn expect_addresses(&self, addresses: &[IpAddr]) {
        assert_eq!(self.rcode(), ResponseCode::NoError, "{self:#?}");
        assert_eq!(self.addresses(), addresses, "{self:#?}");
    }

    /// Panics unless a query of an even ID was answered with [`GLOBAL`](super::GLOBAL) and one of an odd ID denied: how
    /// tests tell the answers to many queries apart. Returns the ID.
    #[track_caller]
    pub(crate) fn expect_by_id(&self) -> u16 {
        let id = self.message.metadata.id;
        if id.is_multiple_of(2) {
            self.expect_addresses(&[super::GLOBAL.into()]);
        } else {
            self.expect_denied();
        }
        id
    }
}

/// Sends `bytes` from `source` and returns the first datagram that comes back.
pub(crate) fn udp_exchange(source: IpAddr, address: SocketAddr, bytes: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((source, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(bytes)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Sends `bytes` as one message over a TCP connection of its own and returns the message that comes back.
pub(crate) fn tcp_exchange(source: IpAddr, address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = tcp_connect(source, address)?;
    stream.write_all(&framed(bytes))?;
    tcp_read(&mut stream)
}

/// Opens a TCP connection from `source`, with deadlines.
pub(crate) fn tcp_connect(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&address.into(), DEADLINE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns `bytes` with the two octets of length in front (RFC 1035 §4.2.2).
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// Reads one message from a TCP connection.
pub(crate) fn tcp_read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Returns whether the other side closes `stream` before `limit`, reading what still comes.
pub(crate) fn is_closed_within(stream: &mut TcpStream, limit: Duration) -> bool {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while start.elapsed() < limit {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}

/// Returns the wire form of a name as people write it, case kept.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
    wire_labels(&labels)
}

/// Returns the wire form of a name given by its labels.
pub(crate) fn wire_labels(labels: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(*label);
    }
    out.push(0);
    out
}
