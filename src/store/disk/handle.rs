//! The interface to a writer thread: its queue, its file's health, and answers with a timeout.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::oneshot;

use super::health::{ANSWER_MAX, Health, PROBE_MAX};
use super::queue::{Load, Queue};
use crate::store::{DiskFault, StoreError};

pub(super) const ONE: Load = Load { items: 1, bytes: 0 };

/// The store's side of a writer thread.
pub(super) struct WriterHandle<J> {
    pub(super) queue: Arc<Queue<J>>,
    pub(super) health: Arc<Health>,
}

impl<J> fmt::Debug for WriterHandle<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterHandle({:?}, {:?})", self.queue, self.health)
    }
}

impl<J: Send + 'static> WriterHandle<J> {
    pub(super) fn new(queue: Queue<J>, name: &'static str, directory: &Path) -> Self {
        Self { queue: Arc::new(queue), health: Arc::new(Health::new(name, directory.to_owned())) }
    }

    /// Queues a job with an answer channel. A disk that does not answer in time gives an error.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        load: Load,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> J,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        self.ask_within(ANSWER_MAX, load, job)
    }

    fn ask_within<T: Send + 'static>(
        &self,
        within: Duration,
        load: Load,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> J,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        if let Err(error) = self.health.check_answers(within) {
            return ready(Err(error)).boxed();
        }
        let answer = ask(&self.queue, load, job);
        async move {
            match tokio::time::timeout(within, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(DiskFault::Stalled.into()),
            }
        }
        .boxed()
    }

    /// Writes to the file, unless another write succeeded a moment ago.
    pub(super) fn probe(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> J,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        if self.health.is_fresh() { ready(Ok(())).boxed() } else { self.ask_within(PROBE_MAX, ONE, job) }
    }
}

/// Queues a job with an answer channel, without a timeout.
pub(super) fn ask<J, T: Send + 'static>(
    queue: &Queue<J>,
    load: Load,
    job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> J,
) -> BoxFuture<'static, Result<T, StoreError>> {
    let (reply, answer) = oneshot::channel();
    match queue.push(job(reply), load) {
        Ok(()) => answer
            .map(|answer| answer.unwrap_or_else(|_| Err(StoreError::unavailable("the store's thread has stopped"))))
            .boxed(),
        Err(error) => ready(Err(error)).boxed(),
    }
}
