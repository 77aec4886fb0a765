//! The log: the one trait that every engine implements, and its contract.
//!
//! A store is a totally ordered log of events, with what subscribers need to resume in it. Its contract,
//! which one suite of tests holds every engine to:
//!
//! 1. **Order.** Positions are consecutive from 1 where the engine can do it, and always increase; they are
//!    never reused, even after everything was trimmed, even after a restart.
//! 2. **Durable, then known.** [`Store::append`] answers once the events are durable; the feed hears of them no earlier.
//!    A repeat of a topic and id within the window is answered with the first one's position, once *that* is durable.
//! 3. **All or none.** An append that fails has stored nothing.
//! 4. **Fed before answered.** Whoever got an answer finds the event in the feed of this process already.
//! 5. **Gaps are exact.** A read tells of a gap if and only if an event that matches its patterns was trimmed after
//!    its position (past a million topics that were trimmed, the oldest marks fold into one floor, and it may tell one too many).
//! 6. **Reads are bounded** in events, bytes and rows looked at; an empty page that went further is progress. No lock that an
//!    append waits for is held for more than a bounded part of one.

mod arrivals;
mod bisection;
mod client_table;
mod dedupe;
mod disk;
mod jetstream;
mod last;
mod marks;
mod memory;
mod notes;
#[cfg(test)]
pub(crate) mod scripted;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::clock::{LastRun, Moment};
use crate::cursor::{Cursor, Position};
use crate::event::Draft;

pub use crate::log::{Appended, Bounds, ClientRecord, ClientShare, FeedBatch, Page, ReadRequest, Trimmed};
pub use disk::{BackupError, BackupReport, DiskStore, backup};
pub use jetstream::{JetStreamOptions, JetStreamStore, NatsLogin, NatsServer, OptionsError, parse_servers};
pub use last::{LastProgress, LastSearch, LastStep};
pub use memory::MemoryStore;
pub use notes::{NOTE_KEY_MAX_BYTES, NOTE_VALUE_MAX_BYTES, Note, NoteKind, NoteSink};

