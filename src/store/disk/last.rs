//! The search for the position at which the newest matching events begin: by topic where the patterns match few, else back
//! through the end of the log, and then topic by topic. The cost is bounded by the number of topics, not of events; each step's
//! cost is bounded by its budget.

use std::ops::Bound;

use rusqlite::Connection;

use super::Shared;
use super::column::{integer, position};
use super::rows::Wanted;
use crate::cursor::Position;
use crate::store::LastSearch;
use crate::store::last::Resume;
use crate::topic::Topic;

/// Rows from the end that are scanned before the search goes topic by topic.
const BACK_ROWS: u64 = 10_000;

/// Comparisons of a topic with a pattern while the map of topics is locked, which the writer needs for a new topic.
const COMPARISONS_AT_ONCE: usize = 10_000;

/// The result of a step.
pub(super) struct Looked {
    pub(super) unmatched_rows: u64,
    /// Whether the search is complete, or enough was found.
    pub(super) done: bool,
}

/// Continues a search in one snapshot, whose log ends at `last`.
pub(super) fn step(
    db: &Connection,
    shared: &Shared,
    search: &mut LastSearch,
    last: Position,
    rows_max: u64,
) -> rusqlite::Result<Looked> {
    let end = search.end(last);
    match std::mem::replace(&mut search.resume, Resume::Begin) {
        Resume::Begin | Resume::Bisection(_) => match shared.few_topics(search.patterns()) {
            Some(topics) => {
                for (_, id) in topics {
                    newest_of(db, id, search, end)?;
                }
                Ok(Looked { unmatched_rows: 0, done: true })
            }
            None => backwards(db, shared, search, (end, end), rows_max),
        },
        Resume::Below(below, end) => backwards(db, shared, search, (below, end), rows_max),
        Resume::Topics(after, end) => by_topic(db, shared, search, (after, end), rows_max),
    }
}

fn backwards(
    db: &Connection,
    shared: &Shared,
    search: &mut LastSearch,
    (mut below, end): (Position, Position),
    rows_max: u64,
) -> rusqlite::Result<Looked> {
    let patterns = search.patterns().clone();
    let mut wanted = Wanted::new(shared, &patterns);
    let mut statement = db.prepare_cached("SELECT seq, topic_id FROM e WHERE seq <= ?1 ORDER BY seq DESC LIMIT ?2")?;
    let mut found = statement.query([integer(below.0), integer(rows_max)])?;
    let (mut rows, mut matched) = (0, 0);
    while let Some(row) = found.next()? {
        rows += 1;
        let at = position(row.get(0)?);
        below = at.before();
        if wanted.topic(row.get(1)?).is_some() {
            matched += 1;
            if !search.take(at) {
                return Ok(Looked { unmatched_rows: rows - matched, done: true });
            }
        }
    }
    if end.0.saturating_sub(below.0) >= BACK_ROWS {
        // The positions found so far are found again, by their topics.
        search.restart(Resume::Topics(None, end));
    } else {
        search.resume = Resume::Below(below, end);
    }
    Ok(Looked { unmatched_rows: rows - matched, done: rows < rows_max })
}

/// Searches the next topics, as many as the step's budget allows.
fn by_topic(
    db: &Connection,
    shared: &Shared,
    search: &mut LastSearch,
    (mut after, end): (Option<Topic>, Position),
    rows_max: u64,
) -> rusqlite::Result<Looked> {
    let mut looked = 0;
    let at_once = (COMPARISONS_AT_ONCE / search.patterns().len().max(1)).max(1);
    while looked < rows_max {
        let mut matching = Vec::new();
        let before = looked;
        let left = usize::try_from(rows_max - looked).unwrap_or(usize::MAX);
        {
            let topics = shared.topics();
            let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut last = None;
            for (topic, id) in topics.by_name.range::<Topic, _>((start, Bound::Unbounded)).take(at_once.min(left)) {
                looked += 1;
                if search.patterns().matches(topic.as_str()) {
                    matching.push(*id);
                }
                last = Some(topic);
            }
            after = last.cloned().or(after);
        }
        if looked == before {
            return Ok(Looked { unmatched_rows: looked, done: true });
        }
        for id in matching {
            newest_of(db, id, search, end)?;
        }
    }
    search.resume = Resume::Topics(after, end);
    Ok(Looked { unmatched_rows: looked, done: false })
}

/// Takes the newest positions of one topic, as long as they are newer than the ones found so far.
fn newest_of(db: &Connection, topic_id: i64, search: &mut LastSearch, end: Position) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "SELECT seq FROM e INDEXED BY e_topic WHERE topic_id = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT ?4",
    )?;
    let above = search.oldest_wanted();
    let mut rows = statement.query([topic_id, integer(above.0), integer(end.0), integer(search.count() as u64)])?;
    while let Some(row) = rows.next()? {
        let at = position(row.get(0)?);
        if at <= search.oldest_wanted() {
            break;
        }
        search.take(at);
    }
    Ok(())
}
