//! Retention by topic on disk: the sweeps of the rules, in slices within the writer's transactions.
//!
//! A slice that is part of a publisher's transaction removes about twice as many events as that adds, so that the log keeps to its
//! rules and no publisher waits for more than its share. Where no one publishes, slices have transactions of their own.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _};

use super::column::{integer, position};
use super::form::is_deletion;
use super::log_state::LogState;
use super::removal::{Doomed, Removal, doomed_columns};
use crate::cursor::Position;
use crate::store::arrivals::Arrivals;
use crate::store::dedupe::DedupeWindow;
use crate::store::keep::{Due, Keep, Policy, Sweep, Sweeps};
use crate::topic::Topic;

/// One row: the number of retained events, the number of transactions that removed events from the middle, and the rules with the
/// positions of their sweeps. The first two are valid in a log of [`HOLES_FORMAT`](super::form::HOLES_FORMAT).
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS keeping(
        one INTEGER PRIMARY KEY CHECK (one = 1), events INTEGER NOT NULL, removals INTEGER NOT NULL,
        rules TEXT NOT NULL, sweeps TEXT NOT NULL);
    INSERT OR IGNORE INTO keeping VALUES (1, 0, 0, '', '');
";

/// Events that a slice passes and removes beside a publish, at least.
const SLICE_MIN: u64 = 64;

/// Events that a slice of its own passes and removes.
const SLICE_PASSED: u64 = 2048;
const SLICE_REMOVED: u64 = 1024;

/// Topics whose values are deleted in one transaction.
const EXPIRED_AT_ONCE: usize = 256;

/// The rules of a log, and how far they have been carried out.
pub(super) struct Keeping {
    pub(super) policy: Policy,
    pub(super) sweeps: Sweeps,
    /// For a topic with a number of events, how many it has up to where the sweep is; a topic is added when the sweep passes it.
    counts: HashMap<i64, u64>,
}

/// Limits of a slice.
#[derive(Clone, Copy)]
pub(super) struct SliceLimits {
    passed: u64,
    removed: u64,
}

impl SliceLimits {
    /// Those of a transaction that adds so many events.
    pub(super) fn beside(inserted: usize) -> Self {
        match inserted as u64 {
            0 => Self { passed: SLICE_PASSED, removed: SLICE_REMOVED },
            inserted => {
                let most = SLICE_MIN.max(2 * inserted);
                Self { passed: most, removed: most }
            }
        }
    }
}

/// The result of a slice.
pub(super) struct Swept {
    pub(super) sweeps: Sweeps,
    /// The newest removed position of each topic that lost events which are owed.
    pub(super) marks: Vec<(Topic, Position)>,
    /// The newest removed position of each topic.
    pub(super) gone: Vec<(Topic, Position)>,
    pub(super) kept_keys: bool,
    /// `None` where the topic has to be counted again.
    counts: HashMap<i64, Option<u64>>,
}

/// What a slice works with.
pub(super) struct Context<'a> {
    pub(super) db: &'a Connection,
    pub(super) dedupe: &'a DedupeWindow,
    pub(super) arrivals: &'a Arrivals,
    pub(super) topic_of: &'a dyn Fn(i64) -> Option<Topic>,
    pub(super) now_ms: u64,
}

