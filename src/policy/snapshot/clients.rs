//! The clients in force, by address and by id, as a copy-on-write structure: adding, changing or removing a client
//! copies one chunk of slots and no other client.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{BoundPolicy, Client};
use crate::policy::matching::client_index::ClientIndex;
use crate::util::persistent_map::OrderedMap;

/// The slots of a chunk. A change of one client copies one chunk: smaller chunks copy less, larger ones are fewer to
/// clone.
const CHUNK: usize = 64;

/// Clients in numbered slots; a client keeps its slot.
///
/// A clone shares the chunks that neither side changes. The index by address is copied as a whole, which is a copy of
/// plain octets.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// The slots, in chunks.
    chunks: Vec<Arc<[Option<Client>; CHUNK]>>,
    /// The slots by address.
    index: ClientIndex<u32>,
    /// The slots by id.
    ids: OrderedMap<Arc<str>, u32>,
    /// The slots without a client.
    free: Vec<u32>,
}

impl Clients {
    /// Returns a table without clients.
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), index: ClientIndex::new(), ids: OrderedMap::new(), free: Vec::new() }
    }

    /// Returns the client with the longest prefix that holds an address.
    #[inline]
    pub(crate) fn lookup(&self, source: IpAddr) -> Option<&Client> {
        self.index.lookup(source).and_then(|slot| self.at(slot))
    }

    /// Returns the client that has exactly this prefix.
    pub(crate) fn with_prefix(&self, prefix: IpNet) -> Option<&Client> {
        self.index.get(prefix).and_then(|slot| self.at(slot))
    }

    /// Returns the client with this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Client> {
        self.ids.get(id).and_then(|slot| self.at(*slot))
    }

    /// Returns the client with the lowest id that is `id` or higher.
    pub(crate) fn first_from(&self, id: &str) -> Option<&Client> {
        self.ids.iter_from(|other| **other < *id).next().and_then(|(_, slot)| self.at(*slot))
    }

    /// Returns the clients in the order of their ids.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Client> {
        self.ids.values().map(|slot| self.at(*slot).expect("an id's slot has its client"))
    }

    /// Inserts a client, or replaces the one with its id. No other client may have one of its prefixes.
    pub(crate) fn insert(&mut self, client: Client) {
        let id = Arc::clone(&client.spec().id.value);
        let known = self.ids.get(&*id).copied();
        self.take_prefixes_of(&id);
        let slot = known.or_else(|| self.free.pop()).unwrap_or_else(|| self.new_slot());
        for source in client.sources() {
            // Equal prefixes are a conflict that was found before, so the insertion cannot fail.
            let _ = self.index.insert(source, slot);
        }
        self.put(slot, Some(client));
        if known.is_none() {
            self.ids.insert(id, slot);
        }
    }

    /// Removes the prefixes of a client from the index, before it is replaced or removed.
    pub(crate) fn take_prefixes_of(&mut self, id: &str) {
        let Some(&slot) = self.ids.get(id) else { return };
        let prefixes: Vec<IpNet> = self.at(slot).into_iter().flat_map(Client::sources).collect();
        for prefix in prefixes {
            // Another client may have been given the prefix in the same reload.
            if self.index.get(prefix) == Some(slot) {
                self.index.remove(prefix);
            }
        }
    }

    /// Removes the client with this id.
    pub(crate) fn remove(&mut self, id: &str) {
        let Some(&slot) = self.ids.get(id) else { return };
        self.take_prefixes_of(id);
        self.ids.remove(id);
        self.put(slot, None);
        self.free.push(slot);
    }

    /// Changes the policies of the clients for whose policy `next` returns another one. Chunks without such a client
    /// stay shared.
    pub(crate) fn rebind(&mut self, next: impl Fn(&BoundPolicy) -> Option<BoundPolicy>) {
        for chunk in &mut self.chunks {
            // Looking first costs less than a copy: `make_mut` copies a chunk that another snapshot shares.
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

    /// Sets the contents of a slot.
    fn put(&mut self, slot: u32, client: Option<Client>) {
        let (chunk, place) = place(slot);
        Arc::make_mut(&mut self.chunks[chunk])[place] = client;
    }

    /// Adds a chunk of slots, and returns the first of them.
    fn new_slot(&mut self) -> u32 {
        let first = u32::try_from(self.chunks.len() * CHUNK).expect("files bound the number of clients");
        self.chunks.push(Arc::new([const { None }; CHUNK]));
        let free = self.free.len();
        self.free.extend((first + 1..).take(CHUNK - 1));
        // `pop` takes from the end: in this order slots are used from the lowest on, and chunks fill up one by one.
        self.free[free..].reverse();
        first
    }
}

/// Builds the table at once, sorting the ids once: a full load of many clients costs no chunk copies.
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
                    // Equal prefixes are a conflict that was found before, so the insertion cannot fail.
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

/// Returns the chunk of a slot, and the position in the chunk.
#[inline]
fn place(slot: u32) -> (usize, usize) {
    let slot = usize::try_from(slot).unwrap_or(usize::MAX);
    (slot / CHUNK, slot % CHUNK)
}
