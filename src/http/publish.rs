//! `POST /v1/events` and `POST /v1/topics/{topic}`: decodes events from JSON, forms, lines and plain bodies, and publishes
//! them.

use std::borrow::Cow;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::access::{check_publish, check_publisher, check_still_good};
use super::body::{self, Line, Lines, MediaType};
use super::envelope::{Envelope, Ignored, build, content};
use super::error::ApiError;
use super::options::HttpOptions;
use super::query::{Fields, flag};
use super::trace_context::TraceContext;
use super::{Answer, Call};
use crate::auth::Rights;
use crate::event::{Data, EventError, EventHeaders, NewEvent, Publisher};
use crate::hub::{Hub, Published};
use crate::limits::LimitError;
use crate::net::{Headers, Request, Response};
use crate::store::StoreError;
use crate::topic::Topic;

/// Lines of a stream that are stored in one group.
const LINES_MAX: usize = 256;

/// Errors that the response to a stream of lines lists, and their bytes: they are kept in memory until the stream ends.
const LISTED_ERRORS_MAX: usize = 100;
const LISTED_ERRORS_MAX_BYTES: usize = 16 << 10;

/// The known fields of a form.
const FORM_FIELDS: [&str; 6] = ["topic", "event", "data", "id", "deleted", "headers"];

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `POST /v1/events`.
pub(super) async fn events(mut call: Call) -> Answer {
    let rights = call.rights().await?;
    check_publisher(&rights)?;
    let body = call.take_body();
    let headers = call.request.headers();
    let options = call.options();
    let kind = MediaType::of(headers)?;
    let key = idempotency_key(headers)?;
    let trace = TraceContext::of(headers);
    match kind.as_ref().map(MediaType::as_str) {
        // The XDomainRequest of Internet Explorer 8 and 9 cannot set a type.
        None | Some("application/json" | "text/plain") => {
            let body =
                body::read(headers, body, options.batch_bytes_max, options.body_timeout, call.inbound(&rights)).await?;
            let text = body::text(&body)?;
            if text.trim_start().starts_with('[') {
                if key.is_some() {
                    let message = "`Idempotency-Key` applies to a single event: in an array, give each event an `id`";
                    return Err(ApiError::bad("bad_id", message));
                }
                return array(&call, &rights, &trace, text).await;
            }
            check_size(text.len(), options)?;
            let envelope: Envelope<'_> = parse(text)?;
            let (event, ignored) = envelope.into_event()?;
            single(&call, &rights, trace.on(with_key(event, key)?), ignored).await
        }
        Some("application/x-www-form-urlencoded") => {
            let body =
                body::read(headers, body, options.event_bytes_max, options.body_timeout, call.inbound(&rights)).await?;
            let fields = Fields::parse(body::text(&body)?)?;
            let topic = fields.one("topic")?.ok_or_else(|| ApiError::bad("bad_topic", "`topic` is missing"))?;
            let event = form_event(topic, &fields)?;
            let mut ignored = Ignored::default();
            fields.names().filter(|name| !FORM_FIELDS.contains(name)).for_each(|name| ignored.add(name));
            single(&call, &rights, trace.on(with_key(event, key)?), ignored).await
        }
        Some("application/x-ndjson") => {
            let lines = Lines::new(body, options.event_bytes_max, options.body_timeout, call.inbound(&rights));
            stream(&call, &rights, &trace, lines).await
        }
        _ => Err(body::unsupported(
            "`Content-Type` must be application/json, application/x-ndjson, text/plain (with JSON) or application/x-www-form-urlencoded",
        )),
    }
}

/// The event of a form.
fn form_event(topic: &str, fields: &Fields<'_>) -> Result<NewEvent, ApiError> {
    let data = fields.one("data")?.map(json_or_text).transpose()?;
    let event = build(topic, fields.one("event")?, fields.one("id")?, content(flag(fields, "deleted")?, data)?)?;
    match fields.one("headers")?.filter(|text| !text.is_empty()) {
        Some(text) => Ok(event.with_headers(EventHeaders::json(text).map_err(EventError::from)?)),
        None => Ok(event),
    }
}

