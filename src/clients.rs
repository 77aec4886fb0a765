//! Who subscribes, over what, how far; and what is remembered of each client between its connections.
//!
//! A client is a UUID. Its record (patterns, acknowledged cursor) lives in the store; here are the records of those
//! that are connected or have just been, and the acknowledgements of the last second, which are saved together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use uuid::Uuid;

use crate::auth::{Grant, Rights};
use crate::cursor::{Cursor, Epoch, Position};
use crate::store::{ClientRecord, Store, StoreError};
use crate::sync::lock;
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::wire::ByeReason;

/// How long the record of a client whose id the server minted is kept after it left, if it never acknowledged or came
/// back: long enough for a reconnect, and never in the store, which anonymous visitors would fill.
const MINTED_IDLE_MAX: Duration = Duration::from_secs(600);

/// Most such records.
const MINTED_MAX: usize = 20_000;

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
    next: u64,
}

struct Entry {
    record: ClientRecord,
    kept: Kept,
    /// What the store has, if anything, is older.
    dirty: bool,
    /// How many are between their arrival and their connection.
    arriving: u32,
}

/// Whether a client, with what it asks for, would be known after a crash. How far it is does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// No, and it need not be: the id is the server's own, and nobody has used it yet.
    Minted,
    /// Not yet: it is on its way to the store, or will be.
    Unsaved,
    Saved,
}

impl Entry {
    /// Its id is in use: it is for the store from now on.
    fn keep(&mut self) {
        if self.kept == Kept::Minted {
            self.kept = Kept::Unsaved;
        }
    }

    /// Takes the new patterns even where they are equal: one set in memory then serves all who ask for the same.
    fn ask_for(&mut self, patterns: &PatternSet) {
        if self.kept == Kept::Saved && self.record.patterns != *patterns {
            self.kept = Kept::Unsaved;
        }
        self.record.patterns = patterns.clone();
    }
}

/// A client that has arrived. Until this is dropped, by when it is connected, its record stays here: else what it asks for
/// from then on would find nothing to be noted in.
#[must_use]
pub(crate) struct Arrived<'a> {
    clients: &'a Clients,
    client: Uuid,
}

impl Drop for Arrived<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.clients.table().records.get_mut(&self.client) {
            entry.arriving = entry.arriving.saturating_sub(1);
        }
    }
}

/// What others may know of, and do to, one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Uuid,
    pub(crate) transport: Transport,
    /// When it began.
    pub(crate) since_ms: u64,
    patterns: Mutex<PatternSet>,
    /// What it came with, or was renewed with since.
    grant: Mutex<Option<Arc<Grant>>>,
    /// The position up to which it was sent everything.
    sent: AtomicU64,
    /// Why it is to end: one more than the index in [`ENDINGS`], or 0.
    ending: AtomicU8,
    waker: AtomicWaker,
}

/// Why a connection can be ended from outside.
const ENDINGS: [ByeReason; 2] = [ByeReason::Replaced, ByeReason::Kicked];

/// A connection in the registry; leaves it when dropped.
pub(crate) struct Registration {
    clients: Arc<Clients>,
    id: u64,
    pub(crate) connection: Arc<Connection>,
}

/// A client arrives, or comes back.
pub(crate) struct Arrival<'a> {
    pub(crate) client: Uuid,
    /// What was remembered of it.
    pub(crate) known: Option<ClientRecord>,
    pub(crate) patterns: &'a PatternSet,
    pub(crate) cursor: Cursor,
    /// Whether it has acknowledged the cursor by presenting it.
    pub(crate) presented: bool,
    pub(crate) rights: &'a Rights,
    pub(crate) now_ms: u64,
}

/// What a client says has reached it.
#[derive(Clone, Copy)]
pub(crate) struct Ack<'a> {
    pub(crate) client: Uuid,
    pub(crate) cursor: Cursor,
    /// The log as it is now: an acknowledgement in it counts even where an earlier one was in another.
    pub(crate) log: Epoch,
    pub(crate) rights: &'a Rights,
    pub(crate) now_ms: u64,
}

/// What is remembered of a client cannot be changed.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The id belongs to somebody else.
    Owned,
    Store(StoreError),
}

impl From<StoreError> for ClientError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What is known of one client, for those who ask.
#[derive(Clone, Debug)]
pub(crate) struct ClientState {
    pub(crate) client: Uuid,
    pub(crate) transports: Vec<Transport>,
    pub(crate) patterns: PatternSet,
    pub(crate) sent: Option<Position>,
    pub(crate) acknowledged: Option<Cursor>,
    pub(crate) owner: Option<String>,
}

impl Connection {
    /// Notes how far it was sent everything.
    pub(crate) fn sent(&self, position: Position) {
        self.sent.store(position.0, Ordering::Relaxed);
    }

