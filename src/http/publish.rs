//! `POST /v1/events` and `POST /v1/topics/{topic}`: decodes events from JSON, forms, lines and plain bodies, and publishes
//! them.

mod lines;

use std::borrow::Cow;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::access::{check_publish, check_publisher};
use super::activity_log::PublishRecord;
use super::body::{self, Lines, MediaType};
use super::envelope::{Envelope, Ignored, build, content};
use super::error::ApiError;
use super::object;
use super::options::HttpOptions;
use super::query::{Fields, flag};
use super::trace_context::TraceContext;
use super::{Answer, Call};
use crate::auth::Rights;
use crate::event::{Data, EventError, EventHeaders, NewEvent, Publisher};
use crate::hub::Published;
use crate::net::{Headers, Request, RequestBody, Response};
use crate::topic::Topic;

/// The known fields of a form.
const FORM_FIELDS: [&str; 6] = ["topic", "event", "data", "id", "deleted", "headers"];

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `POST /v1/events`.
pub(super) async fn events(call: Call) -> Answer {
    let record = PublishRecord::begin(&call.rate_key());
    recorded(&record, publish_events(call, &record).await)
}

async fn publish_events(mut call: Call, record: &PublishRecord) -> Answer {
    let rights = publisher_rights(&call, record).await?;
    let body = call.take_body();
    let headers = call.request.headers();
    let options = call.options();
    let kind = MediaType::of(headers)?;
    let key = idempotency_key(headers)?;
    let trace = TraceContext::of(headers);
    match kind.as_ref().map(MediaType::as_str) {
        // The XDomainRequest of Internet Explorer 8 and 9 cannot set a type.
        None | Some("application/json" | "text/plain") => {
            check_pace(&call, &rights, &body, 1)?;
            let body = body::read(&call, body, options.batch_bytes_max, &rights).await?;
            let text = body::text(&body)?;
            if text.trim_start().starts_with('[') {
                if key.is_some() {
                    let message = "`Idempotency-Key` applies to a single event: in an array, give each event an `id`";
                    return Err(ApiError::bad("bad_id", message));
                }
                return array(&call, &rights, &trace, text, record).await;
            }
            check_size(text.len(), options)?;
            let envelope: Envelope<'_> = parse(text)?;
            let (event, ignored) = envelope.into_event()?;
            single(&call, &rights, trace.on(with_key(event, key)?), ignored, record).await
        }
        Some("application/x-www-form-urlencoded") => {
            // An encoded byte is three.
            check_pace(&call, &rights, &body, 3)?;
            let body = body::read(&call, body, options.event_bytes_max, &rights).await?;
            let fields = Fields::parse(body::text(&body)?)?;
            let topic = fields.one("topic")?.ok_or_else(|| ApiError::bad("bad_topic", "`topic` is missing"))?;
            let event = form_event(topic, &fields)?;
            let mut ignored = Ignored::default();
            fields.names().filter(|name| !FORM_FIELDS.contains(name)).for_each(|name| ignored.add(name));
            single(&call, &rights, trace.on(with_key(event, key)?), ignored, record).await
        }
        Some("application/x-ndjson") => {
            let lines = Lines::new(body, options.event_bytes_max, options.body_timeout, call.inbound(&rights));
            lines::publish(&call, &rights, &trace, lines, record).await
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
pub(super) async fn topic(call: Call) -> Answer {
    let record = PublishRecord::begin(&call.rate_key());
    recorded(&record, publish_to_topic(call, &record).await)
}

async fn publish_to_topic(mut call: Call, record: &PublishRecord) -> Answer {
    let rights = publisher_rights(&call, record).await?;
    let body = call.take_body();
    let headers = call.request.headers();
    let options = call.options();
    let topic: Topic = topic_in_path(&call.request)?.parse()?;
    check_publish(&rights, &topic)?;
    let fields = Fields::parse(call.request.query_string())?;
    let kind = MediaType::of(headers)?;
    let key = idempotency_key(headers)?;
    check_pace(&call, &rights, &body, 1)?;
    let body = body::read(&call, body, options.event_bytes_max, &rights).await?;
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
    single(&call, &rights, TraceContext::of(headers).on(with_key(event, key)?), Ignored::default(), record).await
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
pub(super) fn topic_in_path(request: &Request) -> Result<Cow<'_, str>, ApiError> {
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
    object::parse(text).map_err(|error| {
        let code = if error.is_data() { "bad_event" } else { "bad_json" };
        ApiError::json(code, &error, "an event is {\"topic\":\"a.b\",\"data\":…}, optionally with `event`, `id` and `headers`, or {\"topic\":\"a.b\",\"deleted\":true}")
    })
}

/// The rights of a caller that may publish somewhere.
async fn publisher_rights(call: &Call, record: &PublishRecord) -> Result<Rights, ApiError> {
    let rights = call.rights().await?;
    record.by(&call.rate_key_of(&rights));
    check_publisher(&rights)?;
    Ok(rights)
}

/// The answer, with its outcome on record.
fn recorded(record: &PublishRecord, answer: Answer) -> Answer {
    match &answer {
        Ok(response) if response.status.is_success() => record.end("stored"),
        // The response to lines, some of which may be stored.
        Ok(_) => record.end("ended early"),
        Err(error) => record.end(error.code()),
    }
    answer
}

/// Refuses a publish whose publisher has exhausted its pace, before the body is read. The events in the body are taken to have as many
/// bytes as the body, divided by `encoding`, by which it is longer than they are.
fn check_pace(call: &Call, rights: &Rights, body: &RequestBody, encoding: u64) -> Result<(), ApiError> {
    let announced = body::announced_bytes(call.request.headers(), body).unwrap_or_default() as u64;
    let has_room = call.limits().check_publish(&call.rate_key_of(rights), announced / encoding);
    has_room.map_err(|error| ApiError::from(error).of(rights))
}

/// Counts events against the rates of their publisher.
fn paced(call: &Call, rights: &Rights, events: &[NewEvent]) -> Result<(), ApiError> {
    let bytes = events.iter().map(NewEvent::cost_bytes).sum();
    let paced = call.limits().publish(&call.rate_key_of(rights), events.len(), bytes);
    paced.map_err(|error| ApiError::from(error).of(rights))
}

/// The publisher whose quota of remembered event ids the events use.
fn publisher(call: &Call, rights: &Rights) -> Option<Publisher> {
    call.limits().publisher(&call.rate_key_of(rights))
}

async fn single(call: &Call, rights: &Rights, event: NewEvent, ignored: Ignored, record: &PublishRecord) -> Answer {
    check_publish(rights, &event.topic)?;
    ignored.check(call.options().strict)?;
    record.add(std::slice::from_ref(&event));
    paced(call, rights, std::slice::from_ref(&event))?;
    let published = call.state.hub.publish(event.by(publisher(call, rights))).await?;
    record.stored(published.cursor);
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

async fn array(call: &Call, rights: &Rights, trace: &TraceContext, text: &str, record: &PublishRecord) -> Answer {
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
    record.add(&events);
    paced(call, rights, &events)?;
    let published = call.state.hub.publish_all(events).await?;
    let outcomes: Vec<Value> = published.iter().zip(&ignored).map(|(one, ignored)| outcome(one, ignored)).collect();
    // The furthest cursor: a batch that ends with a duplicate of an old event still moves the reader past the events that
    // it stored.
    let cursor = published.iter().map(|one| one.cursor).max_by_key(|cursor| cursor.position);
    cursor.into_iter().for_each(|cursor| record.stored(cursor));
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

/// An event for a WebSocket's binary frame.
pub(super) fn binary(topic: Topic, bytes: &Bytes) -> NewEvent {
    NewEvent::new(topic, Data::binary(bytes))
}
