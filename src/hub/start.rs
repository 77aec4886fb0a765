//! Where a subscription starts: turns "now", "earliest", a cursor or "the last n" into a position.

use super::{Hub, lock};
use crate::cursor::{Cursor, Position};
use crate::log::Bounds;
use crate::reader::{StartPoint, gap_at};
use crate::store::{LastProgress, LastSearch, StoreError};
use crate::topic::PatternSet;

/// Most comparisons of a topic with a pattern in one step of a search.
const SEARCH_COMPARISONS: usize = 8192;

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// After everything that a client with this cursor has received. A cursor of another log, or past this log's end, is no
    /// error but a gap.
    Cursor(Cursor),
    /// With the oldest retained event.
    Earliest,
    /// With the next event.
    Now,
    /// With the first event of this time (milliseconds since the Unix epoch) or later, as [`Store::before_time`] finds it: the
    /// oldest that is still there where all are later, the next one where the time has not come.
    ///
    /// [`Store::before_time`]: crate::store::Store::before_time
    Since(u64),
    /// With the newest so many events that match, fewer where there are fewer.
    Last(usize),
}

impl Hub {
    /// The bounds to validate a cursor against. A cursor that looks invalid here may come from another node, of events that
    /// have not arrived here yet: then the store's own bounds are queried.
    pub(crate) async fn bounds_for(&self, cursor: Cursor) -> Result<Bounds, StoreError> {
        let (bounds, cursor) = (self.bounds(), self.translate(cursor));
        if gap_at(cursor, &bounds).is_none() { Ok(bounds) } else { self.0.store.refresh(cursor).await }
    }

    /// The same position in the present log, for a cursor of the log that this one was restored from.
    pub(crate) fn translate(&self, cursor: Cursor) -> Cursor {
        self.0.store.translate(cursor)
    }

    /// Turns `from` into a cursor, with the gap to send first. A search goes in bounded steps; after each, `pause` gets the
    /// number of rows that did not match, delays the next step as the rate requires, and ends the search by an error.
    pub(crate) async fn start(
        &self,
        from: StartFrom,
        patterns: &PatternSet,
        pause: impl AsyncFn(u64) -> Result<(), StoreError>,
    ) -> Result<StartPoint, StoreError> {
        let from = match from {
            StartFrom::Cursor(cursor) => StartFrom::Cursor(self.translate(cursor)),
            other => other,
        };
        let bounds = match from {
            StartFrom::Cursor(cursor) => self.bounds_for(cursor).await?,
            _ => self.bounds(),
        };
        let at = |position| StartPoint::beginning_at(Cursor::new(bounds.epoch, position));
        Ok(match from {
            StartFrom::Cursor(cursor) => StartPoint::after(cursor, gap_at(cursor, &bounds)),
            StartFrom::Earliest => at(bounds.floor),
            StartFrom::Now => at(bounds.last),
            StartFrom::Since(time_ms) => at(self.0.store.before_time(time_ms).await?),
            StartFrom::Last(count) => {
                let in_tail = lock(&self.0.fan_out.local_log).tail.before_last(patterns, count);
                let found = match in_tail {
                    Some(position) => Some(position),
                    None => self.search_last(LastSearch::new(patterns.clone(), count), pause).await?,
                };
                at(found.unwrap_or(bounds.last))
            }
        })
    }

    /// The position before the oldest of the events that a search finds. `pause` as for [`Self::start`].
    pub(super) async fn search_last(
        &self,
        mut search: LastSearch,
        pause: impl AsyncFn(u64) -> Result<(), StoreError>,
    ) -> Result<Option<Position>, StoreError> {
        let rows_max = (SEARCH_COMPARISONS / search.patterns().len().max(1)).max(1) as u64;
        loop {
            let step = self.0.store.search_last(search, rows_max).await?;
            // Also after the last step: its rows are charged, too.
            pause(step.unmatched_rows).await?;
            match step.progress {
                LastProgress::Found(found) => return Ok(found),
                LastProgress::Further(further) => search = further,
            }
        }
    }
}
