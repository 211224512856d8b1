//! Bounds derived at start from `RLIMIT_NOFILE`, the limit on open files.
//!
//! If the limit is large enough, as it nearly always is, the bounds are the constants of [`bounds`](crate::bounds).
//! Below that they shrink in proportion, so that no part of the process takes descriptors promised to another, and a
//! reload, the API and the logs can open files whatever clients do. If the limit does not even allow
//! [`Capacity::LEAST`], the start fails with an error that says how many descriptors are needed.

use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::bounds::machine::MemoryLeft;
use crate::bounds::{
    ADMIN_CONNECTIONS, CONTROL_CONNECTIONS, MAX_ACCEPT_RESERVE, MAX_ADMIN_CLOSING, MAX_APART, MAX_CONNECTIONS,
    MAX_UPSTREAM_PORTS as PORTS, MAX_UPSTREAM_SOCKETS as SOCKETS, MAX_UPSTREAM_STREAMS as STREAMS,
};
use crate::util::reserve;

/// Descriptors that every process has open: standard streams, epoll instances, the inotify watch, signal pipes, logs,
/// and any inherited from a shell.
const ALWAYS_OPEN: usize = 18;

/// Descriptors kept free for files that a reload, a change by the API or a reopened log needs for a moment.
const FREE_FOR_FILES: usize = 14;

/// The parts of a configuration that need descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Listening sockets and their duplicates.
    pub(crate) listening: usize,
    /// Threads that answer queries over UDP.
    pub(crate) threads: usize,
    pub(crate) upstreams: usize,
    /// Whether the admin endpoint is on.
    pub(crate) has_admin: bool,
    /// Whether the API is on.
    pub(crate) has_control: bool,
}

/// The bounds in force in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// TCP connections of clients.
    pub(crate) connections: usize,
    /// Connections to the admin endpoint, including those being closed.
    pub(crate) admin: usize,
    /// Connections to the API.
    pub(crate) control: usize,
    /// UDP sockets to upstreams outside of the per-thread ones: for retries and where a question gets a socket of its
    /// own.
    pub(crate) sockets: usize,
    /// UDP sockets (ports) of one thread to one upstream.
    pub(crate) ports: usize,
    /// Clients of one thread that have an upstream socket of their own.
    pub(crate) apart: usize,
    /// TCP connections to one upstream.
    pub(crate) streams: usize,
    /// Descriptors reserved for connections to the admin endpoint, and as many for the API.
    pub(crate) reserve: usize,
}

/// The error of a limit on open files that is too small to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "open files: the limit (RLIMIT_NOFILE) is {limit}, and at least {needed} are needed: {listening} for sockets that listen, \
     {threads} for threads, {ALWAYS_OPEN} that are always open, {FREE_FOR_FILES} to read files with, and {least} for clients, \
     upstreams and in reserve; raise `LimitNOFILE=` of the unit, `ulimit -n` or `--ulimit nofile=`"
)]
pub(crate) struct TooFewDescriptors {
    /// The limit, in descriptors.
    limit: usize,
    /// Descriptors needed in all.
    needed: usize,
    /// The part of `needed` for listening sockets.
    listening: usize,
    /// The part of `needed` for threads.
    threads: usize,
    /// The part of `needed` for connections, upstreams and the reserves.
    least: usize,
}

impl Capacity {
    /// The bounds of a process whose limit on open files is large enough.
    pub(crate) const FULL: Self = Self {
        connections: MAX_CONNECTIONS,
        admin: ADMIN_CONNECTIONS + MAX_ADMIN_CLOSING,
        control: CONTROL_CONNECTIONS,
        sockets: SOCKETS,
        ports: PORTS,
        apart: MAX_APART,
        streams: STREAMS,
        reserve: MAX_ACCEPT_RESERVE,
    };

    /// The smallest bounds that a server can work with.
    const LEAST: Self =
        Self { connections: 4, admin: 4, control: 8, sockets: 4, ports: 1, apart: 0, streams: 1, reserve: 2 };