impl Keeping {
    /// The rules of a log, with the stored positions of their sweeps where the rules are the stored ones. Stores and logs a change.
    pub(super) fn load(db: &Connection, policy: Option<Policy>) -> rusqlite::Result<Option<Self>> {
        let (stored, positions): (String, String) =
            db.query_row("SELECT rules, sweeps FROM keeping", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let given = Policy::to_text(policy.as_ref());
        let mut sweeps = policy.as_ref().map(Sweeps::new).unwrap_or_default();
        if stored == given {
            sweeps.restore(&positions);
        } else {
            // A new log has nothing to lose.
            let is_new: bool = db.query_row("SELECT last = 0 FROM meta", [], |row| row.get(0))?;
            for change in Policy::changes(&stored, &given).iter().filter(|_| !is_new) {
                tracing::warn!("the rules of retention differ from the last run's: {change}");
            }
            db.execute("UPDATE keeping SET rules = ?1, sweeps = ''", [given])?;
        }
        Ok(policy.map(|policy| Self { policy, sweeps, counts: HashMap::new() }))
    }

    /// Notes which sweeps have events that are due.
    pub(super) fn look(&mut self, db: &Connection, arrivals: &Arrivals, now_ms: u64) -> rusqlite::Result<()> {
        let mut next = db.prepare_cached("SELECT seq, time FROM e WHERE seq > ?1 ORDER BY seq LIMIT 1")?;
        for index in 0..self.sweeps.len() {
            let Sweep { at, delay_ms, .. } = self.sweeps.get(index);
            let next = next.query_row([integer(at.0)], |row| Ok((position(row.get(0)?), position(row.get(1)?).0)));
            let is_due = next
                .optional()?
                .is_some_and(|(seq, time_ms)| arrivals.time_ms(seq, time_ms).saturating_add(delay_ms) <= now_ms);
            self.sweeps.set(index, at, is_due);
        }
        Ok(())
    }

    /// Whether a sweep that removes events is pending.
    pub(super) fn removes(&self) -> bool {
        (0..self.sweeps.len()).map(|index| self.sweeps.get(index)).any(|sweep| sweep.is_pending && !sweep.deletes)
    }

    /// A slice of each sweep that removes events.
    pub(super) fn slice(
        &self,
        context: &Context<'_>,
        log: &mut LogState,
        limits: SliceLimits,
    ) -> rusqlite::Result<Swept> {
        let mut slice = Slice {
            keeping: self,
            context,
            removal: Removal::new(context.db),
            topics: HashMap::new(),
            counts: HashMap::new(),
            marks: HashMap::new(),
            gone: HashMap::new(),
        };
        let mut sweeps = self.sweeps.clone();
        for index in 0..sweeps.len() {
            let sweep = sweeps.get(index);
            if sweep.is_pending && !sweep.deletes {
                let (at, is_pending) = slice.sweep(log, sweep, limits)?;
                sweeps.set(index, at, is_pending);
            }
        }
        slice.removal.finish(log)?;
        let mark = "UPDATE topics SET mark = max(mark, ?2) WHERE id = ?1";
        for (id, at) in &slice.marks {
            context.db.prepare_cached(mark)?.execute([*id, integer(at.0)])?;
        }
        context.db.prepare_cached("UPDATE keeping SET sweeps = ?1")?.execute([sweeps.to_text()])?;
        let named = |positions: &HashMap<i64, Position>| {
            positions.iter().filter_map(|(id, at)| Some(((context.topic_of)(*id)?, *at))).collect()
        };
        let (marks, gone) = (named(&slice.marks), named(&slice.gone));
        Ok(Swept { sweeps, marks, gone, kept_keys: slice.removal.kept_keys, counts: slice.counts })
    }

    /// A slice is durable.
    pub(super) fn swept(&mut self, swept: Swept) {
        self.sweeps = swept.sweeps;
        for (topic_id, count) in swept.counts {
            match count {
                Some(count) => self.counts.insert(topic_id, count),
                None => self.counts.remove(&topic_id),
            };
        }
    }

    /// Values that had aged out are deleted.
    pub(super) fn passed(&mut self, sweeps: &Sweeps) {
        for index in 0..self.sweeps.len() {
            let passed = sweeps.get(index);
            if passed.deletes {
                self.sweeps.set(index, passed.at, passed.is_pending);
            }
        }
    }

    /// Whether a sweep that deletes values is pending.
    pub(super) fn expires(&self) -> bool {
        (0..self.sweeps.len()).map(|index| self.sweeps.get(index)).any(|sweep| sweep.is_pending && sweep.deletes)
    }

    /// A topic has lost events otherwise: they are counted again.
    pub(super) fn recount(&mut self, topic_id: i64) {
        self.counts.remove(&topic_id);
    }

    /// The next topics whose values have aged out, with how far each of their sweeps has come.
    pub(super) fn expired(&self, context: &Context<'_>) -> rusqlite::Result<(Vec<Topic>, Sweeps)> {
        let (mut sweeps, mut expired) = (self.sweeps.clone(), Vec::new());
        let mut next = context
            .db
            .prepare_cached("SELECT seq, topic_id, time, base64 FROM e WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
        for index in 0..sweeps.len() {
            let Sweep { delay_ms, deletes, at: start, is_pending } = sweeps.get(index);
            if !deletes || !is_pending {
                continue;
            }
            let mut rows = next.query([integer(start.0), integer(SLICE_PASSED)])?;
            let (mut at, mut is_pending, mut passed) = (start, true, 0);
            while expired.len() < EXPIRED_AT_ONCE {
                let Some(row) = rows.next()? else {
                    is_pending = passed == SLICE_PASSED;
                    break;
                };
                let (seq, time_ms) = (position(row.get(0)?), position(row.get(2)?).0);
                if context.arrivals.time_ms(seq, time_ms).saturating_add(delay_ms) > context.now_ms {
                    is_pending = false;
                    break;
                }
                (at, passed) = (seq, passed + 1);
                let topic_id = row.get(1)?;
                let Some(topic) = (context.topic_of)(topic_id) else { continue };
                let keep = self.policy.keep(topic.as_str());
                if Policy::expires(keep, delay_ms, is_deletion(row.get(3)?)) && is_newest(context.db, topic_id, seq)? {
                    expired.push(topic);
                }
            }
            sweeps.set(index, at, is_pending);
        }
        Ok((expired, sweeps))
    }
}

/// One slice under way.
struct Slice<'a> {
    keeping: &'a Keeping,
    context: &'a Context<'a>,
    removal: Removal<'a>,
    topics: HashMap<i64, Option<(Topic, Keep)>>,
    /// As of this transaction; `None` where the topic has to be counted again.
    counts: HashMap<i64, Option<u64>>,
    marks: HashMap<i64, Position>,
    gone: HashMap<i64, Position>,
}

impl Slice<'_> {
    /// Returns how far the sweep has come, and whether more may be due.
    fn sweep(&mut self, log: &mut LogState, sweep: Sweep, limits: SliceLimits) -> rusqlite::Result<(Position, bool)> {
        let db = self.context.db;
        let mut next = db.prepare_cached(concat!(
            "SELECT ",
            doomed_columns!(),
            ", base64 FROM e WHERE seq > ?1 ORDER BY seq LIMIT ?2"
        ))?;
        // Rows are read before any is removed.
        let passed = next
            .query_map([integer(sweep.at.0), integer(limits.passed)], |row| {
                Ok((Doomed::of(row)?, position(row.get(2)?).0, is_deletion(row.get(5)?)))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let mut at = sweep.at;
        let end = self.removal.count + limits.removed;
        let is_full = passed.len() as u64 == limits.passed;
        for (event, time_ms, is_deletion) in passed {
            let arrived_ms = self.context.arrivals.time_ms(event.seq, time_ms);
            if arrived_ms.saturating_add(sweep.delay_ms) > self.context.now_ms {
                return Ok((at, false));
            }
            if self.removal.count >= end {
                return Ok((at, true));
            }
            at = event.seq;
            let Some((topic, keep)) = self.topic(event.topic_id) else { continue };
            let due = self.keeping.policy.due(keep, sweep.delay_ms, is_deletion);
            if due != Due::default() {
                self.carry_out(log, due, &topic, event)?;
            }
        }
        Ok((at, is_full))
    }

    fn topic(&mut self, id: i64) -> Option<(Topic, Keep)> {
        let (topic_of, policy) = (self.context.topic_of, &self.keeping.policy);
        let known = self.topics.entry(id).or_insert_with(|| {
            let topic = topic_of(id)?;
            let keep = policy.keep(topic.as_str());
            Some((topic, keep))
        });
        known.clone()
    }

    fn carry_out(&mut self, log: &mut LogState, due: Due, topic: &Topic, event: Doomed) -> rusqlite::Result<()> {
        let db = self.context.db;
        if due.superseded {
            for older in oldest(db, event.topic_id, event.seq.before(), u64::MAX)? {
                self.remove(log, topic, &older, false)?;
            }
        }
        if let Some(max) = due.events_max {
            let count = self.count(event.topic_id, event.seq, max)?;
            let excess = count.saturating_sub(max);
            if excess > 0 {
                for older in oldest(db, event.topic_id, event.seq, excess)? {
                    self.remove(log, topic, &older, true)?;
                }
            }
            self.counts.insert(event.topic_id, Some(count - excess));
        }
        if due.aged || (due.forgotten && is_newest(db, event.topic_id, event.seq)?) {
            self.remove(log, topic, &event, true)?;
            // A rule by age and by number: the number is of what is left.
            self.counts.insert(event.topic_id, None);
        }
        Ok(())
    }

    /// The number of a topic's events up to one that the sweep passes.
    fn count(&self, topic_id: i64, upto: Position, max: u64) -> rusqlite::Result<u64> {
        let known = match self.counts.get(&topic_id) {
            Some(counted) => *counted,
            None => self.keeping.counts.get(&topic_id).copied(),
        };
        if let Some(count) = known {
            return Ok(count + 1);
        }
        let count = "SELECT count(*) FROM (
            SELECT 1 FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq <= ?2 LIMIT ?3)";
        let most = integer(max.saturating_add(SLICE_REMOVED));
        let count =
            self.context.db.prepare_cached(count)?.query_row([topic_id, integer(upto.0), most], |row| row.get(0));
        Ok(position(count?).0)
    }

    fn remove(&mut self, log: &mut LogState, topic: &Topic, doomed: &Doomed, is_owed: bool) -> rusqlite::Result<()> {
        self.removal.remove(log, self.context.dedupe, topic, doomed)?;
        self.gone.insert(doomed.topic_id, doomed.seq);
        if is_owed {
            self.marks.insert(doomed.topic_id, doomed.seq);
        }
        Ok(())
    }
}

/// A topic's oldest events at or before a position.
pub(super) fn oldest(db: &Connection, topic_id: i64, upto: Position, most: u64) -> rusqlite::Result<Vec<Doomed>> {
    let mut oldest = db.prepare_cached(concat!(
        "SELECT ",
        doomed_columns!(),
        " FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3"
    ))?;
    oldest.query_map([topic_id, integer(upto.0), integer(most)], Doomed::of)?.collect()
}

/// Whether an event is its topic's newest.
pub(super) fn is_newest(db: &Connection, topic_id: i64, seq: Position) -> rusqlite::Result<bool> {
    let later = "SELECT EXISTS (SELECT 1 FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq > ?2)";
    db.prepare_cached(later)?.query_row([topic_id, integer(seq.0)], |row| row.get::<_, bool>(0)).map(|later| !later)
}
