//! Batched datagram calls: recvmmsg and sendmmsg with packet information. The only module with `unsafe` code.
//!
//! Listeners and upstreams share it.
//!
//! A batch costs one system call for up to [`BATCH`] datagrams, and each datagram carries the local address it was
//! sent to (`IP_PKTINFO`, RFC 3542 §6.1), so that a reply leaves from the address the client asked, on wildcard
//! listeners too.
#![expect(unsafe_code, reason = "std has no recvmmsg, sendmmsg or control messages; each block states why it is sound")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Datagrams taken or sent in one system call.
pub(crate) const BATCH: usize = 64;
/// The longest message read, in octets; of a longer one the rest is cut off, and it is no message any more.
pub(crate) const MAX_MESSAGE: usize = 4096;
/// What a slot for a message takes: not a multiple of 4 KiB, as then the starts of all messages, which is what is read
/// of most, would share one set of the first-level cache.
const SLOT: usize = MAX_MESSAGE + 64;
/// Room for the control messages of one datagram: an `in6_pktinfo` is the largest asked for.
const CONTROL: usize = 64;

/// The local address of a datagram, and the interface for link-local ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    /// The address the query was sent to.
    address: IpAddr,
    /// The interface it came in by (RFC 3542 §6.1), for IPv6 link-local addresses; 0 lets the kernel choose.
    interface: u32,
}

/// One datagram of a received batch.
pub(crate) struct Datagram<'a> {
    /// The payload, at most [`MAX_MESSAGE`] octets.
    pub(crate) bytes: &'a [u8],
    /// Who sent it.
    pub(crate) source: SocketAddr,
    /// Where it was sent to, as a reply's source address; none where the socket has but one (see [`want_packet_info`]).
    pub(crate) local: Option<LocalAddress>,
}

/// A socket address as the kernel has it, `sockaddr_in` or `sockaddr_in6`: 128 octets of `sockaddr_storage` a datagram
/// would take twice the cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Address([u8; ADDRESS]);

/// Room for the longest address we know, in octets.
const ADDRESS: usize = 32;
const _: () = assert!(size_of::<libc::sockaddr_in6>() <= ADDRESS, "the address buffer is large enough");

/// Control message space with the alignment `cmsghdr` needs.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// What to do when nothing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Wait for the first datagram, as long as the socket's receive time-out allows.
    First,
    /// Return `WouldBlock`.
    Never,
}

/// Buffers for receiving a batch, allocated once per thread.
pub(crate) struct Receiver {
    /// Payloads, one slot a datagram.
    payloads: Vec<[u8; SLOT]>,
    /// Source addresses.
    sources: Vec<Address>,
    /// Control messages.
    controls: Vec<Control>,
    /// Where each payload goes.
    #[expect(dead_code, reason = "the headers point into it")]
    parts: Vec<libc::iovec>,
    /// One a slot, pointing into the vectors above, which are never resized: the kernel is told again only of those it
    /// changed (setting up all 64 took as long as deciding a query, and most batches are small).
    headers: Vec<libc::mmsghdr>,
    /// Headers that the last call changed.
    used: usize,
    /// Datagrams of the last batch.
    count: usize,
}

