//! The registry of clients: their connections, and the records that let a client resume where it left off.
//!
//! A client is a UUID. Its record (patterns, acknowledged cursor) lives in the store; this module caches the records of clients
//! that are or were just connected, and writes the acknowledgements of each second together.

mod journey;
mod minted;
mod recent;

use std::collections::{HashMap, hash_map};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use uuid::Uuid;

use crate::auth::{Grant, Rights};
use crate::cursor::{Cursor, Epoch, Position};
use crate::log::{ClientRecord, ReadMode};
use crate::store::{SentBy, SentElsewhere, Store, StoreError};
use crate::sync::lock;
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::wire::ByeReason;
use minted::Minted;
use recent::Recent;

/// How long the record of a client with a server-minted id is kept after it disconnects, if it never acknowledged or
/// reconnected: long enough for a reconnect. It is never in the store, which anonymous visitors would fill.
const MINTED_IDLE_MAX: Duration = Duration::from_secs(600);

/// Characters of a `User-Agent` that are kept: enough to tell the browser, its version and its system.
const USER_AGENT_MAX_CHARS: usize = 160;

/// The registry of one process.
pub(crate) struct Clients {
    store: Arc<dyn Store>,
    idle_max: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    records: HashMap<Uuid, Entry>,
    connections: HashMap<u64, Arc<Connection>>,
    by_client: HashMap<Uuid, Vec<u64>>,
    minted: Minted,
    recent: Recent,
    next: u64,
    /// The time of the last flush, in milliseconds since the Unix epoch: at most a second ago.
    now_ms: u64,
}

struct Entry {
    record: ClientRecord,
    kept: Kept,
    /// The store has an older record, or none.
    dirty: bool,
    /// How many of its requests are between [`Clients::begin`] and [`Clients::connect`].
    pending: u32,
}

/// Whether a client and its patterns are durable. Its cursor does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// No, and not needed: the server minted the id, and the client has not presented it yet.
    Minted,
    /// Not yet: the record is being saved, or will be.
    Unsaved,
    Saved,
}

impl Entry {
    /// The client uses its id: its record belongs in the store from now on.
    fn keep(&mut self, minted: &mut Minted) {
        if self.kept == Kept::Minted {
            self.kept = Kept::Unsaved;
            minted.remove(self.record.client);
        }
    }

    /// The acknowledged position in a log.
    fn acknowledged(&self, log: Epoch) -> Position {
        if self.record.cursor.epoch == log { self.record.cursor.position } else { Position::ZERO }
    }

    /// Takes the new patterns even where they are equal, since the new set is shared with other subscribers.
    fn ask_for(&mut self, patterns: &PatternSet, mode: ReadMode) {
        if self.kept == Kept::Saved && (&self.record.patterns, self.record.mode) != (patterns, mode) {
            self.kept = Kept::Unsaved;
        }
        (self.record.patterns, self.record.mode) = (patterns.clone(), mode);
    }
}

/// Guard of a client between [`Clients::begin`] and [`Clients::connect`]: its record stays cached until this is dropped. Otherwise
/// [`Clients::remember_patterns`] could find no record.
#[must_use]
pub(crate) struct PendingConnection<'a> {
    clients: &'a Clients,
    client: Uuid,
}

impl Drop for PendingConnection<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.clients.table().records.get_mut(&self.client) {
            entry.pending = entry.pending.saturating_sub(1);
        }
    }
}

/// The shared state of one connection: what other tasks may read of it, and the request to end it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Uuid,
    pub(crate) transport: Transport,
    /// When the connection began.
    pub(crate) since_ms: u64,
    address: IpAddr,
    /// The beginning of the request's `User-Agent`.
    user_agent: Option<Box<str>>,
    patterns: Mutex<PatternSet>,
    mode: ReadMode,
    /// The grant of its latest token.
    grant: Mutex<Option<Arc<Grant>>>,
    /// The position up to which every event was sent.
    sent: AtomicU64,
    /// Why the connection has to end: the index in [`ENDINGS`] plus one, or 0.
    ending: AtomicU8,
    waker: AtomicWaker,
}