/// What the store of a [`crate::Hub`] is asked to do. See the module's contract.
pub trait Store: Send + Sync + 'static {
    /// Appends all of `drafts`, in order, or none; answers once they are durable, one outcome each.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Busy`], [`StoreError::Unavailable`]; nothing is stored then.
    fn append(&self, drafts: Vec<Draft>) -> BoxFuture<'static, Result<Vec<Appended>, StoreError>>;

    /// The matching events after a position, within bounds.
    ///
    /// # Errors
    /// [`StoreError::Busy`] and [`StoreError::Unavailable`].
    fn read(&self, request: ReadRequest) -> BoxFuture<'static, Result<Page, StoreError>>;

    /// Goes on with the search for the newest events that match, for about `rows_max` rows. The caller asks again, with what it
    /// is given, until something is found or everything was looked at.
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

    /// Where the log begins and ends now, as far as this process knows.
    fn bounds(&self) -> Bounds;

    /// The same place in the present log, where `cursor` is of one that this was restored from and lies in what was restored; else the
    /// cursor as it is.
    fn translate(&self, cursor: Cursor) -> Cursor {
        cursor
    }

    /// Where the log begins and ends now, as far as anybody knows: what a cursor is judged by that this process does not
    /// know. Where the log has become another one, the feed of this process has heard of it when this is answered.
    ///
    /// # Errors
    /// [`StoreError::Busy`] and [`StoreError::Unavailable`]. An engine that is this process's own knows it anyway.
    fn refresh(&self, _cursor: Cursor) -> BoxFuture<'static, Result<Bounds, StoreError>> {
        Box::pin(std::future::ready(Ok(self.bounds())))
    }

    /// Who knows how far this process has sent a client everything, for the others that share the log. Called once, at start.
    fn answer_sent(&self, _sent_by: Arc<dyn SentBy>) {}

    /// How far other processes that share the log have sent a client everything.
    fn sent_elsewhere(&self, _client: Uuid) -> BoxFuture<'static, SentElsewhere> {
        Box::pin(std::future::ready(SentElsewhere::Nothing))
    }

    /// Remembers clients: durable like an append once it is answered. A record that power loss took would leave a client that
    /// resumes by its id alone without a place, and it would miss events.
    ///
    /// Past its limits the table forgets: past the share of an owner or an address, that share's longest away; past that of
    /// all, first those without an owner, longest away first.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn save_clients(&self, records: Vec<ClientRecord>) -> BoxFuture<'static, Result<(), StoreError>>;

    /// What is remembered of a client.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn load_client(&self, client: Uuid) -> BoxFuture<'static, Result<Option<ClientRecord>, StoreError>>;

    /// Keeps a note until its end; one of the same kind and key is replaced. Durable like an append. Known to every
    /// watcher, of every node that shares the store, within a second; to this process's before it is answered.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where there are too many of its kind; and as [`Self::append`].
    fn save_note(&self, note: Note) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Removes a note and returns it, where it is there and not past its end at `now_ms`. Of all that ask, on all
    /// nodes that share the store, exactly one gets it, even across a crash.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn take_note(
        &self,
        kind: NoteKind,
        key: String,
        now_ms: u64,
    ) -> BoxFuture<'static, Result<Option<Note>, StoreError>>;

    /// Tells `sink` of every ban and revocation that is kept (not of tickets), and of each that is saved from now on,
    /// here or on another node. Called once, at start; answers once it was told of all that are kept.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where they cannot be read. Whoever serves all the same serves those who are shut out.
    fn watch_notes(&self, sink: Arc<dyn NoteSink>) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Whether the sink knows all bans and revocations. Where they lie elsewhere it does not while that cannot be reached, and
    /// for a moment after.
    fn knows_notes(&self) -> bool {
        true
    }

    /// How far this process's wall clock is from those of others that share the log; `None` where none do, or before that was measured.
    fn clock_skew(&self) -> Option<ClockSkew> {
        None
    }

    /// When the log was in use before it was opened; `None` where it does not say. With it a start tells whether the wall clock has jumped.
    fn last_run(&self) -> Option<LastRun> {
        None
    }

    /// Whether an append would succeed now: where that cannot be known otherwise, something is written. Answers within seconds.
    ///
    /// # Errors
    /// What an append would fail with. An engine that always takes what fits has none.
    fn ready(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Trims by age and forgets what has expired. Called about once a second with the time. An event's age counts from its time, or from
    /// its arrival where its time is ahead of the clock.
    ///
    /// Does not wait: appends that are asked for later find expired keys forgotten; trimming may take a while longer,
    /// and the feed hears of the new floor.
    fn maintain(&self, now: Moment);

    /// Writes what is pending and releases what is held; appends fail afterwards.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Knows how far clients were sent everything. Never blocks.
pub trait SentBy: Send + Sync + 'static {
    /// Up to which position; `None` where the client is not connected, and has not been of late.
    fn sent(&self, client: Uuid) -> Option<Position>;
}

/// How far a client was sent everything by other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentElsewhere {
    /// None of them knows it.
    Nothing,
    /// No further than this.
    UpTo(Position),
    /// Not all of them have answered.
    Unknown,
}

impl SentElsewhere {
    /// With what another process has sent.
    #[must_use]
    pub fn and(self, position: Position) -> Self {
        match self {
            Self::Nothing => Self::UpTo(position),
            Self::UpTo(before) => Self::UpTo(before.max(position)),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// How far the wall clocks are from this process's, of those that share a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew {
    /// How far the log's server is ahead, in milliseconds.
    pub nats_ms: i64,
    /// The same of the other node that is the farthest away; `None` where none is known.
    pub nodes_ms: Option<i64>,
}

impl ClockSkew {
    /// The distance from which an operator should hear of it, in milliseconds.
    pub const LARGE_MS: u64 = 5000;

    /// Whether a clock is further away than that.
    #[must_use]
    pub fn is_large(&self) -> bool {
        [Some(self.nats_ms), self.nodes_ms].into_iter().flatten().any(|ms| ms.unsigned_abs() > Self::LARGE_MS)
    }
}

/// Who is told of what has become durable: called in log order, from the thread that made it so. Never blocks.
pub trait Feed: Send + Sync + 'static {
    /// The next events, or a new floor, or both.
    fn push(&self, batch: FeedBatch);
}

/// How long events are kept. Whatever passes a limit first is trimmed, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Oldest age.
    pub age_max: Option<Duration>,
    /// Most events.
    pub events_max: Option<u64>,
    /// Most bytes, as [`Draft::cost_bytes`] counts them.
    pub bytes_max: Option<u64>,
}

