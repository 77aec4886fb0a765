//! The search for the position at which the newest matching events begin. JetStream reads forwards only; but each message carries
//! the number of further matches, so the position is found by bisection.

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::direct::{self, DIRECT_READ_ROWS, filters};
use super::node::{DEADLINE, Node};
use crate::store::bisection::{Bisection, Question, Reply};
use crate::store::last::Resume;
use crate::store::{LastSearch, LastStep, StoreError};

/// Concurrent direct reads of one search.
const READS_AT_A_TIME: usize = 16;

/// Bytes of one direct read.
const SLICE_BYTES: usize = 4 << 20;

/// Continues a search for the newest matching events, for about `rows_max` rows, of which a direct read counts as
/// [`DIRECT_READ_ROWS`].
pub(super) async fn search(node: &Node, mut search: LastSearch, rows_max: u64) -> Result<LastStep, StoreError> {
    let end = Instant::now() + DEADLINE;
    let seen = node.query().await?;
    let filters = filters(node, search.patterns());
    let mut bisection = match std::mem::replace(&mut search.resume, Resume::Begin) {
        Resume::Bisection(bisection) if bisection.epoch == seen.epoch => *bisection,
        _ => Bisection::new(filters.len(), search.count(), seen.epoch, seen.floor, search.end(seen.last)),
    };
    let mut unmatched_rows = 0;
    while unmatched_rows < rows_max {
        let most = usize::try_from((rows_max - unmatched_rows).div_ceil(DIRECT_READ_ROWS)).unwrap_or(usize::MAX);
        let questions = bisection.questions(most.min(READS_AT_A_TIME));
        if questions.is_empty() {
            break;
        }
        unmatched_rows += questions.len() as u64 * DIRECT_READ_ROWS;
        let answers = questions.into_iter().map(|question| ask(node, &filters, question, end));
        bisection.take(try_join_all(answers).await?);
    }
    let progress = match bisection.outcome() {
        Some(found) => {
            for position in found.iter().rev().take(search.count()) {
                search.take(*position);
            }
            search.done(seen.floor)
        }
        None => {
            search.resume = Resume::Bisection(Box::new(bisection));
            search.further()
        }
    };
    Ok(LastStep { unmatched_rows, progress })
}

async fn ask(node: &Node, filters: &[Option<String>], question: Question, end: Instant) -> Result<Reply, StoreError> {
    let Question { filter, from, positions_max } = question;
    let filter = filters.get(filter).and_then(Option::as_deref);
    let slice = direct::slice(node, from, filter, positions_max, SLICE_BYTES, end).await?;
    let positions: Vec<_> = slice.messages.iter().map(|message| message.position).collect();
    Ok(Reply { matching: positions.len() as u64 + slice.pending, positions })
}
