//! Queries for events: by topic index where patterns match few topics, else a scan by position.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row};

use super::column::{integer, position};
use super::form::Stored;
use super::schema::short_data;
use super::{Shared, held};
use crate::cursor::{Epoch, Position};
use crate::event::{Event, EventError};
use crate::segment::Scanned;
use crate::store::newest::{Walk, WalkRange};
use crate::topic::{PatternSet, Topic};

/// Index entries that are read from a topic at once; doubled while the topic continues.
const CHUNK_MIN: usize = 2;
const CHUNK_MAX: usize = 256;

/// Entries of the index of the newest events that are compared while the writer is blocked from adding any: a fraction of a
/// millisecond.
const ENTRIES_AT_ONCE: u64 = 1024;

/// Newest events that are looked up in the index at once: about as many as fit into a page.
const NEWEST_AT_ONCE: usize = 64;

/// Newest events that are at most so far apart are read as one range: to step over a row costs a tenth of a seek.
const RANGE_GAP_MAX: u64 = 8;

/// Called with each event found; decides whether to continue.
pub(super) type Visit<'a> = dyn FnMut(Arc<Event>) -> ControlFlow<()> + 'a;

/// A range of the log: after the first position, through the second.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) epoch: Epoch,
    pub(super) after: Position,
    pub(super) end: Position,
    /// Whether an event is skipped if a later event of its topic lies at or before the end.
    pub(super) latest: bool,
}

/// The copy of an event that is read.
enum Source {
    /// The row by position.
    Log,
    /// The entry in the topic's index.
    Topic,
}

/// Reads the events at given positions.
struct Fetch<'c> {
    statement: CachedStatement<'c>,
    epoch: Epoch,
}

impl<'c> Fetch<'c> {
    fn new(db: &'c Connection, epoch: Epoch, place: Source) -> rusqlite::Result<Self> {
        let statement = match place {
            Source::Log => "SELECT time, base64, name, id, data FROM e NOT INDEXED WHERE topic_id = ?1 AND seq = ?2",
            Source::Topic => concat!(
                "SELECT time, base64, name, id, coalesce(",
                short_data!(),
                ", data) FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq = ?2"
            ),
        };
        Ok(Self { statement: db.prepare_cached(statement)?, epoch })
    }

    fn event(&mut self, topic: &Topic, topic_id: i64, at: Position) -> rusqlite::Result<Arc<Event>> {
        let epoch = self.epoch;
        self.statement.query_row([topic_id, integer(at.0)], |row| event(row, topic, epoch, at))
    }
}

/// Decodes a row of time, encoding, name, id and data.
fn event(row: &Row<'_>, topic: &Topic, epoch: Epoch, at: Position) -> rusqlite::Result<Arc<Event>> {
    let stored = Stored { form: row.get(1)?, data: row.get_ref(4)?.as_str()?.into() };
    let name = row.get_ref(2)?.as_str_or_null()?.unwrap_or_default();
    let id = row.get_ref(3)?.as_str_or_null()?.unwrap_or_default();
    let new = stored.event(topic.clone())?.name_as_stored(name).and_then(|new| new.with_id(id));
    let new = new.map_err(|error: EventError| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(Arc::new(new.draft(position(row.get(0)?).0).at(epoch, at)))
}

/// Reads one topic in the index, where its events are adjacent.
pub(super) fn follow(
    db: &Connection,
    (topic, id): &(Topic, i64),
    span: Span,
    visit: &mut Visit<'_>,
) -> rusqlite::Result<Scanned> {
    let mut statement = db.prepare_cached(concat!(
        "SELECT time, base64, name, id, coalesce(",
        short_data!(),
        ", data), seq FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq"
    ))?;
    let mut rows = statement.query([*id, integer(span.after.0), integer(span.end.0)])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        read += 1;
        let at = position(row.get(5)?);
        if visit(event(row, topic, span.epoch, at)?).is_break() {
            return Ok(Scanned { through: at, rows: read });
        }
    }
    Ok(Scanned { through: span.end, rows: read })
}

/// One topic's positions, read ahead a little.
struct TopicScan<'t> {
    topic: &'t Topic,
    id: i64,
    ahead: VecDeque<Position>,
    chunk: usize,
    more: bool,
}

impl TopicScan<'_> {
    /// The next position; `read` counts index entries.
    fn next(
        &mut self,
        statement: &mut CachedStatement<'_>,
        after: Position,
        end: Position,
        read: &mut u64,
    ) -> rusqlite::Result<Option<Position>> {
        if self.ahead.is_empty() && self.more {
            let mut rows = statement.query([self.id, integer(after.0), integer(end.0), self.chunk as i64])?;
            while let Some(row) = rows.next()? {
                self.ahead.push_back(position(row.get(0)?));
            }
            *read += self.ahead.len() as u64;
            self.more = self.ahead.len() == self.chunk;
            self.chunk = (self.chunk * 2).min(CHUNK_MAX);
        }
        Ok(self.ahead.pop_front())
    }
}