/// What every engine is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long events are kept.
    pub retention: Retention,
    /// How long a topic and id are known as a repeat.
    pub dedupe_window: Duration,
    /// Most keys within the window; past it, keyed publishes are refused as [`StoreError::Busy`]. About 150 bytes each.
    pub dedupe_keys_max: usize,
    /// Most of those keys of one publisher, see [`NewEvent::by`](crate::NewEvent::by); past it, its keyed publishes are refused
    /// as [`StoreError::Share`]. What was stored before a restart counts for nobody.
    pub dedupe_keys_per_publisher_max: usize,
    /// How long a client that is away is remembered.
    pub client_idle_max: Duration,
    /// Most clients that are remembered, about 300 bytes each; one counts more by its patterns, see [`ClientRecord::weight`].
    pub clients_max: usize,
    /// Most of them of one token's subject; `None`: any number.
    pub clients_per_subject_max: Option<usize>,
    /// Most of those without a subject that came from one address; `None`: any number.
    pub clients_per_address_max: Option<usize>,
    /// Most tickets, most bans and most revocations that are kept; past it, another is refused as
    /// [`StoreError::Busy`]. About 300 bytes each, a ticket more by the patterns that it grants.
    pub notes_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            dedupe_window: Duration::from_secs(120),
            dedupe_keys_max: 1_000_000,
            dedupe_keys_per_publisher_max: 200_000,
            client_idle_max: Duration::from_secs(7 * 24 * 3600),
            clients_max: 100_000,
            clients_per_subject_max: Some(5000),
            clients_per_address_max: Some(5000),
            notes_max: 100_000,
        }
    }
}

impl StoreOptions {
    /// Most that a share of the remembered clients may weigh, as [`ClientRecord::weight`] counts.
    #[must_use]
    pub fn client_share_weight_max(&self, share: &ClientShare) -> u64 {
        let max = match share {
            ClientShare::Owner(_) => self.clients_per_subject_max,
            ClientShare::Address(_) => self.clients_per_address_max,
        };
        max.map_or(u64::MAX, |max| max as u64)
    }
}

/// A store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No room; publishing works again by itself once there is.
    #[error("the disk is full: nothing was stored; free some room or lower the retention limits")]
    Full,
    /// Too much at once.
    #[error("too busy: {0}")]
    Busy(&'static str),
    /// As much as one publisher may have.
    #[error("there are as many {0} of this publisher as one may have; try again later")]
    Share(&'static str),
    /// The engine cannot store several events, or so many, as a whole.
    #[error("this store cannot take so many events as a whole: publish them one by one, or as application/x-ndjson")]
    NotAtomic,
    /// An event has more bytes, encoded, than the engine takes; the number is its limit.
    #[error("an event has at most {0} bytes in this store")]
    TooLarge(usize),
    /// The disk does not do what it is asked.
    #[error("the disk store fails: {0}")]
    Disk(#[from] DiskFault),
    /// The engine is away or broken; the text says how.
    #[error("the store is unavailable: {0}")]
    Unavailable(Arc<str>),
}

/// What is wrong with a disk store's disk. The message says what to do, and names no path: publishers read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskFault {
    /// The file system takes no writes.
    #[error("its file system is read-only; the operator has to find out why, and to mount it for writing")]
    ReadOnly,
    /// A read, a write or a sync failed.
    #[error("the disk reports an error; the operator finds the details in the server's log")]
    Io,
    /// The data files are no longer those that the server has open.
    #[error(
        "its data files were deleted or replaced while the server ran; the operator has to restore them and to start the server again"
    )]
    Gone,
    /// A write or a sync has not come back in time.
    #[error(
        "the disk has not answered in time; what was sent may be stored all the same, so repeat it with the same id"
    )]
    Stalled,
}

impl StoreError {
    /// [`Self::Unavailable`] for any reason.
    pub fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable(reason.to_string().into())
    }
}

/// A store could not be opened. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has the directory.
    #[error("{} is in use by another switchback{}: stop that one, or choose another directory with --data", directory.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// Who holds it, where that is known.
        holder: Option<u32>,
    },
    /// NATS is not there, refuses us, or has something else than what is asked for.
    #[error("NATS at {servers}: {reason}")]
    Nats {
        /// The servers, without what we log in with.
        servers: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Path {
        /// What could not be used.
        path: PathBuf,
        /// Why, in the words of the operating system or of SQLite.
        reason: String,
    },
}
