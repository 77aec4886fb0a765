//! The one thread that writes the log: whatever has queued up becomes one transaction, one sync, and then known.

mod maintenance;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::column::integer;
use super::fault::store_error;
use super::file;
use super::form::Stored;
use super::health::{ANSWER_MAX, Health};
use super::presence::Presence;
use super::queue::{Load, Queue};
use super::schema::{self, LogState, Opened};
use super::times::Times;
use super::trim::{self, Limits, Trimmed};
use super::{Shared, held};
use crate::cursor::Position;
use crate::event::{Draft, Event};
use crate::log::{Appended, FeedBatch};
use crate::store::dedupe::DedupeWindow;
use crate::store::{Feed, StoreError};
use crate::topic::Topic;
use maintenance::Maintenance;

/// What waits to be appended, at most.
const QUEUED_MAX: Load = Load { items: 65_536, bytes: 64 << 20 };

/// What one transaction appends, at most. Bounds how long the first in a group waits for the last.
const GROUP: Load = Load { items: 4096, bytes: 8 << 20 };

/// How long the publishers that have just been answered are waited for, as a share of the last commit.
///
/// A publisher that comes while a commit runs waits for that commit's sync and for its own: a sync and a half on average, which
/// nothing can spare it, since one log has one sync at a time. Publishers that each wait for an answer before they publish
/// again need not come so: those that were answered together come back together. But where others have queued up meanwhile, and
/// their commit begins at once, the two groups take turns for ever, and each waits for two syncs. So the answered ones are
/// waited for, and the groups become one. That gains a whole commit; where they do not come back, it costs this share.
const GATHER_SHARE: u32 = 8;

/// The shortest wait: on a fast disk, about the way of an answer to its publisher and back. `cargo bench --bench disk` shows a
/// tenth to a fifth more appends a second by it with sixteen publishers and more.
const GATHER_MIN: Duration = Duration::from_micros(100);

/// The longest wait, whatever the disk takes.
const GATHER_MAX: Duration = Duration::from_millis(100);

/// Most events that a transaction trims, beside twice what it appends: so the log converges when a limit was lowered.
const TRIMMED_MIN: u64 = 1024;

/// Most events that `follow` catches up with at once.
const CATCH_UP_EVENTS: usize = 1024;

/// What the thread is asked to do.
pub(super) enum Job {
    /// The moment is when it was asked for.
    Append(Vec<Draft>, Instant, Reply),
    /// Writes something, to see whether that succeeds.
    Probe(oneshot::Sender<Result<(), StoreError>>),
    Follow(Position, Arc<dyn Feed>),
    /// [`Shared::now`] has been set.
    Maintain,
}

pub(super) type Reply = oneshot::Sender<Result<Vec<Appended>, StoreError>>;

pub(super) fn queue() -> Queue<Job> {
    Queue::new(QUEUED_MAX)
}

pub(super) struct Writer {
    db: Connection,
    shared: Arc<Shared>,
    maintenance: Maintenance,
    times: Times,
    /// As of the last commit.
    log: LogState,
    dedupe: DedupeWindow,
    feed: Option<Arc<dyn Feed>>,
    topic_id_next: i64,
    health: Arc<Health>,
    presence: Presence,
    /// How long the last commit took.
    commit: Duration,
}

/// What a transaction has done, to be told once it is durable.
struct Written {
    log: LogState,
    topics: HashMap<Topic, i64>,
    trimmed: Trimmed,
}

impl Writer {
    pub(super) fn new(opened: Opened, shared: Arc<Shared>, health: Arc<Health>) -> Self {
        let presence = Presence::of(&schema::events_path(&shared.directory));
        let topic_id_next = shared.topics().by_id.keys().max().map_or(1, |id| id + 1);
        let maintenance = Maintenance::new(opened.has_kept_keys, opened.forget);
        let Opened { db, log, dedupe, times, .. } = opened;
        Self {
            db,
            shared,
            maintenance,
            times,
            log,
            dedupe,
            feed: None,
            topic_id_next,
            health,
            presence,
            commit: Duration::ZERO,
        }
    }

    /// Works the queue until it is closed, and the maintenance between.
    pub(super) fn run(mut self, queue: &Queue<Job>) {
        let _worker = queue.worker();
        while let Some(jobs) = queue.take(GROUP, !self.has_maintenance()) {
            let (mut group, mut expected) = (Vec::new(), 0);
            for job in jobs {
                match job {
                    // Its publisher was told that it may not be stored. While it is not, better so.
                    Job::Append(_, asked, _) if asked.elapsed() >= ANSWER_MAX => {}
                    Job::Append(drafts, _, reply) => group.push((drafts, reply)),
                    other => {
                        self.append(std::mem::take(&mut group), queue);
                        match other {
                            Job::Follow(after, feed) => self.follow(after, feed),
                            Job::Probe(reply) => {
                                // Whoever asked may not wait any more.
                                let _ = reply.send(self.probe());
                            }
                            _ => self.maintain(),
                        }
                    }
                }
            }
            if !group.is_empty() {
                expected = self.append(group, queue);
            }
            self.checkpoint_if_due();
            // A slice, and then the queue has its turn again: neither waits for all of the other.
            self.maintain_slice();
            // A publisher that is alone is not waited for.
            if expected > 1 {
                queue.gather(expected, (self.commit / GATHER_SHARE).clamp(GATHER_MIN, GATHER_MAX));
            }
        }
        self.feed = None;
        self.store_times_at_end();
        self.checkpoint_at_end();
    }

