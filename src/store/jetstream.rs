//! The store on NATS JetStream, which many nodes share.
//!
//! One stream is the log: its sequence is the position, its name and time of creation are the epoch. Remembered clients
//! and security records are kept in key-value buckets beside it. Every node follows the stream with one consumer, whatever its number of clients; the
//! node's own events reach it through that consumer as well.
//!
//! The contract of [`super`] holds, with these differences:
//!
//! - **Gaps** are reported whenever a position precedes the log's floor, whether or not a matching event was trimmed in between:
//!   JetStream does not know. An event that expires by its age within a second counts as trimmed.
//! - **Retention** is JetStream's: bytes are counted as JetStream stores them, age by its own clock.
//! - **Fed before acknowledged** holds for five seconds: an event that is durable but has not come back to this node by then is
//!   acknowledged all the same.
//! - **The newest are found by topic** for up to a million topics, about 350 bytes of memory each: a node reads the position of each
//!   topic's newest event when its feed begins. With more topics, or before that is done, a snapshot reads all events.
//! - **Batches** of several events need NATS 2.12.1 or later; older servers give [`StoreError::NotAtomic`].
//! - **An error** from an append means that no acknowledgement came within about five seconds. The event may be stored all the
//!   same; an id makes a retry safe.
//!
//! A NATS server may be partitioned from its peers without knowing it. So an answer that would take something from a client is
//! believed only with a proof of quorum, see [`quorum`]. The clocks of nodes differ: see [`skew`].
//!
//! What a power loss may take is decided by NATS: by default a server acknowledges before it syncs to disk (`sync_interval: 2m`),
//! so an event is lost only where all of its replicas lose power within those two minutes. With `sync_interval: always` in the
//! servers' configuration no acknowledged event is lost.

mod attempt;
mod batch;
mod bucket;
mod clients;
mod connect;
mod direct;
mod error;
mod feed;
mod last;
mod message;
mod names;
mod newest;
mod newest_fill;
mod node;
mod peers;
mod publish;
mod quorum;
mod read;
mod runtime;
mod security_records;
mod sent;
mod servers;
mod setup;
mod shares;
mod single_flight;
mod skew;
mod stored_client;
mod stream_state;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Appended, Bounds, ClientRecord, ClockSkew, Erased, Feed, LastSearch, LastStep, NatsStatus, OpenError, Page,
    ReadRequest, RecordWatcher, SecurityRecord, SecurityRecordKind, SentBy, SentElsewhere, Store, StoreError,
    StoreOptions, StoreStatus,
};
use crate::clock::Moment;
use crate::cursor::{Cursor, Position};
use crate::event::Draft;
use crate::sync::lock;
use crate::topic::Topic;
use clients::Clients;
use node::Node;
use publish::Publisher;
use read::Reader;
use runtime::Runtime;
use security_records::SecurityRecords;

pub use connect::{JetStreamOptions, NatsLogin, NatsServer, parse_servers};
pub use error::OptionsError;

/// How long a request that failed waits before it is made again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// How long `close` waits for the appends in flight.
const CLOSE_WAIT: Duration = Duration::from_secs(6);

/// Why rules of retention are refused, and what to do instead.
const NO_RULES: &str = "rules of retention (--keep) remove events from the middle of the log, which this version cannot do in NATS: \
     remove the rules, and limit the whole log with --max-age, --max-events and --max-bytes; or use the disk store";

/// Why a topic cannot be erased, and what to do instead.
const NO_ERASING: &str = "its stream in NATS refuses to delete single messages, so that no node misses one without a gap; events \
     leave it by age (--max-age), or with the whole stream";

/// A log in a JetStream stream.
///
/// The store has one thread of its own, on which everything that concerns NATS runs. Dropping the store ends the thread.
pub struct JetStreamStore {
    parts: Arc<Parts>,
    runtime: Runtime,
}

