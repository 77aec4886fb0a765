//! Reads of the log in memory: events are copied a few at a time under the lock that appends need, and compared without it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::Log;
use crate::cursor::Position;
use crate::event::Event;
use crate::log::{Page, ReadRequest};
use crate::segment::Extent;
use crate::store::last::Resume;
use crate::store::newest::{Walk, WalkRange};
use crate::store::removed::HoleSearch;
use crate::store::{LastSearch, LastStep};
use crate::sync::lock;

/// Events whose pointers are copied while the lock is held.
const EVENTS_AT_ONCE: usize = 512;

/// Marks that are compared with patterns while the lock is held.
const COMPARISONS_AT_ONCE: usize = 10_000;

/// A bounded read: events first and marks after them, so that a removal in between appears as a gap and never goes unreported.
pub(super) async fn page(log: &Mutex<Log>, request: &ReadRequest) -> Page {
    let mut page = events(log, request);
    let found = page.events.len() as u64;
    let mut search = HoleSearch::new(&request.patterns, request.after);
    let (floor, counts) = loop {
        let (complete, floor, counts) = {
            let log = lock(log);
            let complete = search.search(&log.removed, log.floor, &page, COMPARISONS_AT_ONCE);
            (complete, log.floor, log.keeping.is_none())
        };
        if complete {
            break (floor, counts);
        }
        tokio::task::yield_now().await;
    };
    page.unmatched_rows = page.rows.saturating_sub(found) + search.rows;
    search.finish(&mut page, floor, counts);
    page
}

fn events(log: &Mutex<Log>, request: &ReadRequest) -> Page {
    let mut page = Page { through: request.after, ..Page::default() };
    let mut bytes = 0;
    // Returns whether there is room for more.
    let mut take = |page: &mut Page, event: &Arc<Event>| {
        bytes += event.json_bytes();
        page.events.push(event.clone());
        page.events.len() < request.events_max && bytes < request.bytes_max
    };
    if let Some(indexed) = by_topic(log, request, &mut take) {
        return indexed;
    }
    while page.rows < request.rows_max {
        let most = usize::try_from(request.rows_max - page.rows).unwrap_or(usize::MAX).min(EVENTS_AT_ONCE);
        let Slice { events, rows, through, ended } = slice(log, request, page.through, most);
        let before = page.rows;
        for (at, event) in events {
            page.rows = before + at;
            page.through = event.position();
            if request.patterns.matches(event.topic().as_str()) && !take(&mut page, &event) {
                return page;
            }
        }
        page.rows = before + rows;
        page.through = page.through.max(through);
        if ended {
            break;
        }
    }
    page
}

/// The next part of a log.
struct Slice {
    /// Events that may match, each with the number of rows that were examined up to it.
    events: Vec<(u64, Arc<Event>)>,
    rows: u64,
    /// The position up to which there are no others.
    through: Position,
    /// Whether this is the end of the read.
    ended: bool,
}

fn slice(log: &Mutex<Log>, request: &ReadRequest, after: Position, most: usize) -> Slice {
    let log = lock(log);
    let after = after.max(log.floor);
    let end = request.latest_upto.unwrap_or(log.last);
    if let Some(upto) = request.latest_upto {
        let range = WalkRange { after, upto, events_max: most, rows_max: most as u64 };
        if let Some(Walk { found, through, rows }) = log.newest.walk(&request.patterns, range) {
            let skipped = rows - found.len() as u64;
            // An event that is not there has been removed since it was superseded.
            let events = found.iter().filter_map(|(position, _)| {
                log.segment.first_after(position.before()).filter(|event| event.position() == *position)
            });
            let events = (skipped + 1..).zip(events.cloned()).collect();
            return Slice { events, rows, through, ended: through >= upto };
        }
    }
    let range = log.segment.range_after(after, most);
    let full = range.len() == most;
    let last = range.last().map_or(after, |event| event.position());
    let rows = range.len() as u64;
    let is_wanted = |event: &Arc<Event>| {
        event.position() <= end && !(request.latest_upto.is_some() && log.segment.is_superseded(event, end))
    };
    let events = (1..).zip(range).filter(|(_, event)| is_wanted(event)).collect();
    let ended = !full || last >= end;
    Slice { events, rows, through: if ended { end.max(after) } else { last }, ended }
}

/// Where the patterns match few topics, all under one lock: the cost is what is returned.
fn by_topic(
    log: &Mutex<Log>,
    request: &ReadRequest,
    take: &mut impl FnMut(&mut Page, &Arc<Event>) -> bool,
) -> Option<Page> {
    let log = lock(log);
    if !log.segment.is_indexed(&request.patterns) {
        return None;
    }
    let mut page = Page::default();
    let extent = Extent {
        after: request.after.max(log.floor),
        end: request.latest_upto.unwrap_or(log.last),
        latest: request.latest_upto.is_some(),
    };
    let scanned = log.segment.read(&request.patterns, extent, request.rows_max, &mut |event| {
        if take(&mut page, event) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    page.through = scanned.through;
    page.rows = scanned.rows;
    Some(page)
}

/// One step of a search for the newest matching events.
pub(super) fn search_last(log: &Mutex<Log>, mut search: LastSearch, rows_max: u64) -> LastStep {
    let mut below = match search.resume {
        Resume::Below(position, _) => position,
        Resume::Begin | Resume::Bisection(_) | Resume::Topics(..) => match newest_by_topic(log, &mut search) {
            Ok(floor) => return LastStep { unmatched_rows: 0, progress: search.done(floor) },
            Err(last) => last,
        },
    };
    let (mut rows, mut matched) = (0, 0);
    loop {
        let most = usize::try_from(rows_max.saturating_sub(rows)).unwrap_or(usize::MAX).min(EVENTS_AT_ONCE);
        let (slice, floor, last) = {
            let log = lock(log);
            (log.segment.newest_below(below, most), log.floor, log.last)
        };
        for event in &slice {
            rows += 1;
            below = event.position().before();
            if search.patterns().matches(event.topic().as_str()) {
                matched += 1;
                if !search.take(event.position()) {
                    return LastStep { unmatched_rows: rows - matched, progress: search.done(floor) };
                }
            }
        }
        if slice.len() < most {
            return LastStep { unmatched_rows: rows - matched, progress: search.done(floor) };
        }
        if rows >= rows_max {
            search.resume = Resume::Below(below, last);
            return LastStep { unmatched_rows: rows - matched, progress: search.further() };
        }
    }
}

/// Finds the newest events where the patterns match few topics, and returns the floor; else an error with the newest position to
/// search.
fn newest_by_topic(log: &Mutex<Log>, search: &mut LastSearch) -> Result<Position, Position> {
    let log = lock(log);
    let end = search.end(log.last);
    if !log.segment.is_indexed(search.patterns()) {
        return Err(end);
    }
    let newest = log.segment.before_last(search.patterns(), search.count(), end, usize::MAX);
    if let Some((before, _)) = newest {
        search.take(before.next());
    }
    Ok(log.floor)
}
