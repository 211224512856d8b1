//! The bounds that follow what this process may have: worked out in one place at start, from the limit on open files.
//!
//! Where the limit is large enough, as it nearly always is, the bounds are those of [`bounds`](crate::bounds). Below that they
//! shrink together, so that none of them takes what another one was promised, and files can be read for a reload, the API and
//! the logs whatever clients do. Below what is of any use, there is no start.

use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::bounds::machine::Left;
use crate::bounds::{
    ADMIN_CONNECTIONS, CONTROL_CONNECTIONS, MAX_ACCEPT_RESERVE, MAX_ADMIN_CLOSING, MAX_APART, MAX_CONNECTIONS,
    MAX_UPSTREAM_PORTS as PORTS, MAX_UPSTREAM_SOCKETS as SOCKETS, MAX_UPSTREAM_STREAMS as STREAMS,
};
use crate::util::reserve;

/// Descriptors that any process has open: standard streams, polls, the watch of directories, signals, logs, what a shell left.
const ALWAYS: usize = 18;

/// Descriptors that are kept free for the files that a reload, a change by the API and a log that is opened again take.
const SPARE: usize = 14;

/// What a configuration needs descriptors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Listening sockets and their duplicates.
    pub(crate) listening: usize,
    /// Threads that answer queries over UDP.
    pub(crate) threads: usize,
    /// Upstreams.
    pub(crate) upstreams: usize,
    /// Whether there is an admin endpoint.
    pub(crate) has_admin: bool,
    /// Whether there is the API.
    pub(crate) has_control: bool,
}

/// The bounds of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// TCP connections of clients.
    pub(crate) connections: usize,
    /// Connections to the admin endpoint, those on their way out included.
    pub(crate) admin: usize,
    /// Connections to the API.
    pub(crate) control: usize,
    /// UDP sockets to upstreams of the general way.
    pub(crate) sockets: usize,
    /// Sockets of a thread to one upstream.
    pub(crate) ports: usize,
    /// Clients of a thread with a socket of their own.
    pub(crate) apart: usize,
    /// TCP connections to one upstream.
    pub(crate) streams: usize,
    /// Descriptors that are open only to be closed for a connection to the admin endpoint, and as many for the API.
    pub(crate) reserve: usize,
}

/// The limit on open files is too small to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "open files: the limit (RLIMIT_NOFILE) is {limit}, and at least {needed} are needed: {listening} for sockets that listen, \
     {threads} for threads, {ALWAYS} that are always open, {SPARE} to read files with, and {least} for clients, \
     upstreams and in reserve; raise `LimitNOFILE=` of the unit, `ulimit -n` or `--ulimit nofile=`"
)]
pub(crate) struct TooFew {
    /// The limit.
    limit: usize,
    /// What is needed.
    needed: usize,
    /// Of that, for listening sockets.
    listening: usize,
    /// Of that, for threads.
    threads: usize,
    /// Of that, for connections and upstreams.
    least: usize,
}

impl Capacity {
    /// The bounds where no limit is in the way.
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

    /// The least that is of any use.
    const LEAST: Self =
        Self { connections: 4, admin: 4, control: 8, sockets: 4, ports: 1, apart: 0, streams: 1, reserve: 2 };

    /// Shares out what `limit` open files leave to these needs.
    ///
    /// # Errors
    /// They leave less than the least.
    pub(crate) fn of(limit: usize, needs: Needs) -> Result<Self, TooFew> {
        let Needs { listening, threads, upstreams, has_admin, has_control } = needs;
        let lanes = threads * upstreams;
        let all = |bounds: Self| {
            [
                bounds.connections,
                if has_admin { bounds.admin } else { 0 },
                if has_control { bounds.control } else { 0 },
                bounds.sockets,
                bounds.ports * lanes,
                bounds.apart * threads,
                bounds.streams * upstreams,
                bounds.reserve * (usize::from(has_admin) + usize::from(has_control)),
            ]
        };
        let fixed = ALWAYS + SPARE + listening + threads;
        let (least, full): (usize, usize) = (all(Self::LEAST).iter().sum(), all(Self::FULL).iter().sum());
        let needed = fixed + least;
        if limit < needed {
            return Err(TooFew { limit, needed, listening, threads, least });
        }
        if limit - fixed >= full {
            return Ok(Self::FULL);
        }
        // A forger has to guess the port: these shrink last.
        let left = limit - needed;
        let ports = (left / 4).checked_div(lanes).map_or(PORTS, |each| Self::LEAST.ports + each).min(PORTS);
        let left = left - (ports - Self::LEAST.ports) * lanes;
        let rest = full - least - (PORTS - Self::LEAST.ports) * lanes;
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

    /// Opens the descriptors that any process has in reserve, before it opens anything else.
    pub(crate) fn reserve_first() {
        for reserve in [&reserve::ADMIN, &reserve::CONTROL] {
            reserve.resize(Self::LEAST.reserve);
        }
    }

    /// Puts these bounds into force, once and before anything is served.
    pub(crate) fn grant(self, needs: Needs) {
        for (reserve, is_needed) in [(&reserve::ADMIN, needs.has_admin), (&reserve::CONTROL, needs.has_control)] {
            reserve.resize(if is_needed { self.reserve } else { 0 });
        }
        // A second one in one process (tests) keeps the first.
        let _ = GRANTED.set(self);
    }
}

/// The bounds in force.
static GRANTED: OnceLock<Capacity> = OnceLock::new();

/// Returns the bounds in force: full ones where none were worked out.
pub(crate) fn granted() -> Capacity {
    GRANTED.get().copied().unwrap_or(Capacity::FULL)
}

/// The system gives fewer threads than are needed.
#[derive(Debug, thiserror::Error)]
#[error(
    "threads: {started} could be started, and {needed} are needed: {error}; raise `LimitNPROC=` and `TasksMax=` of the unit \
     (RLIMIT_NPROC, which counts all threads of the user, is {limit}) or `--pids-limit`, or set `threads` lower"
)]
pub(crate) struct TooFewThreads {
    /// Threads that started.
    started: usize,
    /// Threads that are needed.
    needed: usize,
    /// The limit of the user.
    limit: String,
    /// What the system says.
    error: std::io::Error,
}

