//! A store in memory for tests, which behaves as the test says: its reads fail or find nothing, and its saves wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    Feed, LastSearch, LastStep, MemoryStore, RecordWatcher, SecurityRecord, SecurityRecordKind, Store, StoreError,
    StoreOptions,
};
use crate::clock::Moment;
use crate::cursor::Position;
use crate::event::Draft;
use crate::log::{Appended, Bounds, ClientRecord, Erased, Page, ReadRequest};
use crate::sync::lock;
use crate::topic::Topic;

/// Reads after which a test fails: none needs as many.
const READS_MAX: usize = 100_000;

/// How reads are answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Reading {
    #[default]
    Answered,
    /// As by a store that lags behind its own feed.
    Empty,
    Failing,
    /// As they are now, after a while.
    Late(Duration),
}

pub(crate) struct ScriptedStore {
    pub(crate) inner: Arc<MemoryStore>,
    /// Each permit lets one save of clients complete.
    pub(crate) saves: Arc<Semaphore>,
    reading: Mutex<Reading>,
    reads: AtomicUsize,
}

impl ScriptedStore {
    pub(crate) fn new(options: StoreOptions) -> Self {
        let inner = Arc::new(MemoryStore::new(options));
        let saves = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { inner, saves, reading: Mutex::default(), reads: AtomicUsize::new(0) }
    }

    /// A store that saves no client until a permit is added to `saves`.
    pub(crate) fn with_held_saves() -> Self {
        Self { saves: Arc::new(Semaphore::new(0)), ..Self::new(StoreOptions::default()) }
    }

    pub(crate) fn set_reading(&self, reading: Reading) {
        *lock(&self.reading) = reading;
    }

    /// The number of reads so far.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Store for ScriptedStore {
    fn save_clients(&self, records: Vec<ClientRecord>) -> BoxFuture<'static, Result<(), StoreError>> {
        let (inner, saves) = (self.inner.clone(), self.saves.clone());
        Box::pin(async move {
            saves.acquire().await.map_err(StoreError::unavailable)?.forget();
            inner.save_clients(records).await
        })
    }

    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>> {
        self.inner.load_client(client)
    }

    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>> {
        self.inner.append(drafts)
    }

    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>> {
        let count = self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(count < READS_MAX, "a reader of this store is a busy loop");
        let answer = match *lock(&self.reading) {
            Reading::Answered => return self.inner.read(request),
            Reading::Late(time) => {
                let page = self.inner.read(request);
                return Box::pin(async move {
                    let page = page.await;
                    tokio::time::sleep(time).await;
                    page
                });
            }
            Reading::Empty => Ok(Page { through: request.after, ..Page::default() }),
            Reading::Failing => Err(StoreError::unavailable("as the test says")),
        };
        Box::pin(std::future::ready(answer))
    }

    fn search_last(&self, search: LastSearch, rows_max: u64) -> BoxFuture<'static, Result<LastStep, StoreError>> {
        self.inner.search_last(search, rows_max)
    }

    fn before_time(&self, time_ms: u64) -> BoxFuture<'static, Result<Position, StoreError>> {
        self.inner.before_time(time_ms)
    }

    fn follow(&self, after: Position, feed: Arc<dyn Feed>) {
        self.inner.follow(after, feed);
    }

    fn bounds(&self) -> Bounds {
        self.inner.bounds()
    }

    fn save_record(&self, record: SecurityRecord) -> BoxFuture<'static, Result<(), StoreError>> {
        self.inner.save_record(record)
    }

    fn count_tickets(&self, share: String) -> BoxFuture<'static, Result<Option<u64>, StoreError>> {
        self.inner.count_tickets(share)
    }

    fn consume_record(
        &self,
        kind: SecurityRecordKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<SecurityRecord>, StoreError>> {
        self.inner.consume_record(kind, key, now_ms)
    }

    fn watch_records(&self, sink: Arc<dyn RecordWatcher>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.inner.watch_records(sink)
    }

    fn maintain(&self, now: Moment) {
        self.inner.maintain(now);
    }

    fn erase(&self, topic: Topic) -> BoxFuture<'static, Result<Erased, StoreError>> {
        self.inner.erase(topic)
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}
