//! Looks at files whose file system may not answer, away from the threads that serve.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::bounds::MAX_LOOKS;
use crate::telemetry::append::Health;

/// How long one look may take.
const WAIT: Duration = Duration::from_secs(2);
/// How long a thread that serves waits for the other one: a look takes microseconds, and on a busy machine it takes its turn.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How often a look that takes longer is asked for.
const AGAIN: Duration = Duration::from_millis(20);

/// A look.
type Look = Box<dyn FnOnce() + Send>;

/// Looks at files of one kind on a thread for them, so that no thread that serves waits for a file system.
#[derive(Default)]
pub(super) struct FileProbe {
    /// What it is to look at; `None` where the system gave no thread.
    looks: OnceLock<Option<SyncSender<Look>>>,
    /// How it gets on.
    health: Arc<Health>,
}

impl FileProbe {
    /// Looks at files on the other thread; `None` where that takes too long, at once where it is known to.
    ///
    /// The calling thread waits for a look that takes microseconds, so that nothing comes between a request and its
    /// admission; for one that takes longer the task waits alone. It never looks itself: whether a file system answers is
    /// known only afterwards.
    pub(super) async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.health.hangs() {
            return None;
        }
        let is_slow = self.health.is_slow(AT_ONCE);
        let (answer, answered) = sync_channel(1);
        let health = Arc::clone(&self.health);
        let look = Box::new(move || {
            // Nobody may be waiting any more.
            let _ = answer.send(health.during(look));
        });
        self.looks.get_or_init(start).as_ref()?.try_send(look).ok()?;
        let at_once = if is_slow { Duration::ZERO } else { AT_ONCE };
        match answered.recv_timeout(at_once) {
            Ok(looked) => return Some(looked),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let later = async move {
            loop {
                sleep(AGAIN).await;
                match answered.try_recv() {
                    Ok(looked) => return Some(looked),
                    Err(TryRecvError::Disconnected) => return None,
                    Err(TryRecvError::Empty) => {}
                }
            }
        };
        timeout(WAIT, later).await.ok()?
    }
}

/// Starts the thread.
fn start() -> Option<SyncSender<Look>> {
    let (looks, queue) = sync_channel::<Look>(MAX_LOOKS);
    let run = move || {
        for look in queue {
            // A panic has been reported by the panic hook.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
        }
    };
    let started = thread::Builder::new().name("files".into()).spawn(run);
    started.inspect_err(|error| tracing::error!(%error, "no thread that looks at the files of the API")).ok()?;
    Some(looks)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn file_system_that_does_not_answer_is_waited_for_once() {
        let disk = FileProbe::default();
        assert_eq!(disk.look(|| 1).await, Some(1));
        let (answers, answer) = mpsc::channel::<()>();
        let start = Instant::now();
        assert_eq!(disk.look(move || answer.recv().is_err()).await, None);
        assert!(start.elapsed() >= WAIT);
        let known = Instant::now();
        for _ in 0..100 {
            assert_eq!(disk.look(|| 3).await, None);
        }
        assert!(known.elapsed() < WAIT);
        // It answers again.
        drop(answers);
        while disk.look(|| 5).await != Some(5) {
            assert!(start.elapsed() < 5 * WAIT);
        }
        assert_eq!(disk.look(|| 6).await, Some(6));
    }
}
