//! The log: the trait that every storage engine implements, and its contract.
//!
//! A store is a totally ordered log of events, with the state that subscribers need to resume. One suite of tests runs this
//! contract over every engine:
//!
//! 1. **Order.** Positions always increase, and are consecutive from 1 where the engine allows it. They are never reused, even
//!    after everything was trimmed, even after a restart.
//! 2. **Durable before visible.** [`Store::append`] completes once the events are durable; the feed delivers them no earlier. A
//!    repeat of a topic and id within the window is answered with the position of the first, once *that* is durable.
//! 3. **All or none.** An append that fails has stored nothing.
//! 4. **Fed before acknowledged.** When an append completes, the feed of this process has the event already.
//! 5. **Gaps are exact.** A read reports a gap if and only if an event that matches its patterns was removed after its position,
//!    at the place of the newest one of its topic. No gap reports superseded events of values ([`Keep::latest`]). (Past
//!    a million topics that lost events the oldest marks fold into one, and a read may report a gap too many.)
//! 6. **The newest are found by topic.** With [`ReadRequest::latest_upto`] a read costs about what it returns, whatever the number
//!    of events behind. (Before the index of the newest events is filled, and for a round that began long ago, it scans the log.)
//! 7. **Reads are bounded** in events, bytes and rows scanned; an empty page that went further is progress. No lock that an
//!    append waits for is held for more than a bounded part of a read.

mod arrivals;
mod bisection;
mod client_table;
mod dedupe;
mod disk;
mod jetstream;
mod keep;
mod last;
mod marks;
mod memory;
mod newest;
mod removed;
#[cfg(test)]
pub(crate) mod scripted;
mod security_records;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::clock::{LastRun, Moment};
use crate::cursor::{Cursor, Position};
use crate::event::Draft;
use crate::metrics::{PublishOutcome, StoreMetrics};
use crate::topic::Topic;

pub use crate::log::{
    Appended, Bounds, ClientRecord, ClientShare, Erased, FeedBatch, Page, ReadMode, ReadRequest, Trimmed,
};
pub use disk::{
    BackupError, BackupReport, CompactError, CompactReport, DiskStore, RestoreError, RestoreReport, VerifyError,
    VerifyReport, backup, compact, restore, verify, verify_backup,
};
pub use jetstream::{JetStreamOptions, JetStreamStore, NatsLogin, NatsServer, OptionsError, parse_servers};
pub use keep::{KEEP_DELETED_DEFAULT, KEEP_RULES_MAX, Keep, KeepError, KeepRule, KeepRules};
pub use last::{LastProgress, LastSearch, LastStep};
pub use memory::MemoryStore;
pub use security_records::{
    RECORD_KEY_MAX_BYTES, RECORD_VALUE_MAX_BYTES, RecordWatcher, SecurityRecord, SecurityRecordKind, TICKET_SHARE_END,
};

