//! The single writer thread of the log. It commits in groups: all queued appends become one transaction and one sync, and only
//! then visible to readers and the feed.

mod erasing;
mod maintenance;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::column::integer;
use super::fault::store_error;
use super::file;
use super::form::Stored;
use super::gather::Gather;
use super::health::{ANSWER_MAX, Health};
use super::keeping::{Context, Keeping, SliceLimits, Swept};
use super::log_state::{self, LogState};
use super::presence::Presence;
use super::queue::{Load, Queue};
use super::reserve::Reserve;
use super::schema::{self, Opened};
use super::times::Times;
use super::trim::{self, Limits, Trimmed};
use super::{Shared, held};
use crate::cursor::Position;
use crate::event::{Draft, Event};
use crate::log::{Appended, FeedBatch};
use crate::store::dedupe::DedupeWindow;
use crate::store::keep::Policy;
use crate::store::{Feed, StoreError};
use crate::topic::Topic;
use erasing::{EraseReply, Erasing};
use maintenance::Maintenance;

/// Maximum of events in the append queue.
const QUEUED_MAX: Load = Load { items: 65_536, bytes: 64 << 20 };

/// Maximum of events that one transaction appends. Bounds how long the first in a group waits for the last.
const GROUP: Load = Load { items: 4096, bytes: 8 << 20 };

/// Maximum of events that a transaction trims, beside twice those it appends: so the log converges after a limit was lowered.
const TRIMMED_MIN: u64 = 1024;

/// Maximum of events in one catch-up read of `follow`.
const CATCH_UP_EVENTS: usize = 1024;

/// A job of the thread.
pub(super) enum Job {
    /// With the moment of the call.
    Append(Vec<Draft>, Instant, Reply),
    /// Test write: whether the disk takes writes.
    Probe(oneshot::Sender<Result<(), StoreError>>),
    Follow(Position, Arc<dyn Feed>),
    Erase(Topic, EraseReply),
    /// [`Shared::now`] has been set.
    Maintain,
}

impl Job {
    /// The moment of a publish.
    fn asked(&self) -> Option<Instant> {
        match self {
            Self::Append(_, asked, _) => Some(*asked),
            _ => None,
        }
    }
}

pub(super) type Reply = oneshot::Sender<Result<Vec<Appended>, StoreError>>;

pub(super) fn queue() -> Queue<Job> {
    Queue::new(QUEUED_MAX)
}

pub(super) struct Writer {
    db: Connection,
    shared: Arc<Shared>,
    maintenance: Maintenance,
    /// The rules by topic, where there are any.
    keeping: Option<Keeping>,
    erasing: Erasing,
    times: Times,
    /// As of the last commit.
    log: LogState,
    dedupe: DedupeWindow,
    feed: Option<Arc<dyn Feed>>,
    topic_id_next: i64,
    health: Arc<Health>,
    presence: Presence,
    reserve: Reserve,
    /// The duration of the last commit.
    commit: Duration,
    gather: Gather,
}

/// The result of a transaction, to be published once it is durable.
struct Written {
    log: LogState,
    topics: HashMap<Topic, i64>,
    trimmed: Trimmed,
    swept: Option<Swept>,
    /// The duration of the write and sync at the end.
    sync: Duration,
}

impl Writer {
    pub(super) fn new(opened: Opened, shared: Arc<Shared>, health: Arc<Health>, reserve: Reserve) -> Self {
        let presence = Presence::of(&schema::events_path(&shared.directory));
        let topic_id_next = shared.topics().by_id.keys().max().map_or(1, |id| id + 1);
        let maintenance = Maintenance::new(opened.has_kept_keys, opened.forget);
        let Opened { db, log, keeping, erasures, dedupe, times, .. } = opened;
        Self {
            db,
            shared,
            maintenance,
            keeping,
            erasing: Erasing::new(erasures),
            times,
            log,
            dedupe,
            feed: None,
            topic_id_next,
            health,
            presence,
            reserve,
            commit: Duration::ZERO,
            gather: Gather::default(),
        }
    }