    /// Notes what it asks for now.
    pub(crate) fn set_patterns(&self, patterns: &PatternSet) {
        *lock(&self.patterns) = patterns.clone();
    }

    /// What it was granted last.
    pub(crate) fn grant(&self) -> Option<Arc<Grant>> {
        lock(&self.grant).clone()
    }

    /// Notes what it is granted from now on.
    pub(crate) fn set_grant(&self, grant: Arc<Grant>) {
        *lock(&self.grant) = Some(grant);
    }

    /// Whether it is to end from outside.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) != 0
    }

    /// Ends it from outside.
    pub(crate) fn end(&self, reason: ByeReason) {
        let index = ENDINGS.iter().position(|ending| *ending == reason).unwrap_or_default();
        self.ending.store(index as u8 + 1, Ordering::Release);
        self.waker.wake();
    }

    /// Wakes this task when it is to end.
    pub(crate) fn watch(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Why it is to end, if it is.
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

    /// What is remembered of a client.
    pub(crate) async fn recall(&self, client: Uuid) -> Result<Option<ClientRecord>, StoreError> {
        if let Some(entry) = self.table().records.get(&client) {
            return Ok(Some(entry.record.clone()));
        }
        let record = self.store.load_client(client).await?;
        Ok(record.filter(|record| !record.is_forgotten()))
    }

    /// Remembers where a client starts, what it asks for, and whose it is.
    ///
    /// The client is in the store when this returns, with what it asks for: were its first answer lost, it could come back
    /// with its id alone and start at the same place. That holds for each of several that arrive together, not just for
    /// the first: any of them may be the one that is answered. Everything else is saved within a second.
    pub(crate) async fn arrive(&self, arrival: Arrival<'_>) -> Result<Arrived<'_>, ClientError> {
        let Arrival { client, known, patterns, cursor, presented, rights, now_ms } = arrival;
        let (record, arrived) = {
            let mut table = self.table();
            let entry = table.records.entry(client).or_insert_with(|| {
                let kept = if known.is_some() { Kept::Saved } else { Kept::Unsaved };
                let new = || ClientRecord { client, patterns: patterns.clone(), cursor, seen_ms: now_ms, owner: None };
                Entry { record: known.unwrap_or_else(new), kept, dirty: true, arriving: 0 }
            });
            own(&mut entry.record, rights)?;
            entry.arriving += 1;
            if presented {
                advance(&mut entry.record.cursor, cursor, cursor.epoch);
            }
            entry.keep();
            if !patterns.is_empty() {
                entry.ask_for(patterns);
            }
            entry.record.seen_ms = now_ms;
            entry.dirty = true;
            let unsaved = (entry.kept == Kept::Unsaved).then(|| entry.record.clone());
            (unsaved, Arrived { clients: self, client })
        };
        if let Some(record) = record {
            self.save(vec![record]).await?;
        }
        Ok(arrived)
    }

    /// Keeps, for a while and in memory, where a client starts that has no id of its own.
    pub(crate) fn arrive_minted(
        &self,
        client: Uuid,
        patterns: &PatternSet,
        cursor: Cursor,
        rights: &Rights,
        now_ms: u64,
    ) {
        let mut table = self.table();
        if table.records.len() < MINTED_MAX {
            let owner = rights.subject().map(str::to_owned);
            let record = ClientRecord { client, patterns: patterns.clone(), cursor, seen_ms: now_ms, owner };
            table.records.insert(client, Entry { record, kept: Kept::Minted, dirty: false, arriving: 0 });
        }
    }

    /// Remembers what a client asks for now, saved within a second.
    pub(crate) fn remember_patterns(&self, client: Uuid, patterns: &PatternSet) {
        if let Some(entry) = self.table().records.get_mut(&client) {
            entry.ask_for(patterns);
            entry.dirty |= entry.kept != Kept::Minted;
        }
    }

    /// Remembers an acknowledgement, saved within a second; returns what is remembered now.
    pub(crate) fn acknowledge(&self, ack: Ack<'_>) -> Result<Cursor, ClientError> {
        let Ack { client, cursor, log, rights, now_ms } = ack;
        let mut table = self.table();
        let patterns = table.patterns_of(client);
        let entry = table.records.entry(client).or_insert_with(|| Entry {
            record: ClientRecord { client, patterns, cursor, seen_ms: now_ms, owner: None },
            kept: Kept::Unsaved,
            dirty: true,
            arriving: 0,
        });
        own(&mut entry.record, rights)?;
        advance(&mut entry.record.cursor, cursor, log);
        entry.record.seen_ms = now_ms;
        entry.dirty = true;
        entry.keep();
        Ok(entry.record.cursor)
    }

    /// As [`Self::acknowledge`], for a client that need not be connected; saved when this returns.
    pub(crate) async fn acknowledge_now(&self, ack: Ack<'_>) -> Result<Cursor, ClientError> {
        let client = ack.client;
        if let Some(known) = self.recall(client).await? {
            let entry = Entry { record: known, kept: Kept::Saved, dirty: false, arriving: 0 };
            self.table().records.entry(client).or_insert(entry);
        }
        let remembered = self.acknowledge(ack)?;
        let record = self.table().records.get(&client).map(|entry| entry.record.clone());
        self.save(record.into_iter().collect()).await?;
        Ok(remembered)
    }

    /// Ends the connections that `wanted` picks.
    pub(crate) fn end_where(&self, reason: ByeReason, wanted: impl Fn(&Connection) -> bool) {
        let picked: Vec<_> = self.table().connections.values().filter(|one| wanted(one)).cloned().collect();
        for connection in picked {
            connection.end(reason);
        }
    }

    /// Forgets, in this process, what is remembered of a client.
    pub(crate) fn forget_here(&self, client: Uuid) {
        self.table().records.remove(&client);
    }

    /// Forgets a client everywhere.
    pub(crate) async fn forget(&self, client: Uuid, log: Epoch) -> Result<(), StoreError> {
        self.forget_here(client);
        self.store.save_clients(vec![ClientRecord::forgotten(client, log)]).await
    }

    /// Adds a connection. An older one of the same client on the same transport is told to end.
    pub(crate) fn connect(
        self: &Arc<Self>,
        client: Uuid,
        transport: Transport,
        patterns: &PatternSet,
        cursor: Cursor,
        rights: &Rights,
        now_ms: u64,
    ) -> Registration {
        let connection = Arc::new(Connection {
            client,
            transport,
            since_ms: now_ms,
            patterns: Mutex::new(patterns.clone()),
            grant: Mutex::new(rights.grant().cloned()),
            sent: AtomicU64::new(cursor.position.0),
            ending: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        });
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        let others = table.connections_of(client);
        table.connections.insert(id, connection.clone());
        table.by_client.entry(client).or_default().push(id);
        drop(table);
        for other in others.iter().filter(|other| other.transport == transport) {
            other.end(ByeReason::Replaced);
        }
        Registration { clients: self.clone(), id, connection }
    }

    /// Everyone who is connected, in the order of their ids, after one; at most so many.
    pub(crate) fn list(&self, after: Option<Uuid>, count: usize) -> Vec<ClientState> {
        let table = self.table();
        let mut clients: Vec<Uuid> =
            table.by_client.keys().copied().filter(|client| after.is_none_or(|after| *client > after)).collect();
        clients.sort_unstable();
        clients.truncate(count);
        clients.into_iter().map(|client| table.state(client)).collect()
    }

    /// What is known of one client.
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

    /// Saves what has changed, and forgets here those who have left. Called about once a second.
    pub(crate) async fn flush(&self, now_ms: u64) {
        let changed = self.table().take_changed(now_ms, self.idle_max);
        let ids: Vec<Uuid> = changed.iter().map(|record| record.client).collect();
        if !changed.is_empty()
            && let Err(error) = self.save(changed).await
        {
            tracing::warn!(%error, "clients' cursors could not be saved; trying again");
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
            // Whoever has asked for something else meanwhile is saved once more.
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

impl Table {
    fn connections_of(&self, client: Uuid) -> Vec<Arc<Connection>> {
        let ids = self.by_client.get(&client).into_iter().flatten();
        ids.filter_map(|id| self.connections.get(id).cloned()).collect()
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
            owner: self.records.get(&client).and_then(|entry| entry.record.owner.clone()),
        }
    }

    fn take_changed(&mut self, now_ms: u64, idle_max: Duration) -> Vec<ClientRecord> {
        // Those who stay connected without a word are seen all the same, well before they would be forgotten.
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
        let Self { records, by_client, .. } = self;
        let minted_ms = MINTED_IDLE_MAX.as_millis() as u64;
        records.retain(|client, entry| {
            let fresh = entry.kept == Kept::Minted && now_ms.saturating_sub(entry.record.seen_ms) <= minted_ms;
            entry.dirty || fresh || entry.arriving > 0 || by_client.contains_key(client)
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
    }
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

/// An acknowledgement only moves forward within an epoch; one of another log than the present one changes nothing
/// unless nothing better is known.
fn advance(remembered: &mut Cursor, acknowledged: Cursor, log: Epoch) {
    let forward = acknowledged.epoch == remembered.epoch && acknowledged.position > remembered.position;
    let renewed = acknowledged.epoch == log && remembered.epoch != log;
    if forward || renewed {
        *remembered = acknowledged;
    }
}

#[cfg(test)]
mod tests;
