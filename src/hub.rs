//! The hub: publish, subscribe, and the fan-out of the store's feed to every worker's tail.

mod fetches;
mod history;
mod listeners;
mod security_records;
mod start;
mod subscription;
mod worker;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clients::{Clients, SentHere};
use crate::clock::{Clock, runtime_now};
use crate::cursor::{Cursor, Epoch, Position};
use crate::denylist::Denylist;
use crate::event::{Draft, NewEvent};
use crate::local_log::LocalLog;
use crate::log::{Appended, Bounds, Erased, FeedBatch, Page, ReadRequest};
use crate::metrics::{Metrics, PublishOutcome};
use crate::store::{ClockSkew, Feed, Store, StoreError, StoreStatus};
use crate::sync::lock;
use crate::tail::{Tail, TailLimits};
use crate::topic::{PatternSet, Topic};

pub(crate) use history::HistoryPage;
pub use listeners::{ListenError, ListenerId};
pub use start::StartFrom;
pub use subscription::{Item, SubscribeError, Subscription};
pub(crate) use worker::{Push, SubscriptionHandle, Worker};

/// How often maintenance runs: clients' cursors are saved, the store trims and checkpoints.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Events of one read while a tail is warmed from the store.
const WARM_EVENTS: usize = 1000;

/// The options of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubOptions {
    /// How many events each worker keeps in memory; the events are shared between workers, the index is not.
    pub tail: TailLimits,
    /// Most concurrent listeners of [`Hub::on`] and [`Hub::once`]; each is a task.
    pub listeners_max: usize,
    /// How long the record of a disconnected client is kept. Also an option of the store, which deletes the record.
    pub client_idle_max: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            tail: TailLimits::default(),
            listeners_max: 1000,
            client_idle_max: crate::store::StoreOptions::default().client_idle_max,
        }
    }
}

/// One log and its subscribers. Cheap to clone; a clone is the same hub.
///
/// ```
/// use futures_util::StreamExt as _;
/// use switchback::{StartFrom, Hub, HubOptions, Item, MemoryStore, NewEvent};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new(switchback::StoreOptions::default());
/// let hub = Hub::open(std::sync::Arc::new(store), HubOptions::default()).await?;
///
/// let mut orders = hub.subscribe(["orders.>"], StartFrom::Now).await?;
/// hub.publish(NewEvent::json("orders.42.status", &"approved")?).await?;
///
/// let Some(Item::Event(event)) = orders.next().await.transpose()? else { panic!("an event was published") };
/// assert_eq!((event.topic().as_str(), event.data()), ("orders.42.status", r#""approved""#));
/// hub.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    options: HubOptions,
    clock: Clock,
    fan_out: Arc<FanOut>,
    fetches: fetches::Fetches,
    clients: Arc<Clients>,
    denylist: Arc<Denylist>,
    listeners: listeners::Listeners,
    metrics: Arc<Metrics>,
    /// Open deliveries over HTTP.
    live: AtomicUsize,
    /// The time limit of the shutdown in milliseconds, once it has begun.
    drain_ms: AtomicU64,
    drain_begun: Notify,
    maintenance: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Has the timers of subscriptions, which may be polled outside of it.
    runtime: tokio::runtime::Handle,
}

const NOT_DRAINING: u64 = u64::MAX;

/// The result of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The cursor of a client that has received the event.
    pub cursor: Cursor,
    /// Whether an event with this topic and id was stored already; the cursor is that event's.
    pub duplicate: bool,
    /// Whether the stored event is known to differ from this one in its name, data or headers. This one is not stored.
    pub differs: bool,
}

impl Published {
    fn new(epoch: Epoch, appended: &Appended) -> Self {
        let &Appended { position, duplicate, differs } = appended;
        Self { cursor: Cursor::new(epoch, position), duplicate, differs }
    }
}

impl Hub {
    /// Starts a hub on a store. The Tokio runtime that this is called in has the hub's maintenance task, and its timers.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, and in one without timers.
    ///
    /// # Errors
    /// [`StoreError`] where the newest events, or the bans and revocations, cannot be read.
    pub async fn open(store: Arc<dyn Store>, options: HubOptions) -> Result<Self, StoreError> {
        Self::open_with_clock(store, options, Clock::system()).await
    }

