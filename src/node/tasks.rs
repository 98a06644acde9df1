//! The tasks of a node: all of them end when the node is shut down.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::base::task;
use crate::base::told::Told;

/// Spawns futures and, at the end, drops them at their next wait and waits until they are gone.
pub(super) struct Tasks {
    closing: Arc<Told<bool>>,
    /// Each task holds a clone; `None` once the node is closing, so that no task starts any more.
    alive: Mutex<Option<mpsc::Sender<Infallible>>>,
    ended: tokio::sync::Mutex<mpsc::Receiver<Infallible>>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            closing: Arc::default(),
            alive: Mutex::new(Some(alive)),
            ended: tokio::sync::Mutex::new(ended),
        }
    }

    /// Runs `future` until it ends or the node closes; does nothing where that has begun.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let Some(alive) = self.alive.lock().clone() else {
            return;
        };
        let closing = Arc::clone(&self.closing);
        task::spawn(async move {
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => {}
                () = future => {}
            }
            drop(alive);
        });
    }

    /// Ends all tasks; returns when the last one is gone.
    pub(super) async fn close(&self) {
        self.alive.lock().take();
        self.closing.set(true);
        while self.ended.lock().await.recv().await.is_some() {}
    }
}
