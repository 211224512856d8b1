//! Looks at files whose file system may not answer, away from the threads that serve.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::bounds::MAX_LOOKS;
use crate::telemetry::append::Health;

/// How long one look may take.
const WAIT: Duration = Duration::from_secs(2);

/// Threads that look at files of one kind.
pub(super) struct Disk {
    /// How they get on.
    health: Arc<Health>,
    /// One for each of them.
    turns: Arc<Semaphore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { health: Arc::default(), turns: Arc::new(Semaphore::new(MAX_LOOKS)) }
    }
}

impl Disk {
    /// Looks at files on another thread; `None` where that takes too long, at once where it is known to.
    pub(super) async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.health.hangs() {
            return None;
        }
        let (health, turns) = (Arc::clone(&self.health), Arc::clone(&self.turns));
        let looked = async {
            let turn = turns.acquire_owned().await.ok()?;
            let look = move || {
                let looked = health.during(look);
                drop(turn);
                looked
            };
            // A panic has been reported by the panic hook.
            spawn_blocking(look).await.ok()
        };
        timeout(WAIT, looked).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn file_system_that_does_not_answer_is_waited_for_once() {
        let disk = Disk::default();
        assert_eq!(disk.look(|| 1).await, Some(1));
        let (answers, answer) = mpsc::channel::<()>();
        let start = Instant::now();
        assert_eq!(disk.look(move || answer.recv().is_err()).await, None);
        assert!(start.elapsed() >= WAIT);
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(disk.look(|| 2).await, None);
        }
        assert!(start.elapsed() < WAIT);
        // It answers again.
        drop(answers);
        while disk.look(|| 3).await != Some(3) {
            assert!(start.elapsed() < 5 * WAIT);
            tokio::task::yield_now().await;
        }
    }
}
