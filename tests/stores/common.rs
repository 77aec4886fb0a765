//! Common helpers of the store tests.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use switchback::cursor::Position;
use switchback::event::{Draft, Event};
use switchback::store::{
    Appended, Feed, FeedBatch, JetStreamOptions, JetStreamStore, LastProgress, LastSearch, OpenError, Page,
    ReadRequest, RecordWatcher, Retention, SecurityRecord, Store, StoreError, StoreOptions, parse_servers,
};
use switchback::topic::PatternSet;
use switchback::{Data, NewEvent};

/// The deadline of every wait: conditions hold within milliseconds, and a failing test reports after this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The wall-clock time of the tests.
pub(crate) const NOW_MS: u64 = 1_763_750_000_000;

pub(crate) fn new(topic: &str, data: &str) -> NewEvent {
    NewEvent::new(topic.parse().unwrap(), Data::text(data))
}

pub(crate) fn draft(topic: &str) -> Draft {
    new(topic, "x").draft(NOW_MS)
}

pub(crate) fn keyed(topic: &str, id: &str) -> Draft {
    new(topic, "x").with_id(id).unwrap().draft(NOW_MS)
}

pub(crate) fn patterns(texts: &[&str]) -> PatternSet {
    PatternSet::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
}

pub(crate) fn request(texts: &[&str], after: u64) -> ReadRequest {
    ReadRequest {
        patterns: patterns(texts),
        after: Position(after),
        events_max: usize::MAX,
        bytes_max: usize::MAX,
        rows_max: u64::MAX,
        latest_upto: None,
    }
}

/// The position before the `count`-th newest event that matches, found in steps of so many rows.
pub(crate) async fn before_last(
    store: &impl Store,
    patterns: PatternSet,
    count: usize,
    rows_max: u64,
) -> Option<Position> {
    let mut search = LastSearch::new(patterns, count);
    loop {
        match store.search_last(search, rows_max).await.unwrap().progress {
            LastProgress::Found(found) => return found,
            LastProgress::Further(further) => search = further,
        }
    }
}

pub(crate) fn retention(events_max: u64) -> StoreOptions {
    let retention = Retention { events_max: Some(events_max), ..Retention::default() };
    StoreOptions { retention, ..StoreOptions::default() }
}

/// Opens a store on a NATS server, from any thread, with names that begin with `prefix`.
pub(crate) fn open_jetstream(url: &str, prefix: &str, store: StoreOptions) -> Result<JetStreamStore, OpenError> {
    let (servers, login) = parse_servers(url).unwrap();
    let options = JetStreamOptions { prefix: prefix.to_owned(), login, ..JetStreamOptions::new(servers) };
    open_jetstream_with(options, store)
}

/// As [`open_jetstream`], with the given options.
pub(crate) fn open_jetstream_with(options: JetStreamOptions, store: StoreOptions) -> Result<JetStreamStore, OpenError> {
    let opening = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(JetStreamStore::open(options, store))
    };
    std::thread::spawn(opening).join().unwrap()
}

/// Appends an event on each topic and returns their positions.
pub(crate) async fn publish(store: &impl Store, topics: &[&str]) -> Vec<u64> {
    let drafts = topics.iter().map(|topic| draft(topic)).collect();
    positions(&store.append(drafts).await.unwrap())
}

pub(crate) fn positions(appended: &[Appended]) -> Vec<u64> {
    appended.iter().map(|appended| appended.position.0).collect()
}

pub(crate) fn events_of(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.position().0).collect()
}

/// All matching events after a position.
pub(crate) async fn read(store: &impl Store, texts: &[&str], after: u64) -> Page {
    store.read(request(texts, after)).await.unwrap()
}

pub(crate) fn is_busy<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Busy(_)))
}

/// A feed that records its batches.
#[derive(Default)]
pub(crate) struct Recorder {
    batches: Mutex<Vec<FeedBatch>>,
    changed: Condvar,
}

impl Feed for Recorder {
    fn push(&self, batch: FeedBatch) {
        self.batches.lock().unwrap().push(batch);
        self.changed.notify_all();
    }
}

impl Recorder {
    /// Follows `store` from `after`.
    pub(crate) fn following(store: &impl Store, after: u64) -> Arc<Self> {
        let recorder = Arc::new(Self::default());
        store.follow(Position(after), recorder.clone());
        recorder
    }

    pub(crate) fn batches(&self) -> Vec<FeedBatch> {
        self.batches.lock().unwrap().clone()
    }

    /// The events so far; the batches must be contiguous.
    pub(crate) fn events(&self) -> Vec<Arc<Event>> {
        let mut end = None;
        let mut events = Vec::new();
        for batch in self.batches() {
            assert!(end.is_none_or(|end| end == batch.after), "a batch was missed before {batch:?}");
            end = Some(batch.end());
            events.extend(batch.events);
        }
        assert!(events.is_sorted_by_key(|event| event.position()));
        events
    }

    /// Waits for the event at `position`.
    pub(crate) fn wait_for(&self, position: u64) {
        let batches = self.batches.lock().unwrap();
        let is_fed = |batches: &Vec<FeedBatch>| batches.iter().any(|batch| batch.end() >= Position(position));
        let batches = self.changed.wait_timeout_while(batches, PATIENCE, |batches| !is_fed(batches)).unwrap().0;
        assert!(is_fed(&batches), "the feed never came to {position}");
    }
}

/// Records the records that it is notified of.
#[derive(Default)]
pub(crate) struct Watcher(Mutex<Vec<SecurityRecord>>);

impl RecordWatcher for Watcher {
    fn push(&self, record: SecurityRecord) {
        self.0.lock().unwrap().push(record);
    }
}

impl Watcher {
    pub(crate) fn records(&self) -> Vec<SecurityRecord> {
        self.0.lock().unwrap().clone()
    }
}
