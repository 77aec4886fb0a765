//! Single flight: one request to NATS for all callers that need its answer at the same time.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::store::StoreError;

/// The most callers that wait for an answer.
const WAITING_MAX: usize = 16 << 10;

/// The most callers that share one answer.
const SHARED_MAX: usize = 1024;

type Waiting<T> = oneshot::Sender<Result<T, StoreError>>;

/// The callers' end.
pub(super) struct SingleFlight<T> {
    waiting: mpsc::Sender<Waiting<T>>,
}

/// The waiting callers, to be served.
pub(super) struct Callers<T> {
    waiting: mpsc::Receiver<Waiting<T>>,
}

impl<T: Clone> SingleFlight<T> {
    pub(super) fn new() -> (Self, Callers<T>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { waiting: sender }, Callers { waiting: receiver })
    }

    /// An answer to a request that began after this call: one that is in flight already may be out of date.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where too many callers wait; else the request's error.
    pub(super) async fn ask(&self) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.waiting
            .try_send(answer)
            .map_err(|_| StoreError::Busy("too many requests wait for an answer from NATS"))?;
        answered.await.unwrap_or_else(|_| Err(StoreError::unavailable("the store is shut down")))
    }
}

impl<T: Clone> Callers<T> {
    /// Serves callers for as long as there can be any. One request is in flight at a time, and a request does not begin sooner
    /// than `interval` after the one before began.
    pub(super) async fn serve(mut self, interval: Duration, question: impl AsyncFn() -> Result<T, StoreError>) {
        while let Some(first) = self.waiting.recv().await {
            let next = Instant::now() + interval;
            let mut callers = vec![first];
            while callers.len() < SHARED_MAX
                && let Ok(caller) = self.waiting.try_recv()
            {
                callers.push(caller);
            }
            let outcome = question().await;
            for caller in callers {
                // A caller that has gone needs no answer.
                let _ = caller.send(outcome.clone());
            }
            sleep_until(next).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn callers_at_the_same_time_share_an_answer_that_began_after_them() {
        let (flight, callers) = SingleFlight::new();
        let questions = Cell::new(0);
        let asking = async {
            let first = join_all((0..100).map(|_| flight.ask())).await;
            assert!(first.iter().all(|answer| *answer.as_ref().unwrap() == 1));
            assert_eq!(flight.ask().await.unwrap(), 2);
        };
        let serving = callers.serve(Duration::ZERO, async || {
            questions.set(questions.get() + 1);
            Ok(questions.get())
        });
        tokio::select! {
            () = asking => {}
            () = serving => unreachable!("there can still be callers"),
        }
    }
}
