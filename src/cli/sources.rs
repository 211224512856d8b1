//! The files a command works on: the configuration file and the policies directory, and loading them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::output::Output;
use crate::bounds::{MAX_FILE, MAX_LOGGED};
use crate::config::control::Endpoint;
use crate::config::{Config, with_restart_keys_of};
use crate::document::{Code, Diagnostic, Severity};
use crate::policy::{Bindings, Library, Snapshot, Tree};
use crate::reload::last_good::LastGoodPlace;
use crate::reload::object_record::ObjectRecord;
use crate::reload::upstreams::circular_in;
use crate::reload::{Broken, Loaded};
use crate::util::regular_file;

/// The configuration file in the working directory.
const DEFAULT_FILE: &str = "hostgate.toml";
/// The configuration file of the service on this machine.
const SYSTEM_FILE: &str = "/etc/hostgate/hostgate.toml";
/// The policies directory of a configuration without the key.
const DEFAULT_POLICIES: &str = "policies";

/// The places to search for a configuration file if none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The working directory only, for `serve`: a hostgate that is tried out somewhere must not serve the policies of
    /// the machine's service at its addresses.
    Here,
    /// The working directory, else /etc/hostgate; but not the latter if the working directory has `policies`, which
    /// `serve` would serve without a file.
    HereOrSystem,
    /// The working directory, else /etc/hostgate: for features that no hostgate has without a file, as the API.
    HereThenSystem,
}

impl Search {
    /// Returns the file to read; `None` if there is none. `here` and `system` are the two places, `policies` is the
    /// directory.
    fn choose(self, here: &Path, system: &Path, policies: &Path) -> Option<PathBuf> {
        // A file that may not be looked at counts as present: reading it then reports the reason.
        let is_there = |path: &Path| path.try_exists().unwrap_or(true);
        let is_enough = match self {
            Self::Here => true,
            Self::HereOrSystem => is_there(policies),
            Self::HereThenSystem => false,
        };
        if is_there(here) {
            return Some(here.to_owned());
        }
        (!is_enough && is_there(system)).then(|| system.to_owned())
    }
}

/// Returns the configuration file: `path`, else the one that `search` finds.
fn find(path: Option<PathBuf>, search: Search) -> Option<PathBuf> {
    path.or_else(|| search.choose(Path::new(DEFAULT_FILE), Path::new(SYSTEM_FILE), Path::new(DEFAULT_POLICIES)))
}

/// Reads the configuration from `path`, else from the file that `search` finds, else the defaults.
///
/// # Errors
/// All errors in the file.
pub(super) fn read_config(path: Option<PathBuf>, search: Search) -> Result<(Option<PathBuf>, Config), Vec<Diagnostic>> {
    let Some(path) = find(path, search) else { return Ok((None, Config::default_in(Path::new("")))) };
    let (config, _) = read_config_text(&path)?;
    Ok((Some(path), config))
}

/// Reads a configuration file, and returns its text as well.
///
/// # Errors
/// All errors in the file.
fn read_config_text(path: &Path) -> Result<(Config, Arc<str>), Vec<Diagnostic>> {
    let text = regular_file::read_text(path, MAX_FILE).map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "check the path, or leave --config away to use the defaults",
            io::ErrorKind::PermissionDenied => "make it readable for the user hostgate runs as",
            _ => "it has to be a UTF-8 text file",
        };
        vec![Diagnostic::about_file(path, format!("the configuration cannot be read: {error}")).help(help)]
    })?;
    let text: Arc<str> = text.into();
    Ok((Config::parse(path, Arc::clone(&text))?, text))
}

/// The pauses before files that are being saved are read again, in milliseconds.
const WHILE_SAVED: [u64; 5] = [50, 100, 150, 200, 250];

/// Returns whether one of the files with errors is being saved: it was changed just now, or a moment ago and is empty. Many
/// programs empty a file before they write it.
fn is_being_saved(errors: &[Diagnostic]) -> bool {
    const JUST_NOW: Duration = Duration::from_millis(200);
    const A_MOMENT_AGO: Duration = Duration::from_secs(1);
    errors.iter().any(|error| {
        let found = std::fs::metadata(&*error.place.path).ok().filter(std::fs::Metadata::is_file);
        let age = found.as_ref().and_then(|found| found.modified().ok()?.elapsed().ok());
        age.is_some_and(|age| age < JUST_NOW || age < A_MOMENT_AGO && found.is_some_and(|found| found.len() == 0))
    })
}

