//! Who may use the API.

use std::net::IpAddr;
use std::sync::Arc;

/// Whoever a token belongs to; with each request that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// What its token lets it do.
    pub(crate) role: Role,
    /// What it is called in audit records: the role and the beginning of the token's hash.
    pub(crate) name: Arc<str>,
    /// Where the request came from; `None` on a Unix socket.
    pub(crate) source: Option<IpAddr>,
}

/// What a token lets its owner do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Reading.
    Viewer,
}
