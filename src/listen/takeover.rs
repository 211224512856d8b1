//! Taking over from a running hostgate without losing a query.
//!
//! The one that runs offers its listening sockets on a Unix socket ([`Offer`]). A successor that has read everything and
//! found it good asks for them ([`ask`]) and gets the very same sockets (`SCM_RIGHTS`, unix(7)): both read the same
//! queues, so whatever waits in one is answered by the one or the other, which sockets that only share a port
//! (`SO_REUSEPORT`) cannot give. Once it serves it says so ([`Takeover::serving`]), and only then the old one stops, as
//! on SIGTERM. A successor that fails before that changes nothing.
//!
//! The offer itself is among what is passed, so its path never leads to nobody. Both sides look at who the other is
//! (`SO_PEERCRED`): the same user, or root. A path that cannot be had, or is taken away, keeps nobody from being answered: it is
//! looked at, and tried again, each second.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt::socket_peercred,
};
use rustix::process::geteuid;

use super::Event;
use super::missing_sockets::{self, Lacking, Purpose};
use super::sockets::Sockets;
use super::unix;
use crate::bounds::{MAX_PASSED, MAX_SERVED};
use crate::reload::{ReloadStatus, ServedTexts};
use crate::util::lock;

/// The first octet of a request: both sides must speak the same protocol.
const PROTOCOL: u8 = 1;
/// The octet by which the successor says that it serves.
const SERVING: u8 = b'S';
/// The octet by which a successor first asks for the hashes of the texts in force.
const QUESTION: u8 = 2;
/// The octets after descriptors: more follow, or none do.
const MORE: [u8; 2] = [b'M', b'.'];
/// The number of descriptors in one message; the kernel's limit is 253 (`SCM_MAX_FD`).
const FDS_A_MESSAGE: usize = 128;
/// The time for which either side waits for the other's next message. A successor that is silent for longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The part of [`PATIENCE`] in which a closed conversation may mean that the other side has given up.
const GIVEN_UP_MARGIN: Duration = Duration::from_secs(1);
/// The number of successors that may wait for their turn; there is rarely more than one.
const BACKLOG: i32 = 4;

/// The reason why a take-over is not possible. The running hostgate continues.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    /// The Unix socket is not available.
    #[error("takeover {path}: {error}{mend}", path = path.display(), mend = mend(error))]
    Path {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A process of another user listens there.
    #[error(
        "takeover {path}: user {uid} serves there, not the user of this process nor root: run both as the same user",
        path = path.display()
    )]
    Stranger {
        /// The path of the socket.
        path: PathBuf,
        /// The other user.
        uid: u32,
    },
    /// The process that listens there does not answer.
    #[error(
        "takeover {path}: {who} there did not answer within {seconds} s: it hangs, or is stopped (look at it; end it with `{kill}`, \
         then start without --takeover)",
        path = path.display(),
        seconds = PATIENCE.as_secs(),
        who = pid.map_or_else(|| "the process".to_owned(), |pid| format!("process {pid}")),
        kill = pid.map_or_else(|| "kill -9 PID".to_owned(), |pid| format!("kill -9 {pid}")),
    )]
    Silent {
        /// The path of the socket.
        path: PathBuf,
        /// The process, if it is in the PID namespace of this one.
        pid: Option<i32>,
    },
    /// The successor would put older texts into force than the one that runs serves.
    #[error(
        "takeover {path}: {what} (it serves on; mend the files on disk, which `hostgate check` shows, then take over; or stop \
         it, and start without --takeover)",
        path = path.display()
    )]
    Older {
        /// The path of the socket.
        path: PathBuf,
        /// The text that would be older.
        what: String,
    },
    /// The running hostgate did not hand over its sockets.
    #[error("takeover {path}: {error} (the running hostgate did not hand over; its log says more)", path = path.display())]
    Refused {
        /// The path of the socket.
        path: PathBuf,
        /// The error in place of the sockets.
        error: io::Error,
    },
}

/// Returns the advice for a path that cannot be used.
fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (a hostgate serves there: take over from it with `hostgate serve --takeover`, or set another `takeover`)"
        }
        io::ErrorKind::NotFound => " (make its directory, writable for the user hostgate runs as)",
        io::ErrorKind::AlreadyExists => " (move it away, or set another `takeover`)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (its directory has to belong to the user hostgate runs as, and others must not write to it; a unit has one with \
             `RuntimeDirectory=hostgate`)"
        }
        io::ErrorKind::InvalidInput => " (a Unix socket's path has 107 octets at most: set a shorter one)",
        _ => "",
    }
}

