//! Listening Unix sockets that only their owner can connect to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt as _, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::geteuid;
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
                return Err(something_else());
            }
            if !is_left_behind(path) {
                return Err(error);
            }
            fs::remove_file(path).and_then(|()| bind(path, backlog))
        }
        bound => bound,
    }
}

/// Makes the listening socket at `path` as [`listen`] does, if no other user can put another one in its place.
///
/// # Errors
/// The errors of [`listen`], and `PermissionDenied` for a directory that others can write to, or that is another user's.
pub(super) fn listen_private(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    require_private(path).and_then(|()| listen(path, backlog))
}

/// Returns the error that [`listen`] would give, as far as it can be seen, without making or removing anything.
pub(super) fn forecast(path: &Path) -> io::Result<()> {
    SockAddr::unix(path)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Err(something_else()),
        Ok(_) if is_left_behind(path) => {}
        Ok(_) => return Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
    Ok(access(parent(path), Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Returns the error that [`listen_private`] would give, as [`forecast`] does.
pub(super) fn forecast_private(path: &Path) -> io::Result<()> {
    forecast(path).and_then(|()| require_private(path))
}

/// Returns the directory of a path.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the error for a path at which there is no socket.
fn something_else() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "the file there is not a socket")
}

/// Refuses a path whose directory belongs to another user but root, or can be written to by everybody: a socket there
/// could be replaced by that of another user.
fn require_private(path: &Path) -> io::Result<()> {
    let directory = fs::metadata(parent(path))?;
    let (owner, mode) = (directory.uid(), directory.mode() & 0o7777);
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if owner != 0 && owner != geteuid().as_raw() {
        return refuse(format!("its directory belongs to user {owner}"));
    }
    if mode & 0o002 != 0 {
        return refuse(format!("everybody may write into its directory (mode {mode:o})"));
    }
    Ok(())
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
        assert_eq!(forecast(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        forecast(&path).unwrap();
        assert!(path.exists(), "it is only looked at");
        let second = listen(&path, 1).unwrap();
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        for refused in [listen(&path, 1).map(drop), forecast(&path)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        let long = directory.path().join("x".repeat(200));
        for refused in [listen(&long, 1).map(drop), forecast(&long)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let absent = directory.path().join("none/socket");
        for refused in [listen(&absent, 1).map(drop), forecast(&absent), forecast_private(&absent)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
    #[test]
    fn private_socket_needs_a_directory_that_others_cannot_write_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for (mode, is_private) in [(0o700, true), (0o755, true), (0o775, true), (0o777, false), (0o1777, false)] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let tried = [forecast_private(&path), listen_private(&path, 1).map(drop)];
            let _ = fs::remove_file(&path);
            for tried in tried {
                let kind = tried.err().map(|error| error.kind());
                assert_eq!(kind, (!is_private).then_some(io::ErrorKind::PermissionDenied), "{mode:o}");
            }
        }
    }
}