/// `POST /v1/topics/{topic}`: the body is the data; a deletion with `deleted=1` has no body.
pub(super) async fn topic(mut call: Call) -> Answer {
    let rights = call.rights().await?;
    check_publisher(&rights)?;
    let body = call.take_body();
    let headers = call.request.headers();
    let options = call.options();
    let topic: Topic = topic_in_path(&call.request)?.parse()?;
    check_publish(&rights, &topic)?;
    let fields = Fields::parse(call.request.query_string())?;
    let kind = MediaType::of(headers)?;
    let key = idempotency_key(headers)?;
    let body = body::read(headers, body, options.event_bytes_max, options.body_timeout, call.inbound(&rights)).await?;
    let deleted = flag(&fields, "deleted")?;
    let data = match &kind {
        _ if deleted && body.is_empty() => None,
        _ if deleted => {
            let message = "`deleted=1` says that the topic no longer has a value: send it without a body";
            return Err(ApiError::bad("bad_data", message));
        }
        kind => Some(data_of(kind.as_ref(), &body)?),
    };
    let event = match data {
        Some(data) => NewEvent::new(topic, data),
        None => NewEvent::deletion(topic),
    };
    let event = event.named(fields.one("event")?.unwrap_or_default())?;
    single(&call, &rights, TraceContext::of(headers).on(with_key(event, key)?), Ignored::default()).await
}

/// The data of a body, by its type.
fn data_of(kind: Option<&MediaType>, body: &[u8]) -> Result<Data, ApiError> {
    Ok(match kind {
        Some(kind) if kind.is_json() => Data::json(body::text(body)?)?,
        Some(kind) if kind.as_str() == "text/plain" => structure_or_text(body::text(body)?)?,
        Some(kind) if kind.is_text() => Data::text(body::text(body)?),
        None => guess(body)?,
        Some(kind) if kind.as_str() == "application/x-www-form-urlencoded" => guess(body)?,
        Some(_) => Data::binary(body),
    })
}

/// The data of a body without a type: JSON if it parses, else text, else bytes.
fn guess(body: &[u8]) -> Result<Data, ApiError> {
    match std::str::from_utf8(body) {
        Ok(text) => json_or_text(text),
        Err(_) => Ok(Data::binary(body)),
    }
}

/// The data of a `text/plain` body. That is the type which `fetch` sets for every string, so an object or an array is meant
/// as JSON; a number or a word may be text.
fn structure_or_text(text: &str) -> Result<Data, ApiError> {
    if text.trim_start().starts_with(['{', '[']) { json_or_text(text) } else { Ok(Data::text(text)) }
}

/// JSON if it parses, else a string. JSON that exceeds a limit is refused, not stored as text.
fn json_or_text(text: &str) -> Result<Data, ApiError> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => Ok(Data::raw(value)?),
        Err(_) => Ok(Data::text(text)),
    }
}

/// The topic in the path.
fn topic_in_path(request: &Request) -> Result<Cow<'_, str>, ApiError> {
    let Some(raw) = request.named() else { return Err(super::nothing_here()) };
    if memchr::memchr(b'%', raw.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(raw));
    }
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| ApiError::bad("bad_utf8", "the topic in the path is not percent-encoded UTF-8"))
}

fn idempotency_key(headers: Headers<'_>) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = std::str::from_utf8(value).map(str::to_owned);
    text.map(Some).map_err(|_| ApiError::bad("bad_id", "`Idempotency-Key` is not UTF-8"))
}

/// An `id` in the event has precedence over the header.
fn with_key(event: NewEvent, key: Option<String>) -> Result<NewEvent, ApiError> {
    match key {
        Some(key) if event.id().is_none() => Ok(event.with_id(&key)?),
        _ => Ok(event),
    }
}

