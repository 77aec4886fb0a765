//! The disk store: SQLite with one writer thread and a few readers. Nothing is acknowledged before it is on the disk.
//!
//! The data directory contains `events.db` with its write-ahead log (`-wal`, `-shm`), `clients.db`, `notes.db` (tickets, bans,
//! revocations), `erasures.db` (which topics were erased), `lock`, which one server at a time holds, and `reserve`, space for a start on a full disk.
//!
//! - **Durability.** An acknowledged append survives the end of the process and power loss (`synchronous=FULL`: each commit is
//!   synced). So do tickets, bans, revocations and the records of clients once they are acknowledged.
//! - **Group commit.** Everything queued while the last group was synced is the next group.
//! - **A start reads topics, not events**: the log's counters are stored beside the events and change with them.
//! - **Retention** is part of the transaction that exceeds a limit, so it holds once a publish is acknowledged. (A transaction
//!   trims a bounded number of events: after a limit was lowered, the log shrinks to it step by step.) Rules by topic remove from
//!   the middle, within a second or two.
//! - **Disk space.** A short event is stored twice, by position and in its topic's index, so that a resume costs what it returns
//!   and not what lies in between; the file is up to 1.7 times what retention counts.
//! - **Memory**: about 250 bytes for each topic that has or has lost events, and 350 more for one that has had an event since the
//!   start, or for each once a snapshot of many topics was read; 150 for each key of the idempotency window; the
//!   queue, at most 64 MiB; 16 MiB of cache for the writer, 8 for each reader.
//!
//! The order after a commit: the state that readers need (topics, trim marks, bounds), then the feed, then the acknowledgements.

mod ancestors;
mod backup;
mod clients;
mod column;
mod compact;
mod erasures;
mod fault;
mod file;
mod form;
mod gather;
mod handle;
mod health;
mod keeping;
mod last;
mod lock;
mod log_state;
mod newest;
mod partial;
mod presence;
mod queue;
mod reader;
mod removal;
mod reserve;
mod restore;
mod rows;
mod schema;
mod security_records;
mod side_file;
mod times;
mod trim;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, WeakShared, ready, try_join3};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::ancestors::Ancestors;
use self::clients::{ClientJob, ClientsFile};
use self::handle::{ONE, WriterHandle, ask};
use self::health::ANSWER_MAX;
use self::lock::DirectoryLock;
use self::newest::Filling;
use self::queue::{Load, Queue};
use self::reader::{ReadJob, Reader};
use self::reserve::Reserve;
use self::schema::{Opened, Topics};
use self::security_records::{SecurityRecordJob, SecurityRecordsFile};
use self::writer::{Job, Writer};
use super::marks::MARKS_MAX;
use super::newest::NewestIndex;
use super::removed::Removed;
use super::{
    Appended, Bounds, ClientRecord, Erased, Feed, LastSearch, LastStep, OpenError, Page, ReadRequest, RecordWatcher,
    SecurityRecord, SecurityRecordKind, Store, StoreError, StoreOptions, StoreStatus,
};
use crate::clock::{self, LastRun, Moment};
use crate::cursor::{Cursor, Position};
use crate::event::Draft;
use crate::metrics::StoreMetrics;
use crate::segment::matching_topics;
// In this module `lock` is the directory's.
use crate::sync::lock as held;
use crate::topic::{PatternSet, Topic};

pub use self::backup::{BackupError, BackupReport, backup};
pub use self::compact::{CompactError, CompactReport, compact};
pub use self::restore::{RestoreError, RestoreReport, restore};
pub use self::verify::{VerifyError, VerifyReport, verify, verify_backup};

/// Reader threads, each with a connection. Reads behind the tail wait for the disk more than they compute.
const READERS: usize = 3;

/// How long a caller waits until a topic is erased; one with millions of events takes longer.
const ERASE_MAX: Duration = Duration::from_secs(60);

/// A log on disk. See the module's documentation for durability.
///
/// Dropping the store waits, as [`Store::close`] does, until every accepted job is on the disk.
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
    appends: WriterHandle<Job>,
    reads: Arc<Queue<ReadJob>>,
    clients: WriterHandle<ClientJob>,
    security_records: WriterHandle<SecurityRecordJob>,
    /// The probe in flight, while any caller waits for it.
    probe: Mutex<Option<Probe>>,
    running: Mutex<Option<Running>>,
}