/// The storage engine of a [`crate::Hub`]. See the module's contract.
pub trait Store: Send + Sync + 'static {
    /// Appends all of `drafts`, in order, or none; completes once they are durable, with one outcome each.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Busy`], [`StoreError::Unavailable`]; nothing is stored then.
    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>>;

    /// The matching events after a position, within bounds.
    ///
    /// # Errors
    /// [`StoreError::Busy`] and [`StoreError::Unavailable`].
    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>>;

    /// Continues a search for the newest matching events, for about `rows_max` rows. The caller repeats the call with the
    /// returned search until something is found or the search is complete.
    ///
    /// # Errors
    /// [`StoreError::Busy`] and [`StoreError::Unavailable`].
    fn search_last(&self, search: LastSearch, rows_max: u64) -> BoxFuture<'static, Result<LastStep, StoreError>>;

    /// The position before the first event whose time is at or after `time_ms` (milliseconds since the Unix epoch), on whatever topic:
    /// the floor where the oldest is, the log's end where none is.
    ///
    /// Found by bisection, since times do not go back within a log; where they did (a clock that was more than a minute ahead was set
    /// back), it is one of the places where the events before are older, and those after are not. An engine that does not
    /// know the events' own times answers with an earlier position, never with a later one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] and [`StoreError::Unavailable`].
    fn before_time(&self, time_ms: u64) -> BoxFuture<'static, Result<Position, StoreError>>;

    /// Hands every event after `after` to `feed`, in order, from now on. Called once, at start.
    fn follow(&self, after: Position, feed: Arc<dyn Feed>);

    /// The log's present bounds, as far as this process knows.
    fn bounds(&self) -> Bounds;

    /// Translates a cursor of a log that this one was restored from, where it is in the restored part; else returns the cursor
    /// unchanged.
    fn translate(&self, cursor: Cursor) -> Cursor {
        cursor
    }

    /// The log's present bounds, as far as any process knows: to judge a cursor that this process does not know. Where the log
    /// was replaced by another one, the feed of this process has delivered that when this call completes.
    ///
    /// # Errors
    /// [`StoreError::Busy`] and [`StoreError::Unavailable`]. An engine of this process alone always knows its bounds.
    fn refresh(&self, _cursor: Cursor) -> BoxFuture<'static, Result<Bounds, StoreError>> {
        Box::pin(std::future::ready(Ok(self.bounds())))
    }

    /// Registers what answers the other processes that share the log how far this one has sent a client every event. Called once,
    /// at start.
    fn answer_sent(&self, _sent_by: Arc<dyn SentBy>) {}

    /// How far other processes that share the log have sent a client every event.
    fn sent_elsewhere(&self, _client: Uuid) -> BoxFuture<'static, SentElsewhere> {
        Box::pin(std::future::ready(SentElsewhere::Nothing))
    }

    /// Saves clients' records, as durably as an append. If a power loss took a record, a client that resumes by its id alone
    /// would have no position, and would miss events.
    ///
    /// Past its limits the table evicts: past the share of an owner or an address, the least recently seen record of that share;
    /// past the total, records without an owner first, and of these the least recently seen first.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn save_clients(&self, records: Vec<ClientRecord>) -> BoxFuture<'static, Result<(), StoreError>>;

    /// The record of a client.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>>;

    /// Saves a record until its expiry, as durably as an append; one of the same kind and key is replaced. Every watcher, of
    /// every node that shares the store, receives the record within a second; this process's watcher before the call
    /// completes.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where there are too many of its kind; and as [`Self::append`].
    fn save_record(&self, record: SecurityRecord) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Removes and returns a record, where it exists and has not expired at `now_ms`. Of all concurrent calls, on all nodes
    /// that share the store, exactly one gets the record, even across a crash.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn consume_record(
        &self,
        kind: SecurityRecordKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<SecurityRecord>, StoreError>>;

    /// The number of tickets whose key begins with `share` and [`TICKET_SHARE_END`], of all nodes that share the store; `None`
    /// where no other process can have saved any: then the caller's own count is complete. To within the tickets that are
    /// saved or consumed at the same moment.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn count_tickets(&self, share: String) -> BoxFuture<'static, Result<Option<u64>, StoreError>> {
        let _no_other_process = share;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Sends `sink` every ban and revocation that exists (not tickets), and each that is saved from now on, here or on another
    /// node. Called once, at start; completes once the sink has received all existing ones.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where they cannot be read. A server that starts all the same serves banned clients.
    fn watch_records(&self, sink: Arc<dyn RecordWatcher>) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Whether the sink has received all bans and revocations. Where they are stored on another server it has not while that
    /// server cannot be reached, and for a moment after.
    fn knows_records(&self) -> bool {
        true
    }

    /// How far this process's wall clock is from the clocks of others that share the log; `None` where there are none, or before
    /// the first measurement.
    fn clock_skew(&self) -> Option<ClockSkew> {
        None
    }

    /// Registers what the store counts its work with. Called once, at start.
    fn observe(&self, _metrics: Arc<StoreMetrics>) {}

    /// The store's own state, for the metrics. Never blocks for long.
    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    /// When the log was last in use before it was opened; `None` where it does not record that. A start uses it to detect a jump
    /// of the wall clock.
    fn last_run(&self) -> Option<LastRun> {
        None
    }

    /// Whether an append would succeed now; where that cannot be known otherwise, something is written. Completes within seconds.
    ///
    /// # Errors
    /// The error that an append would have. An engine that always accepts what fits has none.
    fn ready(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Trims by age and drops expired records. Called about once a second with the time. An event's age counts from its time, or
    /// from its arrival where its time is ahead of the clock.
    ///
    /// Does not wait: appends after this call find expired keys dropped; trimming may take a while longer, and the feed delivers
    /// the new floor.
    fn maintain(&self, now: Moment);

    /// Erases the events that a topic has now, and their ids; what is published after the call stays. Completes once they are gone
    /// for good, and no read returns them. Readers at earlier positions receive a gap; the feed's next batch has a floor at
    /// or beyond the newest of them.
    ///
    /// # Errors
    /// [`StoreError::CannotErase`], where the engine cannot; [`StoreError::Busy`], where they are gone from the log and could
    /// not be overwritten within five seconds, so that the call has to be repeated; and as [`Self::append`].
    fn erase(&self, topic: Topic) -> BoxFuture<'static, Result<Erased, StoreError>>;

    /// Writes what is pending and releases all resources; appends fail afterwards.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Knows how far clients were sent every event. Never blocks.
pub trait SentBy: Send + Sync + 'static {
    /// The position up to which every event was sent; `None` where the client is not connected, and has not been recently.
    fn sent(&self, client: Uuid) -> Option<Position>;
}

