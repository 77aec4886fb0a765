//! A stream of lines, `application/x-ndjson`: each line is an event by itself.

use serde_json::{Value, json};

use super::super::access::{check_publish, check_still_good};
use super::super::activity_log::PublishRecord;
use super::super::body::{Line, Lines, text};
use super::super::envelope::{Envelope, Ignored};
use super::super::error::ApiError;
use super::super::options::HttpOptions;
use super::super::trace_context::TraceContext;
use super::super::{Answer, Call};
use super::{check_size, created, parse};
use crate::auth::Rights;
use crate::cursor::Cursor;
use crate::event::NewEvent;
use crate::hub::{Hub, Published};
use crate::limits::LimitError;
use crate::store::StoreError;

/// Lines that are stored in one group, and the bytes of their events: other publishers wait for a group.
const GROUP_MAX_LINES: usize = 256;
const GROUP_MAX_BYTES: u64 = 1 << 20;

/// Errors that the response lists, and their bytes: they are kept in memory until the stream ends.
const LISTED_ERRORS_MAX: usize = 100;
const LISTED_ERRORS_MAX_BYTES: usize = 16 << 10;

/// Publishes each line by itself, stored in groups as the lines arrive. The stream ends early only where no more can be stored, no
/// more lines arrive in time, or the server shuts down; then the response has that status, and counts the lines so far.
pub(super) async fn publish(
    call: &Call,
    rights: &Rights,
    trace: &TraceContext,
    mut lines: Lines,
    record: &PublishRecord,
) -> Answer {
    let mut summary = Summary::default();
    let end = store(call, rights, trace, &mut lines, &mut summary, record).await;
    summary.cursor.into_iter().for_each(|cursor| record.stored(cursor));
    match end {
        Ok(()) if summary.failed > 0 && summary.accepted + summary.duplicates == 0 => {
            let error = ApiError::bad("bad_lines", "no line was accepted: see `errors`");
            Ok(error.response_with(&summary.body(Some(&error))))
        }
        Ok(()) => Ok(created(summary.body(None).to_string())),
        Err(error) => Ok(error.response_with(&summary.body(Some(&error)))),
    }
}

async fn store(
    call: &Call,
    rights: &Rights,
    trace: &TraceContext,
    lines: &mut Lines,
    summary: &mut Summary,
    record: &PublishRecord,
) -> Result<(), ApiError> {
    let (options, limits, key) = (call.options(), call.limits(), call.rate_key_of(rights));
    let publisher = limits.publisher(&key);
    let lines_max = limits.event_burst(&key).map_or(GROUP_MAX_LINES, |burst| GROUP_MAX_LINES.min(burst.get() as usize));
    let bytes_burst = limits.event_bytes_burst(&key).map_or(u64::MAX, |burst| burst.get().into());
    let mut number = 0;
    while let Some(first) = call.while_serving(lines.next()).await? {
        let (mut group, mut bytes, mut taken) = (Vec::new(), 0, 0);
        let mut next = Some(first);
        // The lines that have arrived are stored together; no line waits for one that has not.
        while let Some(line) = next {
            number += 1;
            taken += 1;
            match event_of(&line, rights, options) {
                Ok(Some((event, ignored))) => {
                    ignored.names().iter().for_each(|name| summary.ignored.add(name));
                    bytes += event.cost_bytes();
                    group.push(trace.on(event).by(publisher));
                }
                Ok(None) => {}
                Err(error) => summary.refuse(number, &error),
            }
            next = if taken < lines_max && bytes < GROUP_MAX_BYTES { lines.ready() } else { None };
        }
        // Every line counts, a blank or refused one, too: a stream of those would otherwise have no limit.
        slow_down(call, rights, || limits.publish_events(&key, taken)).await?;
        if group.is_empty() {
            continue;
        }
        // In parts of the burst: together the lines that have arrived may be more.
        while bytes > 0 {
            let part = bytes.min(bytes_burst);
            slow_down(call, rights, || limits.publish_bytes(&key, part)).await?;
            bytes -= part;
        }
        // The stream may have been open for hours.
        check_still_good(&call.state.hub, &options.access, rights)?;
        record.add(&group);
        store_group(&call.state.hub, group, summary).await?;
    }
    Ok(())
}

/// Waits for a rate. Lines are slowed down where single events would be refused: the backpressure keeps unread lines at the
/// publisher.
async fn slow_down(call: &Call, rights: &Rights, take: impl Fn() -> Result<(), LimitError>) -> Result<(), ApiError> {
    while let Err(error) = take() {
        let LimitError::Rate { wait, .. } = error else { return Err(error.into()) };
        // The operator has to see that lines are slowed down, and by which limit.
        call.refusals().note(&ApiError::from(error).of(rights));
        let rested = async {
            tokio::time::sleep(wait).await;
            Ok(())
        };
        call.while_serving(rested).await?;
    }
    Ok(())
}

/// Stores a group of lines, atomically where the store can: the lines are independent of each other.
async fn store_group(hub: &Hub, group: Vec<NewEvent>, summary: &mut Summary) -> Result<(), StoreError> {
    match hub.publish_all(group.clone()).await {
        Ok(published) => published.iter().for_each(|one| summary.count(one)),
        Err(StoreError::NotAtomic) => {
            for event in group {
                summary.count(&hub.publish(event).await?);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The event of a line; `None` where it is blank.
fn event_of(line: &Line, rights: &Rights, options: &HttpOptions) -> Result<Option<(NewEvent, Ignored)>, ApiError> {
    if line.is_blank() {
        return Ok(None);
    }
    let Line::Whole(line) = line else { return Err(ApiError::too_large("an event", options.event_bytes_max)) };
    let text = text(line)?;
    check_size(text.len(), options)?;
    let (event, ignored) = parse::<Envelope<'_>>(text)?.into_event()?;
    check_publish(rights, &event.topic)?;
    ignored.check(options.strict)?;
    Ok(Some((event, ignored)))
}

/// The result of a stream so far.
#[derive(Default)]
struct Summary {
    accepted: u64,
    duplicates: u64,
    differing: u64,
    ignored: Ignored,
    cursor: Option<Cursor>,
    errors: Vec<Value>,
    errors_bytes: usize,
    failed: u64,
}

impl Summary {
    fn count(&mut self, published: &Published) {
        match published.duplicate {
            true => self.duplicates += 1,
            false => self.accepted += 1,
        }
        self.differing += u64::from(published.differs);
        self.cursor = self.cursor.max_by_position(published.cursor);
    }

    fn refuse(&mut self, line: u64, error: &ApiError) {
        self.failed += 1;
        if self.errors.len() < LISTED_ERRORS_MAX && self.errors_bytes < LISTED_ERRORS_MAX_BYTES {
            self.errors_bytes += error.message().len();
            self.errors.push(json!({ "line": line, "error": error.object() }));
        }
    }

    fn body(&self, error: Option<&ApiError>) -> Value {
        let mut body = json!({
            "accepted": self.accepted, "duplicates": self.duplicates, "cursor": self.cursor, "errors": self.errors,
        });
        if self.differing > 0 {
            body["differing"] = self.differing.into();
        }
        if !self.ignored.names().is_empty() {
            body["ignored"] = json!(self.ignored.names());
        }
        if let Some(error) = error {
            body["error"] = error.object();
        }
        body
    }
}

trait FurtherCursor {
    fn max_by_position(self, other: Cursor) -> Self;
}

impl FurtherCursor for Option<Cursor> {
    fn max_by_position(self, other: Cursor) -> Self {
        Some(self.filter(|one| one.position > other.position).unwrap_or(other))
    }
}