/// Looks up topics' newest events, one seek in the index by topic each.
pub(super) struct NewestLookup<'c>(CachedStatement<'c>);

impl<'c> NewestLookup<'c> {
    pub(super) fn new(db: &'c Connection) -> rusqlite::Result<Self> {
        db.prepare_cached(
            "SELECT seq FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT 1",
        )
        .map(Self)
    }

    /// The position of a topic's newest event after a position, at or before `end`.
    pub(super) fn newest(
        &mut self,
        topic_id: i64,
        after: Position,
        end: Position,
    ) -> rusqlite::Result<Option<Position>> {
        let found = self.0.query_row([topic_id, integer(after.0), integer(end.0)], |row| row.get(0));
        Ok(found.optional()?.map(position))
    }
}

/// Reads the newest event of each of a few topics.
pub(super) fn newest_of(
    db: &Connection,
    topics: &[(Topic, i64)],
    span: Span,
    visit: &mut Visit<'_>,
) -> rusqlite::Result<Scanned> {
    let mut lookup = NewestLookup::new(db)?;
    let mut newest = Vec::with_capacity(topics.len());
    for (topic, id) in topics {
        newest.extend(lookup.newest(*id, span.after, span.end)?.map(|at| (at, topic, *id)));
    }
    newest.sort_unstable_by_key(|(at, ..)| *at);
    let mut fetch = Fetch::new(db, span.epoch, Source::Topic)?;
    let mut scanned = Scanned { through: span.after, rows: 0 };
    for (at, topic, id) in newest {
        scanned = Scanned { through: at, rows: scanned.rows + 1 };
        if visit(fetch.event(topic, id, at)?).is_break() {
            return Ok(scanned);
        }
    }
    Ok(Scanned { through: span.end, ..scanned })
}

/// Reads the newest event of each topic by the index of the newest events; `None` where that does not have all of them. Its lock,
/// which the writer needs, is held for a few entries at a time.
pub(super) fn walk(
    db: &Connection,
    shared: &Shared,
    patterns: &PatternSet,
    span: Span,
    rows_max: u64,
    visit: &mut Visit<'_>,
) -> rusqlite::Result<Option<Scanned>> {
    // From the log, not from the topics' index: there each of the topics is on another page, and recent events are adjacent here.
    let mut ranges = db.prepare_cached(
        "SELECT time, base64, name, id, data, seq FROM e NOT INDEXED WHERE seq > ?1 AND seq <= ?2 ORDER BY seq",
    )?;
    let mut scanned = Scanned { through: span.after, rows: 0 };
    while scanned.through < span.end && scanned.rows < rows_max {
        let range = WalkRange {
            after: scanned.through,
            upto: span.end,
            events_max: NEWEST_AT_ONCE,
            rows_max: (rows_max - scanned.rows).min(ENTRIES_AT_ONCE),
        };
        // The lock ends with the statement.
        let walked = held(&shared.newest).walk(patterns, range);
        let Some(Walk { found, through, rows }) = walked else { return Ok(None) };
        let skipped = rows - found.len() as u64;
        scanned.rows += skipped;
        for range in found.chunk_by(|(before, _), (next, _)| next.0 - before.0 <= RANGE_GAP_MAX) {
            let ([(first, _), ..], [.., (last, _)]) = (range, range) else { continue };
            let mut rows = ranges.query([integer(first.before().0), integer(last.0)])?;
            let mut wanted = range.iter().peekable();
            while let Some(row) = rows.next()? {
                let at = position(row.get(5)?);
                // Those without a row have been trimmed since.
                while wanted.next_if(|(wanted, _)| *wanted < at).is_some() {}
                let Some((_, topic)) = wanted.next_if(|(wanted, _)| *wanted == at) else { continue };
                scanned.rows += 1;
                if visit(event(row, topic, span.epoch, at)?).is_break() {
                    return Ok(Some(Scanned { through: at, ..scanned }));
                }
            }
        }
        scanned.through = through;
    }
    Ok(Some(scanned))
}

