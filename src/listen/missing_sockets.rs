//! The sockets of the admin endpoint, the API and take-overs that could not be opened.
//!
//! Queries are answered without them. A missing socket is logged, listed in the status, and tried again once a second.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::sockets::{BindError, Feature};
use crate::bounds::MAX_TOLD_LINE;
use crate::document::shortened;
use crate::reload::out_of_date::{Beginning, Entry, Kind};
use crate::util::lock;

/// The pause between two tries.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

/// The purpose of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Metrics and status.
    Admin,
    /// The API.
    Api,
    /// Being taken over.
    Takeover,
}

impl Purpose {
    /// Returns the name of the socket in the log.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin endpoint",
            Self::Api => "API",
            Self::Takeover => "take-over",
        }
    }
}

/// The sockets that are missing now, each with since when and why.
#[derive(Default)]
pub(crate) struct Lacking(Mutex<BTreeMap<Purpose, Entry>>);

impl Lacking {
    /// Notes that a socket could not be opened, and logs it once for each reason.
    pub(crate) fn note(&self, purpose: Purpose, path: Option<&Path>, why: &str) {
        let mut all = self.lock();
        let known = all.get(&purpose);
        let since = known.map_or_else(Beginning::now, |known| known.since);
        let entry = Entry::new(Kind::Socket, path, since, why);
        if known != Some(&entry) {
            let error = &*shortened(why, MAX_TOLD_LINE);
            tracing::error!(error, "no {} for now: queries are answered, and it is tried again", purpose.as_str());
            all.insert(purpose, entry);
        }
    }

    /// Notes that a socket is open, and logs for how long it was missing.
    pub(crate) fn end(&self, purpose: Purpose) {
        if let Some(entry) = self.lock().remove(&purpose) {
            let seconds = entry.since.seconds();
            tracing::info!(seconds, "{} is there again", purpose.as_str());
        }
    }

    /// Returns the entries for `out_of_date`.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Purpose, Entry>> {
        lock(&self.0)
    }

    /// Tries once a second to open a socket until that succeeds, and returns it. Returns `None` if the process stops before.
    pub(crate) async fn until_had<S: Send + 'static>(
        self: Arc<Self>,
        purpose: Purpose,
        feature: Feature<S>,
        mut stop: watch::Receiver<bool>,
    ) -> Option<S> {
        let Feature { mut first, mut again } = feature;
        loop {
            match first {
                Ok(socket) => {
                    self.end(purpose);
                    return Some(socket);
                }
                Err(error) => {
                    let path = if let BindError::Path { path, .. } = &error { Some(&**path) } else { None };
                    self.note(purpose, path, &error.to_string());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                _ = stop.wait_for(|stop| *stop) => return None,
            }
            // Opening a Unix socket may block on a file system that does not answer.
            let tried = tokio::task::spawn_blocking(move || {
                let bound = again();
                (bound, again)
            });
            // A panic has been reported by the panic hook.
            (first, again) = tried.await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_lacking_is_told_since_its_first_failure() {
        let lacking = Lacking::default();
        lacking.note(Purpose::Api, None, "bind control: in use");
        let first = lacking.entries();
        lacking.note(Purpose::Api, Some(Path::new("api.sock")), "bind control: not there");
        lacking.note(Purpose::Takeover, None, "no directory");
        let both = lacking.entries();
        assert_eq!((first.len(), both.len()), (1, 2));
        assert_eq!(both[0].since, first[0].since);
        assert!(serde_json::to_string(&both[0]).unwrap().contains("bind control: not there"), "{both:?}");
        lacking.end(Purpose::Api);
        lacking.end(Purpose::Admin);
        assert_eq!(lacking.entries().len(), 1);
    }
}