struct Parts {
    node: Arc<Node>,
    publisher: Publisher,
    reader: Reader,
    clients: Clients,
    security_records: Arc<SecurityRecords>,
    /// The task that follows the stream.
    feeding: Mutex<Option<AbortHandle>>,
    /// The task that answers other nodes' requests.
    answering: Mutex<Option<AbortHandle>>,
}

impl JetStreamStore {
    /// Connects, and creates the stream and the buckets or checks the existing ones. Waits a while for a NATS that is not up yet.
    ///
    /// # Errors
    /// [`OpenError`], where NATS does not answer within 15 seconds, refuses the login, or has a stream whose configuration is not
    /// the one that the options give.
    pub async fn open(options: JetStreamOptions, store: StoreOptions) -> Result<Self, OpenError> {
        let runtime = Runtime::start().map_err(|error| connect::refused(&options, &error))?;
        let opening = {
            let options = options.clone();
            runtime.run(async move { Parts::open(&options, &store).await })
        };
        let parts =
            opening.await.unwrap_or_else(|| Err(connect::refused(&options, &"the store's thread has ended")))?;
        Ok(Self { parts: Arc::new(parts), runtime })
    }

    /// Runs `work` on the store's thread.
    fn on_thread<T, F>(&self, work: impl FnOnce(Arc<Parts>) -> F) -> BoxFuture<'static, Result<T, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let running = self.runtime.run(work(self.parts.clone()));
        async move { running.await.unwrap_or_else(|| Err(StoreError::unavailable("the store is shut down"))) }.boxed()
    }
}

impl Parts {
    async fn open(options: &JetStreamOptions, store: &StoreOptions) -> Result<Self, OpenError> {
        if !store.keep.is_empty() {
            return Err(connect::refused(options, &NO_RULES));
        }
        let names = connect::names(options)?;
        let connection = connect::connect(options).await?;
        let plan = setup::Plan::new(&connection.client, &names, options, store);
        let info = plan.ensure(&node::context(&connection.client), options).await?;
        let seen = stream_state::state_of(&names.stream, &info);
        let (node, callers) = Node::new(connection, names, plan, seen);
        let (querying, proving) = (node.clone(), node.clone());
        tokio::spawn(callers.querying.serve(Duration::ZERO, async move || stream_state::query(&querying).await));
        tokio::spawn(callers.proving.serve(quorum::PROOF_INTERVAL, async move || quorum::prove(&proving).await));
        tokio::spawn(quorum::watch(node.clone()));
        tokio::spawn(peers::exchange(node.clone()));
        // The clock skew to NATS has to be measured before anything is saved with an expiry.
        if let Err(error) = stream_state::describe(&node, Instant::now() + node::REQUEST_TIMEOUT).await {
            tracing::debug!(?error, "NATS has not answered yet, so that the clock skew is unknown");
        }
        Ok(Self {
            publisher: Publisher::start(&node),
            reader: Reader::new(),
            clients: Clients::new(&node, store.clone()),
            security_records: Arc::new(SecurityRecords::new(&node)),
            node,
            feeding: Mutex::default(),
            answering: Mutex::default(),
        })
    }
}

impl std::fmt::Debug for JetStreamStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JetStreamStore({} {:?})", self.parts.node.names.stream, self.bounds())
    }
}

impl Store for JetStreamStore {
    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>> {
        match self.parts.publisher.append(drafts) {
            Ok(answered) => {
                async move { answered.await.unwrap_or_else(|_| Err(StoreError::unavailable("the store is shut down"))) }
                    .boxed()
            }
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>> {
        self.on_thread(|parts| async move { parts.reader.read(&parts.node, request).await })
    }

    fn answer_sent(&self, sent_by: Arc<dyn SentBy>) {
        let answering = self.runtime.spawn(sent::answer(self.parts.node.clone(), sent_by));
        if let Some(before) = lock(&self.parts.answering).replace(answering) {
            before.abort();
        }
    }

    fn sent_elsewhere(&self, client: Uuid) -> BoxFuture<'static, SentElsewhere> {
        let asking = self.on_thread(move |parts| async move { Ok(sent::ask(&parts.node, client).await) });
        asking.map(|answer| answer.unwrap_or(SentElsewhere::Unknown)).boxed()
    }

    fn search_last(&self, search: LastSearch, rows_max: u64) -> BoxFuture<'static, Result<LastStep, StoreError>> {
        self.on_thread(move |parts| async move { parts.reader.search_last(&parts.node, search, rows_max).await })
    }