/// The predecessor of this process after it gave its sockets: the means to tell it that this process serves.
pub(crate) struct Predecessor {
    /// The connection to it.
    stream: UnixStream,
    /// The socket of its offer, which this process continues.
    listener: UnixListener,
    /// The time at which the sockets came.
    since: Instant,
}

/// Finds the first text that is older than those with these hashes.
pub(crate) type FindOlder<'f> = &'f dyn Fn(&ServedTexts) -> Option<String>;

/// Asks the hostgate that offers its sockets at `path` for them; none when nobody is there. With `find_older`, it is
/// asked first what it serves.
///
/// # Errors
/// Somebody is there and does not hand over, or serves newer texts.
pub(crate) fn ask(
    path: &Path,
    find_older: Option<FindOlder<'_>>,
) -> Result<Option<(Predecessor, Vec<OwnedFd>)>, TakeoverError> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // Never started, or ended without taking the socket away.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(TakeoverError::Path { path: path.to_owned(), error }),
    };
    let refused = |error| TakeoverError::Refused { path: path.to_owned(), error };
    if let Some(uid) = stranger(&stream).map_err(refused)? {
        return Err(TakeoverError::Stranger { path: path.to_owned(), uid });
    }
    let ended = || {
        tracing::warn!(path = %path.display(), "the predecessor ended while it was asked; starting without it");
        Ok(None)
    };
    if let Some(what) = find_older.and_then(|find_older| older_text(&stream, find_older)) {
        return if is_abandoned(path) { ended() } else { Err(TakeoverError::Older { path: path.to_owned(), what }) };
    }
    let requested = request(&stream);
    let has_closed = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
        )
    };
    if requested.as_ref().is_err_and(has_closed) && is_abandoned(path) {
        return ended();
    }
    let (listener, sockets) = requested.map_err(|error| match error.kind() {
        // What a socket whose time is over says (socket(7), SO_RCVTIMEO).
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            TakeoverError::Silent { path: path.to_owned(), pid: pid(&stream) }
        }
        _ => refused(error),
    })?;
    Ok(Some((Predecessor { stream, listener: listener.into(), since: Instant::now() }, sockets)))
}

/// Returns whether no process listens at `path` any more. A process that ends closes its descriptors one after the other,
/// so the path is tried three times.
fn is_abandoned(path: &Path) -> bool {
    const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];
    PAUSES.into_iter().any(|pause| {
        thread::park_timeout(pause);
        let is_gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        UnixStream::connect(path).is_err_and(|error| is_gone.contains(&error.kind()))
    })
}

/// Asks what the predecessor serves. Returns why its successor would serve something older, or cannot know that.
fn older_text(stream: &UnixStream, find_older: FindOlder<'_>) -> Option<String> {
    match question(stream) {
        Ok(served) => find_older(&served).map(|what| {
            format!("this start has a text of {what} that is older than the one that the running hostgate serves")
        }),
        Err(error) => Some(format!(
            "this start begins with the last good state, and the running hostgate does not say what it serves: {error}"
        )),
    }
}

/// Asks for the hashes of the texts in force.
fn question(mut stream: &UnixStream) -> io::Result<ServedTexts> {
    set_patience(stream)?;
    stream.write_all(&[QUESTION])?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_SERVED {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
    }
    let mut octets = Vec::new();
    stream.take(length.into()).read_to_end(&mut octets)?;
    Ok(serde_json::from_slice(&octets)?)
}

/// Answers the question for the hashes of the texts in force.
fn answer(mut stream: &UnixStream, served: &ServedTexts) -> io::Result<()> {
    let octets = serde_json::to_vec(served)?;
    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&octets)
}

/// Asks for the descriptors; returns the offer and the others.
fn request(mut stream: &UnixStream) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    set_patience(stream)?;
    stream.write_all(&[PROTOCOL])?;
    let mut fds = receive(stream)?;
    if fds.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no socket came"));
    }
    let listener = fds.remove(0);
    Ok((listener, fds))
}

/// The take-over from a predecessor and the offer to a successor, prepared before this process serves.
pub(crate) struct Takeover {
    /// The connection to the predecessor, if there is one, and the time at which its sockets came.
    stream: Option<(UnixStream, Instant)>,
    /// The socket of the offer, or the error in its place.
    listener: Result<UnixListener, TakeoverError>,
    /// The path of the offer.
    path: PathBuf,
    /// The sockets to offer.
    offered: Offered,
}

