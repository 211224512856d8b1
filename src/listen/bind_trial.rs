//! A trial of the sockets of a start, for `hostgate check --start`.
//!
//! An address is bound for a moment, and nothing listens at it, so that no connection is accepted and then lost. The path
//! of a Unix socket is only looked at: nothing is made, changed or removed there.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::Socket;

use super::sockets::{BindError, at_either, bind_udp};
use super::takeover::TakeoverError;
use super::tcp::{self, Absent};
use super::unix;
use crate::config::Config;
use crate::config::control::Endpoint;

/// Binds the addresses of a configuration for a moment. Returns the errors of those that DNS can do without.
///
/// # Errors
/// The first error of a listener for DNS.
pub(crate) fn addresses(config: &Config) -> Result<Vec<String>, BindError> {
    // Two sockets of the configuration with one address would be found when the second one listens.
    let mut tried = HashSet::new();
    let mut tcp = |transport, address: SocketAddr, absent| -> Result<Socket, BindError> {
        let is_twice = address.port() != 0 && !tried.insert(address);
        let in_use = || Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        let bound = if is_twice { in_use() } else { tcp::bind_only(address, absent) };
        bound.map_err(|error| BindError::Address { transport, address, error })
    };
    let mut bound = Vec::new();
    for listen in &config.listen {
        bound.push((bind_udp(listen.address)?, tcp("tcp", listen.address, Absent::Awaited)?));
    }
    let mut lacking = Vec::new();
    if let Some(address) = config.admin {
        let bound = at_either(address, config.admin_instead, |address| tcp("admin", address, Absent::Refused));
        lacking.extend(bound.err().map(|error| error.to_string()));
    }
    if let Some(Endpoint::Address(address)) = config.control.as_ref().map(|control| &control.listen) {
        lacking.extend(tcp("control", *address, Absent::Awaited).err().map(|error| error.to_string()));
    }
    Ok(lacking)
}

/// Looks at the paths of a configuration's Unix sockets, with the rights of this user. Returns the errors.
pub(crate) fn paths(config: &Config) -> Vec<String> {
    let control = config.control.as_ref().and_then(|control| match &control.listen {
        Endpoint::Unix(path) => Some(path),
        Endpoint::Address(_) => None,
    });
    let failed = |path: &Path, error| BindError::Path { path: path.to_owned(), error }.to_string();
    let control = control.and_then(|path| unix::forecast(path).err().map(|error| failed(path, error)));
    let failed = |path: &Path, error| TakeoverError::Path { path: path.to_owned(), error }.to_string();
    let takeover = config.takeover.as_deref();
    let takeover = takeover.and_then(|path| unix::forecast_private(path).err().map(|error| failed(path, error)));
    control.into_iter().chain(takeover).collect()
}