    /// Divides `limit` descriptors among the parts of a configuration.
    ///
    /// # Errors
    /// The limit does not allow the smallest bounds.
    pub(crate) fn of(limit: usize, needs: Needs) -> Result<Self, TooFewDescriptors> {
        let Needs { listening, threads, upstreams, has_admin, has_control } = needs;
        let thread_upstream_pairs = threads * upstreams;
        let all = |bounds: Self| {
            [
                bounds.connections,
                if has_admin { bounds.admin } else { 0 },
                if has_control { bounds.control } else { 0 },
                bounds.sockets,
                bounds.ports * thread_upstream_pairs,
                bounds.apart * threads,
                bounds.streams * upstreams,
                bounds.reserve * (usize::from(has_admin) + usize::from(has_control)),
            ]
        };
        let fixed = ALWAYS_OPEN + FREE_FOR_FILES + listening + threads;
        let (least, full): (usize, usize) = (all(Self::LEAST).iter().sum(), all(Self::FULL).iter().sum());
        let needed = fixed + least;
        if limit < needed {
            return Err(TooFewDescriptors { limit, needed, listening, threads, least });
        }
        if limit - fixed >= full {
            return Ok(Self::FULL);
        }
        // Ports shrink last, so they get the first quarter of what is left: a forger has to guess the port of a query
        // (RFC 5452 §4.5), so each port less makes forging easier.
        let left = limit - needed;
        let ports =
            (left / 4).checked_div(thread_upstream_pairs).map_or(PORTS, |each| Self::LEAST.ports + each).min(PORTS);
        let left = left - (ports - Self::LEAST.ports) * thread_upstream_pairs;
        let rest = full - least - (PORTS - Self::LEAST.ports) * thread_upstream_pairs;
        // Each bound gets the same fraction of the way from its least to its full value.
        let share = |least: usize, full: usize| (least + (full - least) * left / rest.max(1)).min(full);
        Ok(Self {
            connections: share(Self::LEAST.connections, Self::FULL.connections),
            admin: share(Self::LEAST.admin, Self::FULL.admin),
            control: share(Self::LEAST.control, Self::FULL.control),
            sockets: share(Self::LEAST.sockets, Self::FULL.sockets),
            ports,
            apart: share(Self::LEAST.apart, Self::FULL.apart),
            streams: share(Self::LEAST.streams, Self::FULL.streams),
            reserve: share(Self::LEAST.reserve, Self::FULL.reserve),
        })
    }

    /// Opens the smallest reserves of descriptors, for both endpoints, as it is not known yet which of them are on. To
    /// be called before anything else is opened: see [`reserve`].
    pub(crate) fn reserve_first() {
        for reserve in [&reserve::ADMIN, &reserve::CONTROL] {
            reserve.resize(Self::LEAST.reserve);
        }
    }

    /// Puts these bounds into force. To be called once, before anything is served.
    pub(crate) fn grant(self, needs: Needs) {
        for (reserve, is_needed) in [(&reserve::ADMIN, needs.has_admin), (&reserve::CONTROL, needs.has_control)] {
            reserve.resize(if is_needed { self.reserve } else { 0 });
        }
        // Fails in tests that start several servers in one process: the bounds of the first one stay.
        let _ = GRANTED.set(self);
    }
}

static GRANTED: OnceLock<Capacity> = OnceLock::new();

/// Returns the bounds in force, or the full ones if none have been set.
pub(crate) fn granted() -> Capacity {
    GRANTED.get().copied().unwrap_or(Capacity::FULL)
}

/// The error of a system that starts fewer threads than serving needs.
#[derive(Debug, thiserror::Error)]
#[error(
    "threads: {started} could be started, and {needed} are needed: {error}; raise `LimitNPROC=` and `TasksMax=` of the unit \
     (RLIMIT_NPROC, which counts all threads of the user, is {limit}) or `--pids-limit`, or set `threads` lower"
)]
pub(crate) struct TooFewThreads {
    started: usize,
    needed: usize,
    /// The limit on threads of the user (`RLIMIT_NPROC`), or `unlimited`.
    limit: String,
    error: std::io::Error,
}

/// Starts as many threads as serving needs, all at once, and ends them again. A lack of threads is thus an error of the
/// start, not a failure in the middle of serving, where it may go unnoticed.
///
/// # Errors
/// The system starts fewer.
pub(crate) fn try_threads(needed: usize) -> Result<(), TooFewThreads> {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let mut threads = Vec::new();
    let mut lacking = Ok(());
    for started in 0..needed {
        let held = std::sync::Arc::clone(&held);
        let wait = move || {
            // `recv` returns once the sender is dropped.
            let _ = held.lock().map(|held| held.recv());
        };
        match std::thread::Builder::new().name("trial".into()).spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                let limit =
                    getrlimit(Resource::Nproc).current.map_or("unlimited".to_owned(), |limit| limit.to_string());
                lacking = Err(TooFewThreads { started, needed, limit, error });
                break;
            }
        }
    }
    drop(hold);
    for thread in threads {
        // The thread runs nothing that could panic.
        let _ = thread.join();
    }
    lacking
}

/// The error for a control group whose memory limit is too small to serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "memory: {limited_by} is {} MiB, and at least {} MiB are needed; raise `MemoryMax=` of the unit or `--memory`",
    .limit >> 20,
    LEAST_MEMORY >> 20
)]
pub(crate) struct TooLittleMemory {
    /// The limit, in octets.
    limit: u64,
    /// The name of the limit, for the message.
    limited_by: String,
}