    /// Appends a group in one transaction. Whatever cannot be appended fails alone, the disk's failures all together.
    ///
    /// Returns how many jobs there will be if each publisher that is answered comes back: as many, and those that wait already.
    fn append(&mut self, group: Vec<(Vec<Draft>, Reply)>, queue: &Queue<Job>) -> usize {
        let first = self.log.last.next();
        let mut fresh = Vec::new();
        let mut answers = Vec::with_capacity(group.len());
        for (drafts, reply) in group {
            answers.push((reply, self.place(drafts, &mut fresh)));
        }
        if !fresh.is_empty()
            && let Err(error) = self.write(fresh)
        {
            self.dedupe.undo_from(first);
            for (_, answer) in &mut answers {
                // What only repeats durable events is as right as before.
                if answer.as_ref().is_ok_and(|outcomes| outcomes.iter().any(|outcome| outcome.position >= first)) {
                    *answer = Err(error.clone());
                }
            }
        }
        let expected = queue.len() + answers.len();
        for (reply, answer) in answers {
            // A publisher that has gone does not hear of it; its events are there.
            let _ = reply.send(answer);
        }
        expected
    }

    /// Gives the drafts of one append their places behind `fresh`, or leaves everything as it was.
    fn place(&mut self, drafts: Vec<Draft>, fresh: &mut Vec<Arc<Event>>) -> Result<Vec<Appended>, StoreError> {
        let placed = fresh.len();
        let mut next = fresh.last().map_or(self.log.last, |event| event.position()).next();
        let first = next;
        let mut last_ms = fresh.last().map_or(self.times.newest_ms, |event| event.time_ms());
        let mut outcomes = Vec::with_capacity(drafts.len());
        for draft in drafts {
            if let Some(repeat) = self.dedupe.find(&draft) {
                outcomes.push(repeat.into());
                continue;
            }
            if let Err(error) = self.dedupe.insert(&draft, next) {
                self.dedupe.undo_from(first);
                fresh.truncate(placed);
                return Err(error);
            }
            outcomes.push(Appended::new(next));
            let draft = draft.not_before(last_ms);
            last_ms = draft.time_ms();
            fresh.push(Arc::new(draft.at(self.log.epoch, next)));
            next = next.next();
        }
        Ok(outcomes)
    }

    /// Writes `fresh`, trims what is too much by it, makes both durable and then known.
    fn write(&mut self, fresh: Vec<Arc<Event>>) -> Result<(), StoreError> {
        let (health, began) = (self.health.clone(), Instant::now());
        let written = health.watch(|| {
            // A commit that was refused because its files were gone by then may lie in them all the same. Another one, numbered as if it did not,
            // would leave a log that contradicts itself, should an operator save the files.
            self.presence.check()?;
            let written = match self.transact(&fresh) {
                // What lies in the write-ahead log may be made room of.
                Err(StoreError::Full) if self.checkpoint_fully() => self.transact(&fresh),
                outcome => outcome,
            };
            // Looked at afterwards, since files may be deleted while they are synced; and first, since SQLite does not know that they were.
            self.presence.check().and(written)
        })?;
        self.commit = began.elapsed();
        self.tell(fresh, written);
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        let health = self.health.clone();
        health.probe(|| {
            let written = file::probe(&self.db).map_err(|error| store_error(&error, &self.shared.directory));
            self.presence.check().and(written)
        })
    }

    fn transact(&self, fresh: &[Arc<Event>]) -> Result<Written, StoreError> {
        self.try_transact(fresh).map_err(|error| store_error(&error, &self.shared.directory))
    }

    /// One transaction. An early return rolls back; nothing outside the database has changed then.
    fn try_transact(&self, fresh: &[Arc<Event>]) -> rusqlite::Result<Written> {
        if !self.db.is_autocommit() {
            // The last one failed so badly that it could not even be rolled back then.
            self.db.execute_batch("ROLLBACK")?;
        }
        let transaction = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let mut log = self.log;
        let mut topics = HashMap::new();
        self.insert(&mut log, &mut topics, fresh)?;
        let limits = self.limits(fresh.len());
        let names: HashMap<i64, &Topic> = topics.iter().map(|(topic, id)| (*id, topic)).collect();
        let topic_of = |id| match names.get(&id) {
            Some(topic) => Some((*topic).clone()),
            None => self.shared.topics().by_id.get(&id).cloned(),
        };
        let trimmed = trim::trim(&self.db, &mut log, &limits, &self.dedupe, &self.times.arrivals, &topic_of)?;
        schema::write_state(&self.db, &log)?;
        transaction.commit()?;
        Ok(Written { log, topics, trimmed })
    }

