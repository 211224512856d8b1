//! The clients in force, by address and by id: one that comes, changes or goes leaves the others where they are.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Bound, Client};
use crate::policy::matching::client_index::ClientIndex;
use crate::util::persistent_map::OrderedMap;

/// Slots of a chunk: a change copies one of them.
const CHUNK: usize = 64;

/// Clients in slots, which keep their numbers; a copy shares what neither changes but the index, which is copied as a
/// whole, octet by octet.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// The slots.
    chunks: Vec<Arc<[Option<Client>; CHUNK]>>,
    /// Slots by address.
    index: ClientIndex<u32>,
    /// Slots by id.
    ids: OrderedMap<Arc<str>, u32>,
    /// Slots that nobody is in.
    free: Vec<u32>,
}

impl Clients {
    /// Makes it without clients.
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), index: ClientIndex::new(), ids: OrderedMap::new(), free: Vec::new() }
    }

    /// Returns the client with the longest prefix that holds an address.
    #[inline]
    pub(crate) fn lookup(&self, source: IpAddr) -> Option<&Client> {
        self.index.lookup(source).and_then(|slot| self.at(slot))
    }

    /// Returns the client that has this very prefix.
    pub(crate) fn with_prefix(&self, prefix: IpNet) -> Option<&Client> {
        self.index.get(prefix).and_then(|slot| self.at(slot))
    }

    /// Returns a client by its id.
    pub(crate) fn get(&self, id: &str) -> Option<&Client> {
        self.ids.get(id).and_then(|slot| self.at(*slot))
    }

    /// Returns the first client, in the order of their ids, whose id is `id` or comes after it.
    pub(crate) fn first_from(&self, id: &str) -> Option<&Client> {
        self.ids.iter_from(|other| **other < *id).next().and_then(|(_, slot)| self.at(*slot))
    }

    /// Returns the clients in the order of their ids.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Client> {
        self.ids.values().map(|slot| self.at(*slot).expect("an id's slot has its client"))
    }

    /// Puts a client in, in the place of the one with its id; no other one has its prefixes.
    pub(crate) fn insert(&mut self, client: Client) {
        let id = Arc::clone(&client.spec().id.value);
        let known = self.ids.get(&*id).copied();
        self.take_prefixes_of(&id);
        let slot = known.or_else(|| self.free.pop()).unwrap_or_else(|| self.new_slot());
        for source in client.sources() {
            // Equal prefixes are a conflict, so nothing can be there already.
            let _ = self.index.insert(source, slot);
        }
        self.put(slot, Some(client));
        if known.is_none() {
            self.ids.insert(id, slot);
        }
    }

    /// Frees the prefixes of a client that is to be replaced or taken out.
    pub(crate) fn take_prefixes_of(&mut self, id: &str) {
        let Some(&slot) = self.ids.get(id) else { return };
        let prefixes: Vec<IpNet> = self.at(slot).into_iter().flat_map(Client::sources).collect();
        for prefix in prefixes {
            // Another client may have it by now.
            if self.index.get(prefix) == Some(slot) {
                self.index.remove(prefix);
            }
        }
    }

    /// Takes a client out.
    pub(crate) fn remove(&mut self, id: &str) {
        let Some(&slot) = self.ids.get(id) else { return };
        self.take_prefixes_of(id);
        self.ids.remove(id);
        self.put(slot, None);
        self.free.push(slot);
    }

    /// Lets other things apply to clients: those for which `next` has something to what applies now.
    pub(crate) fn rebind(&mut self, next: impl Fn(&Bound) -> Option<Bound>) {
        for chunk in &mut self.chunks {
            if chunk.iter().flatten().all(|client| next(&client.bound).is_none()) {
                continue;
            }
            for client in Arc::make_mut(chunk).iter_mut().flatten() {
                if let Some(bound) = next(&client.bound) {
                    client.bound = bound;
                }
            }
        }
    }

    /// Returns the client in a slot.
    #[inline]
    fn at(&self, slot: u32) -> Option<&Client> {
        let (chunk, place) = place(slot);
        self.chunks.get(chunk)?[place].as_ref()
    }

    /// Puts something into a slot.
    fn put(&mut self, slot: u32, client: Option<Client>) {
        let (chunk, place) = place(slot);
        Arc::make_mut(&mut self.chunks[chunk])[place] = client;
    }

    /// Makes a chunk of slots and returns the first one.
    fn new_slot(&mut self) -> u32 {
        let first = u32::try_from(self.chunks.len() * CHUNK).expect("files bound the number of clients");
        self.chunks.push(Arc::new([const { None }; CHUNK]));
        let free = self.free.len();
        self.free.extend((first + 1..).take(CHUNK - 1));
        self.free[free..].reverse();
        first
    }
}

/// All at once, with their ids sorted once.
impl FromIterator<Client> for Clients {
    fn from_iter<I: IntoIterator<Item = Client>>(clients: I) -> Self {
        let mut all = Self::new();
        let mut ids = Vec::new();
        let mut clients = clients.into_iter().peekable();
        while clients.peek().is_some() {
            let first = u32::try_from(all.chunks.len() * CHUNK).expect("files bound the number of clients");
            let mut chunk = [const { None }; CHUNK];
            for (slot, place) in (first..).zip(&mut chunk) {
                let Some(client) = clients.next() else {
                    all.free.push(slot);
                    continue;
                };
                for source in client.sources() {
                    // Equal prefixes are a conflict, so nothing can be there already.
                    let _ = all.index.insert(source, slot);
                }
                ids.push((Arc::clone(&client.spec().id.value), slot));
                *place = Some(client);
            }
            all.chunks.push(Arc::new(chunk));
        }
        all.free.reverse();
        all.ids = ids.into_iter().collect();
        all
    }
}

/// Returns the chunk of a slot, and the place in it.
#[inline]
fn place(slot: u32) -> (usize, usize) {
    let slot = usize::try_from(slot).unwrap_or(usize::MAX);
    (slot / CHUNK, slot % CHUNK)
}
