//! Single flight for reads of the store: equal reads that are in flight share one result.
//!
//! After a restart thousands of clients resume with the same patterns from nearly the same position.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::lock;
use crate::log::{Page, ReadRequest};
use crate::store::{Store, StoreError};

type Answer = Result<Arc<Page>, StoreError>;
type Flight = WeakShared<BoxFuture<'static, Answer>>;

/// Entries above which those of abandoned reads are removed.
const SWEEP_ABOVE: usize = 256;

#[derive(Default)]
pub(super) struct Fetches(Arc<Mutex<HashMap<ReadRequest, Flight>>>);

impl Fetches {
    pub(super) async fn read(&self, store: &Arc<dyn Store>, request: ReadRequest) -> Result<Page, StoreError> {
        let page = self.join(store, request).await?;
        Ok(Arc::unwrap_or_clone(page))
    }

    fn join(&self, store: &Arc<dyn Store>, request: ReadRequest) -> Shared<BoxFuture<'static, Answer>> {
        let mut flights = lock(&self.0);
        if let Some(shared) = flights.get(&request).and_then(WeakShared::upgrade) {
            return shared;
        }
        if flights.len() > SWEEP_ABOVE {
            flights.retain(|_, flight| flight.upgrade().is_some());
        }
        let reading = store.read(request.clone());
        let all = self.0.clone();
        let key = request.clone();
        let flight = async move {
            let page = reading.await;
            lock(&all).remove(&key);
            page.map(Arc::new)
        };
        let shared = flight.boxed().shared();
        flights.extend(shared.downgrade().map(|weak| (request, weak)));
        shared
    }
}