impl Takeover {
    /// Makes the offer of `sockets` ready at `path`, or goes on with the predecessor's.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn prepare(
        path: &Path,
        predecessor: Option<Predecessor>,
        sockets: &Sockets,
    ) -> Result<Self, TakeoverError> {
        let (stream, listener) = match predecessor {
            Some(Predecessor { stream, listener, since }) => (Some((stream, since)), Ok(listener)),
            None => (None, Offer::bind(path)),
        };
        let sockets = sockets.duplicates();
        let sockets = sockets.map_err(|error| TakeoverError::Path { path: path.to_owned(), error })?;
        Ok(Self { stream, listener, path: path.to_owned(), offered: Offered::new(sockets) })
    }

    /// Returns where it is offered.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is to be offered, for sockets that come later.
    pub(crate) fn offered(&self) -> Offered {
        self.offered.clone()
    }

    /// Tells the predecessor that this process serves, so that it answers what it has and ends, and offers the sockets
    /// to a successor. `events` hear of the successor that serves, or that the predecessor serves on; `lacking` is told while
    /// nobody can ask for them; `status` knows the texts in force.
    ///
    /// # Errors
    /// The system gives no thread or no descriptors.
    pub(crate) fn serving(
        self,
        events: SyncSender<Event>,
        (lacking, status): (Arc<Lacking>, Arc<ReloadStatus>),
    ) -> io::Result<Offer> {
        let Self { stream, listener, path, offered } = self;
        let at = path.clone();
        let begin = move |events: &SyncSender<Event>| {
            let Some((stream, since)) = stream else { return true };
            match replace(&stream, since) {
                Ok(()) => {
                    tracing::info!(path = %at.display(), "taken over");
                    true
                }
                // Both would serve the same sockets, with policies that may differ.
                Err(error) => {
                    let what = format!("takeover {}: the predecessor serves on: {error}", at.display());
                    // Nobody hears when the process stops by itself just now.
                    let _ = events.send(Event::NotTakenOver(io::Error::new(error.kind(), what)));
                    false
                }
            }
        };
        let served = move || status.served();
        Offer::start(listener, &path, (offered, served), begin, (events, lacking))
    }
}

/// Tells the predecessor that this process serves, and waits until it has heard that: then it closes the conversation.
///
/// # Errors
/// The predecessor has given up waiting, and continues. `since` is the time at which the sockets came.
fn replace(mut stream: &UnixStream, since: Instant) -> io::Result<()> {
    set_patience(stream)?;
    let answer = stream.write_all(&[SERVING]).and_then(|()| stream.read(&mut [0]));
    match answer {
        // Closed before it had read the word. It waits for some time, so before that it has ended or is about to.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            if since.elapsed() + GIVEN_UP_MARGIN >= PATIENCE {
                return Err(error);
            }
            tracing::warn!("the predecessor ended while it handed over");
            Ok(())
        }
        Ok(_) => Ok(()),
        // It hangs, and finds the word when it goes on.
        Err(error) => {
            tracing::warn!(%error, "the predecessor does not say that it ends");
            Ok(())
        }
    }
}

/// The offer of the sockets to a successor.
pub(crate) struct Offer {
    /// The sockets, shared with the thread that gives them.
    offered: Offered,
    /// The path at which successors ask.
    path: PathBuf,
}

impl Offer {
    /// Makes the Unix socket at `path`, for the owner alone; one that nobody serves any more is replaced.
    ///
    /// # Errors
    /// Somebody serves there, or the path cannot be used.
    fn bind(path: &Path) -> Result<UnixListener, TakeoverError> {
        unix::listen_private(path, BACKLOG).map_err(|error| TakeoverError::Path { path: path.to_owned(), error })
    }

