//! A thread with a runtime of its own: whoever asks the store something may run on any runtime, or none.

use std::future::Future;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// The thread; it ends when this is dropped, and takes its tasks with it.
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
            // Only ever an error: the sender is dropped.
            let _: Result<(), _> = runtime.block_on(ended);
        })?;
        Ok(Self { handle, _alive: alive })
    }

    /// Begins to run something; its outcome, or `None` where the thread ended first.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let running = self.handle.spawn(work);
        async move { running.await.ok() }
    }

    /// Runs something beside the rest.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(work).abort_handle()
    }
}