impl Receiver {
    /// Allocates the buffers.
    pub(crate) fn new() -> Self {
        let mut payloads = vec![[0; SLOT]; BATCH];
        let mut sources = vec![Address([0; ADDRESS]); BATCH];
        let mut controls = vec![Control([0; CONTROL]); BATCH];
        let part =
            |payload: &mut [u8; SLOT]| libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: MAX_MESSAGE };
        let mut parts: Vec<_> = payloads.iter_mut().map(part).collect();
        let headers = parts.iter_mut().zip(sources.iter_mut().zip(&mut controls)).map(|(part, (source, control))| {
            header(source.0.as_mut_ptr().cast(), ADDRESS, part, control.0.as_mut_ptr(), CONTROL)
        });
        let headers = headers.collect();
        Self { payloads, sources, controls, parts, headers, used: 0, count: 0 }
    }

    /// Makes one without buffers, to stand in where another is borrowed from.
    pub(crate) fn empty() -> Self {
        Self {
            payloads: Vec::new(),
            sources: Vec::new(),
            controls: Vec::new(),
            parts: Vec::new(),
            headers: Vec::new(),
            used: 0,
            count: 0,
        }
    }

    /// Takes all datagrams that are there, a batch at most; returns how many.
    ///
    /// # Errors
    /// Nothing there, or nothing within the socket's receive time-out, as `WouldBlock`; an ICMP error of an earlier
    /// datagram on a connected socket; whatever else the kernel says.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, wait: Wait) -> io::Result<usize> {
        let flags = match wait {
            Wait::First => libc::MSG_WAITFORONE,
            Wait::Never => libc::MSG_DONTWAIT,
        };
        for header in &mut self.headers[..self.used] {
            header.msg_hdr.msg_namelen = libc::socklen_t::try_from(ADDRESS).expect("a socket address is small");
            header.msg_hdr.msg_controllen = CONTROL;
        }
        self.count = 0;
        // Also when the call fails, the kernel may have changed the first one.
        self.used = self.headers.len().min(1);
        // SAFETY: the headers point to elements of `payloads`, `sources`, `controls` and `parts`, vectors that live as
        // long as `self` and are never resized, with the lengths of those elements; `&mut self` keeps others from them
        // during the call. Moving `self` does not move what the vectors hold.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                libc::c_uint::try_from(self.headers.len()).expect("a batch is small"),
                flags,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.used = (self.count + 1).min(self.headers.len());
        Ok(self.count)
    }

    /// Returns the payload of datagram `index` of the last batch, at most [`MAX_MESSAGE`] octets.
    pub(crate) fn bytes(&self, index: usize) -> Option<&[u8]> {
        let header = self.headers[..self.count].get(index)?;
        let length = usize::try_from(header.msg_len).unwrap_or(0).min(MAX_MESSAGE);
        Some(&self.payloads[index][..length])
    }

    /// Returns whether datagram `index` of the last batch was longer than [`MAX_MESSAGE`], so that its rest is lost.
    pub(crate) fn is_cut(&self, index: usize) -> bool {
        self.headers[..self.count].get(index).is_some_and(|header| header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0)
    }

    /// Returns datagram `index` of the last batch; `None` for an address family that is neither IPv4 nor IPv6.
    // Called for each query from another codegen unit, where it was copied out through memory (42 instructions a query).
    #[inline]
    pub(crate) fn datagram(&self, index: usize) -> Option<Datagram<'_>> {
        let bytes = self.bytes(index)?;
        let control = self.headers[index].msg_hdr.msg_controllen.min(CONTROL);
        Some(Datagram {
            bytes,
            source: read_address(&self.sources[index])?,
            local: read_control(&self.controls[index].0[..control]),
        })
    }
}

/// Messages collected while a batch is worked through, sent in one call.
pub(crate) struct Sender {
    /// Messages; the first `queued` are in use, the rest keep their capacity.
    messages: Vec<Vec<u8>>,
    /// Where each queued message goes, and the local address it leaves from.
    routes: Vec<Route>,
}

/// Where a message goes.
#[derive(Clone, Copy)]
struct Route {
    /// To whom; none on a connected socket.
    destination: Option<SocketAddr>,
    /// The local address it leaves from; none lets the kernel choose.
    local: Option<LocalAddress>,
}

impl Sender {
    /// Makes an empty queue; its buffers grow with their use.
    pub(crate) fn new() -> Self {
        Self { messages: (0..BATCH).map(|_| Vec::new()).collect(), routes: Vec::with_capacity(BATCH) }
    }

    /// Returns whether a batch is full: then it has to be sent before [`Sender::next`].
    pub(crate) fn is_full(&self) -> bool {
        self.routes.len() == BATCH
    }