    /// Processes the queue until it is closed, with slices of maintenance in between.
    pub(super) fn run(mut self, queue: &Queue<Job>) {
        let _worker = queue.worker();
        while let Some(jobs) = queue.take(GROUP, !self.has_maintenance()) {
            let (mut group, mut expected) = (Vec::new(), None);
            for asked in jobs.iter().filter_map(Job::asked) {
                self.gather.arrived(asked);
            }
            for job in jobs {
                match job {
                    // The publisher has got an error already. The event is not stored yet, so it is dropped.
                    Job::Append(_, asked, _) if asked.elapsed() >= ANSWER_MAX => {}
                    Job::Append(drafts, _, reply) => group.push((drafts, reply)),
                    other => {
                        self.append(std::mem::take(&mut group), queue);
                        match other {
                            Job::Follow(after, feed) => self.follow(after, feed),
                            Job::Erase(topic, reply) => self.erase(topic, reply),
                            Job::Probe(reply) => {
                                // The caller may have stopped waiting.
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
            // Slices of maintenance alternate with the queue: neither waits for all of the other.
            self.maintain_slice();
            if let Some((jobs, deadline)) = expected {
                queue.gather(jobs, GROUP, deadline);
            }
        }
        self.feed = None;
        self.store_times_at_end();
        self.checkpoint_at_end();
    }

    /// Appends a group in one transaction. An invalid append fails alone; a failure of the disk fails the group.
    ///
    /// Returns how many jobs to wait for before the next group, and until when, if the answered publishers are expected to
    /// publish again.
    fn append(&mut self, group: Vec<(Vec<Draft>, Reply)>, queue: &Queue<Job>) -> Option<(usize, Instant)> {
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
                // Appends that only repeat durable events succeed all the same.
                if answer.as_ref().is_ok_and(|outcomes| outcomes.iter().any(|outcome| outcome.position >= first)) {
                    *answer = Err(error.clone());
                }
            }
        }
        let queued = queue.visit(|job| job.asked().is_none_or(|asked| self.gather.arrived(asked)));
        let publishers = answers.len();
        // Before the answers: the first may be back before the last is sent.
        let deadline = self.gather.answered(Instant::now(), publishers, self.commit);
        for (reply, answer) in answers {
            // A publisher may have gone; its events are stored.
            let _ = reply.send(answer);
        }
        deadline.map(|deadline| (queued + publishers, deadline))
    }

    /// Assigns the drafts of one append their positions behind `fresh`, or fails without any change.
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

    /// Writes `fresh`, trims what exceeds the limits, makes both durable, and then visible.
    fn write(&mut self, fresh: Vec<Arc<Event>>) -> Result<(), StoreError> {
        let (health, began) = (self.health.clone(), Instant::now());
        let written = health.watch(|| {
            // A commit that failed because its files had been deleted may be in those files all the same. Another commit that
            // reuses its positions would make the log contradict itself, if an operator recovered the files.
            self.presence.check()?;
            // To trim needs no space in the end, and may free some.
            if !fresh.is_empty() {
                self.reserve.check()?;
            }
            let written = match self.transact(&fresh) {
                // A checkpoint may free space in the write-ahead log.
                Err(StoreError::Full) if self.checkpoint_fully() => self.transact(&fresh),
                outcome => outcome,
            };
            // Checked after the commit, since files may be deleted during the sync; and before its result, since SQLite does
            // not notice.
            self.presence.check().and(written)
        })?;
        self.commit = began.elapsed();
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.committed(fresh.len(), self.commit, written.sync);
        }
        self.tell(fresh, written);
        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        if let Err(full) = self.reserve.check() {
            return self.health.watch(|| Err(full));
        }
        file::probe(&self.db, &self.shared.directory, &mut self.presence, &self.health)
    }

    fn transact(&self, fresh: &[Arc<Event>]) -> Result<Written, StoreError> {
        self.try_transact(fresh).map_err(|error| store_error(&error, &self.shared.directory))
    }

    /// One transaction. An early return rolls back; nothing outside the database has changed then.
    fn try_transact(&self, fresh: &[Arc<Event>]) -> rusqlite::Result<Written> {
        let transaction = file::begin(&self.db, TransactionBehavior::Immediate)?;
        let mut log = self.log;
        let mut topics = HashMap::new();
        self.insert(&mut log, &mut topics, fresh)?;
        let limits = self.limits(fresh.len());
        let names: HashMap<i64, &Topic> = topics.iter().map(|(topic, id)| (*id, topic)).collect();
        let topic_of = |id| match names.get(&id) {
            Some(topic) => Some((*topic).clone()),
            None => self.shared.topics().by_id.get(&id).cloned(),
        };
        let policy = self.keeping.as_ref().map(|keeping| &keeping.policy);
        let (dedupe, arrivals) = (&self.dedupe, &self.times.arrivals);
        let trimmed = trim::trim(&self.db, &mut log, &limits, policy, dedupe, arrivals, &topic_of)?;
        let swept = match (&self.keeping, self.maintenance.removes_at_ms) {
            (Some(keeping), Some(now_ms)) if keeping.removes() => {
                let context = Context { db: &self.db, dedupe, arrivals, topic_of: &topic_of, now_ms };
                Some(keeping.slice(&context, &mut log, SliceLimits::beside(fresh.len()))?)
            }
            _ => None,
        };
        log.write(&self.db)?;
        let began = Instant::now();
        transaction.commit()?;
        Ok(Written { log, topics, trimmed, swept, sync: began.elapsed() })
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
                log_state::write_format(&self.db, log.format)?;
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
            log.events += 1;
        }
        Ok(())
    }

    /// Makes durable events visible: first to readers, then to the feed; publishers are answered last.
    fn tell(&mut self, fresh: Vec<Arc<Event>>, written: Written) {
        let Written { log, topics, trimmed, swept, .. } = written;
        let (after, floor) = (self.log.last, self.log.floor);
        let changed = log.floor != floor || log.removals != self.log.removals;
        self.log = log;
        fresh.iter().for_each(|event| self.times.push(event.time_ms()));
        self.topic_id_next += topics.len() as i64;
        self.maintenance.after_trim(&trimmed, swept.as_ref().is_some_and(|swept| swept.kept_keys));
        if !topics.is_empty() {
            let mut known = self.shared.topics_mut();
            for (topic, id) in topics {
                known.insert(topic, id);
            }
        }
        if changed {
            let mut trims = held(&self.shared.trims);
            for (topic, position) in trimmed.marks.iter().chain(swept.iter().flat_map(|swept| &swept.marks)) {
                trims.removed.expired.set(topic, *position);
            }
            (trims.floor, trims.removals) = (log.floor, log.removals);
            self.maintenance.forget.extend(trims.removed.expired.fold());
            drop(trims);
            self.shared.trims_moved.notify_all();
        }
        self.publish_state(floor, swept.as_ref().map_or(&[], |swept| &swept.gone), &fresh);
        if let Some(keeping) = &mut self.keeping {
            trimmed.topic_ids.iter().for_each(|id| keeping.recount(*id));
            if let Some(swept) = swept {
                keeping.swept(swept);
            }
        }
        if log.floor != floor || !fresh.is_empty() {
            self.push(after, fresh);
        }
    }

    /// Publishes the log's state to readers; `gone` is the newest removed position of each topic that lost events in the middle.
    ///
    /// After the marks, so that an event that a reader does not find in the index is marked as removed; before the bounds, so that
    /// the index has every event up to a round's end.
    fn publish_state(&mut self, floor_before: Position, gone: &[(Topic, Position)], fresh: &[Arc<Event>]) {
        self.shared.bytes.store(self.log.bytes, Ordering::Relaxed);
        let mut newest = held(&self.shared.newest);
        gone.iter().for_each(|(topic, upto)| newest.remove(topic, *upto));
        fresh.iter().for_each(|event| newest.push(event.topic(), event.position()));
        if self.log.floor != floor_before {
            newest.trim(self.log.floor);
        }
        drop(newest);
        let mut bounds = held(&self.shared.bounds);
        (bounds.floor, bounds.last) = (self.log.floor, self.log.last);
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

    /// Removes what is due, at most one transaction's worth.
    pub(super) fn trim_slice(&mut self) -> Result<(), StoreError> {
        if self.trim_is_due() || self.keeping.as_ref().is_some_and(Keeping::removes) {
            self.write(Vec::new())?;
        }
        Ok(())
    }

    /// Publishes the deletions of values that have aged out.
    pub(super) fn expire_slice(&mut self) -> Result<(), StoreError> {
        let (Some(keeping), Some(now_ms)) = (&self.keeping, self.maintenance.removes_at_ms) else { return Ok(()) };
        let topic_of = |id| self.shared.topics().by_id.get(&id).cloned();
        let (dedupe, arrivals) = (&self.dedupe, &self.times.arrivals);
        let context = Context { db: &self.db, dedupe, arrivals, topic_of: &topic_of, now_ms };
        let expired = keeping.expired(&context).map_err(|error| store_error(&error, &self.shared.directory))?;
        let (topics, sweeps) = expired;
        let mut fresh = Vec::with_capacity(topics.len());
        self.place(topics.iter().map(|topic| Policy::expiry(topic, now_ms)).collect(), &mut fresh)?;
        if !fresh.is_empty() {
            self.write(fresh)?;
        }
        if let Some(keeping) = &mut self.keeping {
            // Stored with the next slice that removes events. Until then a start passes these events once more, and finds that
            // they are not the newest of their topics.
            keeping.passed(&sweeps);
        }
        Ok(())
    }

    pub(super) fn trim_is_due(&self) -> bool {
        self.maintenance.oldest_ms.is_some() || self.limits(0).exceeded_by(&self.log)
    }

    fn maintain(&mut self) {
        let Some(now) = held(&self.shared.now).take() else { return };
        self.dedupe.expire(&now);
        self.times.note(now, self.log.last, self.log.floor);
        let age_max_ms = |max: Duration| u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        self.maintenance.removes_at_ms = now.removes.then_some(now.wall_ms);
        if let (Some(keeping), true) = (&mut self.keeping, now.removes)
            && let Err(error) = keeping.look(&self.db, &self.times.arrivals, now.wall_ms)
        {
            tracing::warn!(%error, "the log cannot be read to find what its rules of retention remove; this is retried");
        }
        // With rules, the sweeps remove by age, too.
        let by_age = now.removes && self.keeping.is_none();
        let age_max = self.shared.options.retention.age_max.filter(|_| by_age);
        let oldest_ms = age_max.map(|max| now.wall_ms.saturating_sub(age_max_ms(max)));
        let keys_ms = now.earliest_ms().saturating_sub(age_max_ms(self.shared.options.dedupe_window));
        self.maintenance.due(oldest_ms, keys_ms);
    }

    /// Reads the events that the feed has missed from the disk; from then on the feed receives every commit.
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
                    // The batch reports that events before it are missing; its listener reads them from the store.
                    tracing::error!(%error, %after, "the feed could not catch up from the disk");
                    return self.push(self.log.last, Vec::new());
                }
            }
        }
    }
}
