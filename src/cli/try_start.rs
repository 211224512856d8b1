//! The trial of a start for `hostgate check --start`: it runs the steps of a start, skips what the running hostgate has in
//! use, opens no socket to others and changes no file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::socket_owner::{SocketOwner, SocketOwners, is_hostgate, unix};
use super::status;
use crate::config::control::Endpoint;
use crate::config::{Config, covers};
use crate::daemon::prepare::StartRefusal;
use crate::daemon::sizes::size;
use crate::listen::admin::service::Listening;
use crate::listen::{bind_trial, takeover};
use crate::reload::Loaded;
use crate::reload::upstreams::{Chosen, choose};

/// The addresses that are in use but available to a start: those of the running hostgate with the same configuration,
/// and the sockets that systemd passes on.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct InUse {
    /// The process of the running hostgate, if it is known.
    pub(super) pid: Option<u32>,
    /// The addresses, and the paths of Unix sockets as `unix:PATH`.
    addresses: BTreeSet<String>,
    /// Set if a hostgate runs that does not report all of its addresses.
    is_unknown: bool,
    /// The addresses among those that other processes have.
    foreign: BTreeSet<String>,
    /// The addresses of the running hostgate that the configuration does not have.
    pub(super) unlisted: Vec<String>,
}

/// The process id of systemd, which listens for the services that it activates.
const SYSTEMD: u32 = 1;

impl InUse {
    /// Determines them for the configuration file at `path`: from the status of the running hostgate, or, without an
    /// admin endpoint, from its take-over socket or its program.
    ///
    /// What answers at those is believed only if it is a hostgate: the process that it reports runs this program and, as
    /// far as this user may see, has the sockets.
    pub(super) fn find(path: Option<&Path>, config: &Config, owners: &SocketOwners) -> Self {
        let own = path.and_then(|path| std::path::absolute(path).ok());
        let is_hostgate = |pid: &u32| is_hostgate(*pid);
        let admins = || [config.admin, config.admin_instead].into_iter().flatten();
        let reported = config.admin.and_then(|admin| status::fetch_either(admin, config.admin_instead).ok());
        let reported =
            reported.and_then(|status| serde_json::from_value::<Listening>(status["listening"].clone()).ok());
        // A hostgate with another configuration would keep its sockets at a restart of this one.
        let known = reported.filter(|known| {
            let mut holders = admins().map(|admin| owners.of(&admin.to_string())).filter(|holders| !holders.is_empty());
            let has_socket = holders
                .next()
                .is_none_or(|first| first.contains(&known.pid) || holders.any(|it| it.contains(&known.pid)));
            known.configuration == own && is_hostgate(&known.pid) && has_socket
        });
        let is_offered = || {
            config.takeover.as_deref().is_some_and(|path| {
                let holders = owners.of(&unix(path));
                // The descriptors of another user's process cannot be seen, but who listens there can be asked for.
                if holders.is_empty() { takeover::is_served(path) } else { holders.iter().any(is_hostgate) }
            })
        };
        let is_unknown = known.as_ref().map_or_else(is_offered, |known| known.more);
        let pid = known.as_ref().map(|known| known.pid);
        let mut addresses = known.map(|known| known.addresses).unwrap_or_default();
        let is_free = |pid: &u32| *pid == SYSTEMD || config.admin.is_none() && is_hostgate(pid);
        let passed = of(config).filter(|address| owners.of(&address.to_string()).first().is_some_and(is_free));
        addresses.extend(passed.map(|address| address.to_string()));
        let is_foreign = |address: &String| {
            let holders = owners.of(address);
            let is_ours =
                |holder: &u32| *holder == SYSTEMD || pid.map_or_else(|| is_hostgate(holder), |pid| pid == *holder);
            !holders.is_empty() && !holders.iter().any(is_ours)
        };
        let foreign = of(config).map(|address| address.to_string()).filter(is_foreign).collect();
        let unlisted = addresses.iter().filter(|address| !is_listed(address, config)).cloned().collect();
        Self { pid, addresses, is_unknown, foreign, unlisted }
    }

    /// Returns whether an address, or `unix:PATH`, is available to a start. A Unix socket whose file was removed is
    /// not.
    fn has(&self, address: &str) -> bool {
        let is_there = address.strip_prefix("unix:").is_none_or(|path| Path::new(path).exists());
        is_there && !self.foreign.contains(address) && (self.is_unknown || self.addresses.contains(address))
    }