    fn before_time(&self, time_ms: u64) -> BoxFuture<'static, Result<Position, StoreError>> {
        self.on_thread(move |parts| async move { stream_state::before_time(&parts.node, time_ms).await })
    }

    fn follow(&self, after: Position, feed: Arc<dyn Feed>) {
        let node = self.parts.node.clone();
        let feeding = self.runtime.spawn(async move {
            let epoch = node.bounds().epoch;
            node.newest.begin(epoch, after);
            futures_util::join!(feed::follow(node.clone(), after, feed), newest_fill::fill(node.clone(), epoch));
        });
        if let Some(before) = lock(&self.parts.feeding).replace(feeding) {
            before.abort();
        }
    }

    fn bounds(&self) -> Bounds {
        self.parts.node.bounds()
    }

    fn refresh(&self, cursor: Cursor) -> BoxFuture<'static, Result<Bounds, StoreError>> {
        self.on_thread(move |parts| async move { parts.node.refresh(cursor).await })
    }

    /// A write that needs a quorum of NATS, and the state of the log from a leader that has one.
    fn ready(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_thread(|parts| async move { parts.node.proven().await.map(drop) })
    }

    fn save_clients(&self, records: Vec<ClientRecord>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_thread(|parts| async move { parts.clients.save(&parts.node, records).await })
    }

    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>> {
        self.on_thread(move |parts| async move { parts.clients.load(&parts.node, client).await })
    }

    fn save_record(&self, record: SecurityRecord) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_thread(|parts| async move { parts.security_records.save(&parts.node, record).await })
    }

    fn consume_record(
        &self,
        kind: SecurityRecordKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<SecurityRecord>, StoreError>> {
        self.on_thread(move |parts| async move { parts.security_records.take(&parts.node, kind, &key, now_ms).await })
    }

    fn count_tickets(&self, share: String) -> BoxFuture<'static, Result<Option<u64>, StoreError>> {
        self.on_thread(
            move |parts| async move { parts.security_records.count_tickets(&parts.node, &share).await.map(Some) },
        )
    }

    fn watch_records(&self, sink: Arc<dyn RecordWatcher>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_thread(|parts| async move {
            parts.security_records.watch(&parts.node, sink);
            parts.security_records.until_known().await
        })
    }

    fn status(&self) -> StoreStatus {
        let link = *self.parts.node.link.borrow();
        let nats = NatsStatus { connected: link.up, reconnects: link.generation.saturating_sub(1) };
        StoreStatus { bytes: None, nats: Some(nats) }
    }

    fn clock_skew(&self) -> Option<ClockSkew> {
        self.parts.node.skew.get()
    }

    fn knows_records(&self) -> bool {
        self.parts.security_records.are_known()
    }

    /// JetStream trims on its own, by its own clock; here the node fetches what was trimmed.
    fn maintain(&self, now: Moment) {
        let parts = self.parts.clone();
        self.runtime.spawn(async move {
            parts.security_records.expire(&now);
            if parts.node.is_up()
                && let Err(error) = parts.node.query().await
            {
                tracing::debug!(%error, "the stream's state could not be fetched");
            }
        });
    }

    /// Refused: the other nodes could not tell a hole from a topic that was never published to.
    fn erase(&self, _topic: Topic) -> BoxFuture<'static, Result<Erased, StoreError>> {
        ready(Err(StoreError::CannotErase(NO_ERASING))).boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.parts.publisher.close();
        let closing = self.on_thread(|parts| async move {
            if tokio::time::timeout(CLOSE_WAIT, parts.publisher.finished()).await.is_err() {
                tracing::warn!("the store was closed while events were still unacknowledged");
            }
            Ok(())
        });
        closing.map(drop).boxed()
    }
}
