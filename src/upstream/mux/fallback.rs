//! The fallback for upstreams that do not understand EDNS: the question is repeated at once, with less of it.

use std::sync::Arc;
use std::time::Instant;

use super::outstanding::{Case, Try};
use super::{Mux, Waits};
use crate::dns::response::{Casing, Edns};

impl<W: Waits, C> Mux<W, C> {
    /// Asks a question again, at the same upstream, with `less` of EDNS than the try that was not understood; returns whether
    /// it did, or has before.
    ///
    /// A try that got a bare header stays: anybody can send one that guesses its ID, and if the true reply comes first, the
    /// upstream understands more than the header says.
    pub(super) fn ask_with_less(&mut self, place: usize, one: Try, less: Edns, is_bare: bool) -> bool {
        let Some(port) = self.ports.get(one.key.port) else { return false };
        let (endpoint, around) = (Arc::clone(&port.endpoint), Arc::clone(&port.around));
        let Some(asked) = self.outstanding[place].as_mut().filter(|asked| asked.is_asked_here()) else { return false };
        let server = endpoint.server.address;
        let is_asked = asked.tries().any(|other| {
            let is_there = self.ports.get(other.key.port).is_some_and(|port| port.endpoint.server.address == server);
            is_there && other.key != one.key && other.edns >= less
        });
        if !is_asked {
            let Some(key) = self.ports.choose(&endpoint, &around, asked.holder) else { return false };
            let (casing, case) = match one.case {
                Case::Tested => (Casing::LOWER, Case::Tested),
                Case::Open | Case::Doubted => (endpoint.casing(|| self.ports.bits(), &around), Case::Open),
            };
            self.ports.send(key, &asked.question, (casing, less), place);
            asked.again.push(Try { key, since: Instant::now(), casing, case, edns: less, is_garbled: false, ..one });
        }
        endpoint.note_heard(&around);
        if !is_bare {
            asked.take(one.key);
            self.ports.release(one.key);
        }
        true
    }
}
