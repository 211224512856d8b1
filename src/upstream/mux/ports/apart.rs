//! Sockets of single clients: a flood meets nobody but whom it is about.
//!
//! Anybody who may ask for a name whose owner sends floods of wrong replies can have the port left that the question went out
//! from, and with it the questions of all others on that port. So whoever had a question in flight there asks through a socket
//! of its own for a while, guilty or not: the next flood meets the client that it was sent for, and others keep their ports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ports;
use crate::fair_share::Holder;
use crate::upstream::endpoint::{Endpoint, Surroundings};

/// The time for which a client asks through a socket of its own after a flood.
const APART_FOR: Duration = Duration::from_mins(1);

/// One client that asks an upstream through a socket of its own.
pub(super) struct Apart {
    holder: Holder,
    server: SocketAddr,
    /// The token of its socket; none before its first use.
    pub(super) port: Option<usize>,
    /// The time at which it shares sockets again.
    until: Instant,
}

impl Ports {
    /// Lets a holder ask an upstream through a socket of its own from now on, if there may be one; of more than may be, the one
    /// that was set apart first asks with the others again.
    pub(in crate::upstream::mux) fn set_apart(&mut self, holder: Holder, server: SocketAddr) {
        let until = Instant::now() + APART_FOR;
        if let Some(known) = self.apart.iter_mut().find(|apart| apart.holder == holder && apart.server == server) {
            known.until = until;
            return;
        }
        let now = Instant::now();
        while let Some(index) = self.apart.iter().position(|apart| apart.until <= now) {
            self.join(index);
        }
        if self.most_apart == 0 {
            return;
        }
        if self.apart.len() >= self.most_apart {
            self.join(0);
        }
        self.apart.push(Apart { holder, server, port: None, until });
    }

    /// Returns the place of a holder that is set apart for an upstream.
    pub(super) fn find_apart(&mut self, holder: Holder, server: SocketAddr) -> Option<usize> {
        // As good as always empty.
        let index = self.apart.iter().position(|apart| apart.holder == holder && apart.server == server)?;
        if self.apart[index].until > Instant::now() {
            return Some(index);
        }
        self.join(index);
        None
    }

    /// Returns the socket of a holder that is set apart.
    pub(super) fn port_apart(
        &mut self,
        index: usize,
        endpoint: &Arc<Endpoint>,
        around: &Arc<Surroundings>,
    ) -> io::Result<usize> {
        if let Some(token) = self.apart[index].port.filter(|&token| self.may_take_more(token, endpoint)) {
            return Ok(token);
        }
        let token = self.open(endpoint, around)?;
        self.apart[index].port = Some(token);
        Ok(token)
    }

    /// Lets a holder ask with the others again.
    fn join(&mut self, index: usize) {
        if let Some(token) = self.apart.remove(index).port {
            self.retire(token);
        }
    }
}