/// How far other processes have sent a client every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentElsewhere {
    /// No other process knows the client.
    Nothing,
    /// No further than this position.
    UpTo(Position),
    /// Not all of the other processes have answered.
    Unknown,
}

impl SentElsewhere {
    /// Combines this answer with the position that another process has sent.
    #[must_use]
    pub fn and(self, position: Position) -> Self {
        match self {
            Self::Nothing => Self::UpTo(position),
            Self::UpTo(before) => Self::UpTo(before.max(position)),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// The state of a store that only the store knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Bytes of the stored events, as [`Draft::cost_bytes`] counts them; `None` where the store does not count them.
    pub bytes: Option<u64>,
    /// The connection to NATS; `None` where the log is not there.
    pub nats: Option<NatsStatus>,
}

/// The state of the connection to NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatsStatus {
    /// Whether the connection is up.
    pub connected: bool,
    /// How often it was made again after it was lost.
    pub reconnects: u64,
}

/// Clock skew between this process and others that share the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew {
    /// How far the log's server is ahead, in milliseconds.
    pub nats_ms: i64,
    /// The same for the other node with the largest difference; `None` where no other node is known.
    pub nodes_ms: Option<i64>,
}

impl ClockSkew {
    /// The difference from which an operator should be notified, in milliseconds.
    pub const LARGE_MS: u64 = 5000;

    /// Whether a clock differs by that much.
    #[must_use]
    pub fn is_large(&self) -> bool {
        [Some(self.nats_ms), self.nodes_ms].into_iter().flatten().any(|ms| ms.unsigned_abs() > Self::LARGE_MS)
    }
}

/// Receives what has become durable: called in log order, from the thread that made it durable. Never blocks.
pub trait Feed: Send + Sync + 'static {
    /// The next events, or a new floor, or both.
    fn push(&self, batch: FeedBatch);
}

/// How long events are kept. Past any limit the oldest events are trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The greatest age.
    pub age_max: Option<Duration>,
    /// The most events.
    pub events_max: Option<u64>,
    /// The most bytes, as [`Draft::cost_bytes`] counts them.
    pub bytes_max: Option<u64>,
}

/// Options of every engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long events are kept.
    pub retention: Retention,
    /// What is kept of the topics of some patterns, instead of what [`Retention::age_max`] says.
    pub keep: Arc<KeepRules>,
    /// How long a topic and id are recognized as a repeat.
    pub dedupe_window: Duration,
    /// The most keys within the window; past it, publishes with an id are refused as [`StoreError::Busy`]. About 150 bytes each.
    pub dedupe_keys_max: usize,
    /// The most of those keys of one publisher, see [`NewEvent::by`](crate::NewEvent::by); past it, its publishes with an id are
    /// refused as [`StoreError::Share`]. Keys from before a restart count for no publisher.
    pub dedupe_keys_per_publisher_max: usize,
    /// How long a client that is away is remembered.
    pub client_idle_max: Duration,
    /// The most remembered clients, about 300 bytes each; one with long patterns counts more, see [`ClientRecord::weight`].
    pub clients_max: usize,
    /// The most of them per token subject; `None`: any number.
    pub clients_per_subject_max: Option<usize>,
    /// The most of those without a subject per address; `None`: any number.
    pub clients_per_address_max: Option<usize>,
    /// The most tickets, the most bans and the most revocations; past it, another is refused as [`StoreError::Busy`]. About 300
    /// bytes each, a ticket more by the patterns that it grants.
    pub security_records_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            keep: Arc::default(),
            dedupe_window: Duration::from_secs(120),
            dedupe_keys_max: 1_000_000,
            dedupe_keys_per_publisher_max: 200_000,
            client_idle_max: Duration::from_secs(7 * 24 * 3600),
            clients_max: 100_000,
            clients_per_subject_max: Some(5000),
            clients_per_address_max: Some(5000),
            security_records_max: 100_000,
        }
    }
}