/// Starts as many threads at once as serving needs, and ends them: it is better to find out now than in the middle, where
/// there may be nobody to tell.
///
/// # Errors
/// The system gives fewer.
pub(crate) fn try_threads(needed: usize) -> Result<(), TooFewThreads> {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let mut threads = Vec::new();
    let mut lacking = Ok(());
    for started in 0..needed {
        let held = std::sync::Arc::clone(&held);
        let wait = move || {
            // Until the sender is gone.
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
        // It does nothing that could panic.
        let _ = thread.join();
    }
    lacking
}

/// The memory of a control group is too little to serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "memory: {whose} is {} MiB, and at least {} MiB are needed; raise `MemoryMax=` of the unit or `--memory`",
    .limit >> 20,
    LEAST_MEMORY >> 20
)]
pub(crate) struct TooLittleMemory {
    /// The limit, in octets.
    limit: u64,
    /// Whose it is.
    whose: String,
}

/// Memory without which nothing is served, in octets: a process without policies and answers takes 13 MiB.
const LEAST_MEMORY: u64 = 32 << 20;

/// The part of a control group's memory that the cache may take.
const CACHE_PART: u64 = 4;

/// Returns the octets that the cache may take: as many as are wanted, or a quarter of what the control group may have.
///
/// # Errors
/// It may have too little to serve.
pub(crate) fn cache_within(wanted: usize, group: Option<&Left>) -> Result<usize, TooLittleMemory> {
    let Some(Left { limit, whose, .. }) = group else { return Ok(wanted) };
    if *limit < LEAST_MEMORY {
        return Err(TooLittleMemory { limit: *limit, whose: whose.clone() });
    }
    Ok(wanted.min(usize::try_from(limit / CACHE_PART).unwrap_or(usize::MAX)))
}

/// Raises the soft limit on open files to the hard one, as shells often begin with 1024; returns what it is then.
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

    /// What a usual configuration needs on two CPUs.
    const USUAL: Needs = Needs { listening: 4, threads: 2, upstreams: 2, has_admin: true, has_control: true };

    /// Returns what may be open at once.
    fn total(capacity: Capacity, needs: Needs) -> usize {
        let Capacity { connections, admin, control, sockets, ports, apart, streams, reserve } = capacity;
        let open = ALWAYS + SPARE + needs.listening + needs.threads + connections + sockets;
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
        let group = |mib: u64| Left {
            octets: 0,
            limit: mib << 20,
            whose: "the control group's memory.max".to_owned(),
            is_of_addresses: false,
        };
        assert_eq!(cache_within(64 << 20, None), Ok(64 << 20));
        assert_eq!(cache_within(64 << 20, Some(&group(1024))), Ok(64 << 20));
        assert_eq!(cache_within(64 << 20, Some(&group(128))), Ok(32 << 20));
        let told = cache_within(1 << 20, Some(&group(16))).unwrap_err().to_string();
        assert!(told.starts_with("memory: the control group's memory.max is 16 MiB, and at least 32 MiB"), "{told}");
    }

    #[test]
    fn limit_that_is_too_small_is_told_with_its_numbers() {
        let needs = Needs { listening: 4, threads: 2, upstreams: 1, has_admin: true, has_control: false };
        let told = Capacity::of(32, needs).unwrap_err().to_string();
        assert!(
            told.starts_with("open files: the limit (RLIMIT_NOFILE) is 32, and at least 55 are needed: 4 for"),
            "{told}"
        );
        assert!(Capacity::of(55, needs).is_ok());
    }
}
