//! The memory store: the same semantics as the disk store, gone with the process.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use uuid::Uuid;

use super::dedupe::DedupeWindow;
use super::marks::TrimMarks;
use super::notes::NoteTable;
use super::{
    Appended, Bounds, ClientRecord, Feed, FeedBatch, Note, NoteKind, NoteSink, Page, ReadRequest, Retention, Store,
    StoreError, StoreOptions, Trimmed,
};
use crate::cursor::{Epoch, Position};
use crate::event::Draft;
use crate::segment::Segment;
use crate::sync::lock;
use crate::topic::PatternSet;

/// A log in memory, with a new epoch at each start.
///
/// Everything happens under one lock, for microseconds: appends are answered at once, by the thread that asked.
#[derive(Debug)]
pub struct MemoryStore {
    log: Mutex<Log>,
    clients: Mutex<HashMap<Uuid, ClientRecord>>,
    notes: Mutex<NoteTable>,
    options: StoreOptions,
}

struct Log {
    epoch: Epoch,
    segment: Segment,
    last: Position,
    floor: Position,
    marks: TrimMarks,
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
    /// An empty log. Without a limit on bytes it grows with what is published, so set one.
    #[must_use]
    pub fn new(options: StoreOptions) -> Self {
        let log = Log {
            epoch: Epoch::mint(),
            segment: Segment::default(),
            last: Position::ZERO,
            floor: Position::ZERO,
            marks: TrimMarks::default(),
            dedupe: DedupeWindow::new(options.dedupe_window, options.dedupe_keys_max),
            feed: None,
            closed: false,
        };
        Self { log: Mutex::new(log), clients: Mutex::default(), notes: Mutex::default(), options }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Uuid, ClientRecord>> {
        lock(&self.clients)
    }
}

impl Log {
    fn append(&mut self, drafts: Vec<Draft>, retention: &Retention) -> Result<Vec<Appended>, StoreError> {
        if self.closed {
            return Err(StoreError::unavailable("it is shut down"));
        }
        let after = self.last;
        let mut outcomes = Vec::with_capacity(drafts.len());
        let mut events = Vec::with_capacity(drafts.len());
        let mut next = after;
        for draft in drafts {
            if let Some(repeat) = self.dedupe.find(&draft) {
                outcomes.push(Appended::repeated(repeat));
                continue;
            }
            next = next.next();
            if let Err(error) = self.dedupe.insert(&draft, next) {
                self.dedupe.undo_from(after.next());
                return Err(error);
            }
            outcomes.push(Appended::new(next));
            events.push(Arc::new(draft.at(self.epoch, next)));
        }
        self.last = next;
        for event in &events {
            self.segment.push(event.clone());
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
        self.marks.fold();
    }

    fn trim_by_age(&mut self, retention: &Retention, now_ms: u64) {
        let Some(age_max) = retention.age_max else { return };
        let oldest_ms = now_ms.saturating_sub(u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX));
        let floor = self.floor;
        while self.segment.front().is_some_and(|event| event.time_ms() < oldest_ms) && self.trim_oldest() {}
        if self.floor != floor {
            self.marks.fold();
            self.tell(self.last, Vec::new());
        }
    }

    fn trim_oldest(&mut self) -> bool {
        let Some(event) = self.segment.pop_front() else { return false };
        self.floor = event.position();
        self.marks.set(event.topic(), event.position());
        true
    }

    fn tell(&self, after: Position, events: Vec<Arc<crate::event::Event>>) {
        if let Some(feed) = &self.feed {
            feed.push(FeedBatch { epoch: self.epoch, after, events, floor: self.floor });
        }
    }

    fn read(&self, request: &ReadRequest) -> Page {
        let lost = self.marks.lost(&request.patterns, request.after);
        let trimmed = (!lost.is_empty()).then_some(Trimmed { to: self.floor, patterns: lost });
        let after = request.after.max(self.floor);
        let mut page = Page { trimmed, ..Page::default() };
        let mut bytes = 0;
        let scanned = self.segment.read(&request.patterns, after, self.last, request.rows_max, &mut |event| {
            bytes += event.json_bytes();
            page.events.push(event.clone());
            let full = page.events.len() >= request.events_max || bytes >= request.bytes_max;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        page.through = scanned.through;
        page.rows = scanned.rows;
        page
    }
}

impl Store for MemoryStore {
    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>> {
        let outcome = self.log().append(drafts, &self.options.retention);
        ready(outcome).boxed()
    }

    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>> {
        let page = self.log().read(&request);
        ready(Ok(page)).boxed()
    }

    fn before_last(
        &self,
        patterns: PatternSet,
        count: usize,
    ) -> BoxFuture<'static, Result<Option<Position>, StoreError>> {
        let found = self.log().segment.before_last(&patterns, count).map(|(position, _)| position);
        ready(Ok(found)).boxed()
    }

    fn follow(&self, after: Position, feed: Arc<dyn Feed>) {
        let mut log = self.log();
        let missed: Vec<_> = log.segment.events().filter(|event| event.position() > after).cloned().collect();
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
        let mut clients = self.clients();
        clients.extend(records.into_iter().map(|record| (record.client, record)));
        let excess = clients.len().saturating_sub(self.options.clients_max);
        if excess > 0 {
            let mut by_age: Vec<(u64, Uuid)> = clients.values().map(|record| (record.seen_ms, record.client)).collect();
            by_age.sort_unstable();
            // A hundredth more than needed, so that a full table is not sorted again for each newcomer.
            let forget = excess + self.options.clients_max / 100;
            for (_, client) in by_age.into_iter().take(forget) {
                clients.remove(&client);
            }
        }
        ready(Ok(())).boxed()
    }

    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>> {
        let record = self.clients().get(&client).cloned();
        ready(Ok(record)).boxed()
    }

    fn save_note(&self, note: Note) -> BoxFuture<'static, Result<(), StoreError>> {
        let outcome = lock(&self.notes).save(note, self.options.notes_max);
        ready(outcome).boxed()
    }

    fn take_note(
        &self,
        kind: NoteKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<Note>, StoreError>> {
        let note = lock(&self.notes).take(kind, &key, now_ms);
        ready(Ok(note)).boxed()
    }

    fn watch_notes(&self, sink: Arc<dyn NoteSink>) {
        lock(&self.notes).watch(sink);
    }

    fn maintain(&self, now_ms: u64) {
        let mut log = self.log();
        log.dedupe.expire(now_ms);
        log.trim_by_age(&self.options.retention, now_ms);
        drop(log);
        let idle_max_ms = u64::try_from(self.options.client_idle_max.as_millis()).unwrap_or(u64::MAX);
        self.clients().retain(|_, record| now_ms.saturating_sub(record.seen_ms) <= idle_max_ms);
        lock(&self.notes).expire(now_ms);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let mut log = self.log();
        log.closed = true;
        log.feed = None;
        drop(log);
        lock(&self.notes).close();
        ready(()).boxed()
    }
}