    /// Returns whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Returns the buffer of the next message; it counts only once it is queued.
    pub(crate) fn next(&mut self) -> &mut Vec<u8> {
        &mut self.messages[self.routes.len()]
    }

    /// Queues what was written to [`Sender::next`].
    pub(crate) fn queue(&mut self, destination: SocketAddr, local: Option<LocalAddress>) {
        self.routes.push(Route { destination: Some(destination), local });
    }

    /// Queues what was written to [`Sender::next`] for the peer of a connected socket.
    pub(crate) fn queue_to_peer(&mut self) {
        self.routes.push(Route { destination: None, local: None });
    }

    /// Sends everything queued and empties the queue; returns how many messages the kernel did not take. Never waits.
    ///
    /// A message that cannot be sent (no route, a full buffer) is given up, as a lost datagram is; the client asks
    /// again.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> usize {
        let mut lost = 0;
        let mut start = 0;
        // A connected socket tells of an earlier datagram's ICMP error instead of sending; that says nothing of this one.
        let mut told = None;
        while start < self.routes.len() {
            match self.send_from(socket, start) {
                Ok(sent) if sent > 0 => start += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The send buffer is full: what waits in it may be for neighbours that do not exist, and whoever made us
                // answer them must not make us wait. The rest is lost, as datagrams are.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    lost += self.routes.len() - start;
                    break;
                }
                Err(_) if told != Some(start) => told = Some(start),
                _ => {
                    lost += 1;
                    start += 1;
                }
            }
        }
        self.routes.clear();
        lost
    }

    /// Hands the messages from `start` on to the kernel; returns how many it took.
    fn send_from(&mut self, socket: &UdpSocket, start: usize) -> io::Result<usize> {
        // Not initialised: clearing all of it took longer than filling in the few that most batches have.
        let mut addresses: [MaybeUninit<Address>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let mut controls: [MaybeUninit<Control>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let mut parts: [MaybeUninit<libc::iovec>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let mut headers: [MaybeUninit<libc::mmsghdr>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let routes = &self.routes[start..];
        for (index, (Route { destination, local }, message)) in
            routes.iter().zip(&mut self.messages[start..]).enumerate()
        {
            let address = addresses[index].write(Address([0; ADDRESS]));
            let address_length = destination.map_or(0, |destination| write_address(address, destination));
            let control = controls[index].write(Control([0; CONTROL]));
            let control_length = local.map_or(0, |local| write_control(control, local));
            let part =
                parts[index].write(libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() });
            let (name, control) = (address.0.as_mut_ptr().cast(), control.0.as_mut_ptr());
            headers[index].write(header(name, address_length, part, control, control_length));
        }
        // SAFETY: the first `routes.len()` headers were written above, all that the slice has.
        let headers = unsafe { std::slice::from_raw_parts_mut(headers.as_mut_ptr().cast(), routes.len()) };
        send_headers(socket.as_raw_fd(), headers)
    }
}

/// Asks the kernel for the packet information of each datagram (ip(7), RFC 3542 §6.1); socket2 has no call for it.
///
/// A socket bound to one address needs none: what it sends leaves from there. Packet information costs two copies and a
/// look-up a query.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn want_packet_info(socket: &impl AsRawFd, is_ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if is_ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).expect("an int is small");
    // SAFETY: the pointer is to an int that outlives the call, and the length is its size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends one message from the given local address: the reply to a query that had to wait. Never waits itself.
///
/// # Errors
/// Whatever the kernel says; the caller gives the message up.
pub(crate) fn send_one(
    socket: &UdpSocket,
    message: &[u8],
    destination: SocketAddr,
    local: Option<LocalAddress>,
) -> io::Result<()> {
    let mut address = Address([0; ADDRESS]);
    let address_length = write_address(&mut address, destination);
    let mut control = Control([0; CONTROL]);
    let control_length = local.map_or(0, |local| write_control(&mut control, local));
    // The kernel only reads what an outgoing iovec points to; the type has no const form.
    let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    let mut headers =
        [header(address.0.as_mut_ptr().cast(), address_length, &raw mut part, control.0.as_mut_ptr(), control_length)];
    send_headers(socket.as_raw_fd(), &mut headers).map(drop)
}

/// Calls sendmmsg on headers whose pointers are all alive.
fn send_headers(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = libc::c_uint::try_from(headers.len()).expect("a batch is small");
    // SAFETY: both callers build every header from addresses, iovecs and controls in their own frame (or behind
    // their `&mut self`), which outlive this call; lengths are those of the buffers.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Builds a message header over one buffer.
fn header(
    name: *mut libc::c_void,
    name_length: usize,
    part: *mut libc::iovec,
    control: *mut u8,
    control_length: usize,
) -> libc::mmsghdr {
    // SAFETY: `mmsghdr` is plain data for which all zeros is a valid value (some targets have padding fields).
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = if name_length == 0 { std::ptr::null_mut() } else { name };
    header.msg_hdr.msg_namelen = libc::socklen_t::try_from(name_length).expect("a socket address is small");
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = if control_length == 0 { std::ptr::null_mut() } else { control.cast() };
    header.msg_hdr.msg_controllen = control_length;
    header
}

/// Reads a socket address the kernel wrote: `sockaddr_in` (ip(7)) or `sockaddr_in6` (ipv6(7)).
fn read_address(address: &Address) -> Option<SocketAddr> {
    let [family_0, family_1, port_0, port_1, rest @ ..] = address.0;
    let port = u16::from_be_bytes([port_0, port_1]);
    match i32::from(u16::from_ne_bytes([family_0, family_1])) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = rest;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port)))
        }
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*rest.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*ip), port, u32::from_ne_bytes(*flow), scope)))
        }
        _ => None,
    }
}

