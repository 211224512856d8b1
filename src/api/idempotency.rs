//! Idempotent requests: the SDKs send one `x-request-id` with every retry of a call, and it is executed once.
//!
//! A retry that comes while the first request runs waits for its response. After a failure the next retry is executed. The
//! responses are kept in memory, for an hour and within bounds.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::api::request::error::ApiError;
use crate::bounds::{MAX_RETRIES, MAX_RETRY_OCTETS};
use crate::fair_share::{ByHolder, Holder};
use crate::util::lock;

/// The time for which a response is kept.
const KEEP: Duration = Duration::from_hours(1);

/// The responses by request id.
#[derive(Default)]
pub(super) struct IdempotencyCache {
    entries: Mutex<CacheEntries>,
    /// The hash function of [`RequestKey::fingerprint`].
    hasher: RandomState,
}

/// The identity of a request that may be retried.
pub(super) struct RequestKey {
    /// The token that the response counts for.
    holder: Holder,
    id: Arc<str>,
    /// A hash of token, path and body, which differs if a client uses an id for two requests.
    fingerprint: u64,
}

/// The response of a request that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CachedResponse {
    /// The id of a created object. Its view is made again for a retry, as that of a large object would take much memory.
    Created(Arc<str>),
    Body(Bytes),
}

#[derive(Default)]
struct CacheEntries {
    by_id: HashMap<Arc<str>, CacheEntry>,
    owned: ByHolder<OwnedEntries>,
    /// The octets of all bodies.
    octets: usize,
}

/// The entries of one token.
#[derive(Default)]
struct OwnedEntries {
    /// The ids, oldest first.
    order: VecDeque<(Arc<str>, Instant)>,
    octets: usize,
}

struct CacheEntry {
    holder: Holder,
    fingerprint: u64,
    /// The octets of the response's body.
    octets: usize,
    /// Empty while the request is executed.
    response: Arc<OnceCell<CachedResponse>>,
}

/// One request with its entry. The entry of a request that failed is removed, unless a retry already waits for it.
struct RequestAttempt<'c> {
    cache: &'c IdempotencyCache,
    key: &'c RequestKey,
    response: Arc<OnceCell<CachedResponse>>,
}

impl IdempotencyCache {
    /// Returns the key of a request by `token`.
    pub(super) fn key(&self, token: &str, id: &str, path: &str, body: &[u8]) -> RequestKey {
        let fingerprint = self.hasher.hash_one((token, path, body));
        RequestKey { holder: Holder::named(token), id: id.into(), fingerprint }
    }

    /// Executes a request unless it was executed before, and returns the response of the execution.
    ///
    /// # Errors
    /// The error of `execute`, or the id is that of another request.
    pub(super) async fn once(
        &self,
        key: &RequestKey,
        execute: impl Future<Output = Result<CachedResponse, ApiError>>,
    ) -> Result<CachedResponse, ApiError> {
        let attempt = RequestAttempt { cache: self, key, response: self.response(key)? };
        let executed = attempt.response.get_or_try_init(|| async {
            let response = execute.await?;
            lock(&self.entries).count(key, &attempt.response, &response);
            Ok(response)
        });
        executed.await.cloned()
    }

    /// Returns the entry of a request, added if it is the first one with its id.
    fn response(&self, key: &RequestKey) -> Result<Arc<OnceCell<CachedResponse>>, ApiError> {
        let mut entries = lock(&self.entries);
        entries.expire(key.holder);
        if let Some(entry) = entries.by_id.get(&key.id) {
            // The same id with another body is a mistake of the client: any response would be wrong for one of the two.
            if entry.fingerprint == key.fingerprint {
                return Ok(Arc::clone(&entry.response));
            }
            return Err(ApiError::bad(
                "x-request-id: it came with another request already: make a new one for each call",
            ));
        }
        let response = Arc::<OnceCell<_>>::default();
        entries.owned.entry(key.holder).or_default().order.push_back((Arc::clone(&key.id), Instant::now()));
        let (holder, fingerprint) = (key.holder, key.fingerprint);
        let entry = CacheEntry { holder, fingerprint, octets: 0, response: Arc::clone(&response) };
        entries.by_id.insert(Arc::clone(&key.id), entry);
        Ok(response)
    }
}

impl Drop for RequestAttempt<'_> {
    fn drop(&mut self) {
        let mut entries = lock(&self.cache.entries);
        // Dropped before the lock is released, so that the last of two attempts that end together sees that it is.
        let response = std::mem::take(&mut self.response);
        let is_own = |entry: &CacheEntry| Arc::ptr_eq(&entry.response, &response);
        // One reference is the entry's and one this attempt's: no retry waits.
        let is_last = !response.initialized() && Arc::strong_count(&response) == 2;
        if is_last && entries.by_id.get(&self.key.id).is_some_and(is_own) {
            entries.by_id.remove(&self.key.id);
            if let Some(owned) = entries.owned.get_mut(&self.key.holder) {
                owned.order.retain(|(id, _)| *id != self.key.id);
            }
        }
    }
}

impl CacheEntries {
    /// Counts the octets of a response, unless its entry was evicted while the request was executed.
    fn count(&mut self, key: &RequestKey, cell: &Arc<OnceCell<CachedResponse>>, response: &CachedResponse) {
        let CachedResponse::Body(body) = response else { return };
        if let Some(entry) = self.by_id.get_mut(&key.id).filter(|entry| Arc::ptr_eq(&entry.response, cell)) {
            entry.octets = body.len();
            self.octets += body.len();
            self.owned.entry(entry.holder).or_default().octets += body.len();
        }
    }