/// A test whether all files can be written, shared by concurrent callers.
type Probe = WeakShared<BoxFuture<'static, Result<(), StoreError>>>;

/// The threads to join at the end.
#[derive(Debug, Default)]
struct Running {
    readers: Vec<JoinHandle<()>>,
    writers: Vec<JoinHandle<()>>,
}

/// The state that the writer publishes to readers.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    options: StoreOptions,
    bounds: Mutex<Bounds>,
    topics: RwLock<Topics>,
    trims: Mutex<Trims>,
    trims_moved: Condvar,
    /// Filled by the first read that needs it.
    newest: Mutex<NewestIndex>,
    filling: Mutex<Filling>,
    /// The time of the last call of `maintain`, until the writer takes it.
    now: Mutex<Option<Moment>>,
    ancestors: Ancestors,
    /// As read when the log was opened.
    last_run: Option<LastRun>,
    everything: PatternSet,
    metrics: OnceLock<Arc<StoreMetrics>>,
    /// Bytes of the stored events.
    bytes: AtomicU64,
}

/// What was removed, as of a floor and of a number of transactions that removed events from the middle.
#[derive(Debug)]
struct Trims {
    floor: Position,
    removals: u64,
    removed: Removed,
}

impl Shared {
    fn bounds(&self) -> Bounds {
        *held(&self.bounds)
    }

    fn topics(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn topics_mut(&self) -> RwLockWriteGuard<'_, Topics> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The matching topics, if they are few.
    fn few_topics(&self, patterns: &PatternSet) -> Option<Vec<(Topic, i64)>> {
        let topics = self.topics();
        let few = matching_topics(&topics.by_name, patterns)?;
        Some(few.into_iter().map(|(topic, id)| (topic.clone(), *id)).collect())
    }
}

/// The open files of a data directory.
struct Files {
    opened: Opened,
    readers: Vec<rusqlite::Connection>,
    clients_file: ClientsFile,
    notes_file: SecurityRecordsFile,
}

impl Files {
    fn open(directory: &Path, options: &StoreOptions, marks_max: usize, now_ms: u64) -> Result<Self, OpenError> {
        let mut clients_file = ClientsFile::open(directory, options)?;
        let mut notes_file = SecurityRecordsFile::open(directory, options)?;
        let opened = schema::open(directory, options, marks_max, now_ms, &mut clients_file, &mut notes_file)?;
        let readers = (0..READERS).map(|_| schema::open_reader(directory)).collect::<Result<_, _>>()?;
        Ok(Self { opened, readers, clients_file, notes_file })
    }
}

impl DiskStore {
    /// Opens the log in `directory`, and creates both where they are missing.
    ///
    /// Reads every topic and the keys of the idempotency window, not the events. A copy made by [`backup`] is given a new epoch,
    /// which begins at its last position; cursors of the original log are valid up to there.
    ///
    /// # Errors
    /// [`OpenError::Locked`] where another server holds the directory, [`OpenError::Path`] where a file cannot be used. A full disk
    /// is no error, unless there is nothing to open yet: appends fail until there is space.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        Self::open_at(directory, options, clock::wall_ms())
    }

