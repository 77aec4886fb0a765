//! Appends: published in the order of the calls, many in flight at a time. Each is retried until JetStream has acknowledged it or
//! its deadline has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::attempt::{Attempt, Outcome};
use super::batch;
use super::node::Node;
use crate::event::Draft;
use crate::store::StoreError;

/// Appends in flight; further ones are refused as busy.
const APPENDS_MAX: usize = 8192;

/// KiB of events in flight.
const PENDING_KIB_MAX: u32 = 64 << 10;

/// Where appends are handed in.
pub(super) struct Publisher {
    jobs: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    closed: AtomicBool,
}

struct Job {
    drafts: Vec<Draft>,
    answer: oneshot::Sender<Outcome>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Publisher {
    /// Spawns the publishing task, on the store's runtime.
    pub(super) fn start(node: &Arc<Node>) -> Self {
        let (jobs, queue) = mpsc::channel(APPENDS_MAX);
        tokio::spawn(publish_all(node.clone(), queue));
        Self {
            jobs,
            places: Arc::new(Semaphore::new(APPENDS_MAX)),
            kib: Arc::new(Semaphore::new(PENDING_KIB_MAX as usize)),
            closed: AtomicBool::new(false),
        }
    }

    /// Queues an append. The order of these calls is the order of the positions, unless a publish has to be retried.
    pub(super) fn append(&self, drafts: Vec<Draft>) -> Result<oneshot::Receiver<Outcome>, StoreError> {
        let busy = || StoreError::Busy("more events are published than NATS accepts at present");
        let bytes: u64 = drafts.iter().map(Draft::cost_bytes).sum();
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(PENDING_KIB_MAX);
        let place = self.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let room = self.kib.clone().try_acquire_many_owned(kib).map_err(|_| busy())?;
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::unavailable("the store is shut down"));
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { drafts, answer, _room: (place, room) }).map_err(|_| busy())?;
        Ok(answered)
    }

    /// Refuses further appends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits for the appends in flight.
    pub(super) async fn finished(&self) {
        // Holding all permits means that no append is in flight.
        let all = u32::try_from(APPENDS_MAX).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await);
    }
}

/// One task sends, so that messages go out in the order of the calls; a task per append waits for the acknowledgement.
async fn publish_all(node: Arc<Node>, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        let node = node.clone();
        let attempt = Attempt::new(&node);
        let plan = batch::Plan::new(&node, &job.drafts);
        // Nothing is queued into a connection that is down: it would be published long after the publisher was refused.
        let sent = if node.is_up() { plan.send(&node).await } else { None };
        tokio::spawn(async move {
            let outcome = plan.settle(&node, &attempt, sent).await;
            // The caller may be gone; the event is stored all the same.
            let _ = job.answer.send(outcome);
        });
    }
}
