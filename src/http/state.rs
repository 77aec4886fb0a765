//! The state that the handlers of one thread share.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use super::options::HttpOptions;
use super::readiness::Readiness;
use crate::hub::{Hub, Worker};

/// The state that every handler of this thread shares.
pub(super) struct State {
    pub(super) hub: Hub,
    pub(super) options: Arc<HttpOptions>,
    /// The worker, which joins the feed at the first request of this thread: it has to be done on the thread itself.
    worker: OnceCell<Rc<Worker>>,
    /// The last verdict on the store.
    pub(super) readiness: Readiness,
}

impl State {
    pub(super) fn new(hub: &Hub, options: HttpOptions) -> Self {
        let (worker, readiness) = (OnceCell::new(), Readiness::default());
        Self { hub: hub.clone(), options: Arc::new(options), worker, readiness }
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        self.worker.get_or_init(|| Worker::start(&self.hub))
    }
}
