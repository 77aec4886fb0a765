//! Erasing a topic: the writer's work on it, in slices between commits, until the bytes are gone from the file and from the
//! write-ahead log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::TransactionBehavior;
use tokio::sync::oneshot;

use super::super::erasures::{self, ERASED_AT_ONCE, ErasureList};
use super::super::fault::store_error;
use super::super::keeping::oldest;
use super::super::log_state::LogState;
use super::super::removal::Removal;
use super::super::{file, held};
use super::Writer;
use crate::clock;
use crate::cursor::Position;
use crate::event::Event;
use crate::log::{Erased, FeedBatch};
use crate::store::StoreError;
use crate::topic::Topic;

/// The most erasures under way; about 300 bytes each.
const ERASING_MAX: usize = 1024;

/// How long readers may keep the write-ahead log from being truncated, until the caller has to repeat the call. Only a backup
/// takes longer than milliseconds.
const TRUNCATE_MAX: Duration = Duration::from_secs(5);

/// How long one attempt to truncate it waits, and publishers with it.
const TRUNCATE_WAIT: Duration = Duration::from_millis(10);

pub(in crate::store::disk) type EraseReply = oneshot::Sender<Result<Erased, StoreError>>;

/// The erasures under way, the first first.
pub(super) struct Erasing {
    list: ErasureList,
    queue: VecDeque<Erasure>,
}

struct Erasure {
    topic: Topic,
    /// The log's end when the erasure began.
    upto: Position,
    time_ms: u64,
    /// The newest position that was erased so far.
    newest: Position,
    events: u64,
    /// When all events were gone, and the write-ahead log was still to be truncated.
    gone: Option<Instant>,
    reply: EraseReply,
}

impl Erasing {
    pub(super) fn new(list: ErasureList) -> Self {
        Self { list, queue: VecDeque::new() }
    }

    pub(super) fn any(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl Writer {
    /// Begins to erase what a topic has now. The caller may have gone: it is erased all the same.
    pub(super) fn erase(&mut self, topic: Topic, reply: EraseReply) {
        let begun = self.begin_erasing(&topic);
        match begun {
            Ok(time_ms) => self.erasing.queue.push_back(Erasure {
                topic,
                upto: self.log.last,
                time_ms,
                newest: Position::ZERO,
                events: 0,
                gone: None,
                reply,
            }),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn begin_erasing(&mut self, topic: &Topic) -> Result<u64, StoreError> {
        if self.erasing.queue.len() >= ERASING_MAX {
            return Err(StoreError::Busy("too many topics are being erased"));
        }
        if !self.erasing.list.has_room() {
            return Err(StoreError::Busy("the list of erased topics is full: it has a million"));
        }
        let time_ms = clock::wall_ms();
        // On the disk before anything is erased: a backup that is opened later does not bring it back.
        let listed = self.erasing.list.add(topic.as_str(), self.log.epoch.as_str(), self.log.last, time_ms);
        listed.map_err(|error| store_error(&error, &self.shared.directory))?;
        Ok(time_ms)
    }

    /// Works on the first erasure: erases some events, or truncates the write-ahead log once none is left.
    pub(super) fn erase_slice(&mut self) {
        let Some(mut erasure) = self.erasing.queue.pop_front() else { return };
        let answer = match erasure.gone {
            None => match self.erase_some(&mut erasure) {
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            },
            Some(gone) => match self.checkpoint_within(TRUNCATE_WAIT) {
                true => Some(Ok(Erased { events: erasure.events, upto: erasure.upto })),
                false if gone.elapsed() >= TRUNCATE_MAX => Some(Err(StoreError::Busy(
                    "the events are gone from the log, but a long read, such as a backup, keeps the file that contains \
                     their bytes from being overwritten: erase the topic again when that has ended",
                ))),
                false => None,
            },
        };
        match answer {
            // The caller may have gone.
            Some(answer) => drop(erasure.reply.send(answer)),
            None => self.erasing.queue.push_front(erasure),
        }
    }

    fn erase_some(&mut self, erasure: &mut Erasure) -> Result<(), StoreError> {
        let health = self.health.clone();
        let floor = self.log.floor;
        let (log, count) = health.watch(|| {
            self.presence.check()?;
            let erased = self.try_erase(erasure).map_err(|error| store_error(&error, &self.shared.directory));
            self.presence.check().and(erased)
        })?;
        self.log = log;
        erasure.events += count;
        if count < ERASED_AT_ONCE {
            erasure.gone = Some(Instant::now());
        }
        self.dedupe.forget_topic(&erasure.topic);
        if count == 0 {
            return Ok(());
        }
        let mut trims = held(&self.shared.trims);
        trims.removed.erased.set(&erasure.topic, erasure.newest);
        (trims.floor, trims.removals) = (log.floor, log.removals);
        drop(trims);
        self.shared.trims_moved.notify_all();
        self.publish_state(floor, &[(erasure.topic.clone(), erasure.newest)], &[]);
        if let Some(feed) = &self.feed {
            // No tail holds what was erased any more.
            let (epoch, after, floor) = (log.epoch, log.last, log.floor.max(erasure.newest));
            feed.push(FeedBatch { epoch, after, events: Vec::<Arc<Event>>::new(), floor });
        }
        Ok(())
    }

    /// Erases the next events in one transaction; returns the log's state after it, and their number.
    fn try_erase(&mut self, erasure: &mut Erasure) -> rusqlite::Result<(LogState, u64)> {
        let topic_id = self.shared.topics().by_name.get(&erasure.topic).copied();
        let transaction = file::begin(&self.db, TransactionBehavior::Immediate)?;
        let mut log = self.log;
        let mut removal = Removal::new(&self.db);
        let mut newest = erasure.newest;
        if let Some(topic_id) = topic_id {
            for doomed in oldest(&self.db, topic_id, erasure.upto, ERASED_AT_ONCE)? {
                removal.erase(&mut log, &doomed)?;
                newest = doomed.seq;
            }
        }
        removal.finish(&mut log)?;
        let (count, is_done) = (removal.count, removal.count < ERASED_AT_ONCE);
        let time_ms = super::super::column::integer(erasure.time_ms);
        erasures::write(&self.db, erasure.topic.as_str(), newest, erasure.upto, time_ms, is_done)?;
        log.write(&self.db)?;
        transaction.commit()?;
        erasure.newest = newest;
        if let (Some(keeping), Some(topic_id)) = (&mut self.keeping, topic_id) {
            keeping.recount(topic_id);
        }
        Ok((log, count))
    }
}
