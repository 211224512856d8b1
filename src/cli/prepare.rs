//! The steps of a start between reading its files and serving. `hostgate check --start` walks them as well, so that it cannot
//! say anything else than what a start does: it leaves out what the hostgate that runs holds, and closes everything again.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::available_parallelism;

use super::holder::{Holder, holder};
use super::serve::{Sizes, Start, size};
use super::status;
use crate::api::connection::socket::ControlSocket;
use crate::config::Config;
use crate::config::control::Endpoint;
use crate::document::Diagnostic;
use crate::listen::admin::service::Listening;
use crate::listen::sockets::{self, BindError, Feature, Passed, Sockets};
use crate::listen::takeover::{self, Takeover};
use crate::reload::Loaded;
use crate::reload::upstreams::{Chosen, choose};

/// What a start has got before it serves.
pub(super) struct Prepared {
    /// The bounds that follow the limits of this process.
    pub(super) sizes: Sizes,
    /// Its sockets.
    pub(super) sockets: Sockets,
    /// How it takes over, and is taken over.
    pub(super) takeover: Option<Takeover>,
    /// Whom it asks.
    pub(super) chosen: Chosen,
}

/// Why there is no start.
pub(super) enum Refused {
    /// What files say does not go together.
    Files(Vec<Diagnostic>),
    /// The limits of this process are too low.
    Limits(String),
    /// A listener's socket cannot be had, or another hostgate does not hand over.
    System(String),
}

/// Walks the steps of a start.
///
/// # Errors
/// The first step that fails. What is passed over is the failure of whatever DNS does without: see [`lacking`].
pub(super) fn prepare(config: &Config, loaded: &mut Loaded, how: Start) -> Result<Prepared, Refused> {
    let system = |error: BindError| Refused::System(error.to_string());
    let sizes = size(config).map_err(Refused::Limits)?;
    let mut passed = Passed::from_systemd().map_err(system)?;
    let mut predecessor = None;
    if let (Some(path), Start::TakeOver) = (&config.takeover, how)
        && passed.is_empty()
        && let Some((asked, fds)) = takeover::ask(path).map_err(|error| Refused::System(error.to_string()))?
    {
        passed = Passed::from_predecessor(fds).map_err(system)?;
        predecessor = Some(asked);
    }
    let sockets = sockets::bind(config, threads(config), passed).map_err(system)?;
    let takeover = config.takeover.as_deref().map(|path| Takeover::prepare(path, predecessor, &sockets));
    let takeover = takeover.transpose().map_err(|error| Refused::System(error.to_string()))?;
    let listeners: Vec<_> = sockets.listeners.iter().map(|listener| listener.address).collect();
    let chosen = choose(&config.upstream, &listeners, &mut |path| loaded.read(path)).map_err(Refused::Files)?;
    Ok(Prepared { sizes, sockets, takeover, chosen })
}

/// Returns how many threads each listener is to have.
pub(super) fn threads(config: &Config) -> usize {
    config.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}

/// Returns which sockets besides those of DNS cannot be had, and why.
pub(super) fn lacking(prepared: &Prepared) -> Vec<String> {
    let Prepared { sockets, takeover, .. } = prepared;
    let admin = sockets.admin.as_ref().and_then(|admin| admin.first.as_ref().err()).map(ToString::to_string);
    let control = sockets.control.as_ref().and_then(|control| control.first.as_ref().err()).map(ToString::to_string);
    let takeover = takeover.as_ref().and_then(Takeover::error).map(ToString::to_string);
    [admin, control, takeover].into_iter().flatten().collect()
}

/// What is in use and free for a start all the same: what the hostgate that runs with the same configuration holds, and what
/// systemd passes on.
pub(super) struct Held {
    /// Addresses, and `unix:` with the paths of Unix sockets.
    addresses: BTreeSet<String>,
    /// Whether the hostgate that runs does not say which it has, or not of all.
    is_unknown: bool,
}

impl Held {
    /// Finds it for the configuration file at `path`: asks the hostgate that runs, at its admin endpoint; where it has none,
    /// it is known by its socket for take-overs, or by its name.
    pub(super) fn find(path: Option<&Path>, config: &Config) -> Self {
        /// The process that starts all others, and listens for those that it activates.
        const SYSTEMD: u32 = 1;
        let own = path.and_then(|path| std::path::absolute(path).ok());
        let admin = config.admin.and_then(|admin| status::fetch_either(admin, config.admin_instead).ok());
        let known = admin.and_then(|status| serde_json::from_value::<Listening>(status["listening"].clone()).ok());
        let known = known.filter(|known| known.configuration == own);
        let is_offered = || config.takeover.as_ref().is_some_and(|path| UnixStream::connect(path).is_ok());
        let is_unknown = known.as_ref().map_or_else(is_offered, |known| known.more);
        let mut addresses = known.map(|known| known.addresses).unwrap_or_default();
        let is_free = |holder: &Holder| holder.pid == SYSTEMD || config.admin.is_none() && holder.name == "hostgate";
        let passed = of(config).filter(|address| holder(*address).is_some_and(|holder| is_free(&holder)));
        addresses.extend(passed.map(|address| address.to_string()));
        Self { addresses, is_unknown }
    }

    /// Returns whether an address is held, or the path of a Unix socket as `unix:PATH`. One that was taken away is held no more.
    fn has(&self, address: &str) -> bool {
        let is_there = address.strip_prefix("unix:").is_none_or(|path| Path::new(path).exists());
        is_there && (self.is_unknown || self.addresses.contains(address))
    }

    /// Returns the addresses of a configuration that others have, with who that is, where it can be seen.
    pub(super) fn taken(&self, config: &Config) -> Vec<String> {
        let others = of(config).filter(|address| !self.has(&address.to_string()));
        let told = |address| holder(address).map(|Holder { pid, name }| format!("{address} by {name} (process {pid})"));
        others.filter_map(told).collect()
    }

    /// Takes out of a configuration what is held, so that the rest can be tried.
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

/// Returns the addresses that a configuration names to listen at.
fn of(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let api = config.control.as_ref().and_then(|control| match &control.listen {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Unix(_) => None,
    });
    let listeners = config.listen.iter().map(|listen| listen.address);
    listeners.chain(config.admin).chain(api).filter(|address| address.port() != 0)
}

/// Walks the steps of a start for a configuration, without what is `held`, and undoes them; returns what came of them.
///
/// # Errors
/// The first step that fails.
pub(super) fn try_out(config: &Config, loaded: &mut Loaded, held: &Held) -> Result<(Chosen, Vec<String>), Refused> {
    // As many listeners as there are need what they need, whoever holds them.
    size(config).map_err(Refused::Limits)?;
    let mut free = config.clone();
    held.leave_out(&mut free);
    let prepared = prepare(&free, loaded, Start::Alone)?;
    let lacking = lacking(&prepared);
    let Prepared { sockets, takeover, .. } = prepared;
    if let Some(Feature { first: Ok(ControlSocket::Unix { path, is_ours: true, .. }), .. }) = &sockets.control {
        // Should it be gone already, that is as well.
        let _ = fs::remove_file(path);
    }
    if let Some(takeover) = takeover.filter(|takeover| takeover.error().is_none()) {
        let _ = fs::remove_file(takeover.path());
    }
    drop(sockets);
    let listeners: Vec<_> = config.listen.iter().map(|listen| listen.address).collect();
    let chosen = choose(&config.upstream, &listeners, &mut |path| loaded.read(path)).map_err(Refused::Files)?;
    Ok((chosen, lacking))
}
