//! The steps of a start between reading files and serving: sizes, sockets, a take-over, upstreams. `hostgate check --start`
//! runs the same steps, so its report cannot differ from a start.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::sizes::{Sizes, size, threads};
use crate::config::Config;
use crate::document::Diagnostic;
use crate::listen::sockets::{self, BindError, Passed, Sockets};
use crate::listen::takeover::{self, Predecessor, Takeover, TakeoverError};
use crate::reload::upstreams::{Chosen, choose};
use crate::reload::{Loaded, ServedTexts};

/// The treatment of a hostgate that already serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Leave it running: if it has our addresses, the start fails.
    Alone,
    /// Take over its sockets, after which it ends.
    TakeOver,
}

/// The result of the steps, ready to serve.
pub(crate) struct Prepared {
    /// The bounds derived from the limits of this process.
    pub(crate) sizes: Sizes,
    pub(crate) sockets: Sockets,
    /// The socket for a take-over, and the predecessor if there is one.
    pub(crate) takeover: Option<Takeover>,
    /// The upstreams.
    pub(crate) chosen: Chosen,
}

/// The reason why a start is refused.
pub(crate) enum StartRefusal {
    /// The files contradict each other.
    Files(Vec<Diagnostic>),
    /// The limits of this process are too low.
    Limits(String),
    /// A predecessor serves newer texts than this start has.
    Older(String),
    /// A listening socket is not available, or a predecessor does not hand over its sockets.
    System(String),
}

/// Runs the steps of a start.
///
/// # Errors
/// The first step that fails. A failure that DNS can do without is not an error: the socket in question is without one then, and is tried again while hostgate serves.
pub(crate) fn prepare(config: &Config, loaded: &mut Loaded, how: Start) -> Result<Prepared, StartRefusal> {
    let system = |error: BindError| StartRefusal::System(error.to_string());
    let sizes = size(config).map_err(StartRefusal::Limits)?;
    let mut passed = Passed::from_systemd().map_err(system)?;
    // A predecessor is asked only if systemd has not passed the sockets.
    let mut predecessor = None;
    if let (Some(path), Start::TakeOver) = (&config.takeover, how)
        && passed.is_empty()
        && let Some((asked, fds)) = take_over(path, loaded)?
    {
        passed = Passed::from_predecessor(fds).map_err(system)?;
        predecessor = Some(asked);
    }
    let sockets = sockets::bind(config, threads(config), passed).map_err(system)?;
    let takeover = config.takeover.as_deref().map(|path| Takeover::prepare(path, predecessor, &sockets));
    let takeover = takeover.transpose().map_err(|error| StartRefusal::System(error.to_string()))?;
    let listeners: Vec<_> = sockets.listeners.iter().map(|listener| listener.address).collect();
    let chosen = choose(&config.upstream, &listeners, &mut |path| loaded.read(path)).map_err(StartRefusal::Files)?;
    Ok(Prepared { sizes, sockets, takeover, chosen })
}

/// Asks the hostgate that offers its sockets at `path` for them. A start from the last good state first asks what that
/// one serves, and brings back nothing older.
///
/// # Errors
/// The predecessor does not hand over, or serves newer texts.
fn take_over(path: &Path, loaded: &Loaded) -> Result<Option<(Predecessor, Vec<OwnedFd>)>, StartRefusal> {
    let find_older = |served: &ServedTexts| loaded.older_than(served);
    let is_from_last_good = loaded.last_good.is_some();
    takeover::ask(path, is_from_last_good.then_some(&find_older)).map_err(|error| match error {
        TakeoverError::Older { .. } => StartRefusal::Older(error.to_string()),
        _ => StartRefusal::System(error.to_string()),
    })
}
