//! Reads the log backwards, a page at a time: the newest matching events up to a position.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Hub;
use crate::cursor::Position;
use crate::event::Event;
use crate::log::ReadRequest;
use crate::store::{LastSearch, StoreError};
use crate::topic::PatternSet;

/// A page ends before the event, counted from its newest, that would exceed this many bytes, as a batch does. It has at least one
/// event.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// A page of the log's past.
#[derive(Debug, Default)]
pub(crate) struct HistoryPage {
    /// The events, in log order.
    pub(crate) events: VecDeque<Arc<Event>>,
    /// Whether there are older ones.
    pub(crate) more: bool,
    /// Whether events that matched were removed between these, or, of a page without more, before them.
    pub(crate) trimmed: bool,
}

impl Hub {
    /// The newest `count` matching events at or before `end`; fewer where they are long. The cost is what is returned, where the
    /// patterns match few topics; else rows are scanned. `pause` gets the rows that did not match after each bounded step, and
    /// delays the next step or ends the search by an error.
    pub(crate) async fn history(
        &self,
        patterns: &PatternSet,
        end: Position,
        count: usize,
        pause: impl AsyncFn(u64) -> Result<(), StoreError>,
    ) -> Result<HistoryPage, StoreError> {
        let mut page = HistoryPage::default();
        // One more, which tells whether there is another page.
        let search = LastSearch::new(patterns.clone(), count + 1).up_to(end);
        let first = self.search_last(search, &pause).await?;
        let (mut bytes, mut found) = (0, 0);
        // The end of the newest gap among the events.
        let mut hole = None;
        let mut at = first.unwrap_or(end);
        while at < end && found <= count {
            let read = self.read(request(patterns, at)).await?;
            pause(read.unmatched_rows).await?;
            if read.through <= at {
                return Err(StoreError::unavailable("this node has not reached that position of the log yet"));
            }
            at = read.through;
            hole = read.trimmed.map(|trimmed| trimmed.to).filter(|to| *to <= end).or(hole);
            for event in read.events.into_iter().take_while(|event| event.position() <= end) {
                found += 1;
                bytes += event.json_bytes();
                page.events.push_back(event);
                while page.events.len() > count || (bytes > PAGE_BYTES_MAX && page.events.len() > 1) {
                    bytes -= page.events.pop_front().map_or(0, |event| event.json_bytes());
                    page.more = true;
                }
            }
        }
        // With older events, the next page reports a gap before this page's first event.
        let first = page.events.front().map_or(Position::ZERO, |event| event.position());
        page.trimmed = hole.is_some_and(|hole| !page.more || hole > first);
        let (mut at, oldest) = (Position::ZERO, if page.events.is_empty() { end } else { first });
        while at < oldest && !page.more && !page.trimmed {
            let read = self.read(ReadRequest { events_max: 1, bytes_max: 1, ..request(patterns, at) }).await?;
            pause(read.unmatched_rows).await?;
            page.trimmed = read.trimmed.is_some();
            if read.through <= at {
                break;
            }
            at = read.through;
        }
        Ok(page)
    }
}

fn request(patterns: &PatternSet, after: Position) -> ReadRequest {
    ReadRequest {
        patterns: patterns.clone(),
        after,
        events_max: 256,
        bytes_max: PAGE_BYTES_MAX,
        rows_max: 8192 / patterns.len().max(1) as u64,
        latest_upto: None,
    }
}
