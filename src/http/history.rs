//! `GET /v1/history`: the log's past, read backwards in pages.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_core::Stream;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::access::check_subscribe;
use super::error::ApiError;
use super::query::{Fields, Params};
use super::scan::SearchBudget;
use super::subscribe::check_patterns;
use super::{Answer, Call};
use crate::cursor::Cursor;
use crate::hub::HistoryPage;
use crate::limits::{LimitError, OutboundBudget};
use crate::net::Response;

/// Parameters of a subscription that would be misunderstood here.
const REFUSED: [&str; 5] = ["cursor", "last", "since", "latest", "upto"];

/// The newest matching events before a cursor, or before the log's end. Counts as a subscription.
pub(super) async fn history(call: Call) -> Answer {
    let rights = call.rights().await?;
    let key = call.rate_key_of(&rights);
    let limited = |error: LimitError| ApiError::from(error).of(&rights);
    call.limits().connect(&key).map_err(limited)?;
    let fields = Fields::parse(call.request.query_string())?;
    if let Some(name) = fields.names().find(|name| REFUSED.contains(name)) {
        let message = format!("`{name}` is a parameter of subscriptions: history takes `topic`, `before` and `limit`");
        return Err(ApiError::bad("bad_parameter", message));
    }
    let Params { patterns, limit, .. } = Params::parse(call.request.query_string())?;
    let Some(patterns) = patterns else {
        return Err(ApiError::bad(
            "no_topic",
            "`topic` is missing: give at least one pattern, such as `topic=orders.*`",
        ));
    };
    check_patterns(&patterns, call.options().patterns_max)?;
    check_subscribe(&rights, &patterns)?;
    let hub = &call.state.hub;
    let now = hub.cursor();
    let end = match fields.one("before")? {
        Some(before) => before_end(&call, before).await?,
        None => now,
    };
    let scanner = call.limits().scan(&key).map_err(limited)?;
    let budget = SearchBudget::new(&scanner);
    let page = hub.history(&patterns, end.position, limit, async |rows| budget.charge(rows).await).await?;
    let mut memory = call.limits().outbound(key);
    let body = encoded(now, &page);
    memory.set(body.len()).map_err(limited)?;
    let json = HeaderValue::from_static("application/json");
    let response = Response::new(StatusCode::OK).with(CONTENT_TYPE, json);
    Ok(response.with_sized_stream(body.len(), ChargedBody { bytes: Some(body), _memory: memory }))
}

/// The last position before a cursor of this log.
async fn before_end(call: &Call, before: &str) -> Result<Cursor, ApiError> {
    let hub = &call.state.hub;
    let message = "`before` must be a cursor of this log, as received from this server, such as k3f9x2-1042";
    let bad = || ApiError::bad("bad_cursor", message);
    let before = hub.translate(before.parse().map_err(|_| bad())?);
    let bounds = hub.bounds_for(before).await?;
    if before.epoch != bounds.epoch || before.position > bounds.last {
        return Err(bad());
    }
    Ok(Cursor::new(before.epoch, before.position.before()))
}

/// The page as JSON. `now` is the log's end as it was before the page was read, from where a subscription continues.
fn encoded(now: Cursor, page: &HistoryPage) -> Bytes {
    let bytes: usize = page.events.iter().map(|event| event.json_bytes() + 1).sum();
    let mut out = BytesMut::with_capacity(bytes + 128);
    out.put_slice(b"{\"cursor\":\"");
    now.write(&mut out);
    out.put_slice(b"\",\"events\":[");
    for (before, event) in page.events.iter().enumerate() {
        if before > 0 {
            out.put_u8(b',');
        }
        event.write_json(&mut out);
    }
    out.put_slice(if page.more { b"],\"more\":true" } else { b"],\"more\":false" });
    if let Some(oldest) = page.events.front().filter(|_| page.more) {
        out.put_slice(b",\"before\":\"");
        oldest.cursor().write(&mut out);
        out.put_u8(b'"');
    }
    if page.trimmed {
        out.put_slice(b",\"trimmed\":true");
    }
    out.put_u8(b'}');
    out.freeze()
}

/// A body whose memory is charged to its peer until it was sent.
struct ChargedBody {
    bytes: Option<Bytes>,
    _memory: OutboundBudget,
}

impl Stream for ChargedBody {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(self.bytes.take())
    }
}
