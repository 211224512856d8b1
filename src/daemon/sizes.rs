//! The sizing of a serving process: the threads, descriptors and memory that it may use under the limits of the system.

use std::path::Path;
use std::thread::available_parallelism;

use crate::bounds::capacity::{self, Capacity, Needs};
use crate::bounds::machine::{MemoryLeft, group_limit};
use crate::config::{self, Config};
use crate::listen::sockets::Threads;

/// Threads in addition to those for queries and those of the runtime: for reloads, a take-over, the decision log, and
/// blocking calls of the runtime.
const OTHER_THREADS: usize = 8;

/// The nameservers to allow for in a resolv.conf (`MAXNS` of resolv.conf(5)).
const SYSTEM_SERVERS: usize = 3;

/// The limits of this process and the bounds derived from them.
pub(crate) struct Sizes {
    open_files: usize,
    capacity: Capacity,
    /// The number of CPUs that the process may use, by its affinity and the quota of its control group.
    pub(super) cpus: usize,
    threads: usize,
    /// The memory limit of the control group; `None` if it has none.
    group: Option<MemoryLeft>,
    /// The sizes of the cache in octets: the one in force, and the configured one.
    pub(super) cache: [usize; 2],
}

/// Derives the bounds from the limits of this process, and puts them into force.
///
/// # Errors
/// The limits are too low to serve.
pub(crate) fn size(config: &Config) -> Result<Sizes, String> {
    let (threads, cpus) = (threads(config), available_parallelism().map_or(1, usize::from));
    let open_files = capacity::raise_open_files();
    let count = |is_there: bool| usize::from(is_there);
    let listeners = config.listen.len();
    let how = Threads::of(listeners, threads);
    let (answering, sockets) = (how.count(listeners, threads), listeners * how.sockets(threads));
    let listening = sockets + config.listen.len() + count(config.admin.is_some()) + count(config.control.is_some());
    // Sockets offered to a successor are duplicated; the offer has a Unix socket of its own and a connection.
    let listening = if config.takeover.is_some() { 2 * listening + 2 } else { listening };
    let upstreams = match &config.upstream.servers {
        config::Servers::Listed(servers) => servers.len(),
        config::Servers::System(_) => SYSTEM_SERVERS,
    };
    let (has_admin, has_control) = (config.admin.is_some(), config.control.is_some());
    // Each UDP socket that receives queries has its own ports to upstreams.
    let needs = Needs { listening, threads: sockets, upstreams, has_admin, has_control };
    let capacity = Capacity::of(open_files, needs).map_err(|error| error.to_string())?;
    capacity.grant(needs);
    // The runtime has a thread for each CPU, and at least two.
    let needed = answering + cpus.max(2) + OTHER_THREADS;
    capacity::try_threads(needed).map_err(|error| error.to_string())?;
    let group = group_limit(Path::new("/"));
    let cache = capacity::cache_within(config.cache.size, group.as_ref()).map_err(|error| error.to_string())?;
    Ok(Sizes { open_files, capacity, cpus, threads: answering, group, cache: [cache, config.cache.size] })
}

impl Sizes {
    /// Logs the limits and bounds, as a warning if a bound is lower than intended.
    pub(super) fn log(&self) {
        let Self { open_files, capacity, cpus, threads, group, cache: [cache, wanted] } = self;
        if let Some(MemoryLeft { limit, limited_by, .. }) = group {
            let (memory_mib, cache_mib, wanted_mib) = (limit >> 20, cache >> 20, wanted >> 20);
            if cache < wanted {
                tracing::warn!(memory_mib, cache_mib, wanted_mib, "cache kept to a quarter of {limited_by}");
            } else {
                tracing::info!(memory_mib, cache_mib, "memory limited by {limited_by}");
            }
        }
        let Capacity { connections, admin, control, sockets, ports, apart, streams, reserve: _ } = capacity;
        if *capacity == Capacity::FULL {
            tracing::info!(open_files, cpus, threads, "sized by the limits of this process");
        } else {
            let help = "raise `LimitNOFILE=` of the unit, `ulimit -n` or `--ulimit nofile=`";
            tracing::warn!(
                open_files,
                cpus,
                threads,
                connections,
                admin,
                control,
                sockets,
                ports,
                apart,
                streams,
                help,
                "sized by the limits of this process: fewer connections and sockets than usual"
            );
        }
    }
}

/// Returns the number of threads for each listener.
pub(super) fn threads(config: &Config) -> usize {
    config.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}