/// The reasons for which other tasks can end a connection.
const ENDINGS: [ByeReason; 3] = [ByeReason::Replaced, ByeReason::Kicked, ByeReason::Expired];

/// A connection in the registry; removed when dropped.
pub(crate) struct Registration {
    clients: Arc<Clients>,
    id: u64,
    pub(crate) connection: Arc<Connection>,
}

/// A client that begins a subscription under an id of its own.
pub(crate) struct ConnectRequest<'a> {
    pub(crate) client: Uuid,
    /// The client's record, if there is one.
    pub(crate) known: Option<ClientRecord>,
    pub(crate) patterns: &'a PatternSet,
    pub(crate) mode: ReadMode,
    pub(crate) cursor: Cursor,
    /// The end of the round of newest events that the client presented.
    pub(crate) upto: Option<Cursor>,
    /// Whether the client presented the cursor, which acknowledges it.
    pub(crate) presented: bool,
    pub(crate) rights: &'a Rights,
    /// The address that the record counts against if it has no owner.
    pub(crate) address: IpAddr,
    /// The number of the connection attempt, if the client counts them.
    pub(crate) attempt: Option<u64>,
    pub(crate) now_ms: u64,
}

/// A connection to add.
pub(crate) struct Connecting<'a> {
    pub(crate) client: Uuid,
    pub(crate) transport: Transport,
    pub(crate) patterns: &'a PatternSet,
    pub(crate) mode: ReadMode,
    pub(crate) cursor: Cursor,
    pub(crate) rights: &'a Rights,
    /// As in [`ConnectRequest`], like `attempt`.
    pub(crate) address: IpAddr,
    /// The request's `User-Agent`.
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) attempt: Option<u64>,
    pub(crate) now_ms: u64,
}

/// An acknowledgement: a client's statement that it has received every event up to a cursor.
#[derive(Clone, Copy)]
pub(crate) struct Ack<'a> {
    pub(crate) client: Uuid,
    pub(crate) cursor: Cursor,
    /// The present log: an acknowledgement in it counts even where an earlier one was in another log.
    pub(crate) log: Epoch,
    pub(crate) rights: &'a Rights,
    pub(crate) now_ms: u64,
}

/// Why a client's record cannot be changed.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The id belongs to another subject.
    Owned,
    /// The id has no record, and no connection.
    Unknown,
    /// The cursor is beyond what the client was sent.
    Ahead,
    Store(StoreError),
}

impl From<StoreError> for ClientError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// One client's state, for the API of administrators.
#[derive(Clone, Debug)]
pub(crate) struct ClientState {
    pub(crate) client: Uuid,
    pub(crate) transports: Vec<Transport>,
    pub(crate) patterns: PatternSet,
    pub(crate) sent: Option<Position>,
    pub(crate) acknowledged: Option<Cursor>,
    pub(crate) owner: Option<String>,
    /// The open connections, the oldest first.
    pub(crate) connections: Vec<Arc<Connection>>,
    /// The transports that the client changed to, and when, the oldest first; of a client that is connected or was a minute ago.
    pub(crate) changes: Vec<(Transport, u64)>,
}

/// Which of the connected clients are listed, in the order of their ids.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ListFilter<'a> {
    /// Those behind this one.
    pub(crate) after: Option<Uuid>,
    /// Those of this subject.
    pub(crate) subject: Option<&'a str>,
}