/// Loads configuration and policies to serve them. A broken object of the API is left out, and if the operator chose
/// so, bad files are replaced by the last good state.
///
/// # Errors
/// All errors in the files.
pub(super) fn load(
    path: Option<PathBuf>,
    search: Search,
) -> Result<(Option<PathBuf>, Config, Loaded), Vec<Diagnostic>> {
    let path = find(path, search);
    let record = path.as_deref().map(|path| LastGoodPlace::objects(path, search == Search::Here));
    let once = || {
        let read = match &path {
            Some(path) => read_config_text(path).map(|(config, text)| (config, Some(text))),
            None => Ok((Config::default_in(Path::new("")), None)),
        };
        let started = match &read {
            Ok((config, _)) => start(config, Broken::LeaveOut(record.as_ref())),
            Err(wrong) => Err(wrong.clone()),
        };
        (read, started)
    };
    let (mut read, mut started) = once();
    for pause in WHILE_SAVED {
        if !started.as_ref().is_err_and(|wrong| is_being_saved(wrong)) {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(pause));
        (read, started) = once();
    }
    match (started, read, path) {
        (Ok(mut loaded), Ok((config, text)), path) => {
            loaded.errors.extend(record.as_ref().and_then(ObjectRecord::error));
            (loaded.config_text, loaded.object_record) = (text, record);
            Ok((path, config, loaded))
        }
        (Err(mut wrong), read, Some(path)) => {
            match from_last_good(&path, read, (search, record.as_ref())) {
                Ok(Some((config, mut loaded))) => {
                    loaded.errors.extend(record.as_ref().and_then(ObjectRecord::error));
                    (loaded.refused, loaded.object_record) = (wrong, record);
                    return Ok((Some(path), config, loaded));
                }
                Ok(None) => {}
                Err(why) => {
                    let message = format!("the last good state cannot be started from: {why}");
                    wrong.push(Diagnostic::about_file(&path, message));
                }
            }
            Err(wrong)
        }
        (Err(wrong), ..) | (_, Err(wrong), _) => Err(wrong),
    }
}

/// Loads the last good state of a configuration file. Returns `None` if the operator did not choose that, according to
/// the file on disk or, if that is bad, the file in the last good state.
///
/// # Errors
/// There is no such state, or it cannot be used.
fn from_last_good(
    path: &Path,
    on_disk: Result<(Config, Option<Arc<str>>), Vec<Diagnostic>>,
    (search, record): (Search, Option<&ObjectRecord>),
) -> Result<Option<(Config, Loaded)>, String> {
    let (on_disk, text) = on_disk.map_or_else(|wrong| (Err(wrong), None), |(config, text)| (Ok(config), text));
    if on_disk.as_ref().is_ok_and(|config| !config.start_from_last_good) {
        return Ok(None);
    }
    let is_chosen = on_disk.is_ok();
    let on_disk = on_disk.and_then(|config| {
        let circular = circular_in(&config);
        if circular.is_empty() { Ok(config) } else { Err(circular) }
    });
    let told =
        |wrong: Vec<Diagnostic>| wrong.iter().map(ToString::to_string).take(MAX_LOGGED).collect::<Vec<_>>().join("; ");
    let kept = match search {
        Search::Here => LastGoodPlace::of(path).read(),
        // A command does not have the environment of the unit, so it searches the usual places.
        Search::HereOrSystem | Search::HereThenSystem => LastGoodPlace::find(path),
    };
    let kept = match kept {
        Ok(Some(kept)) => kept,
        Ok(None) if is_chosen && search == Search::Here => return Err("there is none yet".to_owned()),
        Ok(None) if is_chosen => return Err(format!("there is none yet in {}", LastGoodPlace::looked_in(path))),
        Ok(None) => return Ok(None),
        Err(why) => return Err(why),
    };
    let was = Config::parse(path, kept.config().to_owned()).map_err(told)?;
    if !is_chosen && !was.start_from_last_good {
        return Ok(None);
    }
    let config = on_disk.as_ref().map_or_else(|_| was.clone(), |on_disk| with_restart_keys_of(on_disk, &was));
    let mut loaded = Loaded::from_last_good(&kept, (&config, record), (path, on_disk.as_ref().map_err(Clone::clone)))
        .map_err(told)?;
    // The configuration on disk is in force, unless it names a policy that is not.
    let config = match on_disk {
        Ok(on_disk) if !loaded.holds_back(path) => {
            loaded.config_text = text;
            on_disk
        }
        _ => {
            (loaded.config_text, loaded.is_config_old) = (Some(kept.config().into()), true);
            config
        }
    };
    Ok(Some((config, loaded)))
}

/// Loads configuration and policies as `serve` does, and writes their paths to `output`, if there is one. `policies`
/// replaces the directory in the configuration.
///
/// # Errors
/// All errors in the files.
pub(super) fn load_announced(
    path: Option<PathBuf>,
    policies: Option<PathBuf>,
    output: Option<&mut Output>,
) -> Result<(Config, Loaded), Vec<Diagnostic>> {
    let (path, config) = configured(path, policies)?;
    announce(path.as_deref(), &config, output);
    let loaded = start(&config, Broken::Refuse)?;
    Ok((config, loaded))
}

