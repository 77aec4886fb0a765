//! A thread with a Tokio runtime of its own: callers of the store may be on any runtime, or on none.

use std::future::Future;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// The thread. Dropping this handle ends the thread and its tasks.
pub(super) struct Runtime {
    handle: Handle,
    _alive: oneshot::Sender<()>,
}

impl Runtime {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        std::thread::Builder::new().name("nats".into()).spawn(move || {
            // Always an error: the sender is dropped.
            let _: Result<(), _> = runtime.block_on(ended);
        })?;
        Ok(Self { handle, _alive: alive })
    }

    /// Spawns a future; returns its output, or `None` where the thread ended first.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let running = self.handle.spawn(work);
        async move { running.await.ok() }
    }

    /// Spawns a background task.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(work).abort_handle()
    }
}
