//! Reads beside the writer: a few threads, each with a connection of its own and one snapshot per read.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::column::position;
use super::fault::store_error;
use super::last;
use super::newest;
use super::queue::{Load, Queue};
use super::rows::{self, Span};
use super::{Shared, Trims, held};
use crate::cursor::Position;
use crate::event::Event;
use crate::log::{Bounds, Page, ReadRequest};
use crate::segment::Scanned;
use crate::store::removed::HoleSearch;
use crate::store::{LastSearch, LastStep, StoreError};

/// The most queued reads. Equal reads are merged before they get here.
const QUEUED_MAX: u64 = 1024;

/// How long a read waits until a trim that is on the disk is known in memory, too: microseconds, unless the writer gets no CPU
/// time.
const TRIM_WAIT: Duration = Duration::from_secs(10);

/// Marks compared with patterns while the writer is blocked from adding any: well below a millisecond.
const COMPARISONS_AT_ONCE: usize = 10_000;

/// Below this many rows a scan costs less than looking topics up.
const SCAN_ROWS: u64 = 64;

/// Below this many rows a scan for the newest events is rather done than the index of them filled: one read or two.
const SCAN_NEWEST_ROWS: u64 = 8192;

/// The jobs of reader threads.
pub(super) enum ReadJob {
    Page(ReadRequest, oneshot::Sender<Result<Page, StoreError>>),
    Last(LastSearch, u64, oneshot::Sender<Result<LastStep, StoreError>>),
    Time(u64, oneshot::Sender<Result<Position, StoreError>>),
}

pub(super) fn queue() -> Queue<ReadJob> {
    Queue::new(Load { items: QUEUED_MAX, bytes: u64::MAX })
}

pub(super) struct Reader {
    db: Connection,
    shared: Arc<Shared>,
    directory: PathBuf,
}

impl Reader {
    pub(super) fn new(db: Connection, shared: Arc<Shared>) -> Self {
        let directory = shared.directory.clone();
        Self { db, shared, directory }
    }