/// Reads the configuration for a command about policies; `policies` replaces the directory in it.
fn configured(path: Option<PathBuf>, policies: Option<PathBuf>) -> Result<(Option<PathBuf>, Config), Vec<Diagnostic>> {
    // The system's configuration belongs to the system's policies, so it is not combined with others.
    let search = if policies.is_some() { Search::Here } else { Search::HereOrSystem };
    let (path, mut config) = read_config(path, search)?;
    if let Some(policies) = policies {
        config.policies = policies;
    }
    Ok((path, config))
}

/// Writes which files a command reads, unless the output is for a program.
fn announce(path: Option<&Path>, config: &Config, output: Option<&mut Output>) {
    if let Some(output) = output {
        let directory = config.policies.display();
        output.error(match path {
            Some(path) => format!("reading {} and the policies in {directory}", path.display()),
            None => format!("reading the policies in {directory}; no {DEFAULT_FILE} here: defaults"),
        });
    }
}

/// Loads the policies as [`load_announced`] does, for commands about presets. If there is no policy file, only the built-in
/// presets are loaded.
///
/// # Errors
/// All errors in the policies.
pub(super) fn load_presets(
    path: Option<PathBuf>,
    policies: Option<PathBuf>,
    output: Option<&mut Output>,
) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
    let (path, config) = configured(path, policies)?;
    match start(&config, Broken::Refuse) {
        Ok(loaded) => {
            announce(path.as_deref(), &config, output);
            Ok(Arc::clone(loaded.library().snapshot()))
        }
        // All errors are about the directory as a whole: it does not exist or is empty.
        Err(diagnostics) if diagnostics.iter().all(|it| it.place.line == 0 && *it.place.path == *config.policies) => {
            if let Some(output) = output {
                output.error(format!("no policies in {}: the presets that are built in", config.policies.display()));
            }
            let tree = Tree { root: config.policies, ..Tree::default() };
            let mut no_list = |_: &Path, _| Err(String::new());
            Library::start_empty(&tree, &mut no_list, &Bindings::default())
                .map(|(library, _)| Arc::clone(library.snapshot()))
        }
        Err(diagnostics) => {
            announce(path.as_deref(), &config, output);
            Err(diagnostics)
        }
    }
}

/// Loads the policies of a configuration, and checks them against it.
///
/// # Errors
/// All errors in the policies.
fn start(config: &Config, broken: Broken<'_>) -> Result<Loaded, Vec<Diagnostic>> {
    let mut loaded = Loaded::start(config, broken)?;
    let shut = shut_api(config, &loaded);
    loaded.warnings.extend(shut);
    Ok(loaded)
}

/// Returns a warning if the API listens on loopback and a client has the loopback address: then no program on this
/// machine may use the API, and no other program can reach it.
fn shut_api(config: &Config, loaded: &Loaded) -> Option<Diagnostic> {
    let control = config.control.as_ref().filter(|control| !control.allow_clients)?;
    let Endpoint::Address(listen) = &control.listen else { return None };
    // The kernel sends from these to any loopback address.
    let source = match listen.ip() {
        IpAddr::V4(address) if address.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_loopback() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => return None,
    };
    let client = loaded.library().snapshot().asker(source, usize::MAX).client?;
    let message = format!(
        "client `{}` holds {source}, so the API at {listen} is shut to all programs of this machine",
        client.id()
    );
    let help = "take that address out of its `sources`, let the API listen on a Unix socket (`listen` of [control]), or, to \
                try it on one machine, set `allow_clients = true` there";
    let place = client.place();
    let warning = client.source().diagnostic_at(Severity::Warning, place.line, place.column, message);
    Some(warning.help(help).unless_accepted(Code::ShutApi, client.source()))
}

/// Returns the origin of the configuration, for messages.
pub(super) fn origin(path: Option<&Path>) -> String {
    path.map_or_else(|| format!("the default, without a {DEFAULT_FILE} here"), |path| path.display().to_string())
}

/// Returns the message that no configuration file was found.
pub(super) fn no_file() -> String {
    format!("there is no configuration file here, and no {SYSTEM_FILE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_here_comes_first_and_serve_never_reads_the_systems_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (here, system, policies) = (at("here.toml"), at("system.toml"), at("policies"));
        let chosen = || {
            [Search::Here, Search::HereOrSystem, Search::HereThenSystem].map(|search| {
                let file = search.choose(&here, &system, &policies);
                file.map(|file| file.file_name().unwrap().to_owned().into_string().unwrap())
            })
        };
        let of_system = || Some("system.toml".to_owned());
        assert_eq!(chosen(), [None, None, None]);
        std::fs::write(&system, "").unwrap();
        assert_eq!(chosen(), [None, of_system(), of_system()]);
        std::fs::create_dir(&policies).unwrap();
        assert_eq!(chosen(), [None, None, of_system()]);
        std::fs::write(&here, "").unwrap();
        assert_eq!(chosen(), [(); 3].map(|()| Some("here.toml".to_owned())));
    }
}