    /// As [`Self::open`], at a given time of day in milliseconds since the Unix epoch, which decides which keys are still within
    /// the window.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(directory: &Path, options: StoreOptions, now_ms: u64) -> Result<Self, OpenError> {
        Self::open_with(directory, options, MARKS_MAX, now_ms)
    }

    fn open_with(directory: &Path, options: StoreOptions, marks_max: usize, now_ms: u64) -> Result<Self, OpenError> {
        lock::create_directory(directory)?;
        let lock = DirectoryLock::acquire(directory)?;
        let mut reserve = Reserve::of(directory);
        let files = match Files::open(directory, &options, marks_max, now_ms) {
            Err(_) if reserve.release() => Files::open(directory, &options, marks_max, now_ms)?,
            opened => opened?,
        };
        let Files { mut opened, readers, clients_file, notes_file } = files;
        let (log, topics) = (opened.log, std::mem::take(&mut opened.topics));
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            options: options.clone(),
            bounds: Mutex::new(Bounds { epoch: log.epoch, began: log.began, floor: log.floor, last: log.last }),
            newest: Mutex::new(NewestIndex::unfilled(log.last, topics.by_id.len())),
            topics: RwLock::new(topics),
            trims: Mutex::new(Trims {
                floor: log.floor,
                removals: log.removals,
                removed: std::mem::take(&mut opened.removed),
            }),
            trims_moved: Condvar::new(),
            filling: Mutex::new(Filling::default()),
            now: Mutex::new(None),
            ancestors: std::mem::take(&mut opened.ancestors),
            last_run: opened.times.last_run(),
            everything: PatternSet::everything(),
            metrics: OnceLock::new(),
            bytes: AtomicU64::new(log.bytes),
        });
        let appends = WriterHandle::new(writer::queue(), "events.db", directory);
        let clients = WriterHandle::new(clients::queue(), "clients.db", directory);
        let security_records = WriterHandle::new(security_records::queue(), "notes.db", directory);
        let reads = Arc::new(reader::queue());
        let writer = Writer::new(opened, shared.clone(), appends.health.clone(), reserve);
        let store = Self {
            shared,
            appends,
            reads,
            clients,
            security_records,
            probe: Mutex::new(None),
            running: Mutex::new(None),
        };
        store.start(writer, readers, clients_file, notes_file, lock)?;
        Ok(store)
    }

    fn start(
        &self,
        writer: Writer,
        readers: Vec<rusqlite::Connection>,
        clients_file: ClientsFile,
        notes_file: SecurityRecordsFile,
        lock: DirectoryLock,
    ) -> Result<(), OpenError> {
        let mut running = held(&self.running);
        // Filled as the threads start, so that dropping the store ends those that did, should one not start.
        let running = running.insert(Running::default());
        // Every thread that writes holds the lock, so it is released when the last of them has ended, whether or not a caller
        // waits for that.
        let lock = Arc::new(lock);
        let (queue, held) = (self.appends.queue.clone(), lock.clone());
        running.writers.push(self.spawn("log-writer", move || {
            writer.run(&queue);
            drop(held);
        })?);
        let (queue, health, held) = (self.clients.queue.clone(), self.clients.health.clone(), lock.clone());
        running.writers.push(self.spawn("log-clients", move || {
            clients_file.run(&queue, &health);
            drop(held);
        })?);
        let (queue, health) = (self.security_records.queue.clone(), self.security_records.health.clone());
        running.writers.push(self.spawn("log-notes", move || {
            notes_file.run(&queue, &health);
            drop(lock);
        })?);
        for connection in readers {
            let (reader, queue) = (Reader::new(connection, self.shared.clone()), self.reads.clone());
            running.readers.push(self.spawn("log-reader", move || reader.run(&queue))?);
        }
        Ok(())
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
        let spawned = thread::Builder::new().name(name.into()).spawn(work);
        spawned.map_err(|error| fault::open_error(&self.shared.directory, error))
    }

    /// Refuses further jobs; accepted ones are still done. Returns the threads to join, the first time.
    fn stop(&self) -> Option<Running> {
        self.reads.close();
        self.appends.queue.close();
        self.clients.queue.close();
        self.security_records.queue.close();
        held(&self.running).take()
    }
}

impl Running {
    fn wait(self) {
        // A thread that panicked has logged that itself, and has nothing more to write.
        for thread in self.readers.into_iter().chain(self.writers) {
            // The last owner of the store may be its own feed, on the writer's thread.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        if let Some(running) = self.stop() {
            running.wait();
        }
    }
}

impl Store for DiskStore {
    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>> {
        let load = Load { items: drafts.len() as u64, bytes: drafts.iter().map(Draft::cost_bytes).sum() };
        let asked = Instant::now();
        self.appends.ask(load, |reply| Job::Append(drafts, asked, reply))
    }

    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>> {
        ask(&self.reads, ONE, |reply| ReadJob::Page(request, reply))
    }

