//! Reloads: what is in force stays the same as what is on disk.
//!
//! One thread does all of it, none of it on the path of a query:
//!
//! ```text
//!   watch, sweep        notice: events of the file system, and a comparison every 1.5 s where events cannot tell
//!   scan, files         read: the policies directory; list files and what else the configuration names
//!   apply               one reload: notice, read, compile and test, swap, report
//!   api_change          a change over the API: one file, in force and on disk, or neither
//!   report, status      what is in force and what is not, for log, status and metrics; out_of_date: since when
//!   tick                what is due without an event: comparisons, tries again, addresses that come later
//!   load, last_good     the load at a start, from disk or from the last good state, which keep writes
//! ```

mod api_change;
mod apply;
mod atomic_write;
mod files;
mod keep;
pub(crate) mod last_good;
mod load;
mod log_pace;
mod object_folder;
pub(crate) mod out_of_date;
mod report;
mod scan;
mod status;
pub(crate) mod summary;
mod sweep;
mod tick;
mod trusted;
pub(crate) mod upstreams;
mod watch;
mod weight;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tracing_subscriber::filter::Targets;

use self::api_change::Inbox;
pub(crate) use self::api_change::{Change, Changer, Refused};
use self::apply::{Faults, Trigger};
use self::atomic_write::Store;
pub(crate) use self::files::Stamp;
use self::files::{Files, Followed};
use self::keep::Keeper;
pub(crate) use self::load::{Broken, Loaded, bindings};
use self::log_pace::Pace;
use self::out_of_date::Since;
pub(crate) use self::report::{log_warnings, log_without};
use self::scan::Directory;
pub(crate) use self::status::{Progress, State, Work};
use self::sweep::Sweep;
use self::tick::Retry;
pub(crate) use self::tick::is_absent;
use self::upstreams::Chosen;
pub(crate) use self::watch::Waker;
use self::watch::{Wake, Watch};
use crate::bounds::MAX_TOLD_ERRORS;
use crate::config::{self, Config};
use crate::engine::Engine;
use crate::policy::Library;
use crate::upstream::Upstreams;

/// A function that sets the filter of the log, whose subscriber belongs to the command line.
pub(crate) type SetLogFilter = Box<dyn Fn(&Targets) + Send>;

/// The reload thread: what is in force, what was read from disk, and what is watched.
pub(crate) struct Reloader {
    /// The configuration file, if there is one.
    config_path: Option<PathBuf>,
    /// The configuration at the start of the process: a key that takes a restart is compared with it.
    started_with: Config,
    /// The configuration in force.
    config: Config,
    /// The addresses of the listeners, which must not be upstreams.
    listeners: Vec<SocketAddr>,
    /// The policies directory as it was last read.
    directory: Directory,
    /// The list files, and other files that the configuration names, as they were last read.
    files: Files,
    /// The last good version of each policy file, and the snapshot in force.
    library: Library,
    /// The upstreams in force.
    upstreams: Arc<Upstreams>,
    /// The choice of servers that they were made from.
    chosen: Chosen,
    /// The engine, which answers from the view that a reload swaps.
    engine: Arc<Engine>,
    /// The state that status and metrics show.
    progress: Arc<Progress>,
    /// The watches of files and directories.
    watch: Watch,
    /// The queue of changes over the API.
    inbox: Arc<Inbox>,
    set_log_filter: SetLogFilter,
    /// The writer of the API's files.
    store: Store,
    /// The faults outside of policy files that the last reload found.
    faults: Faults,
    /// The policy files whose last good version is in force instead of the one on disk.
    held_back: Vec<PathBuf>,
    /// The files and directories that are watched and compared.
    followed: Followed,
    /// The comparison of those with what was read.
    sweep: Sweep,
    /// The next try at files that could not be read because of a passing error.
    retry: Option<Retry>,
    /// The time at which each entry of `out_of_date` began.
    since: Since,
    /// The first error of each file that is held back.
    reasons: BTreeMap<PathBuf, String>,
    /// The listeners whose address no interface has.
    absent: Vec<SocketAddr>,
    /// The time at which the last good state was written, if the start took it and something on disk is still bad.
    last_good: Option<String>,
    /// The writer of the last good state.
    keeper: Keeper,
    /// The keys that take a restart and have been warned about.
    warned: Vec<&'static str>,
    /// The pace of log lines about reloads that changed nothing.
    pace: Pace,
}

