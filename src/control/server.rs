//! The API's connections.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::access::{Principal, Role};
use super::{Control, routes};
use crate::config::control::Endpoint;

/// The socket the API is served on, bound and not yet served.
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Binds what `[control] listen` says.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Address(address) => TcpListener::bind(address).map(Self),
            Endpoint::Unix(_) => Err(io::Error::other("Unix sockets are still to come")),
        }
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(listener: Listener, control: Arc<Control>, mut stop: watch::Receiver<bool>) {
    let listening = listener.0.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener.0));
    let Ok(listener) = listening else { return };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else { continue };
        let principal = Principal { role: Role::Admin, name: "admin".into(), source: Some(peer.ip()) };
        let routes = routes::router(Arc::clone(&control)).layer(Extension(principal));
        connections.spawn(async move {
            let routes = TowerToHyperService::new(routes);
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), routes).await;
        });
    }
}