/// Writes a socket address for the kernel; returns its length.
fn write_address(into: &mut Address, address: SocketAddr) -> usize {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let family = libc::sa_family_t::try_from(family).expect("a small constant");
    into.0[..2].copy_from_slice(&family.to_ne_bytes());
    into.0[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            into.0[4..8].copy_from_slice(&v4.ip().octets());
            into.0[8..16].fill(0);
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            into.0[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            into.0[8..24].copy_from_slice(&v6.ip().octets());
            into.0[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            size_of::<libc::sockaddr_in6>()
        }
    }
}

/// Finds the packet information among the control messages of a datagram.
fn read_control(control: &[u8]) -> Option<LocalAddress> {
    let mut at = 0;
    while at + size_of::<libc::cmsghdr>() <= control.len() {
        // SAFETY: the bounds were just checked; `read_unaligned` needs no alignment, and any bytes are a valid
        // `cmsghdr`.
        let head = unsafe { control.as_ptr().add(at).cast::<libc::cmsghdr>().read_unaligned() };
        let data = control.get(at + DATA..at + head.cmsg_len.max(DATA).min(control.len() - at))?;
        match (head.cmsg_level, head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= size_of::<libc::in_pktinfo>() => {
                // SAFETY: the length was just checked, and any bytes are a valid `in_pktinfo`.
                let info = unsafe { data.as_ptr().cast::<libc::in_pktinfo>().read_unaligned() };
                // ipi_spec_dst is the local address of the datagram; ipi_addr would be the broadcast address of one
                // sent to a broadcast address, which no reply can leave from (ip(7)).
                let address = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                return Some(LocalAddress { address: address.into(), interface: 0 });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= size_of::<libc::in6_pktinfo>() => {
                // SAFETY: as above, for `in6_pktinfo`.
                let info = unsafe { data.as_ptr().cast::<libc::in6_pktinfo>().read_unaligned() };
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let interface = if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                return Some(LocalAddress { address: address.into(), interface });
            }
            _ => at += align(head.cmsg_len.max(DATA)),
        }
    }
    None
}

/// Writes the packet information that sets a reply's source address; returns its length.
fn write_control(control: &mut Control, local: LocalAddress) -> usize {
    let (level, kind, data) = match local.address {
        IpAddr::V4(address) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            // SAFETY: `CONTROL` has room behind the header for this structure; `write_unaligned` needs no alignment.
            unsafe { control.0.as_mut_ptr().add(DATA).cast::<libc::in_pktinfo>().write_unaligned(info) };
            (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>())
        }
        IpAddr::V6(address) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                ipi6_ifindex: local.interface,
            };
            // SAFETY: as above, for `in6_pktinfo`.
            unsafe { control.0.as_mut_ptr().add(DATA).cast::<libc::in6_pktinfo>().write_unaligned(info) };
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>())
        }
    };
    // SAFETY: `cmsghdr` is plain data for which all zeros is a valid value.
    let mut head: libc::cmsghdr = unsafe { mem::zeroed() };
    head.cmsg_len = DATA + data;
    head.cmsg_level = level;
    head.cmsg_type = kind;
    // SAFETY: `CONTROL` is larger than the header.
    unsafe { control.0.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(head) };
    align(DATA + data)
}