/// The least memory to serve with, in octets. A process without policies and cached answers takes 13 MiB.
const LEAST_MEMORY: u64 = 32 << 20;

/// The divisor that gives the cache's share of a control group's memory.
const CACHE_PART: u64 = 4;

/// Returns the size of the cache in octets: `wanted`, or a quarter of the control group's memory limit if that is less.
///
/// # Errors
/// The limit is too small to serve.
pub(crate) fn cache_within(wanted: usize, group: Option<&MemoryLeft>) -> Result<usize, TooLittleMemory> {
    let Some(MemoryLeft { limit, limited_by, .. }) = group else { return Ok(wanted) };
    if *limit < LEAST_MEMORY {
        return Err(TooLittleMemory { limit: *limit, limited_by: limited_by.clone() });
    }
    Ok(wanted.min(usize::try_from(limit / CACHE_PART).unwrap_or(usize::MAX)))
}

/// Raises the soft limit on open files to the hard one, as shells often start with 1024. Returns the limit in force
/// afterwards.
pub(crate) fn raise_open_files() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    if let Err(error) = &raised {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
    let current = if raised.is_ok() { limit.current } else { before };
    current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The needs of a usual configuration on two CPUs.
    const USUAL: Needs = Needs { listening: 4, threads: 2, upstreams: 2, has_admin: true, has_control: true };

    /// Returns the number of descriptors that can be open at once.
    fn total(capacity: Capacity, needs: Needs) -> usize {
        let Capacity { connections, admin, control, sockets, ports, apart, streams, reserve } = capacity;
        let open = ALWAYS_OPEN + FREE_FOR_FILES + needs.listening + needs.threads + connections + sockets;
        let open = open + reserve * (usize::from(needs.has_admin) + usize::from(needs.has_control));
        let open = open + (ports * needs.upstreams + apart) * needs.threads + streams * needs.upstreams;
        open + if needs.has_admin { admin } else { 0 } + if needs.has_control { control } else { 0 }
    }

    #[test]
    fn bounds_never_add_up_to_more_than_the_limit_and_grow_with_it() {
        let needs = [
            USUAL,
            Needs { has_admin: false, has_control: false, ..USUAL },
            Needs { listening: 1200, threads: 64, upstreams: 49, ..USUAL },
            Needs { listening: 2, threads: 1, upstreams: 0, has_admin: true, has_control: false },
        ];
        for needs in needs {
            let mut before = None;
            for limit in (0..8192).step_by(7).chain([20_000, 1 << 20, usize::MAX]) {
                match (Capacity::of(limit, needs), before) {
                    (Ok(capacity), _) => {
                        assert!(total(capacity, needs) <= limit, "{limit}: {needs:?}: {capacity:?}");
                        let least = before.map_or(0, |before: Capacity| before.connections);
                        assert!(capacity.connections >= least, "{limit}: {capacity:?} after {before:?}");
                        before = Some(capacity);
                    }
                    (Err(too_few), None) => assert!(too_few.needed > limit, "{limit}: {too_few}"),
                    (Err(too_few), Some(_)) => panic!("{limit}: {too_few}"),
                }
            }
            assert_eq!(before, Some(Capacity::FULL));
        }
    }

    #[test]
    fn cache_takes_a_quarter_of_a_control_group_at_most() {
        let group = |mib: u64| MemoryLeft {
            octets: 0,
            limit: mib << 20,
            limited_by: "the control group's memory.max".to_owned(),
            is_of_addresses: false,
        };
        assert_eq!(cache_within(64 << 20, None), Ok(64 << 20));
        assert_eq!(cache_within(64 << 20, Some(&group(1024))), Ok(64 << 20));
        assert_eq!(cache_within(64 << 20, Some(&group(128))), Ok(32 << 20));
        let message = cache_within(1 << 20, Some(&group(16))).unwrap_err().to_string();
        assert!(
            message.starts_with("memory: the control group's memory.max is 16 MiB, and at least 32 MiB"),
            "{message}"
        );
    }

    #[test]
    fn error_of_too_small_a_limit_names_what_is_needed() {
        let needs = Needs { listening: 4, threads: 2, upstreams: 1, has_admin: true, has_control: false };
        let message = Capacity::of(32, needs).unwrap_err().to_string();
        assert!(
            message.starts_with("open files: the limit (RLIMIT_NOFILE) is 32, and at least 55 are needed: 4 for"),
            "{message}"
        );
        assert!(Capacity::of(55, needs).is_ok());
    }
}