    fn insert(
        &self,
        log: &mut LogState,
        topics: &mut HashMap<Topic, i64>,
        fresh: &[Arc<Event>],
    ) -> rusqlite::Result<()> {
        let mut insert = self.db.prepare_cached("INSERT INTO e VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        for event in fresh {
            let known = self.shared.topics().by_name.get(event.topic()).copied();
            let topic_id = match known.or_else(|| topics.get(event.topic()).copied()) {
                Some(id) => id,
                None => {
                    let id = self.topic_id_next + topics.len() as i64;
                    self.db
                        .prepare_cached("INSERT INTO topics VALUES (?1, ?2, 0)")?
                        .execute(params![id, event.topic().as_str()])?;
                    topics.insert(event.topic().clone(), id);
                    id
                }
            };
            let stored = Stored::of(event);
            if stored.format() > log.format {
                log.format = stored.format();
                schema::write_format(&self.db, log.format)?;
            }
            insert.execute(params![
                integer(event.position().0),
                topic_id,
                integer(event.time_ms()),
                integer(event.cost_bytes()),
                stored.form,
                event.name(),
                event.id().map(|id| &**id),
                stored.data,
            ])?;
            log.last = event.position();
            log.bytes += event.cost_bytes();
        }
        Ok(())
    }

    /// Makes known what has become durable: first to readers, then to the feed; the answers come last.
    fn tell(&mut self, fresh: Vec<Arc<Event>>, written: Written) {
        let Written { log, topics, trimmed } = written;
        let after = self.log.last;
        let moved = log.floor != self.log.floor;
        self.log = log;
        fresh.iter().for_each(|event| self.times.push(event.time_ms()));
        self.topic_id_next += topics.len() as i64;
        self.maintenance.after_trim(&trimmed);
        if !topics.is_empty() {
            let mut known = self.shared.topics_mut();
            for (topic, id) in topics {
                known.insert(topic, id);
            }
        }
        if moved {
            let mut trims = held(&self.shared.trims);
            for (topic, position) in &trimmed.marks {
                trims.marks.set(topic, *position);
            }
            trims.floor = log.floor;
            self.maintenance.forget.extend(trims.marks.fold());
            drop(trims);
            self.shared.trims_moved.notify_all();
        }
        let mut bounds = held(&self.shared.bounds);
        bounds.floor = log.floor;
        bounds.last = log.last;
        drop(bounds);
        if moved || !fresh.is_empty() {
            self.push(after, fresh);
        }
    }

    fn push(&self, after: Position, events: Vec<Arc<Event>>) {
        if let Some(feed) = &self.feed {
            feed.push(FeedBatch { epoch: self.log.epoch, after, events, floor: self.log.floor });
        }
    }

    fn limits(&self, inserted: usize) -> Limits {
        let rows_max = TRIMMED_MIN.max(2 * inserted as u64);
        Limits { retention: self.shared.options.retention, oldest_ms: self.maintenance.oldest_ms, rows_max }
    }

    /// One transaction's worth of trimming, where any is due.
    pub(super) fn trim_slice(&mut self) -> Result<(), StoreError> {
        if self.trim_is_due() { self.write(Vec::new()) } else { Ok(()) }
    }

    pub(super) fn trim_is_due(&self) -> bool {
        self.maintenance.oldest_ms.is_some() || self.limits(0).exceeded_by(&self.log)
    }

    fn maintain(&mut self) {
        let Some(now) = held(&self.shared.now).take() else { return };
        self.dedupe.expire(&now);
        self.times.note(now, self.log.last, self.log.floor);
        let age_max_ms = |max: Duration| u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        let age_max = self.shared.options.retention.age_max.filter(|_| now.removes);
        let oldest_ms = age_max.map(|max| now.wall_ms.saturating_sub(age_max_ms(max)));
        let keys_ms = now.earliest_ms().saturating_sub(age_max_ms(self.shared.options.dedupe_window));
        self.maintenance.due(oldest_ms, keys_ms);
    }

    /// Reads from the disk what the feed has missed; from then on it hears of every commit.
    fn follow(&mut self, after: Position, feed: Arc<dyn Feed>) {
        self.feed = Some(feed);
        let mut after = after;
        while after < self.log.last {
            match super::rows::range(&self.db, &self.shared, after, CATCH_UP_EVENTS) {
                Ok(events) => {
                    let Some(last) = events.last().map(|event| event.position()) else { return };
                    self.push(after, events);
                    after = last;
                }
                Err(error) => {
                    // The batch says that something is missing before it; its listener reads it for itself.
                    tracing::error!(%error, %after, "the feed could not catch up from the disk");
                    return self.push(self.log.last, Vec::new());
                }
            }
        }
    }
}