/// Rounds up to the alignment of control messages (`CMSG_ALIGN`).
const fn align(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

/// Where the data of a control message starts (`CMSG_DATA`).
const DATA: usize = align(size_of::<libc::cmsghdr>());
const _: () = assert!(DATA + align(size_of::<libc::in6_pktinfo>()) <= CONTROL, "the control buffer is large enough");

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Binds a socket with packet information on.
    fn bind(address: &str) -> UdpSocket {
        let socket = crate::listen::udp::bind(address.parse().unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn a_reply_leaves_from_the_address_that_was_asked() {
        for (wildcard, asked) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
            let server = bind(wildcard);
            let asked = SocketAddr::new(asked.parse().unwrap(), server.local_addr().unwrap().port());
            let client = UdpSocket::bind(if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // A connected socket takes answers from the asked address only.
            client.connect(asked).unwrap();
            let mut receiver = Receiver::new();
            let mut sender = Sender::new();
            // One a batch, so that the second one finds the buffers as the first one left them.
            for message in [&b"one"[..], b"two"] {
                client.send(message).unwrap();
                let count = receiver.receive(&server, Wait::First).unwrap();
                for index in 0..count {
                    let datagram = receiver.datagram(index).unwrap();
                    assert_eq!(datagram.source, client.local_addr().unwrap());
                    assert_eq!(datagram.local.unwrap().address, asked.ip());
                    sender.next().clear();
                    sender.next().extend_from_slice(datagram.bytes);
                    sender.queue(datagram.source, datagram.local);
                }
                assert_eq!((count, sender.send(&server)), (1, 0));
            }
            let mut buffer = [0; 8];
            for expected in [&b"one"[..], b"two"] {
                let length = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], expected, "{wildcard}");
            }
            let local = Some(LocalAddress { address: asked.ip(), interface: 0 });
            send_one(&server, b"three", client.local_addr().unwrap(), local).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        }
    }

    #[test]
    fn a_datagram_over_the_limit_is_cut_and_one_of_no_octets_is_one() {
        let server = bind("127.0.0.1:0");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[7; MAX_MESSAGE + 100], server.local_addr().unwrap()).unwrap();
        client.send_to(&[], server.local_addr().unwrap()).unwrap();
        let mut receiver = Receiver::new();
        let mut lengths = Vec::new();
        while lengths.len() < 2 {
            let count = receiver.receive(&server, Wait::First).unwrap();
            lengths.extend((0..count).map(|index| receiver.datagram(index).unwrap().bytes.len()));
        }
        assert_eq!(lengths, [MAX_MESSAGE, 0]);
    }
}
