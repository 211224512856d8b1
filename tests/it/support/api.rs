//! Clients of the API that speak octet by octet, and curl for what has to be spoken well.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Server;
use super::http::Response;

/// A token that may do everything.
pub(crate) const TOKEN: &str = "admin-token-0123456789";
/// A token that may read.
pub(crate) const VIEWER: &str = "viewer-token-0123456789";
/// How long anything of the API may take: its longest deadline is ten seconds, but for silence.
const PATIENCE: Duration = Duration::from_secs(25);
/// What an HTTP/2 connection begins with, without any settings (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection to the API.
pub(crate) struct Wire<S> {
    /// The stream.
    stream: S,
    /// What was read and not yet taken.
    unread: Vec<u8>,
}

impl Wire<TcpStream> {
    /// Opens a connection to a server.
    pub(crate) fn open(server: &Server) -> Self {
        Self::to(server.control())
    }

    /// Opens a connection to an address.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Takes an open stream.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// Opens a connection from an address of 127.0.0.0/8.
    pub(crate) fn from(source: [u8; 4], server: &Server) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&server.control().into()).unwrap();
        Self::over(socket.into())
    }

    /// Opens a connection that holds few octets on its way.
    pub(crate) fn narrow(server: &Server) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.connect(&server.control().into()).unwrap();
        Self::over(socket.into())
    }

    /// Returns whether anything has come that is not read yet.
    pub(crate) fn is_answered(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let came = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        came.is_ok_and(|count| count > 0)
    }

    /// Sends without end what is not answered, until nothing is taken any more.
    pub(crate) fn send_until_full(&mut self, request: &str) {
        self.stream.set_nonblocking(true).unwrap();
        let many = request.repeat(100);
        super::until_within(PATIENCE, || match self.stream.write(many.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                super::pause(Duration::from_millis(200));
                self.stream.write(many.as_bytes()).is_err().then_some(())
            }
            sent => (sent.unwrap() == 0).then_some(()),
        });
        self.stream.set_nonblocking(false).unwrap();
    }
}

impl Wire<UnixStream> {
    /// Opens a connection to a Unix socket.
    pub(crate) fn at(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, unread: Vec::new() }
    }
}

impl<S: Read + Write> Wire<S> {
    /// Sends octets; whether they are taken is seen by what comes back.
    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(octets.as_ref());
        self
    }

    /// Sends a request with [`TOKEN`] and without a body.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(head("GET", path, TOKEN, "")).response()
    }

    /// Reads one response.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        let end = loop {
            match self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(self.read(), "closed after {:?}", String::from_utf8_lossy(&self.unread)),
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < end + length {
            assert!(self.read(), "closed within a body: {head}");
        }
        let body = String::from_utf8_lossy(&self.unread[end..end + length]).into_owned();
        self.unread.drain(..end + length);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, head, body }
    }

    /// Reads whatever comes; returns whether anything came before the end.
    pub(crate) fn read(&mut self) -> bool {
        let mut space = [0; 16 << 10];
        let count = match self.stream.read(&mut space) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("still open, and silent: {error}"),
            Err(_) => 0,
        };
        self.unread.extend(&space[..count]);
        count > 0
    }

    /// Waits for the server to close the connection; returns what came before.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> Vec<u8> {
        while self.read() {}
        std::mem::take(&mut self.unread)
    }
}

/// Writes the head of an HTTP/1.1 request; `fields` are further lines of it.
pub(crate) fn head(method: &str, path: &str, token: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: api.test\r\nauthorization: Bearer {token}\r\n{fields}\r\n")
}

/// Runs curl; returns status, version of HTTP and body.
#[track_caller]
pub(crate) fn curl(arguments: &[&str]) -> (u16, String, String) {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code} %{http_version}"])
        .args(arguments)
        .output()
        .expect("curl is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failure = String::from_utf8_lossy(&output.stderr);
    let (body, last) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{arguments:?}: {failure}"));
    let (status, version) = last.split_once(' ').unwrap();
    assert!(output.status.success(), "{arguments:?}: {text} {failure}");
    (status.parse().unwrap(), version.to_owned(), body.to_owned())
}

/// Writes the frames of an HTTP/2 request without a body on a stream (RFC 9113 §6.2, RFC 7541 §6.2.2).
pub(crate) fn http2_get(stream: u8, path: &str, token: &str) -> Vec<u8> {
    let octet = |length: usize| u8::try_from(length).unwrap();
    // GET and http by their number in the static table; then :path, :authority and authorization by theirs, with a value.
    let mut fields = vec![0x82, 0x86, 0x04, octet(path.len())];
    fields.extend(path.bytes());
    fields.extend([0x01, 8]);
    fields.extend(b"api.test");
    let value = format!("Bearer {token}");
    fields.extend([0x0f, 0x08, octet(value.len())]);
    fields.extend(value.bytes());
    // END_STREAM and END_HEADERS.
    let mut frame = vec![0, 0, octet(fields.len()), 1, 5, 0, 0, 0, stream];
    frame.extend(fields);
    frame
}