fn check_size(length: usize, options: &HttpOptions) -> Result<(), ApiError> {
    if length > options.event_bytes_max {
        return Err(ApiError::too_large("an event", options.event_bytes_max));
    }
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        let code = if error.is_data() { "bad_event" } else { "bad_json" };
        ApiError::json(code, &error, "an event is {\"topic\":\"a.b\",\"data\":…}, optionally with `event`, `id` and `headers`, or {\"topic\":\"a.b\",\"deleted\":true}")
    })
}

fn paced(call: &Call, rights: &Rights, events: usize) -> Result<(), ApiError> {
    call.limits().publish(&call.rate_key_of(rights), events).map_err(|error| ApiError::from(error).of(rights))
}

/// The publisher whose quota of remembered event ids the events use.
fn publisher(call: &Call, rights: &Rights) -> Option<Publisher> {
    call.limits().publisher(&call.rate_key_of(rights))
}

async fn single(call: &Call, rights: &Rights, event: NewEvent, ignored: Ignored) -> Answer {
    check_publish(rights, &event.topic)?;
    ignored.check(call.options().strict)?;
    paced(call, rights, 1)?;
    let published = call.state.hub.publish(event.by(publisher(call, rights))).await?;
    // Encoded by hand: a JSON tree for two values costs as much as storing the event.
    let Published { cursor, duplicate, differs } = published;
    if differs || !ignored.names().is_empty() {
        return Ok(created(outcome(&published, &ignored).to_string()));
    }
    let mut body = BytesMut::with_capacity(40 + cursor.text_bytes());
    body.put_slice(b"{\"cursor\":\"");
    cursor.write(&mut body);
    body.put_slice(if duplicate { b"\",\"duplicate\":true}" } else { b"\",\"duplicate\":false}" });
    Ok(created(body.freeze()))
}

async fn array(call: &Call, rights: &Rights, trace: &TraceContext, text: &str) -> Answer {
    let options = call.options();
    let raw: Vec<&RawValue> = parse(text)?;
    if raw.is_empty() || raw.len() > options.batch_events_max {
        let message = format!("a batch must have 1 to {} events", options.batch_events_max);
        let status = if raw.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::PAYLOAD_TOO_LARGE };
        return Err(ApiError::new(status, if raw.is_empty() { "empty_batch" } else { "too_large" }, message));
    }
    let publisher = publisher(call, rights);
    let (mut events, mut ignored) = (Vec::with_capacity(raw.len()), Vec::with_capacity(raw.len()));
    for value in raw {
        check_size(value.get().len(), options)?;
        let (event, unknown) = parse::<Envelope<'_>>(value.get())?.into_event()?;
        check_publish(rights, &event.topic)?;
        unknown.check(options.strict)?;
        events.push(trace.on(event).by(publisher));
        ignored.push(unknown);
    }
    paced(call, rights, events.len())?;
    let published = call.state.hub.publish_all(events).await?;
    let outcomes: Vec<Value> = published.iter().zip(&ignored).map(|(one, ignored)| outcome(one, ignored)).collect();
    // The furthest cursor: a batch that ends with a duplicate of an old event still moves the reader past the events that
    // it stored.
    let cursor = published.iter().map(|one| one.cursor).max_by_key(|cursor| cursor.position);
    Ok(created(json!({ "cursor": cursor, "events": outcomes }).to_string()))
}

/// The response for one event.
pub(super) fn outcome(published: &Published, ignored: &Ignored) -> Value {
    let mut outcome = json!({ "cursor": published.cursor, "duplicate": published.duplicate });
    if published.differs {
        outcome["differs"] = true.into();
    }
    if !ignored.names().is_empty() {
        outcome["ignored"] = json!(ignored.names());
    }
    outcome
}

fn created(body: impl Into<Bytes>) -> Response {
    let json = HeaderValue::from_static("application/json");
    Response::new(StatusCode::CREATED).with(CONTENT_TYPE, json).with_body(body)
}