impl StoreOptions {
    /// The greatest weight of a share of the remembered clients, as [`ClientRecord::weight`] counts.
    #[must_use]
    pub fn client_share_weight_max(&self, share: &ClientShare) -> u64 {
        let max = match share {
            ClientShare::Owner(_) => self.clients_per_subject_max,
            ClientShare::Address(_) => self.clients_per_address_max,
        };
        max.map_or(u64::MAX, |max| max as u64)
    }
}

/// An operation of the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No space; publishing works again by itself once there is some.
    #[error("the disk is full: nothing was stored; free some space or lower the retention limits")]
    Full,
    /// Too much at once.
    #[error("too busy: {0}")]
    Busy(&'static str),
    /// A publisher's limit is reached.
    #[error("the publisher has the maximum number of {0}; try again later")]
    Share(&'static str),
    /// The engine cannot store several events, or so many, atomically.
    #[error("this store cannot append so many events atomically: publish them one by one, or as application/x-ndjson")]
    NotAtomic,
    /// The engine cannot erase a topic; the text says why, and what to do instead.
    #[error("this log cannot erase a topic: {0}")]
    CannotErase(&'static str),
    /// An encoded event has more bytes than the engine accepts; the number is the limit.
    #[error("an event has at most {0} bytes in this store")]
    TooLarge(usize),
    /// The disk fails.
    #[error("the disk store fails: {0}")]
    Disk(#[from] DiskFault),
    /// The engine is unreachable or broken; the text gives the reason.
    #[error("the store is unavailable: {0}")]
    Unavailable(Arc<str>),
}

/// What is wrong with a disk store's disk. The message gives the remedy, and names no path, since publishers read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskFault {
    /// The file system accepts no writes.
    #[error("the file system is read-only; the operator has to find the cause and mount the file system for writing")]
    ReadOnly,
    /// A read, a write or a sync failed.
    #[error("the disk reports an error; the operator finds the details in the server's log")]
    Io,
    /// The data files are no longer those that the server has open.
    #[error(
        "the data files were deleted or replaced while the server ran; the operator has to restore them and start the server again"
    )]
    Gone,
    /// A write or a sync has not completed in time.
    #[error("the disk has not answered in time; the event may be stored all the same, so repeat it with the same id")]
    Stalled,
}

impl StoreError {
    /// The outcome of a publish with this error, for the metrics.
    pub(crate) fn outcome(&self) -> PublishOutcome {
        match self {
            Self::Full => PublishOutcome::Full,
            Self::Busy(_) => PublishOutcome::Busy,
            Self::Share(_) => PublishOutcome::Share,
            Self::NotAtomic => PublishOutcome::NotAtomic,
            // No publish erases.
            Self::CannotErase(_) => PublishOutcome::Unavailable,
            Self::TooLarge(_) => PublishOutcome::TooLarge,
            Self::Disk(_) => PublishOutcome::Disk,
            Self::Unavailable(_) => PublishOutcome::Unavailable,
        }
    }

    /// [`Self::Unavailable`] with any reason.
    pub fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable(reason.to_string().into())
    }
}

/// A store could not be opened. The message gives the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server holds the directory.
    #[error("{} is in use by another switchback{}: stop that server, or choose another directory with --data", directory.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// The process id of the holder, where it is known.
        holder: Option<u32>,
    },
    /// NATS is not reachable, refuses the login, or has a stream of another configuration.
    #[error("NATS at {servers}: {reason}")]
    Nats {
        /// The servers, without the login.
        servers: String,
        /// The reason, and the remedy.
        reason: String,
    },
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Path {
        /// The path that could not be used.
        path: PathBuf,
        /// The operating system's or SQLite's error.
        reason: String,
    },
}
