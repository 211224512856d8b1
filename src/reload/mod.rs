//! Reloads: what is in force stays the same as what is on disk.
//!
//! One thread does all of it, none of it on the path of a query:
//!
//! ```text
//!   watch               notice: events of the file system
//!   disk_comparison     notice: a comparison every 1.5 s, for changes without an event
//!   scan, files         read: the policies directory; list files and what else the configuration names
//!   origins             read: whether a directory was replaced by one without policy files
//!   apply               one reload: notice, read, compile and test, swap, report
//!   api_change          a change over the API: one file, in force and on disk, or neither
//!   object_writer       the thread that writes such a file, which a disk that hangs keeps
//!   report, status      what is in force and what is not, for log, status and metrics; out_of_date: since when
//!   tick                tasks without an event: comparisons, retries, missing addresses
//!   load, last_good     the load at a start, from disk or from the last good state
//!   last_good_writer    the schedule of writing the last good state
//!   object_record       the addresses of the API's objects, for a start at which a file of them is bad
//! ```

mod api_change;
mod apply;
mod atomic_write;
mod disk_comparison;
mod files;
mod held_objects;
pub(crate) mod last_good;
mod last_good_writer;
mod load;
mod log_rate_limit;
mod object_folder;
pub(crate) mod object_record;
mod object_writer;
mod origins;
pub(crate) mod out_of_date;
mod ownership;
mod report;
mod scan;
mod served;
mod status;
pub(crate) mod summary;
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
use self::disk_comparison::DiskComparison;
pub(crate) use self::files::FileVersion;
use self::files::{Files, FollowedPaths};
use self::last_good_writer::LastGoodWriter;
pub(crate) use self::load::{Broken, Loaded, bindings};
use self::log_rate_limit::LogRateLimit;
use self::object_record::ObjectRecord;
use self::object_writer::ObjectWriter;
use self::out_of_date::StartTimes;
pub(crate) use self::report::{log_warnings, log_without};
use self::scan::Directory;
pub(crate) use self::served::ServedTexts;
pub(crate) use self::status::{ReloadStatus, State, Work};
use self::tick::Retry;
pub(crate) use self::tick::is_absent;
use self::upstreams::Chosen;
pub(crate) use self::watch::Waker;
use self::watch::{WakeReason, Watch};
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
    /// The text of the configuration file that was last taken as a whole; `None` without a configuration file.
    config_text: Option<Arc<str>>,
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
    status: Arc<ReloadStatus>,
    /// The watches of files and directories.
    watch: Watch,
    /// The queue of changes over the API.
    inbox: Arc<Inbox>,
    set_log_filter: SetLogFilter,
    /// The writer of the API's files.
    object_writer: ObjectWriter,
    /// The faults outside of policy files that the last reload found.
    faults: Faults,
    /// The policy files whose last good version is in force instead of the one on disk.
    held_back: Vec<PathBuf>,
    /// The files and directories that are watched and compared.
    followed: FollowedPaths,
    /// The periodic comparison of those with what was read.
    disk_comparison: DiskComparison,
    /// The next try at files that could not be read because of a temporary error.
    retry: Option<Retry>,
    /// The time at which each entry of `out_of_date` began.
    since: StartTimes,
    /// The first error of each file that is held back.
    reasons: BTreeMap<PathBuf, String>,
    /// The listeners whose address no interface has.
    absent: Vec<SocketAddr>,
    /// The time at which the last good state was written, if the start took it and something on disk is still bad.
    last_good: Option<String>,
    /// The schedule of writing the last good state.
    last_good_writer: LastGoodWriter,
    /// The record of the API's objects; `None` without a configuration file.
    object_record: Option<ObjectRecord>,
    /// The keys that take a restart and have been warned about.
    warned: Vec<&'static str>,
    /// The addresses of listeners that the configuration file does not have any more.
    unlisted: Vec<SocketAddr>,
    /// The rate limit of log lines about reloads that changed nothing.
    log_rate_limit: LogRateLimit,
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
        let status = Arc::new(ReloadStatus::new(state));
        let object_writer = ObjectWriter::new(Arc::clone(&status));
        let watch = Watch::new(status.heartbeat().clone());
        let mut reloader = Self {
            config_path,
            started_with: config.clone(),
            config,
            config_text: loaded.config_text,
            listeners,
            directory: loaded.directory,
            files: loaded.files,
            library: loaded.library,
            upstreams,
            chosen,
            engine,
            status,
            watch,
            inbox: Arc::default(),
            set_log_filter,
            object_writer,
            faults: Faults::default(),
            held_back: loaded.held_back,
            followed: FollowedPaths::default(),
            disk_comparison: DiskComparison::new(),
            retry: None,
            since: StartTimes::default(),
            reasons,
            absent: Vec::new(),
            last_good: loaded.last_good,
            last_good_writer: LastGoodWriter::new(),
            object_record: loaded.object_record,
            warned: Vec::new(),
            unlisted: Vec::new(),
            log_rate_limit: LogRateLimit::new(),
        };
        reloader.follow(loaded.followed);
        reloader.find_absent_addresses();
        reloader.record_objects();
        reloader.share_in_force();
        reloader.report_out_of_date();
        reloader
    }

    /// Returns the state that status and metrics show.
    pub(crate) fn status(&self) -> Arc<ReloadStatus> {
        Arc::clone(&self.status)
    }

    /// Returns a handle that asks for a reload.
    pub(crate) fn waker(&self) -> Waker {
        self.watch.waker()
    }

    /// Returns a handle by which the API makes changes.
    pub(crate) fn changer(&self) -> Changer {
        Changer::new(Arc::clone(&self.inbox), self.watch.waker(), Arc::clone(&self.status))
    }

    /// Runs the thread: reloads and API changes, one after the other, until [`Waker::stop`].
    pub(crate) fn run(mut self) {
        yield_to_queries();
        self.status.runs_here();
        // What the start loaded is kept before a reload: a file may be bad by then.
        self.write_last_good_when_due();
        // A change between the load at the start and the first watch caused no event.
        self.watch.assume_changes();
        loop {
            match self.watch.wait(self.next_tick()) {
                WakeReason::Stop => {
                    self.write_last_good_before_exit();
                    break;
                }
                WakeReason::ApiChange => self.make_changes(),
                WakeReason::Tick => {}
                WakeReason::Changed => self.reload(Trigger::Event),
                WakeReason::ReloadRequested => self.reload(Trigger::Request),
            }
            // Also after a change: changes that keep coming leave no pause for a tick.
            self.tick();
        }
        self.inbox.close();
    }

    /// Watches the files that were read, the configuration file and the file that names the upstreams.
    fn follow(&mut self, mut followed: FollowedPaths) {
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
        let status = Arc::clone(&self.status);
        let _disk = status.disk();
        if self.watch.follow(followed) {
            self.watch.assume_changes();
        }
    }
}

/// Lowers the priority of this thread, and of those it starts, so that reading a million names delays no query; a
/// sandbox may forbid that.
fn yield_to_queries() {
    /// About a quarter of the weight of a receiving thread (sched(7)).
    const NICE: i32 = 5;
    // Of the calling thread: the kernel has priorities by thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "priority not lowered");
    }
}