    /// Offers what is `offered`, and `listener` itself, on a thread of their own, unless `begin` says on it that there is
    /// nothing to offer; `events` hear of it when a successor serves, and `lacking` while nobody can ask.
    ///
    /// # Errors
    /// The system gives no thread or no descriptors.
    fn start(
        listener: Result<UnixListener, TakeoverError>,
        path: &Path,
        (offered, served): (Offered, impl Fn() -> ServedTexts + Send + 'static),
        begin: impl FnOnce(&SyncSender<Event>) -> bool + Send + 'static,
        (events, lacking): (SyncSender<Event>, Arc<Lacking>),
    ) -> io::Result<Self> {
        let listener = match listener {
            Ok(listener) => Some(Asked::at(path, listener)?),
            Err(error) => {
                lacking.note(Purpose::Takeover, Some(path), &error.to_string());
                None
            }
        };
        let (given, at) = (offered.clone(), path.to_owned());
        let serve = move || {
            if !begin(&events) {
                return;
            }
            let mut asked = listener;
            loop {
                match Asked::look(asked, &at, &given, &lacking) {
                    Look::Ended => return,
                    Look::Wait(listener) => asked = listener,
                    Look::Came(stream, listener) => {
                        match hand_over(&stream, &listener, &given, &served) {
                            // Whoever asks now is the successor's, who has the same listener.
                            Ok(()) => {
                                // Nobody hears when the process stops by itself just now.
                                let _ = events.send(Event::TakenOver);
                                return;
                            }
                            Err(error) => tracing::warn!(%error, "not taken over; serving on"),
                        }
                        asked = Some(listener);
                    }
                }
            }
        };
        // Never joined: it looks each second until the process ends.
        thread::Builder::new().name("takeover".into()).spawn(serve)?;
        Ok(Self { offered, path: path.to_owned() })
    }

    /// Gives nothing any more; takes the path away, unless a successor has it.
    pub(crate) fn end(self) {
        let mut given = self.offered.lock();
        given.fds.clear();
        given.has_ended = true;
        if !given.is_taken {
            // Should it be gone already, that is as well.
            let _ = fs::remove_file(self.path);
        }
    }
}

/// The Unix socket at which successors ask.
struct Asked {
    /// The socket.
    listener: UnixListener,
    /// The device and inode of its path, so that it shows when the path leads elsewhere.
    place: Option<(u64, u64)>,
}

/// The result of waiting for a successor for a second.
enum Look {
    /// No successor asked; there may be no socket.
    Wait(Option<Asked>),
    /// A successor asks.
    Came(UnixStream, Asked),
    /// The process stops.
    Ended,
}

impl Asked {
    /// Begins to listen at `path`.
    ///
    /// # Errors
    /// No descriptors are left.
    fn at(path: &Path, listener: UnixListener) -> io::Result<Self> {
        // Whoever connects may be gone before it is accepted.
        listener.set_nonblocking(true)?;
        Ok(Self { listener, place: place_of(path) })
    }

    /// Waits for somebody for a second. A socket that nobody finds at `path` any more is made anew.
    fn look(asked: Option<Self>, path: &Path, offered: &Offered, lacking: &Lacking) -> Look {
        let found = asked.filter(|asked| asked.place.is_some() && asked.place == place_of(path));
        let Some(asked) = found.or_else(|| Self::again(path, offered, lacking)) else {
            if offered.lock().has_ended {
                return Look::Ended;
            }
            thread::park_timeout(missing_sockets::AGAIN);
            return Look::Wait(None);
        };
        lacking.end(Purpose::Takeover);
        let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
        // A signal ends the wait before its time, which does no harm.
        let _ = poll(&mut [PollFd::new(&asked.listener, PollFlags::IN)], Some(&wait));
        match asked.listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(false).is_ok() => Look::Came(stream, asked),
            Ok(_) => Look::Wait(Some(asked)),
            Err(error) => {
                // Without descriptors, say; it must not spin.
                if error.kind() != io::ErrorKind::WouldBlock {
                    thread::park_timeout(missing_sockets::AGAIN);
                }
                Look::Wait(Some(asked))
            }
        }
    }

    /// Makes the socket anew, unless the process stops.
    fn again(path: &Path, offered: &Offered, lacking: &Lacking) -> Option<Self> {
        if offered.lock().has_ended {
            return None;
        }
        let bound = Offer::bind(path).and_then(|listener| {
            Self::at(path, listener).map_err(|error| TakeoverError::Path { path: path.to_owned(), error })
        });
        match bound {
            Ok(asked) => {
                if offered.lock().has_ended {
                    let _ = fs::remove_file(path);
                    return None;
                }
                Some(asked)
            }
            Err(error) => {
                lacking.note(Purpose::Takeover, Some(path), &error.to_string());
                None
            }
        }
    }
}

/// Returns the device and the inode of a path.
fn place_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The offered sockets, shared by the threads that add, give and withdraw them.
#[derive(Clone)]
pub(crate) struct Offered(Arc<Mutex<Given>>);

