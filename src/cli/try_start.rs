//! A start that is tried out for `hostgate check --start`: it runs the steps of a start, without the addresses that the
//! running hostgate has in use, and undoes them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::socket_owner::{SocketOwner, socket_owner};
use super::status;
use crate::api::connection::socket::ControlSocket;
use crate::config::Config;
use crate::config::control::Endpoint;
use crate::daemon::prepare::{Prepared, Start, StartRefusal, prepare};
use crate::daemon::sizes::size;
use crate::listen::admin::service::Listening;
use crate::listen::sockets::Feature;
use crate::listen::takeover::Takeover;
use crate::reload::Loaded;
use crate::reload::upstreams::{Chosen, choose};

/// Returns an error for each socket other than those for DNS that is not available.
pub(super) fn lacking(prepared: &Prepared) -> Vec<String> {
    let Prepared { sockets, takeover, .. } = prepared;
    let admin = sockets.admin.as_ref().and_then(|admin| admin.first.as_ref().err()).map(ToString::to_string);
    let control = sockets.control.as_ref().and_then(|control| control.first.as_ref().err()).map(ToString::to_string);
    let takeover = takeover.as_ref().and_then(Takeover::error).map(ToString::to_string);
    [admin, control, takeover].into_iter().flatten().collect()
}

/// The addresses that are in use but available to a start: those of the running hostgate with the same configuration,
/// and the sockets that systemd passes on.
pub(super) struct InUse {
    /// The addresses, and the paths of Unix sockets as `unix:PATH`.
    addresses: BTreeSet<String>,
    /// Set if a hostgate runs that does not report all of its addresses.
    is_unknown: bool,
}

impl InUse {
    /// Determines them for the configuration file at `path`: from the status of the running hostgate, or, without an
    /// admin endpoint, from its take-over socket or its process name.
    pub(super) fn find(path: Option<&Path>, config: &Config) -> Self {
        /// The process id of systemd, which listens for the services that it activates.
        const SYSTEMD: u32 = 1;
        let own = path.and_then(|path| std::path::absolute(path).ok());
        let admin = config.admin.and_then(|admin| status::fetch_either(admin, config.admin_instead).ok());
        let known = admin.and_then(|status| serde_json::from_value::<Listening>(status["listening"].clone()).ok());
        // A hostgate with another configuration would keep its sockets at a restart of this one.
        let known = known.filter(|known| known.configuration == own);
        let is_offered = || config.takeover.as_ref().is_some_and(|path| UnixStream::connect(path).is_ok());
        let is_unknown = known.as_ref().map_or_else(is_offered, |known| known.more);
        let mut addresses = known.map(|known| known.addresses).unwrap_or_default();
        let is_free = |owner: &SocketOwner| owner.pid == SYSTEMD || config.admin.is_none() && owner.name == "hostgate";
        let passed = of(config).filter(|address| socket_owner(*address).is_some_and(|owner| is_free(&owner)));
        addresses.extend(passed.map(|address| address.to_string()));
        Self { addresses, is_unknown }
    }

    /// Returns whether an address, or `unix:PATH`, is available to a start. A Unix socket whose file was removed is
    /// not.
    fn has(&self, address: &str) -> bool {
        let is_there = address.strip_prefix("unix:").is_none_or(|path| Path::new(path).exists());
        is_there && (self.is_unknown || self.addresses.contains(address))
    }

    /// Returns the addresses of a configuration that other processes have in use, with the process if it can be seen.
    pub(super) fn taken(&self, config: &Config) -> Vec<String> {
        let others = of(config).filter(|address| !self.has(&address.to_string()));
        let told = |address| {
            socket_owner(address).map(|SocketOwner { pid, name }| format!("{address} by {name} (process {pid})"))
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
                Endpoint::Unix(path) => format!("unix:{}", path.display()),
            })
        });
        config.takeover = config.takeover.take().filter(|path| !self.has(&format!("unix:{}", path.display())));
    }
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

/// Runs the steps of a start for a configuration without the addresses in `in_use`, and undoes them.
///
/// # Errors
/// The first step that fails.
pub(super) fn try_out(
    config: &Config,
    loaded: &mut Loaded,
    in_use: &InUse,
) -> Result<(Chosen, Vec<String>), StartRefusal> {
    // The limits have to suffice for all listeners, also for those that the running hostgate has.
    size(config).map_err(StartRefusal::Limits)?;
    let mut free = config.clone();
    in_use.leave_out(&mut free);
    let prepared = prepare(&free, loaded, Start::Alone)?;
    let lacking = lacking(&prepared);
    let Prepared { sockets, takeover, .. } = prepared;
    if let Some(Feature { first: Ok(ControlSocket::Unix { path, is_ours: true, .. }), .. }) = &sockets.control {
        // The file may have been removed already.
        let _ = fs::remove_file(path);
    }
    if let Some(takeover) = takeover.filter(|takeover| takeover.error().is_none()) {
        let _ = fs::remove_file(takeover.path());
    }
    drop(sockets);
    let listeners: Vec<_> = config.listen.iter().map(|listen| listen.address).collect();
    let chosen = choose(&config.upstream, &listeners, &mut |path| loaded.read(path)).map_err(StartRefusal::Files)?;
    Ok((chosen, lacking))
}
