//! Listening Unix sockets that only their owner can connect to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

/// Makes a listening socket at `path` with mode 0600. A socket there that no process listens on any more is replaced.
///
/// # Errors
/// A process listens on the socket there (`AddrInUse`), the file there is not a socket (`AlreadyExists`), or the path
/// cannot be used.
pub(super) fn listen(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    match bind(path, backlog) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
            if !is_socket {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file there is not a socket"));
            }
            if !is_left_behind(path) {
                return Err(error);
            }
            fs::remove_file(path).and_then(|()| bind(path, backlog))
        }
        bound => bound,
    }
}

/// Binds a listening Unix socket that only the owner can connect to.
fn bind(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Set before `listen`, as nobody can connect until then. Both users of these sockets also authenticate their peers:
    // a take-over by `SO_PEERCRED`, the API by tokens.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Returns whether no process listens on the socket at `path` any more.
fn is_left_behind(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_serves_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let first = listen(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = listen(&path, 1).unwrap();
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert_eq!(listen(&path, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}