    /// Works the queue until it is closed. Reads whose callers have gone are skipped.
    pub(super) fn run(self, queue: &Queue<ReadJob>) {
        let _worker = queue.worker();
        while let Some(jobs) = queue.take(Load { items: 1, bytes: u64::MAX }, true) {
            for job in jobs {
                match job {
                    ReadJob::Page(request, reply) if !reply.is_closed() => match self.prepare(&request) {
                        Ok(true) => {
                            let _ = reply.send(self.page(&request));
                        }
                        // Other reads are served first. A closed queue drops the job, and thereby answers it.
                        Ok(false) => {
                            let _ = queue.push_always(ReadJob::Page(request, reply));
                        }
                        Err(error) => {
                            let _ = reply.send(Err(store_error(&error, &self.directory)));
                        }
                    },
                    ReadJob::Last(search, rows_max, reply) if !reply.is_closed() => {
                        let _ = reply.send(self.search_last(search, rows_max));
                    }
                    ReadJob::Time(time_ms, reply) if !reply.is_closed() => {
                        let _ = reply.send(self.before_time(time_ms));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Works towards what a read needs, for a millisecond or so; returns whether that is complete. The first snapshot after a start
    /// fills the index of the newest events.
    fn prepare(&self, request: &ReadRequest) -> rusqlite::Result<bool> {
        let Some(end) = request.latest_upto else { return Ok(true) };
        let is_short = end.0.saturating_sub(request.after.0) <= SCAN_NEWEST_ROWS;
        if is_short || held(&self.shared.newest).is_filled() || self.shared.few_topics(&request.patterns).is_some() {
            return Ok(true);
        }
        newest::fill_slice(&self.db, &self.shared)
    }

    /// Reads rows first and marks after them, so that a removal in between appears as a gap in the page and never goes unreported.
    fn page(&self, request: &ReadRequest) -> Result<Page, StoreError> {
        let bounds = self.shared.bounds();
        if request.after >= bounds.last {
            return Ok(Page { through: request.after, ..Page::default() });
        }
        let (mut page, state) = self.rows(request, bounds).map_err(|error| store_error(&error, &self.directory))?;
        let found = page.events.len() as u64;
        let mut search = HoleSearch::new(&request.patterns, request.after);
        let floor = loop {
            let trims = self.trims(state)?;
            if search.search(&trims.removed, trims.floor, &page, COMPARISONS_AT_ONCE) {
                break trims.floor;
            }
        };
        page.unmatched_rows = page.rows.saturating_sub(found) + search.rows;
        search.finish(&mut page, floor, self.shared.options.keep.is_empty());
        Ok(page)
    }

    /// The rows of one snapshot, up to the end known in memory or the given one, and what the snapshot lacks.
    fn rows(&self, request: &ReadRequest, Bounds { epoch, last, .. }: Bounds) -> rusqlite::Result<(Page, Lacks)> {
        // Read after `end`, so that every topic up to there is known.
        let topics = self.shared.few_topics(&request.patterns);
        let snapshot = self.db.unchecked_transaction()?;
        let lacks = lacks(&snapshot)?;
        let floor = lacks.floor;
        let (end, latest) = (request.latest_upto.unwrap_or(last), request.latest_upto.is_some());
        let span = Span { epoch, after: request.after.max(floor), end, latest };
        let mut page = Page { through: span.after, ..Page::default() };
        if span.after >= end {
            return Ok((page, lacks));
        }
        let few_rows = end.0 - span.after.0 <= SCAN_ROWS.min(request.rows_max);
        let mut bytes = 0;
        let events = &mut page.events;
        let mut visit = |event: Arc<Event>| {
            bytes += event.json_bytes();
            events.push(event);
            let full = events.len() >= request.events_max || bytes >= request.bytes_max;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let walked = match &topics {
            None if latest => {
                rows::walk(&snapshot, &self.shared, &request.patterns, span, request.rows_max, &mut visit)?
            }
            _ => None,
        };
        let Scanned { through, rows } = match topics.as_deref() {
            _ if let Some(walked) = walked => walked,
            Some(topics) if latest => rows::newest_of(&snapshot, topics, span, &mut visit)?,
            Some([topic]) if !few_rows => rows::follow(&snapshot, topic, span, &mut visit)?,
            Some(topics) if !few_rows => rows::merge(&snapshot, topics, span, request.events_max, &mut visit)?,
            _ => rows::scan(&snapshot, &self.shared, &request.patterns, span, request.rows_max, &mut visit)?,
        };
        page.through = through;
        page.rows = rows;
        Ok((page, lacks))
    }

    fn search_last(&self, mut search: LastSearch, rows_max: u64) -> Result<LastStep, StoreError> {
        let mut look = || {
            let end = self.shared.bounds().last;
            let snapshot = self.db.unchecked_transaction()?;
            let lacks = lacks(&snapshot)?;
            Ok((last::step(&snapshot, &self.shared, &mut search, end, rows_max)?, lacks))
        };
        let (looked, lacks) = look().map_err(|error: rusqlite::Error| store_error(&error, &self.directory))?;
        let progress = if looked.done { search.done(self.trims(lacks)?.floor) } else { search.further() };
        Ok(LastStep { unmatched_rows: looked.unmatched_rows, progress })
    }

    fn before_time(&self, time_ms: u64) -> Result<Position, StoreError> {
        let look = || {
            let end = self.shared.bounds().last;
            let snapshot = self.db.unchecked_transaction()?;
            rows::before_time(&snapshot, time_ms, lacks(&snapshot)?.floor, end)
        };
        look().map_err(|error: rusqlite::Error| store_error(&error, &self.directory))
    }

    /// What was removed, at least what a snapshot lacks.
    fn trims(&self, lacks: Lacks) -> Result<MutexGuard<'_, Trims>, StoreError> {
        let trims = held(&self.shared.trims);
        let (trims, waited) = self
            .shared
            .trims_moved
            .wait_timeout_while(trims, TRIM_WAIT, |trims| trims.floor < lacks.floor || trims.removals < lacks.removals)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(StoreError::unavailable("the store's writer makes no progress"));
        }
        Ok(trims)
    }
}

/// What a snapshot lacks.
#[derive(Clone, Copy)]
struct Lacks {
    /// Every event up to this position.
    floor: Position,
    /// What so many transactions removed from the middle.
    removals: u64,
}

fn lacks(db: &Connection) -> rusqlite::Result<Lacks> {
    let read = "SELECT floor, removals FROM meta, keeping";
    db.prepare_cached(read)?
        .query_row([], |row| Ok(Lacks { floor: position(row.get(0)?), removals: position(row.get(1)?).0 }))
}