    /// As [`Self::open`], with a clock other than the system's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with_clock(store: Arc<dyn Store>, options: HubOptions, clock: Clock) -> Result<Self, StoreError> {
        let tail = warm_tail(&*store, options.tail).await?;
        clock.resume(store.last_run(), tail.time_ms_after(tail.end().before()));
        let end = tail.end();
        let metrics = Arc::new(Metrics::new());
        store.observe(metrics.store().clone());
        let fan_out = Arc::new(FanOut {
            local_log: Mutex::new(LocalLog::new(tail)),
            inboxes: Mutex::default(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        });
        store.follow(end, fan_out.clone());
        let clients = Arc::new(Clients::new(store.clone(), options.client_idle_max));
        let denylist = Arc::new(Denylist::new(Arc::downgrade(&clients)));
        store.answer_sent(Arc::new(SentHere::new(&clients)));
        // Bans and revocations are loaded before any client is admitted.
        store.watch_records(denylist.clone()).await?;
        let hub = Self(Arc::new(Shared {
            clients,
            denylist,
            store,
            options,
            clock,
            fan_out,
            fetches: fetches::Fetches::default(),
            listeners: listeners::Listeners::default(),
            metrics,
            live: AtomicUsize::new(0),
            drain_ms: AtomicU64::new(NOT_DRAINING),
            drain_begun: Notify::new(),
            maintenance: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        }));
        let task = tokio::spawn(maintain(Arc::downgrade(&hub.0)));
        *lock(&hub.0.maintenance) = Some(task);
        Ok(hub)
    }

    /// Publishes one event; returns once it is durable.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is stored then.
    pub async fn publish(&self, event: NewEvent) -> Result<Published, StoreError> {
        let appended = self.append(vec![event.draft(self.clock().wall_ms())]).await?;
        let one = appended.first().ok_or_else(|| StoreError::unavailable("the store returned no result"))?;
        Ok(Published::new(self.bounds().epoch, one))
    }

    /// Publishes events in consecutive positions, all or none; returns once they are durable.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is stored then.
    pub async fn publish_all(&self, events: Vec<NewEvent>) -> Result<Vec<Published>, StoreError> {
        let now_ms = self.clock().wall_ms();
        let drafts: Vec<Draft> = events.into_iter().map(|event| event.draft(now_ms)).collect();
        let appended = self.append(drafts).await?;
        let epoch = self.bounds().epoch;
        Ok(appended.iter().map(|one| Published::new(epoch, one)).collect())
    }

    /// Erases the events that a topic has now; what is published after the call stays. Completes once they are gone for good.
    /// Subscribers that have not received them yet receive a gap ([`GapReason::Erased`](crate::wire::GapReason::Erased)).
    ///
    /// # Errors
    /// As [`Store::erase`].
    pub async fn erase(&self, topic: Topic) -> Result<Erased, StoreError> {
        self.0.store.erase(topic).await
    }

    async fn append(&self, drafts: Vec<Draft>) -> Result<Vec<Appended>, StoreError> {
        let (events, began) = (drafts.len(), runtime_now());
        let outcome = self.0.store.append(drafts).await;
        let metrics = self.metrics();
        metrics.publish_took(runtime_now().saturating_duration_since(began));
        match &outcome {
            Ok(appended) => {
                let duplicates = appended.iter().filter(|one| one.duplicate).count();
                metrics.published(PublishOutcome::Stored, events - duplicates);
                metrics.published(PublishOutcome::Duplicate, duplicates);
            }
            Err(error) => metrics.published(error.outcome(), events),
        }
        outcome
    }

    /// The metrics of this hub and its server.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The store's own state, for the metrics.
    pub(crate) fn store_status(&self) -> StoreStatus {
        self.0.store.status()
    }

