//! Reads of files whose file system may hang, on a thread of their own.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::bounds::MAX_LOOKS;
use crate::telemetry::append::Health;

/// The time limit of one read.
const WAIT: Duration = Duration::from_secs(2);
/// The time for which the calling thread is blocked. A read takes microseconds; a busy machine may take longer to schedule
/// the other thread.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The interval of asking for the result after that.
const AGAIN: Duration = Duration::from_millis(20);

type Look = Box<dyn FnOnce() + Send>;

/// A thread that reads files of one kind, so that no thread which serves requests waits for a file system.
#[derive(Default)]
pub(super) struct FileProbe {
    /// The queue of the thread; `None` if the system has no thread for it.
    looks: OnceLock<Option<SyncSender<Look>>>,
    /// The state of the thread.
    health: Arc<Health>,
}

impl FileProbe {
    /// Returns the result of a read on the other thread; `None` if that takes too long, at once if it hangs already.
    ///
    /// The calling thread is blocked for the first part of the time, so that no other task runs between a request and its
    /// admission. It never reads itself, as nobody can know beforehand that a file system hangs.
    pub(super) async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.health.hangs() {
            return None;
        }
        let is_slow = self.health.is_slow(AT_ONCE);
        let (answer, answered) = sync_channel(1);
        let health = Arc::clone(&self.health);
        let look = Box::new(move || {
            // The caller may have given up.
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

/// Starts the thread of a probe.
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