    fn search_last(&self, search: LastSearch, rows_max: u64) -> BoxFuture<'static, Result<LastStep, StoreError>> {
        ask(&self.reads, ONE, |reply| ReadJob::Last(search, rows_max, reply))
    }

    fn before_time(&self, time_ms: u64) -> BoxFuture<'static, Result<Position, StoreError>> {
        ask(&self.reads, ONE, |reply| ReadJob::Time(time_ms, reply))
    }

    fn follow(&self, after: Position, feed: Arc<dyn Feed>) {
        if self.appends.queue.push_always(Job::Follow(after, feed)).is_err() {
            tracing::debug!("the store is shut down: there is no feed");
        }
    }

    fn bounds(&self) -> Bounds {
        self.shared.bounds()
    }

    fn save_clients(&self, records: Vec<ClientRecord>) -> BoxFuture<'static, Result<(), StoreError>> {
        let load = Load { items: records.len() as u64, bytes: 0 };
        self.clients.ask(load, |reply| ClientJob::Save(records, reply))
    }

    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>> {
        self.clients.ask(ONE, |reply| ClientJob::Load(client, reply))
    }

    fn save_record(&self, record: SecurityRecord) -> BoxFuture<'static, Result<(), StoreError>> {
        self.security_records.ask(security_records::load(&record), |reply| SecurityRecordJob::Save(record, reply))
    }

    fn consume_record(
        &self,
        kind: SecurityRecordKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<SecurityRecord>, StoreError>> {
        self.security_records.ask(ONE, |reply| SecurityRecordJob::Take(kind, key, now_ms, reply))
    }

    fn watch_records(&self, sink: Arc<dyn RecordWatcher>) -> BoxFuture<'static, Result<(), StoreError>> {
        let (done, told) = oneshot::channel();
        let ended = || StoreError::unavailable("the thread that reads bans and revocations has ended");
        let asked = self.security_records.queue.push_always(SecurityRecordJob::Watch(sink, done)).map_err(|_| ended());
        async move {
            asked?;
            told.await.unwrap_or_else(|_| Err(ended()))
        }
        .boxed()
    }

    fn translate(&self, cursor: Cursor) -> Cursor {
        self.shared.ancestors.translate(cursor, self.shared.bounds().epoch)
    }

    fn ready(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        // Concurrent callers share one probe, so that a file is written once for all of them.
        let mut probe = held(&self.probe);
        if let Some(under_way) = probe.as_ref().and_then(WeakShared::upgrade) {
            return under_way.boxed();
        }
        let files = try_join3(
            self.appends.probe(Job::Probe),
            self.clients.probe(ClientJob::Probe),
            self.security_records.probe(SecurityRecordJob::Probe),
        );
        let new = files.map(|ready| ready.map(drop)).boxed().shared();
        *probe = new.downgrade();
        new.boxed()
    }

    fn observe(&self, metrics: Arc<StoreMetrics>) {
        let _first_is_kept = self.shared.metrics.set(metrics);
    }

    fn status(&self) -> StoreStatus {
        StoreStatus { bytes: Some(self.shared.bytes.load(Ordering::Relaxed)), nats: None }
    }

    fn last_run(&self) -> Option<LastRun> {
        self.shared.last_run
    }

    fn maintain(&self, now: Moment) {
        // One message at a time, however late the writer is. After the shutdown the queue takes none, and none is needed.
        if held(&self.shared.now).replace(now).is_none() {
            let _ = self.appends.queue.push_always(Job::Maintain);
        }
        if now.removes {
            let _ = self.clients.queue.push_always(ClientJob::Expire(now.earliest_ms()));
        }
        let _ = self.security_records.queue.push_always(SecurityRecordJob::Expire(now.earliest_ms()));
    }

    fn erase(&self, topic: Topic) -> BoxFuture<'static, Result<Erased, StoreError>> {
        let erasing = ask(&self.appends.queue, ONE, |reply| Job::Erase(topic, reply));
        async move {
            let still = StoreError::Busy("the topic is still being erased: erase it again to learn when that is done");
            tokio::time::timeout(ERASE_MAX, erasing).await.unwrap_or(Err(still))
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let Some(running) = self.stop() else { return ready(()).boxed() };
        let (done, closed) = oneshot::channel();
        let waiting = thread::Builder::new().name("log-close".into()).spawn(move || {
            running.wait();
            // The caller of `close` may not wait for it.
            let _ = done.send(());
        });
        if let Err(error) = waiting {
            tracing::warn!(%error, "the thread that joins the writers could not be started; the store closes by itself");
        }
        async move {
            if tokio::time::timeout(ANSWER_MAX, closed).await.is_err() {
                tracing::warn!(
                    "the disk does not answer: the log is left as it is; it contains every acknowledged event"
                );
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, NewEvent};
    use crate::store::Retention;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn publish(store: &DiskStore, topic: &str) {
        let draft = NewEvent::new(topic.parse().unwrap(), Data::text("x")).draft(0);
        block_on(store.append(vec![draft])).unwrap();
    }

    fn read(store: &DiskStore, pattern: &str, after: u64) -> Page {
        let patterns = PatternSet::new([pattern.parse().unwrap()]).unwrap();
        let after = Position(after);
        let all = usize::MAX;
        block_on(store.read(ReadRequest {
            patterns,
            after,
            events_max: all,
            bytes_max: all,
            rows_max: 1000,
            latest_upto: None,
        }))
        .unwrap()
    }

    /// Waits until at most so many topics are known, in memory and on disk.
    fn topics_come_down_to(store: &DiskStore, most: usize) {
        let db = schema::open_reader(&store.shared.directory).unwrap();
        let stored = || db.query_row("SELECT count(*) FROM topics", [], |row| row.get::<_, isize>(0)).unwrap() as usize;
        let start = Instant::now();
        while stored() > most || store.shared.topics().by_name.len() > most {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", store.shared.topics().by_name);
            thread::yield_now();
        }
        assert_eq!(store.shared.topics().by_name.len(), store.shared.topics().by_id.len());
    }

    #[test]
    fn topics_that_lost_all_long_ago_are_forgotten() {
        const MARKS: usize = 10;
        // Folded step by step; or all at once at a start, as after a kill or with a new limit.
        for marks_at_first in [MARKS, 1000] {
            let home = tempfile::tempdir().unwrap();
            let retention = Retention { events_max: Some(5), ..Retention::default() };
            let options = StoreOptions { retention, ..StoreOptions::default() };
            let store = DiskStore::open_with(home.path(), options.clone(), marks_at_first, 0).unwrap();
            // The topic's mark is among the oldest, but the topic has an event again.
            publish(&store, "back");
            for n in 1..=29 {
                publish(&store, "often");
                publish(&store, if n == 28 { "back" } else { "x" });
                publish(&store, &format!("t.{n}"));
            }
            drop(store);
            let mut folded = None;
            for _ in 0..2 {
                let store = DiskStore::open_with(home.path(), options.clone(), MARKS, 0).unwrap();
                topics_come_down_to(&store, MARKS + 5);
                let floor = held(&store.shared.trims).removed.expired.folded();
                assert!(floor > Position(30) && *folded.get_or_insert(floor) == floor);
                for (after, gap) in [(floor.0 - 1, true), (floor.0, false)] {
                    assert_eq!(read(&store, "never.there", after).trimmed.is_some(), gap);
                    assert_eq!(read(&store, "t.1", after).trimmed.is_some(), gap);
                }
                assert!(read(&store, "often", floor.0).trimmed.is_some());
                assert!(read(&store, "back", floor.0 - 1).trimmed.is_some());
                let page = read(&store, "back", floor.0);
                assert!(page.trimmed.is_none() && page.events.len() == 1);
                assert_eq!(read(&store, ">", 0).events.len(), 5);
            }
            // A forgotten topic can come back.
            let store = DiskStore::open_with(home.path(), options.clone(), MARKS, 0).unwrap();
            publish(&store, "t.1");
            assert_eq!(read(&store, "t.1", 88).events.len(), 1);
        }
    }

    #[test]
    fn an_event_is_the_same_wherever_it_is_read_from() {
        let home = tempfile::tempdir().unwrap();
        let store = DiskStore::open(home.path(), StoreOptions::default()).unwrap();
        // Sizes on both sides of the index's limit, and one with overflow pages; others between them.
        let sizes: Vec<usize> = (860..940).chain([0, 1, 20_000]).collect();
        for size in &sizes {
            let new = NewEvent::new("long".parse().unwrap(), Data::text(&"\u{e9}".repeat(size / 2)));
            let draft = new.named("n").unwrap().with_id(&size.to_string()).unwrap().draft(7);
            block_on(store.append(vec![draft])).unwrap();
            publish(&store, "between");
        }
        let by_position = read(&store, ">", 0).events;
        assert_eq!(by_position.len(), 2 * sizes.len());
        let expected: Vec<_> = by_position.iter().filter(|event| event.topic().as_str() == "long").cloned().collect();
        // Alone, and beside another topic.
        assert_eq!(read(&store, "long", 0).events, expected);
        let patterns = PatternSet::new(["long", "nobody", "between"].map(|one| one.parse().unwrap())).unwrap();
        let all = usize::MAX;
        let request = ReadRequest {
            patterns,
            after: Position(0),
            events_max: all,
            bytes_max: all,
            rows_max: 1000,
            latest_upto: None,
        };
        assert_eq!(block_on(store.read(request)).unwrap().events, by_position);
    }
}