/// The result of a stream of lines.
#[derive(Default)]
struct Summary {
    accepted: u64,
    duplicates: u64,
    differing: u64,
    ignored: Ignored,
    cursor: Option<crate::cursor::Cursor>,
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

/// Publishes each line by itself, stored in groups as the lines arrive. The stream ends early only where no more can be
/// stored, or no more lines arrive in time; then the response has that status, and counts the lines so far.
async fn stream(call: &Call, rights: &Rights, trace: &TraceContext, mut lines: Lines) -> Answer {
    let mut summary = Summary::default();
    let end = store_lines(call, rights, trace, &mut lines, &mut summary).await;
    match end {
        Ok(()) if summary.failed > 0 && summary.accepted + summary.duplicates == 0 => {
            let error = ApiError::bad("bad_lines", "no line was accepted: see `errors`");
            Ok(error.response_with(summary.body(Some(&error))))
        }
        Ok(()) => Ok(created(summary.body(None).to_string())),
        Err(error) => Ok(error.response_with(summary.body(Some(&error)))),
    }
}

async fn store_lines(
    call: &Call,
    rights: &Rights,
    trace: &TraceContext,
    lines: &mut Lines,
    summary: &mut Summary,
) -> Result<(), ApiError> {
    let (options, key) = (call.options(), call.rate_key_of(rights));
    let publisher = call.limits().publisher(&key);
    let burst = call.limits().event_burst(&key).map_or(LINES_MAX, |burst| LINES_MAX.min(burst.get() as usize));
    let mut number = 0;
    while let Some(first) = lines.next().await? {
        let mut group = Vec::new();
        let mut next = Some(first);
        // The lines that have arrived are stored together; no line waits for one that has not.
        while let Some(line) = next {
            number += 1;
            match event_of(&line, rights, options) {
                Ok(Some((event, ignored))) => {
                    ignored.names().iter().for_each(|name| summary.ignored.add(name));
                    group.push(trace.on(event).by(publisher));
                }
                Ok(None) => {}
                Err(error) => summary.refuse(number, &error),
            }
            next = if group.len() < burst { lines.ready() } else { None };
        }
        if group.is_empty() {
            continue;
        }
        // Lines are slowed down where single events would be refused: the backpressure keeps unread lines at the publisher.
        while let Err(error) = call.limits().publish(&key, group.len()) {
            let LimitError::Rate { wait, .. } = error else { return Err(error.into()) };
            note_slowed(call, rights, &error);
            tokio::time::sleep(wait).await;
        }
        // The stream may have been open for hours.
        check_still_good(&call.state.hub, &options.access, rights)?;
        store_group(&call.state.hub, group, summary).await?;
    }
    Ok(())
}

/// Lines are not refused for their rate, but the operator has to see that they are slowed down, and by which limit.
fn note_slowed(call: &Call, rights: &Rights, error: &LimitError) {
    call.refusals().note(&ApiError::from(*error).of(rights));
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
    let Line::Whole(line) = line else { return Err(ApiError::too_large("an event", options.event_bytes_max)) };
    let text = body::text(line)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    check_size(text.len(), options)?;
    let (event, ignored) = parse::<Envelope<'_>>(text)?.into_event()?;
    check_publish(rights, &event.topic)?;
    ignored.check(options.strict)?;
    Ok(Some((event, ignored)))
}

trait FurtherCursor {
    fn max_by_position(self, other: crate::cursor::Cursor) -> Self;
}

impl FurtherCursor for Option<crate::cursor::Cursor> {
    fn max_by_position(self, other: crate::cursor::Cursor) -> Self {
        Some(self.filter(|one| one.position > other.position).unwrap_or(other))
    }
}

/// An event for a WebSocket's binary frame.
pub(super) fn binary(topic: Topic, bytes: &Bytes) -> NewEvent {
    NewEvent::new(topic, Data::binary(bytes))
}
