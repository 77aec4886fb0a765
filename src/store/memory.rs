//! The memory store: the semantics of the disk store, without persistence.

mod reads;
mod removal;

use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use uuid::Uuid;

use super::arrivals::Arrivals;
use super::client_table::ClientTable;
use super::dedupe::DedupeWindow;
use super::keep::Policy;
use super::newest::NewestIndex;
use super::removed::Removed;
use super::security_records::SecurityRecordTable;
use super::{
    Appended, Bounds, ClientRecord, Feed, FeedBatch, LastSearch, LastStep, Page, ReadRequest, RecordWatcher, Retention,
    SecurityRecord, SecurityRecordKind, Store, StoreError, StoreOptions, StoreStatus,
};
use crate::clock::Moment;
use crate::cursor::{Epoch, Position};
use crate::event::Draft;
use crate::log::Erased;
use crate::segment::{Ordered, Segment};
use crate::sync::lock;
use crate::topic::Topic;
use removal::Keeping;

/// A log in memory, with a new epoch at each start.
///
/// One lock guards everything and is held for microseconds: appends complete at once, on the calling thread. A read copies
/// pointers to a few events at a time, and compares these with its patterns without the lock.
#[derive(Debug)]
pub struct MemoryStore {
    log: Arc<Mutex<Log>>,
    clients: Mutex<ClientTable>,
    security_records: Mutex<SecurityRecordTable>,
    options: StoreOptions,
}

struct Log {
    epoch: Epoch,
    segment: Segment<Ordered>,
    last: Position,
    floor: Position,
    /// The newest event's time, even after it was trimmed.
    last_ms: u64,
    arrivals: Arrivals,
    removed: Removed,
    /// The rules by topic, where there are any.
    keeping: Option<Keeping>,
    newest: NewestIndex,
    dedupe: DedupeWindow,
    feed: Option<Arc<dyn Feed>>,
    closed: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({} {}..={})", self.epoch, self.floor.next(), self.last)
    }
}

impl MemoryStore {
    /// An empty log. Without a limit on bytes it grows without bound, so set one.
    #[must_use]
    pub fn new(options: StoreOptions) -> Self {
        let log = Log {
            epoch: Epoch::mint(),
            segment: Segment::default(),
            last: Position::ZERO,
            floor: Position::ZERO,
            last_ms: 0,
            arrivals: Arrivals::default(),
            removed: Removed::default(),
            keeping: Policy::of(&options).map(Keeping::new),
            newest: NewestIndex::empty(),
            dedupe: DedupeWindow::new(
                options.dedupe_window,
                options.dedupe_keys_max,
                options.dedupe_keys_per_publisher_max,
            ),
            feed: None,
            closed: false,
        };
        Self { log: Arc::new(Mutex::new(log)), clients: Mutex::default(), security_records: Mutex::default(), options }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }
}

impl Log {
    fn append(&mut self, drafts: Vec<Draft>, retention: &Retention) -> Result<Vec<Appended>, StoreError> {
        if self.closed {
            return Err(StoreError::unavailable("the store is shut down"));
        }
        let after = self.last;
        let mut outcomes = Vec::with_capacity(drafts.len());
        let mut events = Vec::with_capacity(drafts.len());
        let (mut next, mut last_ms) = (after, self.last_ms);
        for draft in drafts {
            if let Some(repeat) = self.dedupe.find(&draft) {
                outcomes.push(repeat.into());
                continue;
            }
            next = next.next();
            if let Err(error) = self.dedupe.insert(&draft, next) {
                self.dedupe.undo_from(after.next());
                return Err(error);
            }
            outcomes.push(Appended::new(next));
            let draft = draft.not_before(last_ms);
            last_ms = draft.time_ms();
            self.arrivals.push(last_ms);
            events.push(Arc::new(draft.at(self.epoch, next)));
        }
        (self.last, self.last_ms) = (next, last_ms);
        for event in &events {
            self.segment.push(event.clone());
            self.newest.push(event.topic(), event.position());
        }
        if !events.is_empty() {
            self.trim_by_size(retention);
            self.tell(after, events);
        }
        Ok(outcomes)
    }

    fn trim_by_size(&mut self, retention: &Retention) {
        let over = |log: &Self| {
            retention.events_max.is_some_and(|max| log.segment.len() as u64 > max)
                || retention.bytes_max.is_some_and(|max| log.segment.cost_bytes() > max)
        };
        while over(self) && self.trim_oldest() {}
        self.newest.trim(self.floor);
        self.removed.expired.fold();
    }