impl Connection {
    /// The address that it came from.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The beginning of its `User-Agent`.
    pub(crate) fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }

    /// Records the position up to which every event was sent.
    pub(crate) fn sent(&self, position: Position) {
        self.sent.store(position.0, Ordering::Relaxed);
    }

    /// Records its present patterns.
    pub(crate) fn set_patterns(&self, patterns: &PatternSet) {
        *lock(&self.patterns) = patterns.clone();
    }

    /// The grant of its latest token.
    pub(crate) fn grant(&self) -> Option<Arc<Grant>> {
        lock(&self.grant).clone()
    }

    /// Records the grant of a new token.
    pub(crate) fn set_grant(&self, grant: Arc<Grant>) {
        *lock(&self.grant) = Some(grant);
    }

    /// Whether another task has ended the connection.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) != 0
    }

    /// Ends the connection from another task.
    pub(crate) fn end(&self, reason: ByeReason) {
        let index = ENDINGS.iter().position(|ending| *ending == reason).unwrap_or_default();
        self.ending.store(index as u8 + 1, Ordering::Release);
        self.waker.wake();
    }

    /// Registers the waker of the connection's task for [`Self::end`].
    pub(crate) fn watch(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Why the connection has to end, if it has.
    pub(crate) fn ending(&self) -> Option<ByeReason> {
        match self.ending.load(Ordering::Acquire) {
            0 => None,
            one_more => ENDINGS.get(usize::from(one_more) - 1).copied(),
        }
    }
}

impl Clients {
    pub(crate) fn new(store: Arc<dyn Store>, idle_max: Duration) -> Self {
        Self { store, idle_max, table: Mutex::default() }
    }

    /// A client's record, from the cache or the store.
    pub(crate) async fn recall(&self, client: Uuid) -> Result<Option<ClientRecord>, StoreError> {
        if let Some(entry) = self.table().records.get(&client) {
            return Ok(Some(entry.record.clone()));
        }
        let record = self.store.load_client(client).await?;
        Ok(record.filter(|record| !record.is_forgotten()))
    }