/// The sockets of an offer and its state.
struct Given {
    /// A duplicate of each listening socket. Emptied when the process stops, so that a socket closes with its reader.
    fds: Vec<OwnedFd>,
    /// True if a successor serves.
    is_taken: bool,
    /// True if the process stops.
    has_ended: bool,
}

impl Offered {
    /// Begins with some sockets.
    fn new(fds: Vec<OwnedFd>) -> Self {
        Self(Arc::new(Mutex::new(Given { fds, is_taken: false, has_ended: false })))
    }

    /// Adds a socket that came later.
    pub(crate) fn add(&self, fd: OwnedFd) {
        let mut given = self.lock();
        if !given.has_ended {
            given.fds.push(fd);
        }
    }

    /// Takes the lock.
    fn lock(&self) -> MutexGuard<'_, Given> {
        lock(&self.0)
    }
}

/// Hands everything to a successor; returns once it serves.
fn hand_over(
    mut stream: &UnixStream,
    asked: &Asked,
    offered: &Offered,
    served: impl Fn() -> ServedTexts,
) -> io::Result<()> {
    set_patience(stream)?;
    if let Some(uid) = stranger(stream)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} asked for the sockets")));
    }
    let mut word = [0];
    stream.read_exact(&mut word)?;
    if word == [QUESTION] {
        answer(stream, &served())?;
        stream.read_exact(&mut word)?;
    }
    if word != [PROTOCOL] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the successor is of another version"));
    }
    {
        let given = offered.lock();
        if given.has_ended {
            return Err(io::Error::other("stopping already"));
        }
        let all: Vec<_> = [asked.listener.as_fd()].into_iter().chain(given.fds.iter().map(AsFd::as_fd)).collect();
        send(stream, &all)?;
    }
    stream.read_exact(&mut word)?;
    if word != [SERVING] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no word of serving"));
    }
    offered.lock().is_taken = true;
    Ok(())
}

/// Returns the other side's user, if that is neither ours nor root.
fn stranger(stream: &UnixStream) -> io::Result<Option<u32>> {
    let uid = socket_peercred(stream)?.uid;
    Ok((uid != geteuid() && !uid.is_root()).then(|| uid.as_raw()))
}

/// Returns whether a hostgate of this user or of root seems to listen at `path`, as far as that can be told without asking
/// it.
pub(crate) fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok_and(|stream| stranger(&stream).is_ok_and(|stranger| stranger.is_none()))
}

/// Returns the number of the process that listens at the other side.
fn pid(stream: &UnixStream) -> Option<i32> {
    socket_peercred(stream).ok().map(|found| found.pid.as_raw_nonzero().get()).filter(|pid| *pid > 0)
}