    fn trim_by_age(&mut self, retention: &Retention, now: &Moment) {
        self.arrivals.note(self.last, now);
        // With rules, the sweeps remove by age, too.
        let by_age = now.removes && self.keeping.is_none();
        let Some(age_max) = retention.age_max.filter(|_| by_age) else { return };
        let oldest_ms = now.wall_ms.saturating_sub(u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX));
        let floor = self.floor;
        let arrived_ms = |log: &Self| {
            let oldest = log.segment.front()?;
            Some(log.arrivals.time_ms(oldest.position(), oldest.time_ms()))
        };
        while arrived_ms(self).is_some_and(|arrived_ms| arrived_ms < oldest_ms) && self.trim_oldest() {}
        self.arrivals.trim(self.floor);
        if self.floor != floor {
            self.newest.trim(self.floor);
            self.removed.expired.fold();
            self.tell(self.last, Vec::new());
        }
    }

    fn trim_oldest(&mut self) -> bool {
        let Some(event) = self.segment.pop_front() else { return false };
        self.floor = event.position();
        let is_superseded = self.segment.positions_of(event.topic()).is_some();
        // A superseded event of a value is owed to nobody.
        if !(is_superseded && self.keeping.as_ref().is_some_and(|keeping| keeping.is_value(event.topic()))) {
            self.removed.expired.set(event.topic(), event.position());
        }
        true
    }

    fn tell(&self, after: Position, events: Vec<Arc<crate::event::Event>>) {
        if let Some(feed) = &self.feed {
            feed.push(FeedBatch { epoch: self.epoch, after, events, floor: self.floor });
        }
    }
}

impl Store for MemoryStore {
    fn status(&self) -> StoreStatus {
        StoreStatus { bytes: Some(self.log().segment.cost_bytes()), nats: None }
    }

    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>> {
        let outcome = self.log().append(drafts, &self.options.retention);
        ready(outcome).boxed()
    }

    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>> {
        let log = self.log.clone();
        async move { Ok(reads::page(&log, &request).await) }.boxed()
    }

    fn search_last(&self, search: LastSearch, rows_max: u64) -> BoxFuture<'static, Result<LastStep, StoreError>> {
        ready(Ok(reads::search_last(&self.log, search, rows_max))).boxed()
    }

    fn before_time(&self, time_ms: u64) -> BoxFuture<'static, Result<Position, StoreError>> {
        let log = self.log();
        let found = log.segment.first_since(time_ms).map_or(log.last, |event| event.position().before());
        ready(Ok(found)).boxed()
    }

    fn follow(&self, after: Position, feed: Arc<dyn Feed>) {
        let mut log = self.log();
        let missed: Vec<_> = log.segment.range_after(after, usize::MAX);
        log.feed = Some(feed);
        if !missed.is_empty() {
            log.tell(after, missed);
        }
    }

    fn bounds(&self) -> Bounds {
        let log = self.log();
        Bounds { epoch: log.epoch, began: Position::ZERO, floor: log.floor, last: log.last }
    }

    fn save_clients(&self, records: Vec<ClientRecord>) -> BoxFuture<'static, Result<(), StoreError>> {
        lock(&self.clients).save(records, &self.options);
        ready(Ok(())).boxed()
    }

    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>> {
        let record = lock(&self.clients).load(client);
        ready(Ok(record)).boxed()
    }

    fn save_record(&self, record: SecurityRecord) -> BoxFuture<'static, Result<(), StoreError>> {
        let outcome = lock(&self.security_records).save(record, self.options.security_records_max);
        ready(outcome).boxed()
    }

    fn consume_record(
        &self,
        kind: SecurityRecordKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<SecurityRecord>, StoreError>> {
        let record = lock(&self.security_records).take(kind, &key, now_ms);
        ready(Ok(record)).boxed()
    }

    fn watch_records(&self, sink: Arc<dyn RecordWatcher>) -> BoxFuture<'static, Result<(), StoreError>> {
        lock(&self.security_records).watch(sink);
        ready(Ok(())).boxed()
    }

    fn maintain(&self, now: Moment) {
        let mut log = self.log();
        log.dedupe.expire(&now);
        log.trim_by_age(&self.options.retention, &now);
        drop(log);
        if now.removes {
            // Other threads get the lock between two slices.
            while self.log().sweep(&self.options.retention, &now) {}
        }
        let now_ms = now.earliest_ms();
        lock(&self.security_records).expire(now_ms);
        if !now.removes {
            return;
        }
        let idle_max_ms = u64::try_from(self.options.client_idle_max.as_millis()).unwrap_or(u64::MAX);
        lock(&self.clients).expire(now_ms.saturating_sub(idle_max_ms));
    }

    fn erase(&self, topic: Topic) -> BoxFuture<'static, Result<Erased, StoreError>> {
        let erased = self.log().erase(&topic);
        ready(erased).boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let mut log = self.log();
        log.closed = true;
        log.feed = None;
        drop(log);
        lock(&self.security_records).close();
        ready(()).boxed()
    }
}