    /// Evicts what is too old, and then the oldest entries of a token as long as it has as many as are free, so that no
    /// token evicts another one's.
    fn expire(&mut self, holder: Holder) {
        let holders: Vec<Holder> = self.owned.keys().copied().collect();
        for known in holders {
            while self.oldest(known).is_some_and(|at| at.elapsed() >= KEEP) {
                self.evict(known);
            }
        }
        loop {
            let own = self.owned.get(&holder).map_or((0, 0), |own| (own.order.len(), own.octets));
            // The rule of all shares: a holder may have as much as is still free.
            let free = (MAX_RETRIES.saturating_sub(self.by_id.len()), MAX_RETRY_OCTETS.saturating_sub(self.octets));
            if own.0 < free.0 && own.1 <= free.1 {
                return;
            }
            let most = self.owned.iter().max_by_key(|(_, owned)| owned.order.len()).map(|(most, _)| *most);
            // A token without entries evicts one of the token that has most: there are more tokens than entries then.
            match most.filter(|_| own.0 == 0).or_else(|| (own.0 > 0).then_some(holder)) {
                Some(from) => self.evict(from),
                None => return,
            }
        }
    }

    /// Returns when the oldest request of a token came.
    fn oldest(&self, holder: Holder) -> Option<Instant> {
        self.owned.get(&holder)?.order.front().map(|(_, at)| *at)
    }

    /// Evicts the oldest entry of a token.
    fn evict(&mut self, holder: Holder) {
        let Some(owned) = self.owned.get_mut(&holder) else { return };
        let removed = owned.order.pop_front().and_then(|(id, _)| self.by_id.remove(&id));
        let octets = removed.map_or(0, |entry| entry.octets);
        owned.octets -= octets;
        self.octets -= octets;
        if owned.order.is_empty() {
            self.owned.remove(&holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes a request of a token at once.
    async fn once(cache: &IdempotencyCache, token: &str, id: &str, body: &[u8], response: CachedResponse) -> bool {
        let key = cache.key(token, id, "/", body);
        cache.once(&key, async { Ok(response.clone()) }).await.is_ok_and(|answered| answered == response)
    }

    /// Returns a response that creates an object.
    fn created(id: &str) -> CachedResponse {
        CachedResponse::Created(id.into())
    }

    #[tokio::test]
    async fn a_retry_gets_the_first_response_also_while_that_request_runs() {
        let cache = IdempotencyCache::default();
        let key = cache.key("token", "a", "/", b"1");
        let (proceed, wait) = tokio::sync::oneshot::channel();
        let first = cache.once(&key, async {
            wait.await.unwrap();
            Ok(created("npol_1"))
        });
        let retry = cache.once(&key, async { Err(ApiError::bad("executed twice")) });
        let other = async {
            assert!(!once(&cache, "token", "a", b"2", created("npol_2")).await, "another body under the same id");
            proceed.send(()).unwrap();
        };
        let (first, retry, ()) = tokio::join!(first, retry, other);
        assert_eq!((first.unwrap(), retry.unwrap()), (created("npol_1"), created("npol_1")));
        assert!(once(&cache, "token", "b", b"1", created("npol_3")).await);
    }

    #[tokio::test]
    async fn a_request_that_failed_is_executed_again() {
        let cache = IdempotencyCache::default();
        let key = cache.key("token", "a", "/", b"1");
        let first = cache.once(&key, async {
            tokio::task::yield_now().await;
            Err(ApiError::bad("no"))
        });
        let retry = cache.once(&key, async { Ok(CachedResponse::Body("x".into())) });
        let (first, retry) = tokio::join!(first, retry);
        assert!(first.is_err() && retry.is_ok());
        let state = || {
            let entries = lock(&cache.entries);
            (entries.by_id.len(), entries.owned[&key.holder].order.len(), entries.octets)
        };
        assert_eq!(state(), (1, 1, 1));
        let key = cache.key("token", "b", "/", b"1");
        assert!(cache.once(&key, async { Err(ApiError::bad("no")) }).await.is_err());
        assert!(once(&cache, "token", "b", b"2", created("npol_1")).await, "the id of a failed request is free");
    }

    #[tokio::test]
    async fn each_token_has_its_share_of_the_cache() {
        let cache = IdempotencyCache::default();
        assert!(once(&cache, "other", "mine", b"", created("x")).await);
        let body = Bytes::from(vec![0; 1 << 20]);
        for number in 0..40 {
            assert!(once(&cache, "token", &format!("large-{number}"), b"", CachedResponse::Body(body.clone())).await);
        }
        assert!(lock(&cache.entries).octets <= MAX_RETRY_OCTETS / 2 + body.len(), "one greedy token leaves half");
        for number in 0..MAX_RETRIES {
            assert!(once(&cache, "token", &format!("small-{number}"), b"", created("x")).await);
        }
        let again = cache.key("other", "mine", "/", b"");
        assert!(cache.once(&again, async { Err(ApiError::bad("evicted")) }).await.is_ok(), "another token's stays");
        let entries = lock(&cache.entries);
        let owned = &entries.owned[&Holder::named("token")];
        assert_eq!((owned.order.len(), entries.by_id.len()), (MAX_RETRIES / 2, MAX_RETRIES / 2 + 1));
        assert_eq!((owned.octets, entries.octets), (0, 0));
    }
}
