//! Work: spawned futures, named threads, and the pool for what takes a core for a while.

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;

/// Spawns a future on the current runtime.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that spawns futures"
)]
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Starts a named thread.
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that take a core for a while: on worker threads, or inline in simulations.
#[derive(Clone)]
pub struct Pool {
    queue: Option<mpsc::SyncSender<Job>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("inline", &self.queue.is_none())
            .finish()
    }
}

impl Pool {
    /// Returns a pool that runs each job at once on the calling thread: one thread, one order.
    pub fn inline() -> Self {
        Self { queue: None }
    }

    /// Returns a pool of `threads` workers with a queue of `queue_max` jobs; a full queue makes
    /// [`Pool::run`] wait. The threads end when the last clone of the pool is dropped.
    pub fn threads(name: &str, threads: usize, queue_max: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel::<Job>(queue_max);
        let receiver = Arc::new(Mutex::new(receiver));
        for index in 0..threads {
            let receiver = Arc::clone(&receiver);
            thread(&format!("{name}-{index}"), move || {
                loop {
                    let job = receiver.lock().recv();
                    match job {
                        // A panicking job must not take the worker along; its waiter sees the
                        // dropped reply channel.
                        Ok(job) => {
                            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                        }
                        Err(_) => return,
                    }
                }
            })?;
        }
        Ok(Self {
            queue: Some(sender),
        })
    }

    /// Runs `job`, later and elsewhere for a pool with threads.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        match &self.queue {
            Some(queue) => {
                // The workers live as long as a sender does, so the queue is open.
                let _ = queue.send(Box::new(job));
            }
            None => job(),
        }
    }

    /// Runs `job` and resolves to its result; `None` where the job panicked.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.run(move || {
            let _ = sender.send(job());
        });
        receiver.await.ok()
    }
}