    /// This hub's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Where the log begins and ends.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.0.store.bounds()
    }

    /// Where the log begins and ends, queried from the store itself.
    pub(crate) async fn refreshed(&self) -> Result<Bounds, StoreError> {
        self.0.store.refresh(self.cursor()).await
    }

    /// Whether publishing would succeed now.
    ///
    /// # Errors
    /// The error that publishing would fail with.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.0.store.ready().await
    }

    /// How far this process's wall clock is from those of the other nodes that share the log.
    pub(crate) fn clock_skew(&self) -> Option<ClockSkew> {
        self.0.store.clock_skew()
    }

    /// The log's end: the cursor of a client that has received every event.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let bounds = self.bounds();
        Cursor::new(bounds.epoch, bounds.last)
    }

    /// Whether this process has the bans and revocations of every node.
    pub(crate) fn knows_denied(&self) -> bool {
        self.0.store.knows_records()
    }

    /// A weak reference to the hub.
    pub(crate) fn downgrade(&self) -> WeakHub {
        WeakHub(Arc::downgrade(&self.0))
    }

    /// The connected clients, and the saved records of clients.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.0.clients
    }

    /// A bounded read from the store; equal reads that are in flight are shared.
    pub(crate) async fn read(&self, request: ReadRequest) -> Result<Page, StoreError> {
        self.0.fetches.read(&self.0.store, request).await
    }

    /// Begins the shutdown: the deliveries end one by one, spread over the time `within`.
    pub fn drain(&self, within: Duration) {
        let ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).min(NOT_DRAINING - 1);
        self.0.drain_ms.store(ms, Ordering::Relaxed);
        self.0.fan_out.wake_everyone();
        self.0.drain_begun.notify_waiters();
    }

    /// Completes once the shutdown has begun.
    pub(crate) async fn drain_begun(&self) {
        // Before the check: it is notified of a shutdown that begins in between.
        let begun = self.0.drain_begun.notified();
        if self.draining().is_none() {
            begun.await;
        }
    }

    /// The time limit of the shutdown, once it has begun.
    pub(crate) fn draining(&self) -> Option<Duration> {
        let ms = self.0.drain_ms.load(Ordering::Relaxed);
        (ms != NOT_DRAINING).then(|| Duration::from_millis(ms))
    }

    /// How many subscribers are connected over HTTP, including long polls.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// Saves the clients' cursors and closes the store. Publishing fails from here on.
    pub async fn close(&self) {
        if let Some(task) = lock(&self.0.maintenance).take() {
            task.abort();
        }
        self.off_all();
        self.0.clients.flush(self.clock().believed_ms()).await;
        self.0.store.close().await;
    }
}

/// A weak reference to a hub.
pub(crate) struct WeakHub(std::sync::Weak<Shared>);

impl WeakHub {
    pub(crate) fn upgrade(&self) -> Option<Hub> {
        self.0.upgrade().map(Hub)
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({:?}, {} live)", self.bounds(), self.live())
    }
}

/// Sends the store's batches to the hub's own local_log and to each worker's inbox. It never waits for any of them.
struct FanOut {
    local_log: Mutex<LocalLog>,
    inboxes: Mutex<Vec<worker::Inbox>>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl FanOut {
    fn local_log(&self) -> MutexGuard<'_, LocalLog> {
        lock(&self.local_log)
    }

    fn wake_everyone(&self) {
        self.local_log().subscription_index.wake_all();
        lock(&self.inboxes).retain(worker::Inbox::wake);
    }
}

impl Feed for FanOut {
    fn push(&self, batch: FeedBatch) {
        if let Some(newest) = batch.events.last() {
            self.metrics.feed_delayed(self.clock.wall_ms().saturating_sub(newest.time_ms()));
        }
        let batch = Arc::new(batch);
        // The inboxes are filled under the local log's lock, so that a worker that joins gets its copy of the
        // tail and every batch after it.
        let mut local_log = self.local_log();
        local_log.push(&batch);
        lock(&self.inboxes).retain(|inbox| inbox.push(&batch));
    }
}

async fn warm_tail(store: &dyn Store, limits: TailLimits) -> Result<Tail, StoreError> {
    let bounds = store.bounds();
    let span = u64::try_from(limits.events_max).unwrap_or(u64::MAX);
    let mut after = Position(bounds.last.0.saturating_sub(span)).max(bounds.floor);
    let mut tail = Tail::new(bounds, after, limits);
    let everything = PatternSet::everything();
    while after < bounds.last {
        let request = ReadRequest {
            patterns: everything.clone(),
            after,
            events_max: WARM_EVENTS,
            bytes_max: usize::try_from(limits.bytes_max).unwrap_or(usize::MAX),
            rows_max: WARM_EVENTS as u64,
            latest_upto: None,
        };
        let page = store.read(request).await?;
        if page.through <= after {
            break;
        }
        if let Some(hole) = page.trimmed {
            // A reader before the hole has to receive its gap, which the store reports.
            tail = Tail::new(bounds, hole.to, limits);
            after = hole.to;
        }
        tail.push(&FeedBatch { epoch: bounds.epoch, after, events: page.events, floor: bounds.floor });
        after = tail.end().max(page.through);
    }
    Ok(tail)
}

async fn maintain(shared: std::sync::Weak<Shared>) {
    let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let now = shared.clock.tick();
        shared.store.maintain(now);
        if now.stepped {
            // The timers of the tokens' expiry were set by the clock's former reading.
            shared.clients.end_expired(now.wall_ms);
        }
        shared.clients.flush(now.believed_ms).await;
        shared.denylist.expire(now.earliest_ms());
    }
}