impl Reloader {
    /// Makes the thread's state from what the start loaded.
    pub(crate) fn new(
        loaded: Loaded,
        (config_path, config): (Option<PathBuf>, Config),
        listeners: Vec<SocketAddr>,
        (upstreams, chosen): (Arc<Upstreams>, Chosen),
        engine: Arc<Engine>,
        set_log_filter: SetLogFilter,
    ) -> Self {
        let mut state = report::state(&loaded.library, loaded.warnings.into(), &chosen);
        let errors = summary::lines(loaded.errors.iter(), MAX_TOLD_ERRORS, "errors").join("\n");
        state.error = (!errors.is_empty()).then_some(errors);
        state.held_back = summary::paths(loaded.held_back.iter());
        let reasons = report::reasons(loaded.held_back.iter(), loaded.errors.iter());
        let progress = Arc::new(Progress::new(state));
        let watch = Watch::new(progress.heartbeat().clone());
        let mut reloader = Self {
            config_path,
            started_with: config.clone(),
            config,
            listeners,
            directory: loaded.directory,
            files: loaded.files,
            library: loaded.library,
            upstreams,
            chosen,
            engine,
            progress,
            watch,
            inbox: Arc::default(),
            set_log_filter,
            store: Store::default(),
            faults: Faults::default(),
            held_back: loaded.held_back,
            followed: Followed::default(),
            sweep: Sweep::new(),
            retry: None,
            since: Since::default(),
            reasons,
            absent: Vec::new(),
            last_good: loaded.last_good,
            keeper: Keeper::new(),
            warned: Vec::new(),
            pace: Pace::new(),
        };
        reloader.follow(loaded.followed);
        reloader.look_for_addresses();
        reloader.report_out_of_date();
        reloader
    }

    /// Returns the state that status and metrics show.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Returns a handle that asks for a reload.
    pub(crate) fn waker(&self) -> Waker {
        self.watch.waker()
    }

    /// Returns a handle by which the API makes changes.
    pub(crate) fn changer(&self) -> Changer {
        Changer::new(Arc::clone(&self.inbox), self.watch.waker(), Arc::clone(&self.progress))
    }

    /// Runs the thread: reloads and API changes, one after the other, until [`Waker::stop`].
    pub(crate) fn run(mut self) {
        yield_to_queries();
        // No event tells of a change between the load at the start and the first watch.
        self.watch.look_again();
        loop {
            match self.watch.wait(self.next_tick()) {
                Wake::Stop => {
                    self.keep_last();
                    break;
                }
                Wake::Wanted => self.make_changes(),
                Wake::Tick => self.tick(),
                Wake::Changed => self.reload(Trigger::Event),
                Wake::Asked => self.reload(Trigger::Request),
            }
        }
        self.inbox.close();
    }

    /// Watches the files that were read, the configuration file and the file that names the upstreams.
    fn follow(&mut self, mut followed: Followed) {
        // The directory itself may be replaced, by rename or mount.
        followed.add_file(&self.config.policies);
        followed.add_directory(&self.config.policies);
        if let Some(path) = &self.config_path {
            followed.add_file(path);
        }
        if let config::Servers::System(path) = &self.config.upstream.servers {
            followed.add_file(path);
        }
        self.followed.clone_from(&followed);
        // A directory that was not watched before may have changed since it was read.
        let progress = Arc::clone(&self.progress);
        let _disk = progress.disk();
        if self.watch.follow(followed) {
            self.watch.look_again();
        }
    }
}

/// Lowers the priority of this thread, and of those it starts, so that reading a million names delays no query; a sandbox
/// may forbid that.
fn yield_to_queries() {
    /// About a quarter of the weight of a receiving thread (sched(7)).
    const NICE: i32 = 5;
    // Of the calling thread: the kernel has priorities by thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "priority not lowered");
    }
}