/// Merges a few topics from the index: the cost is what is found, whatever lies in between.
pub(super) fn merge(
    db: &Connection,
    topics: &[(Topic, i64)],
    span: Span,
    most: usize,
    visit: &mut Visit<'_>,
) -> rusqlite::Result<Scanned> {
    let mut statement = db.prepare_cached(
        "SELECT seq FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
    )?;
    let mut fetch = Fetch::new(db, span.epoch, Source::Topic)?;
    let chunk = (most / topics.len().max(1)).clamp(CHUNK_MIN, CHUNK_MAX);
    let mut runs: Vec<TopicScan<'_>> = topics
        .iter()
        .map(|(topic, id)| TopicScan { topic, id: *id, ahead: VecDeque::new(), chunk, more: true })
        .collect();
    let mut read = 0;
    let mut next: BinaryHeap<Reverse<(Position, usize)>> = BinaryHeap::with_capacity(runs.len());
    for (index, run) in runs.iter_mut().enumerate() {
        let first = run.next(&mut statement, span.after, span.end, &mut read)?;
        next.extend(first.map(|at| Reverse((at, index))));
    }
    while let Some(Reverse((at, index))) = next.pop() {
        if visit(fetch.event(runs[index].topic, runs[index].id, at)?).is_break() {
            return Ok(Scanned { through: at, rows: read });
        }
        let following = runs[index].next(&mut statement, at, span.end, &mut read)?;
        next.extend(following.map(|at| Reverse((at, index))));
    }
    Ok(Scanned { through: span.end, rows: read })
}

/// Scans the log by position, at most `rows_max` rows.
pub(super) fn scan(
    db: &Connection,
    shared: &Shared,
    patterns: &PatternSet,
    span: Span,
    rows_max: u64,
    visit: &mut Visit<'_>,
) -> rusqlite::Result<Scanned> {
    // Long data are read only for matching rows.
    let mut statement = db.prepare_cached(concat!(
        "SELECT time, base64, name, id, ",
        short_data!(),
        ", seq, topic_id FROM e WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3"
    ))?;
    let mut rows = statement.query([integer(span.after.0), integer(span.end.0), integer(rows_max)])?;
    let mut wanted = Wanted::new(shared, patterns);
    let mut fetch = Fetch::new(db, span.epoch, Source::Log)?;
    let mut later = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq > ?2 AND seq <= ?3)",
    )?;
    let mut is_superseded = |topic_id: i64, at: Position| {
        later.query_row([topic_id, integer(at.0), integer(span.end.0)], |row| row.get::<_, bool>(0))
    };
    let mut scanned = Scanned { through: span.after, rows: 0 };
    while let Some(row) = rows.next()? {
        scanned.rows += 1;
        let at = position(row.get(5)?);
        scanned.through = at;
        let topic_id = row.get(6)?;
        let Some(topic) = wanted.topic(topic_id) else { continue };
        if span.latest && is_superseded(topic_id, at)? {
            continue;
        }
        let event = match row.get_ref(4)? {
            ValueRef::Null => fetch.event(topic, topic_id, at)?,
            _ => event(row, topic, span.epoch, at)?,
        };
        if visit(event).is_break() {
            return Ok(scanned);
        }
    }
    if scanned.rows < rows_max {
        scanned.through = span.end;
    }
    Ok(scanned)
}

/// The position before the first event after `floor` whose time is at or after `time_ms`; `end` where none is. Reads as many rows as the
/// length of the log has binary digits.
pub(super) fn before_time(db: &Connection, time_ms: u64, floor: Position, end: Position) -> rusqlite::Result<Position> {
    let mut first = db.prepare_cached("SELECT seq, time FROM e WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT 1")?;
    // All up to `low` are older. The first after `high` is not, or lies after the end.
    let (mut low, mut high) = (floor, end);
    while low < high {
        let middle = Position(low.0 + (high.0 - low.0) / 2);
        let row = first.query_row([integer(middle.0), integer(high.0)], |row| {
            Ok((position(row.get(0)?), position(row.get(1)?).0))
        });
        match row.optional()? {
            Some((at, of_ms)) if of_ms < time_ms => low = at,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// All events after a position, a bounded number of them.
pub(super) fn range(
    db: &Connection,
    shared: &Shared,
    after: Position,
    most: usize,
) -> rusqlite::Result<Vec<Arc<Event>>> {
    let bounds = shared.bounds();
    let everything = shared.everything.clone();
    let mut events = Vec::new();
    let span = Span { epoch: bounds.epoch, after: after.max(bounds.floor), end: bounds.last, latest: false };
    scan(db, shared, &everything, span, most as u64, &mut |event| {
        events.push(event);
        ControlFlow::Continue(())
    })?;
    Ok(events)
}

/// The matching topics by their ids; each topic is compared once per read.
pub(super) struct Wanted<'a> {
    shared: &'a Shared,
    patterns: &'a PatternSet,
    known: HashMap<i64, Option<Topic>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(shared: &'a Shared, patterns: &'a PatternSet) -> Self {
        Self { shared, patterns, known: HashMap::new() }
    }

    /// The topic, where it matches. An unknown topic was dropped: its events have been trimmed since.
    pub(super) fn topic(&mut self, id: i64) -> Option<&Topic> {
        let (shared, patterns) = (self.shared, self.patterns);
        let topic = self.known.entry(id).or_insert_with(|| {
            shared.topics().by_id.get(&id).filter(|topic| patterns.matches(topic.as_str())).cloned()
        });
        topic.as_ref()
    }
}