/// Bounds how long a word of the other side may take.
fn set_patience(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Sends descriptors, in as many messages as they take.
fn send(stream: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut chunks = fds.chunks(FDS_A_MESSAGE).peekable();
    while let Some(chunk) = chunks.next() {
        let word = MORE[usize::from(chunks.peek().is_none())];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_A_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(chunk)) {
            return Err(io::Error::other("no room for the descriptors"));
        }
        sendmsg(stream, &[IoSlice::new(&[word])], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Receives descriptors until the other side says that it is all; [`MAX_PASSED`] at most.
fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    loop {
        let mut word = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_A_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(stream, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = part {
                fds.extend(passed);
            }
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if fds.len() > MAX_PASSED || !MORE.contains(&word[0]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not what a hostgate sends"));
        }
        if word[0] == MORE[1] {
            return Ok(fds);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    /// Binds an offer of `count` UDP sockets in a new directory.
    fn offer(count: usize) -> (tempfile::TempDir, PathBuf, Offer, Receiver<Event>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("takeover");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets = (0..count).map(|_| socket.try_clone().unwrap().into()).collect();
        let (events, heard) = sync_channel(1);
        let offered = Offered::new(sockets);
        let offer = Offer::start(
            Offer::bind(&path),
            &path,
            (offered, ServedTexts::default),
            |_| true,
            (events, Arc::default()),
        )
        .unwrap();
        (directory, path, offer, heard)
    }

    /// Says that the successor serves; returns the offer it goes on with.
    fn leave(mut predecessor: Predecessor) -> UnixListener {
        predecessor.stream.write_all(&[SERVING]).unwrap();
        predecessor.listener
    }

    #[test]
    fn many_sockets_are_passed_and_the_offer_with_them() {
        let (_directory, path, offer, heard) = offer(FDS_A_MESSAGE * 2 + 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (predecessor, sockets) = ask(&path, None).unwrap().unwrap();
        assert_eq!(sockets.len(), FDS_A_MESSAGE * 2 + 1);
        let listener = leave(predecessor);
        assert!(matches!(heard.recv(), Ok(Event::TakenOver)));
        offer.end();
        // The next one asks at the same path and is heard by the successor.
        let told = (sync_channel(1).0, Arc::default());
        let second =
            Offer::start(Ok(listener), &path, (Offered::new(sockets), ServedTexts::default), |_| true, told).unwrap();
        let (_predecessor, sockets) = ask(&path, None).unwrap().unwrap();
        assert_eq!(sockets.len(), FDS_A_MESSAGE * 2 + 1);
        second.end();
    }

    #[test]
    fn successor_that_fails_changes_nothing() {
        let (_directory, path, _offer, heard) = offer(1);
        for _ in 0..3 {
            drop(ask(&path, None).unwrap().unwrap());
        }
        heard.try_recv().unwrap_err();
        let (predecessor, _) = ask(&path, None).unwrap().unwrap();
        leave(predecessor);
        assert!(matches!(heard.recv(), Ok(Event::TakenOver)));
    }

    #[test]
    fn predecessor_that_gave_up_is_told_from_one_that_ends() {
        let pair = || UnixStream::pair().unwrap();
        let long_ago = Instant::now().checked_sub(PATIENCE).unwrap();
        for (since, has_given_up) in [(long_ago, true), (Instant::now(), false)] {
            let (ours, theirs) = pair();
            drop(theirs);
            assert_eq!(replace(&ours, since).is_err(), has_given_up);
        }
        // It gives up after the word was sent, and does not read it.
        let (ours, theirs) = pair();
        let replaced = thread::spawn(move || replace(&ours, long_ago));
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        recvmsg(&theirs, &mut [IoSliceMut::new(&mut [0])], &mut RecvAncillaryBuffer::default(), RecvFlags::PEEK)
            .unwrap();
        drop(theirs);
        replaced.join().unwrap().unwrap_err();
        let (ours, mut theirs) = pair();
        thread::scope(|scope| {
            scope.spawn(move || theirs.read_exact(&mut [0]).unwrap());
            replace(&ours, long_ago).unwrap();
        });
    }

    #[test]
    fn predecessor_that_dies_while_it_is_asked_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("takeover");
        for lives_on in [false, true] {
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let dying = thread::spawn(move || {
                // What it was sent is not read, as by a process that is killed.
                let (stream, _) = listener.accept().unwrap();
                drop(stream);
                lives_on.then_some(listener)
            });
            let asked = ask(&path, None);
            match asked {
                Ok(None) => assert!(!lives_on),
                Err(TakeoverError::Refused { .. }) => assert!(lives_on),
                Ok(Some(_)) => panic!("it has no sockets"),
                Err(other) => panic!("{other}"),
            }
            drop(dying.join().unwrap());
        }
    }

    #[test]
    fn socket_left_behind_is_replaced_and_a_served_one_is_not() {
        let (_directory, path, offer, _heard) = offer(1);
        let told = Offer::bind(&path).unwrap_err().to_string();
        assert!(told.contains("a hostgate serves there"), "{told}");
        offer.end();
        assert!(ask(&path, None).unwrap().is_none(), "a path without a socket is nobody");
        drop(Offer::bind(&path).unwrap());
        assert!(path.exists() && ask(&path, None).unwrap().is_none(), "a socket without a listener is nobody");
        Offer::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        Offer::bind(&path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"a file", "what is no socket stays");
    }

    #[test]
    fn successor_with_older_texts_gets_no_socket() {
        let (_directory, path, _offer, heard) = offer(1);
        let is_older = |served: &ServedTexts| (*served == ServedTexts::default()).then(|| "a.toml".to_owned());
        let told = ask(&path, Some(&is_older)).err().unwrap().to_string();
        assert!(told.contains("a text of a.toml that is older"), "{told}");
        heard.try_recv().unwrap_err();
        let (predecessor, sockets) = ask(&path, Some(&|_| None)).unwrap().unwrap();
        assert_eq!(sockets.len(), 1);
        leave(predecessor);
        assert!(matches!(heard.recv(), Ok(Event::TakenOver)));
    }

    #[test]
    fn word_of_another_protocol_gets_no_socket() {
        let (_directory, path, _offer, heard) = offer(1);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&[PROTOCOL + 2]).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        heard.try_recv().unwrap_err();
    }
}