    /// Records a client's start position, patterns and owner.
    ///
    /// The client and its patterns are in the store when this returns: if its first response is lost, the client can retry
    /// with its id alone and start at the same position. That holds for each of several concurrent requests, not just for
    /// the first: any of them may be the one whose response arrives. Everything else is saved within a second. Only while the
    /// disk is full are the client and its patterns in memory alone.
    ///
    /// `None` where the client has made a newer connection attempt: the patterns of an older one must not replace those of the
    /// newer one.
    pub(crate) async fn begin(
        &self,
        request: ConnectRequest<'_>,
    ) -> Result<Option<PendingConnection<'_>>, ClientError> {
        let ConnectRequest { client, known, patterns, mode, cursor, upto, presented, rights, address, attempt, now_ms } =
            request;
        let (record, pending) = {
            let mut table = self.table();
            let Table { records, minted, recent, .. } = &mut *table;
            let entry = records.entry(client).or_insert_with(|| {
                let kept = if known.is_some() { Kept::Saved } else { Kept::Unsaved };
                Entry {
                    record: known.unwrap_or_else(|| anew(client, patterns, mode, cursor)),
                    kept,
                    dirty: true,
                    pending: 0,
                }
            });
            own(&mut entry.record, rights)?;
            entry.record.address = entry.record.owner.is_none().then_some(address);
            if !recent.begin(client, attempt, now_ms) {
                return Ok(None);
            }
            entry.pending += 1;
            if presented {
                advance(&mut entry.record.cursor, cursor, cursor.epoch);
            }
            entry.keep(minted);
            if !patterns.is_empty() {
                entry.ask_for(patterns, mode);
            }
            // Also where the patterns follow in messages.
            (entry.record.mode, entry.record.upto) = (mode, upto);
            entry.record.seen_ms = now_ms;
            entry.dirty = true;
            let unsaved = (entry.kept == Kept::Unsaved).then(|| entry.record.clone());
            (unsaved, PendingConnection { clients: self, client })
        };
        if let Some(record) = record {
            match self.save(vec![record]).await {
                // A full disk refuses publishers, not subscribers. The record stays unsaved, and is saved once there is space.
                // Until then, if the process ends, the client is one that is not remembered, and is notified of that.
                Err(StoreError::Full) => {
                    tracing::debug!(%client, "the disk is full: a client is remembered in memory only")
                }
                saved => saved?,
            }
        }
        Ok(Some(pending))
    }

    /// Records the start position of a client without an id of its own, for a while and in memory only.
    pub(crate) fn begin_minted(&self, connecting: &Connecting<'_>) {
        let Connecting { client, patterns, mode, cursor, rights, address, now_ms, .. } = *connecting;
        let owner = rights.subject().map(str::to_owned);
        let address_of_record = owner.is_none().then_some(address);
        let record =
            ClientRecord { seen_ms: now_ms, owner, address: address_of_record, ..anew(client, patterns, mode, cursor) };
        let mut table = self.table();
        table.records.insert(client, Entry { record, kept: Kept::Minted, dirty: false, pending: 0 });
        for forgotten in table.minted.add(client, address, patterns) {
            table.records.remove(&forgotten);
        }
    }

    /// Records a client's new patterns, saved within a second.
    pub(crate) fn remember_patterns(&self, client: Uuid, patterns: &PatternSet) {
        if let Some(entry) = self.table().records.get_mut(&client) {
            entry.ask_for(patterns, entry.record.mode);
            entry.dirty |= entry.kept != Kept::Minted;
        }
    }

    /// Records an acknowledgement of a client that is connected or was recalled, saved within a second; returns the acknowledged
    /// cursor. The caller has checked the acknowledgement against what the connection was sent.
    pub(crate) fn acknowledge(&self, ack: Ack<'_>) -> Result<Cursor, ClientError> {
        self.acknowledge_within(ack, SentElsewhere::Unknown)
    }

    /// As [`Self::acknowledge`], checked against what this node and other nodes have sent to the client, as far as that is known.
    fn acknowledge_within(&self, ack: Ack<'_>, elsewhere: SentElsewhere) -> Result<Cursor, ClientError> {
        let Ack { client, cursor, log, rights, now_ms } = ack;
        let mut table = self.table();
        let sent = match elsewhere {
            SentElsewhere::Nothing => table.sent(client),
            SentElsewhere::UpTo(there) => table.sent(client).max(Some(there)),
            SentElsewhere::Unknown => None,
        };
        let connected = table.connections_of(client).pop();
        let Table { records, minted, .. } = &mut *table;
        let entry = match (records.entry(client), connected) {
            (hash_map::Entry::Occupied(entry), _) => entry.into_mut(),
            (hash_map::Entry::Vacant(place), Some(connected)) => {
                let record = anew(client, &lock(&connected.patterns), connected.mode, cursor);
                let record = ClientRecord { address: Some(connected.address), ..record };
                place.insert(Entry { record, kept: Kept::Unsaved, dirty: true, pending: 0 })
            }
            (hash_map::Entry::Vacant(_), None) => return Err(ClientError::Unknown),
        };
        own(&mut entry.record, rights)?;
        if cursor.epoch == log && sent.is_some_and(|sent| cursor.position > sent.max(entry.acknowledged(log))) {
            return Err(ClientError::Ahead);
        }
        advance(&mut entry.record.cursor, cursor, log);
        entry.record.seen_ms = now_ms;
        entry.dirty = true;
        entry.keep(minted);
        Ok(entry.record.cursor)
    }

    /// As [`Self::acknowledge`], for a client that need not be connected; saved when this returns. An unknown client gets no
    /// record: otherwise anonymous requests could fill the table with ids that they make up.
    pub(crate) async fn acknowledge_now(&self, ack: Ack<'_>) -> Result<Cursor, ClientError> {
        let client = ack.client;
        let sent_here = self.table().sent(client);
        let elsewhere = if sent_here.is_none_or(|here| ack.cursor.position > here) {
            self.store.sent_elsewhere(client).await
        } else {
            SentElsewhere::Nothing
        };
        // No await between this insertion and the acknowledgement: the record of a disconnected client is soon evicted.
        if let Some(known) = self.recall(client).await? {
            let entry = Entry { record: known, kept: Kept::Saved, dirty: false, pending: 0 };
            self.table().records.entry(client).or_insert(entry);
        }
        let remembered = self.acknowledge_within(ack, elsewhere)?;
        let record = self.table().records.get(&client).map(|entry| entry.record.clone());
        self.save(record.into_iter().collect()).await?;
        Ok(remembered)
    }

    /// Ends the connections for which `wanted` is true.
    pub(crate) fn end_where(&self, reason: ByeReason, wanted: impl Fn(&Connection) -> bool) {
        let picked: Vec<_> = self.table().connections.values().filter(|one| wanted(one)).cloned().collect();
        for connection in picked {
            connection.end(reason);
        }
    }

    /// Ends the connections whose token has expired at `wall_ms`.
    pub(crate) fn end_expired(&self, wall_ms: u64) {
        self.end_where(ByeReason::Expired, |connection| {
            connection.grant().is_some_and(|grant| grant.expires_ms <= wall_ms)
        });
    }

    /// Removes a client's record from this process.
    pub(crate) fn forget_here(&self, client: Uuid) {
        let mut table = self.table();
        table.records.remove(&client);
        table.minted.remove(client);
    }

    /// Deletes a client's record everywhere.
    pub(crate) async fn forget(&self, client: Uuid, log: Epoch) -> Result<(), StoreError> {
        self.forget_here(client);
        self.store.save_clients(vec![ClientRecord::forgotten(client, log)]).await
    }

    /// Adds a connection. An older connection of the same client on the same transport ends, with [`ByeReason::Replaced`]; where
    /// the client has made a newer attempt, on any transport, the new connection ends instead.
    pub(crate) fn connect(self: &Arc<Self>, connecting: Connecting<'_>) -> Registration {
        let Connecting { client, transport, patterns, mode, cursor, rights, address, user_agent, attempt, now_ms } =
            connecting;
        let user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_MAX_CHARS).collect::<String>().into());
        let connection = Arc::new(Connection {
            client,
            transport,
            since_ms: now_ms,
            address,
            user_agent,
            patterns: Mutex::new(patterns.clone()),
            mode,
            grant: Mutex::new(rights.grant().cloned()),
            sent: AtomicU64::new(cursor.position.0),
            ending: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        });
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        let registration = Registration { clients: self.clone(), id, connection: connection.clone() };
        if !table.recent.begin(client, attempt, now_ms) {
            // Not added to the table: a client's patterns are those of its newest connection there.
            connection.end(ByeReason::Replaced);
            return registration;
        }
        table.recent.connected(client, transport, now_ms);
        let others = table.connections_of(client);
        table.connections.insert(id, connection);
        table.by_client.entry(client).or_default().push(id);
        drop(table);
        for other in others.iter().filter(|other| other.transport == transport) {
            other.end(ByeReason::Replaced);
        }
        registration
    }

    /// A page of the connected clients that a filter passes, at most `count`, and until their patterns exceed `pattern_bytes_max`.
    /// Returns also whether there are more.
    pub(crate) fn list(
        &self,
        filter: ListFilter<'_>,
        count: usize,
        pattern_bytes_max: usize,
    ) -> (Vec<ClientState>, bool) {
        let table = self.table();
        let passes = |client: &Uuid| {
            filter.after.is_none_or(|after| *client > after)
                && filter.subject.is_none_or(|subject| table.is_of(*client, subject))
        };
        let mut clients: Vec<Uuid> = table.by_client.keys().copied().filter(passes).collect();
        let all = clients.len();
        if all > count {
            // Only the first `count` are sorted: every connect and disconnect waits for the table's lock.
            clients.select_nth_unstable(count);
            clients.truncate(count);
        }
        clients.sort_unstable();
        let mut listed = Vec::new();
        let mut bytes = 0;
        for client in clients {
            if bytes > pattern_bytes_max {
                break;
            }
            let state = table.state(client);
            bytes += state.patterns.iter().map(|pattern| pattern.as_str().len()).sum::<usize>();
            listed.push(state);
        }
        let more = listed.len() < all;
        (listed, more)
    }

    /// For each of `lags`, how many connections are further behind `end` than that.
    pub(crate) fn behind<const N: usize>(&self, end: Position, lags: [u64; N]) -> [u64; N] {
        let mut behind = [0; N];
        for connection in self.table().connections.values() {
            let lag = end.0.saturating_sub(connection.sent.load(Ordering::Relaxed));
            for (count, more_than) in behind.iter_mut().zip(lags) {
                *count += u64::from(lag > more_than);
            }
        }
        behind
    }

    /// One client's state.
    pub(crate) async fn get(&self, client: Uuid) -> Result<Option<ClientState>, StoreError> {
        let record = self.recall(client).await?;
        let mut state = self.table().state(client);
        if let Some(record) = record {
            state.acknowledged = Some(record.cursor);
            if state.patterns.is_empty() {
                state.patterns = record.patterns;
            }
            state.owner = record.owner;
        }
        Ok((state.acknowledged.is_some() || !state.transports.is_empty()).then_some(state))
    }

    /// Saves changed records, and evicts those of disconnected clients. Called about once a second.
    pub(crate) async fn flush(&self, now_ms: u64) {
        let changed = self.table().take_changed(now_ms, self.idle_max);
        let ids: Vec<Uuid> = changed.iter().map(|record| record.client).collect();
        if !changed.is_empty()
            && let Err(error) = self.save(changed).await
        {
            tracing::warn!(%error, "clients' cursors could not be saved; retrying in a second");
            let mut table = self.table();
            for client in ids {
                if let Some(entry) = table.records.get_mut(&client) {
                    entry.dirty = true;
                }
            }
        } else {
            self.table().forget_idle(now_ms);
        }
    }

    async fn save(&self, records: Vec<ClientRecord>) -> Result<(), StoreError> {
        let saved: Vec<_> = records.iter().map(|record| (record.client, record.patterns.clone())).collect();
        self.store.save_clients(records).await?;
        let mut table = self.table();
        for (client, patterns) in saved {
            // A record whose patterns have changed meanwhile has to be saved again.
            if let Some(entry) = table.records.get_mut(&client).filter(|entry| entry.record.patterns == patterns) {
                entry.kept = Kept::Saved;
            }
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Answers other nodes' queries about what this process has sent to a client. Holds the registry weakly.
pub(crate) struct SentHere(Weak<Clients>);

impl SentHere {
    pub(crate) fn new(clients: &Arc<Clients>) -> Self {
        Self(Arc::downgrade(clients))
    }
}

impl SentBy for SentHere {
    fn sent(&self, client: Uuid) -> Option<Position> {
        self.0.upgrade()?.table().sent(client)
    }
}

impl Table {
    /// The position up to which a client was sent every event; `None` unless the client is or was just connected here.
    fn sent(&self, client: Uuid) -> Option<Position> {
        let connections = self.by_client.get(&client).into_iter().flatten();
        let sent = connections.filter_map(|id| Some(self.connections.get(id)?.sent.load(Ordering::Relaxed)));
        sent.map(Position).chain(self.recent.sent(client)).max()
    }

    fn connections_of(&self, client: Uuid) -> Vec<Arc<Connection>> {
        let ids = self.by_client.get(&client).into_iter().flatten();
        ids.filter_map(|id| self.connections.get(id).cloned()).collect()
    }

    /// Records the end of a connection. Its client was seen now: otherwise a client that was connected for days would count as
    /// idle for days, and be evicted first when the table is full.
    fn leave(&mut self, connection: &Connection) {
        let Self { records, recent, now_ms, .. } = self;
        let Some(entry) = records.get_mut(&connection.client) else { return };
        if entry.record.seen_ms < *now_ms {
            entry.record.seen_ms = *now_ms;
            entry.dirty |= entry.kept != Kept::Minted;
        }
        let sent = Position(connection.sent.load(Ordering::Relaxed));
        recent.note_sent(connection.client, sent, connection.since_ms.max(*now_ms));
    }

    fn patterns_of(&self, client: Uuid) -> PatternSet {
        let newest = self.connections_of(client).pop();
        newest.map(|connection| lock(&connection.patterns).clone()).unwrap_or_default()
    }

    fn state(&self, client: Uuid) -> ClientState {
        let connections = self.connections_of(client);
        let sent = connections.iter().map(|connection| connection.sent.load(Ordering::Relaxed)).max();
        let mut transports: Vec<Transport> = connections.iter().map(|connection| connection.transport).collect();
        transports.sort_unstable();
        transports.dedup();
        ClientState {
            client,
            transports,
            patterns: self.patterns_of(client),
            sent: sent.map(Position),
            acknowledged: self.records.get(&client).map(|entry| entry.record.cursor),
            owner: self.owner(client),
            changes: self.recent.changes(client).to_vec(),
            connections,
        }
    }

    /// The subject that a client belongs to. A held request under a token has no record.
    fn owner(&self, client: Uuid) -> Option<String> {
        let of_record = self.records.get(&client).and_then(|entry| entry.record.owner.clone());
        of_record.or_else(|| self.connections_of(client).pop()?.grant()?.subject.clone())
    }

    /// Whether a client belongs to a subject.
    fn is_of(&self, client: Uuid, subject: &str) -> bool {
        match self.records.get(&client).and_then(|entry| entry.record.owner.as_deref()) {
            Some(owner) => owner == subject,
            None => self.owner(client).as_deref() == Some(subject),
        }
    }

    fn take_changed(&mut self, now_ms: u64, idle_max: Duration) -> Vec<ClientRecord> {
        self.now_ms = now_ms;
        // Connected clients count as seen even if they send nothing. Refreshed well before the records would be evicted.
        let refresh_ms = u64::try_from(idle_max.as_millis() / 4).unwrap_or(u64::MAX);
        let Self { records, by_client, .. } = self;
        let mut changed = Vec::new();
        for (client, entry) in records {
            if now_ms.saturating_sub(entry.record.seen_ms) > refresh_ms && by_client.contains_key(client) {
                entry.record.seen_ms = now_ms;
                entry.dirty |= entry.kept != Kept::Minted;
            }
            if std::mem::take(&mut entry.dirty) {
                changed.push(entry.record.clone());
            }
        }
        changed
    }

    fn forget_idle(&mut self, now_ms: u64) {
        let Self { records, by_client, minted, recent, .. } = self;
        recent.forget_old(now_ms, |client| by_client.contains_key(client));
        let minted_ms = MINTED_IDLE_MAX.as_millis() as u64;
        records.retain(|client, entry| {
            let fresh = entry.kept == Kept::Minted && now_ms.saturating_sub(entry.record.seen_ms) <= minted_ms;
            let stays = entry.dirty || fresh || entry.pending > 0 || by_client.contains_key(client);
            if !stays {
                minted.remove(*client);
            }
            stays
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.clients.table();
        table.connections.remove(&self.id);
        if let Some(ids) = table.by_client.get_mut(&self.connection.client) {
            ids.retain(|id| *id != self.id);
            if ids.is_empty() {
                table.by_client.remove(&self.connection.client);
            }
        }
        table.leave(&self.connection);
    }
}

/// The record of a new client.
fn anew(client: Uuid, patterns: &PatternSet, mode: ReadMode, cursor: Cursor) -> ClientRecord {
    let patterns = patterns.clone();
    ClientRecord { client, patterns, mode, cursor, upto: None, seen_ms: 0, owner: None, address: None }
}

/// A client belongs to the subject that first used it.
fn own(record: &mut ClientRecord, rights: &Rights) -> Result<(), ClientError> {
    if !rights.may_use(record.owner.as_deref()) {
        return Err(ClientError::Owned);
    }
    if record.owner.is_none() {
        record.owner = rights.subject().map(str::to_owned);
    }
    Ok(())
}

/// An acknowledgement only moves forward within an epoch. One in the present log replaces one in another log, never the
/// other way round.
fn advance(remembered: &mut Cursor, acknowledged: Cursor, log: Epoch) {
    let forward = acknowledged.epoch == remembered.epoch && acknowledged.position > remembered.position;
    let renewed = acknowledged.epoch == log && remembered.epoch != log;
    if forward || renewed {
        *remembered = acknowledged;
    }
}

#[cfg(test)]
mod tests;
