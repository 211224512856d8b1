//! The limit on connections to the admin endpoint: at the limit, one that has no request under way is closed for a new one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::bounds::capacity;
use crate::bounds::{ADMIN_CONNECTIONS, MAX_ADMIN_CLOSING};
use crate::fair_share::{ByHolder, Holder};
use crate::util::lock;

/// The connections to the admin endpoint, shared by the tasks that serve them.
#[derive(Default)]
pub(super) struct Connections {
    /// The connections that have not been asked to close.
    open: Mutex<Open>,
}

/// The connections that may be closed for a new one.
#[derive(Default)]
struct Open {
    /// The connections without a request under way, by a number that grows: the one that has had none for longest first.
    connections: BTreeMap<u64, Connection>,
    /// The number of the next entry.
    next: u64,
}

/// A connection without a request under way.
struct Connection {
    /// The host at its other end.
    source: Holder,
    /// Notified to make the task of the connection close it.
    close: Arc<Notify>,
}

/// The handle of an open connection, which leaves the table when it is dropped.
pub(super) struct Entry {
    /// The table that the connection is in.
    connections: Arc<Connections>,
    /// The host at its other end.
    source: Holder,
    /// The number of the connection in [`Open::connections`]; `None` while a request is under way.
    number: Mutex<Option<u64>>,
    /// Notified when the connection has to close.
    close: Arc<Notify>,
}

impl Connections {
    /// Adds a connection from `source`. At the limit, a connection of the host that has most is closed: the one that has
    /// been idle, or half way through a request, for longest.
    pub(super) fn add(self: &Arc<Self>, source: IpAddr) -> Arc<Entry> {
        let (source, close) = (Holder::host(source), Arc::new(Notify::new()));
        let mut open = self.lock();
        // Where the limit on open files allows fewer connections, the same part of them may be open here.
        let most = ADMIN_CONNECTIONS * capacity::granted().admin / (ADMIN_CONNECTIONS + MAX_ADMIN_CLOSING);
        if open.connections.len() >= most {
            open.close_one();
        }
        let number = Mutex::new(Some(open.add(source, &close)));
        drop(open);
        Arc::new(Entry { connections: Arc::clone(self), source, number, close })
    }

    /// Closes a connection without a request under way, if there is one. Used when no file descriptor is left.
    pub(super) fn close_one(&self) {
        self.lock().close_one();
    }

    /// Locks the table.
    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }
}

impl Open {
    /// Adds a connection behind all others in the order of closing, and returns its number.
    fn add(&mut self, source: Holder, close: &Arc<Notify>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, Connection { source, close: Arc::clone(close) });
        number
    }

    /// Removes the first connection in the order of closing among those of the host that has most, and tells it to close.
    fn close_one(&mut self) {
        let mut counts = ByHolder::<usize>::default();
        for connection in self.connections.values() {
            *counts.entry(connection.source).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let oldest = self.connections.iter().find(|(_, connection)| counts.get(&connection.source).copied() == most);
        if let Some(connection) = oldest.map(|(number, _)| *number).and_then(|number| self.connections.remove(&number))
        {
            connection.close.notify_one();
        }
    }
}

impl Entry {
    /// Notes whether a request is under way: then the connection cannot be closed for another one.
    pub(super) fn is_busy(&self, is_busy: bool) {
        let mut number = lock(&self.number);
        let mut open = self.connections.lock();
        if is_busy {
            if let Some(number) = number.take() {
                open.connections.remove(&number);
            }
        } else if number.is_none() {
            *number = Some(open.add(self.source, &self.close));
        }
    }

    /// Waits until the connection has to close.
    pub(super) async fn told_to_close(&self) {
        self.close.notified().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.is_busy(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a connection was told to close.
    async fn is_closed(entry: &Entry) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, entry.told_to_close()).await.is_ok()
    }

    #[tokio::test]
    async fn the_oldest_connection_of_the_source_with_most_is_closed_at_the_limit() {
        let connections = Arc::new(Connections::default());
        let [flood, lone] = ["192.0.2.1", "192.0.2.2"].map(|source| source.parse::<IpAddr>().unwrap());
        let probe = connections.add(lone);
        let mut entries: Vec<_> = (1..ADMIN_CONNECTIONS).map(|_| connections.add(flood)).collect();
        // One that has a request under way stays, and is the youngest afterwards.
        entries[0].is_busy(true);
        let fits = connections.add(flood);
        for _ in 0..2 {
            entries.push(connections.add(flood));
        }
        let mut closed = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if is_closed(entry).await {
                closed.push(index);
            }
        }
        assert_eq!(closed, [1, 2]);
        assert!(!is_closed(&probe).await);
        entries[0].is_busy(false);
        drop((entries, fits, probe));
        assert!(connections.lock().connections.is_empty());
    }
}