    /// Returns the addresses of a configuration that other processes have in use, with the process if it can be seen.
    fn taken(&self, config: &Config, owners: &SocketOwners) -> Vec<String> {
        let others = of(config).filter(|address| !self.has(&address.to_string()));
        let told = |address| {
            owners.first(address).map(|SocketOwner { pid, name }| format!("{address} by {name} (process {pid})"))
        };
        others.filter_map(told).collect()
    }

    /// Removes these addresses from a configuration, so that the remaining ones can be tried.
    fn leave_out(&self, config: &mut Config) {
        config.listen.retain(|listen| !self.has(&listen.address.to_string()));
        let instead = config.admin_instead;
        config.admin = config.admin.filter(|admin| {
            ![Some(*admin), instead].into_iter().flatten().any(|address| self.has(&address.to_string()))
        });
        config.control = config.control.take().filter(|control| {
            !self.has(&match &control.listen {
                Endpoint::Address(address) => address.to_string(),
                Endpoint::Unix(path) => unix(path),
            })
        });
        config.takeover = config.takeover.take().filter(|path| !self.has(&unix(path)));
    }
}

/// Returns whether a start with a configuration listens at an address, or at `unix:PATH`.
fn is_listed(address: &str, config: &Config) -> bool {
    let control = config.control.as_ref().map(|control| &control.listen);
    if let Some(path) = address.strip_prefix("unix:") {
        let control = control.and_then(|it| if let Endpoint::Unix(path) = it { Some(path) } else { None });
        // A running hostgate may know a path by another name.
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        return control.into_iter().chain(&config.takeover).any(|it| real(it) == real(Path::new(path)));
    }
    let Ok(address) = address.parse() else { return true };
    let control = control.and_then(|it| if let Endpoint::Address(address) = it { Some(*address) } else { None });
    let others = [config.admin, config.admin_instead, control].into_iter().flatten();
    config.listen.iter().map(|listen| listen.address).chain(others).any(|it| covers(it, address))
}

/// Returns the addresses that a configuration listens on.
fn of(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let api = config.control.as_ref().and_then(|control| match &control.listen {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Unix(_) => None,
    });
    let listeners = config.listen.iter().map(|listen| listen.address);
    listeners.chain(config.admin).chain(api).filter(|address| address.port() != 0)
}

/// The outcome of binding the addresses of a configuration for a moment. A port below 1024 needs a privilege that the
/// user a service runs as does not have outside of its unit, so root tries the addresses and hands on the outcome.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct AddressTrial {
    /// The addresses that are available although they are in use.
    pub(super) in_use: InUse,
    /// The addresses that other processes have in use, with the process.
    pub(super) taken: Vec<String>,
    /// The reason for refusing the start.
    refused: Option<String>,
    /// The addresses that DNS can do without and that are not available.
    lacking: Vec<String>,
}

impl AddressTrial {
    /// Tries the addresses of the configuration file at `path`.
    pub(super) fn run(path: Option<&Path>, config: &Config) -> Self {
        let addresses = of(config).chain(config.admin_instead);
        let owners = SocketOwners::find(addresses, config.takeover.as_deref());
        let in_use = InUse::find(path, config, &owners);
        let mut free = config.clone();
        in_use.leave_out(&mut free);
        let (refused, lacking) = match bind_trial::addresses(&free) {
            Ok(lacking) => (None, lacking),
            Err(error) => (Some(error.to_string()), Vec::new()),
        };
        let taken = in_use.taken(config, &owners);
        Self { in_use, taken, refused, lacking }
    }
}

/// Runs the steps of a start that come after reading the files, without opening a socket or changing a file. Returns the
/// upstreams, and an error for each socket other than those for DNS that is not available.
///
/// # Errors
/// The first step that fails.
pub(super) fn try_out(
    config: &Config,
    loaded: &mut Loaded,
    trial: &AddressTrial,
) -> Result<(Chosen, Vec<String>), StartRefusal> {
    // The limits have to suffice for all listeners, also for those that the running hostgate has.
    size(config).map_err(StartRefusal::Limits)?;
    if let Some(why) = &trial.refused {
        return Err(StartRefusal::System(why.clone()));
    }
    let mut free = config.clone();
    trial.in_use.leave_out(&mut free);
    let lacking = trial.lacking.iter().cloned().chain(bind_trial::paths(&free)).collect();
    let listeners: Vec<_> = config.listen.iter().map(|listen| listen.address).collect();
    let chosen = choose(&config.upstream, &listeners, &mut |path| loaded.read(path)).map_err(StartRefusal::Files)?;
    Ok((chosen, lacking))
}
