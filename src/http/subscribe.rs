//! `GET /v1/<transport>`: authorizes a subscription, opens a delivery for it, and responds in the transport's framing.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::header::{
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
};
use http::{StatusCode, Version};
use uuid::Uuid;

use super::access::{check_client, check_still_good, check_subscribe, expiry};
use super::activity_log::SubscriptionRecord;
use super::batch_body::with_batch;
use super::driver::{Costs, Driver, StreamBody, StreamDriver};
use super::error::ApiError;
use super::query::{Fields, Params, last_event_id, parse_callback, parse_from};
use super::scan::SearchBudget;
use super::{Answer, Call, origin};
use crate::auth::Rights;
use crate::clients::{ClientError, ConnectRequest, Connecting};
use crate::clock::runtime_now;
use crate::cursor::{Cursor, Position};
use crate::delivery::{Completion, Delivery, Plan, StartPoint};
use crate::hub::{Hub, StartFrom};
use crate::json::Literal;
use crate::limits::{LimitError, RateKey};
use crate::log::{ClientRecord, ReadMode};
use crate::net::{Response, text as header_text};
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::wire::{Batch, Control, Framing};

/// `/v1/poll`.
pub(super) async fn poll(call: Call) -> Answer {
    let params = params(&call)?;
    let (mut driver, _) = open(&call, Transport::Poll, &params, Framing::Json, Completion::ShortPoll).await?;
    let header = call.request.headers().get(&IF_NONE_MATCH);
    let named = match params.cursor {
        Some(StartFrom::Cursor(presented)) => header.and_then(|header| named_tag(header, presented)),
        _ => None,
    };
    if named.is_some() {
        // A 304 has no body that could carry a new cursor.
        driver.delivery.allow_not_modified();
    }
    let body = driver.batch().await?;
    match named {
        Some(tag) if body.is_empty() => Ok(Response::new(StatusCode::NOT_MODIFIED).with(ETAG, tag)),
        _ => Ok(with_batch(json(etagged(Response::new(StatusCode::OK), driver.delivery.cursor())), driver, body)),
    }
}

/// `/v1/longpoll`.
pub(super) async fn longpoll(call: Call) -> Answer {
    let (mut driver, _) = {
        let params = params(&call)?;
        if call.is_head() {
            return head(&call, Transport::Longpoll, &params, json(Response::new(StatusCode::OK))).await;
        }
        open(&call, Transport::Longpoll, &params, Framing::Json, held(params.wait)).await?
    };
    drop(call);
    // Before the response is built: it would be in memory as long as the request is held.
    let body = driver.batch().await?;
    Ok(with_batch(json(Response::new(StatusCode::OK)), driver, body))
}

/// `/v1/jsonp`. A page cannot read the status of a script, so an error is sent as an item of a batch that keeps the cursor.
pub(super) async fn jsonp(call: Call) -> Answer {
    let (framing, presented) = {
        let fields = Fields::legible(call.request.query_string());
        let Some(callback) = fields.one("callback")? else {
            return Err(ApiError::bad("bad_callback", "`callback` is missing: it names the function to call"));
        };
        (Framing::Jsonp(parse_callback(callback)?), presented(&fields))
    };
    let response = Response::new(StatusCode::OK)
        .with(CONTENT_TYPE, "application/javascript; charset=utf-8")
        // Opened as a page, the script is offered as a download, and does not run.
        .with(CONTENT_DISPOSITION, "attachment; filename=f.txt");
    let foreign = call.source().check().is_err();
    let response =
        if foreign { response } else { response.with(origin::CROSS_ORIGIN_RESOURCE_POLICY, origin::ANY_ORIGIN) };
    if call.is_head() {
        // A refusal has the same status; the failed attempt is charged to the client.
        if let Err(error) = permit_script(&call).await {
            call.refusals().respond(error).await;
        }
        return Ok(response.without_body());
    }
    // The error is sent in a response of status 200, which the error handling would not charge.
    let opened = match open_script(&call, &framing).await {
        Ok(driver) => Ok(driver),
        Err(error) => Err(call.refusals().respond(error).await),
    };
    drop(call);
    let batch = match opened {
        Ok(mut driver) => driver.batch().await.map(|batch| (driver, batch)).map_err(ApiError::from),
        Err(error) => Err(error),
    };
    Ok(match batch {
        Ok((driver, batch)) => with_batch(response, driver, batch),
        Err(error) => response.with_body(error_batch(&framing, &error, presented).freeze()),
    })
}

async fn permit_script(call: &Call) -> Result<(), ApiError> {
    call.admit()?;
    // A script runs in any page that loads it; CORS does not protect its content.
    call.source().check()?;
    permit(call, Transport::Jsonp, &params(call)?).await.map(drop)
}

async fn open_script(call: &Call, framing: &Framing) -> Result<Box<Driver>, ApiError> {
    call.admit()?;
    call.source().check()?;
    let params = params(call)?;
    let (driver, _) = open(call, Transport::Jsonp, &params, framing.clone(), held(params.wait)).await?;
    Ok(driver)
}

/// `/v1/iframe`, streaming or, with `once=1`, polling. A refusal keeps its status, and its document passes the error to the
/// page.
pub(super) async fn iframe(call: Call) -> Answer {
    let fields = Fields::legible(call.request.query_string());
    let target = fields.one("origin")?;
    if let Some(target) = target {
        origin::check_target(target, call.request.headers(), call.scheme(), &call.options().allowed_origins)?;
    }
    let nonce = Uuid::new_v4().simple().to_string();
    let framing = Framing::Iframe { nonce: nonce.as_str().into(), target: target.map(Into::into) };
    let once = fields.one("once").is_ok_and(|once| once == Some("1"));
    let answer = async {
        call.admit()?;
        let params = params(&call)?;
        let response = document_headers(Response::new(StatusCode::OK), &nonce, &call);
        if call.is_head() {
            return head(&call, Transport::Iframe, &params, response).await;
        }
        let completion =
            if once { held(params.wait) } else { stream_of(&call, Some(call.options().iframe_bytes_max), false) };
        let (mut driver, _) = open(&call, Transport::Iframe, &params, framing.clone(), completion).await?;
        let batch = if once { Some(driver.batch().await?) } else { None };
        Ok(match batch {
            Some(batch) => with_batch(response, driver, batch),
            None => streaming(&call, response, driver),
        })
    };
    let error: ApiError = match answer.await {
        Ok(response) => return Ok(response),
        Err(error) => call.refusals().respond(error).await,
    };
    let response = document_headers(Response::new(error.status), &nonce, &call);
    let mut body = BytesMut::new();
    framing.preamble(&mut body);
    if once {
        body.unsplit(error_batch(&framing, &error, presented(&fields)));
    } else {
        framing.control(&Control::Error(error.item_data()), None, &mut body);
    }
    Ok(response.with_body(body.freeze()))
}

/// `/v1/sse`.
pub(super) async fn sse(call: Call) -> Answer {
    let params = params(&call)?;
    let response =
        Response::new(StatusCode::OK).with(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    if call.is_head() {
        return head(&call, Transport::Sse, &params, response).await;
    }
    let framing = Framing::Sse { padding: params.padding, named: params.named };
    let (driver, _) = open(&call, Transport::Sse, &params, framing, stream_of(&call, None, false)).await?;
    Ok(streaming(&call, response, driver))
}

/// `/v1/stream`.
pub(super) async fn lines(call: Call) -> Answer {
    let params = params(&call)?;
    let response = Response::new(StatusCode::OK)
        .with(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson; charset=utf-8"));
    if call.is_head() {
        return head(&call, Transport::Stream, &params, response).await;
    }
    let (driver, _) = open(&call, Transport::Stream, &params, Framing::Lines, stream_of(&call, None, false)).await?;
    Ok(streaming(&call, response, driver))
}

/// The response to HEAD where GET's is held or has no end: the same status and headers, at once. No delivery is opened, and
/// no client is remembered or moved.
async fn head(call: &Call, transport: Transport, params: &Params, response: Response) -> Answer {
    permit(call, transport, params).await?;
    Ok(response.without_body())
}

/// The checked parameters of a request.
pub(super) fn params(call: &Call) -> Result<Params, ApiError> {
    let params = Params::parse(call.request.query_string())?;
    if let Some(patterns) = &params.patterns {
        check_patterns(patterns, call.options().patterns_max)?;
    }
    check_origin(call, &params)?;
    Ok(params)
}

/// Refuses more patterns than a subscription may have on this server.
pub(super) fn check_patterns(patterns: &PatternSet, patterns_max: usize) -> Result<(), ApiError> {
    if patterns.len() > patterns_max {
        let message = format!("a subscription may have at most {patterns_max} patterns on this server");
        return Err(ApiError::bad("too_many_topics", message));
    }
    Ok(())
}

fn check_origin(call: &Call, params: &Params) -> Result<(), ApiError> {
    let target = params.origin.as_deref();
    target.map_or(Ok(()), |origin| {
        origin::check_target(origin, call.request.headers(), call.scheme(), &call.options().allowed_origins)
    })
}

/// Opens a delivery: checks the rights, resolves patterns and start, remembers the client, and waits until the worker has
/// reached the start.
///
/// Boxed, so that the future's memory is freed when it is done: a request that is held for a minute would keep it.
pub(super) fn open<'a>(
    call: &'a Call,
    transport: Transport,
    params: &'a Params,
    framing: Framing,
    completion: Completion,
) -> LocalBoxFuture<'a, Result<(Box<Driver>, Rights), ApiError>> {
    Box::pin(opened(call, transport, params, framing, completion))
}

async fn opened(
    call: &Call,
    transport: Transport,
    params: &Params,
    framing: Framing,
    completion: Completion,
) -> Result<(Box<Driver>, Rights), ApiError> {
    let hub = &call.state.hub;
    let streaming = matches!(completion, Completion::Stream { .. });
    let staying = completion != Completion::ShortPoll;
    // HEAD acknowledges nothing, and replaces no connection of the client.
    let named = params.client.filter(|_| !call.is_head());
    let Permitted { rights, key, known, patterns, mode, requested } = permit(call, transport, params).await?;
    let limited = |error: LimitError| ApiError::from(error).of(&rights);
    let scanner = call.limits().scan(&key).map_err(limited)?;
    let mut costs = Costs { held: None, scanner, memory: call.limits().outbound(key.clone()) };
    if staying {
        costs.held = Some(call.limits().hold(&key).map_err(limited)?);
        // A held request keeps its head in memory; a head of HTTP/2 is charged already.
        let is_counted = streaming || call.request.head.version() >= Version::HTTP_2;
        let head_bytes = if is_counted { 0 } else { call.request.head.bytes() };
        costs.memory.set(head_bytes + patterns.cost_bytes()).map_err(limited)?;
    }
    let is_known = params.client.is_none() || known.is_some();
    let worker = call.state.worker();
    // Equal patterns of long-lived subscriptions are shared in memory.
    let patterns = if staying { worker.shared(patterns) } else { patterns };
    let remembered = known.as_ref().map(|known| StartFrom::Cursor(known.cursor));
    let from = requested
        .or(remembered)
        .or(params.last.map(StartFrom::Last))
        .or(params.since.map(StartFrom::Since))
        .unwrap_or(StartFrom::Now);
    let search = SearchBudget::new(&costs.scanner);
    let start = hub.start(from, &patterns, async |rows| search.charge(rows).await).await?;
    let cursor = start.gap.as_ref().map_or(start.cursor, |gap| gap.to);
    let round = round_end(hub, mode, params.upto, &start).await?.or(match (&known, requested) {
        // The client resumes at its remembered cursor, and in its remembered round.
        (Some(known), None) => round_end(hub, mode, known.upto, &start).await.ok().flatten(),
        _ => None,
    });
    let upto = round.map(|end| Cursor::new(cursor.epoch, end));
    let _pending = match named {
        Some(client) => {
            // A cursor that this log cannot have issued acknowledges nothing.
            let presented = matches!(requested, Some(StartFrom::Cursor(_))) && start.gap.is_none();
            let (cursor, rights, now_ms) = (start.cursor, &rights, hub.clock().believed_ms());
            let (patterns, address, attempt) = (&patterns, key.address(), params.attempt);
            let request = ConnectRequest {
                client,
                known,
                patterns,
                mode,
                cursor,
                upto,
                presented,
                rights,
                address,
                attempt,
                now_ms,
            };
            hub.clients().begin(request).await?
        }
        None => None,
    };
    if !worker.reach(upto.unwrap_or(cursor)).await {
        let message = "this worker has not reached the cursor yet: try again";
        return Err(ApiError::unavailable("behind", message));
    }
    // A stream is sent its client's id, and a connection under a grant has to be found when the grant is revoked.
    let needs_name = streaming || staying && rights.grant().is_some();
    let client = named.or_else(|| needs_name.then(Uuid::new_v4));
    let connecting = |client, cursor| {
        let (patterns, rights, address) = (&patterns, &rights, key.address());
        let (user_agent, attempt, now_ms) = (call.user_agent(), params.attempt, hub.clock().believed_ms());
        Connecting { client, transport, patterns, mode, cursor, rights, address, user_agent, attempt, now_ms }
    };
    let registration = client.map(|client| hub.clients().connect(connecting(client, cursor)));
    if let Some(client) = client {
        if streaming && params.client.is_none() {
            hub.clients().begin_minted(&connecting(client, start.cursor));
        }
        // Checked again: from here on a denial ends the connection, but a client that was denied since the first check is
        // not registered for that yet.
        check_client(hub, client)?;
    }
    check_still_good(hub, &call.options().access, &rights)?;
    let awaits_first_subscribe = requested.is_some() || remembered.is_some();
    let plan = Plan {
        framing,
        completion,
        client: client.unwrap_or_default(),
        known: is_known,
        transport,
        heartbeat: call.options().heartbeat,
        events_max: params.limit,
        jitter: rand::random(),
    };
    let seat = if staying { worker.seat(&patterns, transport) } else { worker.visit(transport) };
    if let Some(switched) = &params.switched {
        hub.metrics().switched(switched);
    }
    let mut delivery = Delivery::new(runtime_now(), plan, patterns, start);
    if awaits_first_subscribe {
        delivery.await_first_subscribe();
    }
    delivery.read_in_rounds(mode, round);
    delivery.set_expiry(expiry(hub, &rights));
    let record = SubscriptionRecord::begin(&key, client.unwrap_or_default(), &delivery);
    // Boxed, so that it is never moved: it is larger than all the other state of a short poll.
    let mut driver = Box::new(Driver::new(delivery, seat, registration, costs, call.hold()));
    driver.set_record(record);
    Ok((driver, rights))
}

/// The end of the round of newest events that the request continues; `None` where a round begins at the start.
///
/// # Errors
/// Where `upto` is beyond the log's end.
async fn round_end(
    hub: &Hub,
    mode: ReadMode,
    upto: Option<Cursor>,
    start: &StartPoint,
) -> Result<Option<Position>, ApiError> {
    let Some(upto) = upto.filter(|_| mode.latest && start.gap.is_none()).map(|upto| hub.translate(upto)) else {
        return Ok(None);
    };
    if upto.epoch != start.cursor.epoch || upto.position <= start.cursor.position {
        return Ok(None);
    }
    let bounds = hub.bounds_for(upto).await?;
    if upto.epoch == bounds.epoch && upto.position > bounds.last {
        let message = "`upto` is beyond the log's end: give the `upto` that came with the cursor, or none";
        return Err(ApiError::bad("bad_cursor", message));
    }
    Ok(Some(upto.position))
}

/// An authorized subscription, before anything is opened for it.
struct Permitted {
    rights: Rights,
    key: RateKey,
    /// The record of the client that the request named, if it is remembered.
    known: Option<ClientRecord>,
    patterns: PatternSet,
    mode: ReadMode,
    /// The start that the request named.
    requested: Option<StartFrom>,
}

/// Checks whatever decides a subscription's status: rights, rate, client and patterns.
async fn permit(call: &Call, transport: Transport, params: &Params) -> Result<Permitted, ApiError> {
    let hub = &call.state.hub;
    let rights = call.rights_over(Some(transport)).await?;
    let key = call.rate_key_of(&rights);
    call.limits().connect(&key).map_err(|error| ApiError::from(error).of(&rights))?;
    let known = match params.client {
        Some(client) => {
            check_client(hub, client)?;
            hub.clients().recall(client).await?
        }
        None => None,
    };
    if known.as_ref().is_some_and(|known| !rights.may_use(known.owner.as_deref())) {
        return Err(ClientError::Owned.into());
    }
    let patterns = match (&params.patterns, &known) {
        (Some(patterns), _) => patterns.clone(),
        (None, Some(known)) if !known.patterns.is_empty() => known.patterns.clone(),
        (None, _) if transport == Transport::Ws => PatternSet::default(),
        (None, _) => {
            let message = "`topic` is missing: give at least one pattern, such as `topic=orders.*`, or a `client` whose patterns are remembered";
            return Err(ApiError::bad("no_topic", message));
        }
    };
    let inherited = known.as_ref().filter(|_| params.patterns.is_none()).map(|known| known.mode).unwrap_or_default();
    let mode = ReadMode {
        latest: params.latest.unwrap_or(inherited.latest),
        pace_ms: params.pace_ms.unwrap_or(inherited.pace_ms),
    };
    // The subject may have lost the right to remembered patterns.
    check_subscribe(&rights, &patterns)?;
    let resumed = match transport {
        Transport::Sse | Transport::Stream => {
            last_event_id(call.request.headers())?.or(params.last_event_id).map(StartFrom::Cursor)
        }
        _ => None,
    };
    let requested = resumed.or(params.cursor);
    Ok(Permitted { rights, key, known, patterns, mode, requested })
}

/// The completion of a stream: at a randomized maximum age, where one is set.
pub(super) fn stream_of(call: &Call, bytes_max: Option<usize>, pings: bool) -> Completion {
    let age = call.options().stream_age_max.map(|age| age.mul_f64(rand::random_range(0.9..=1.0)));
    Completion::Stream { bytes_max, until: age.map(|age| runtime_now() + age), pings }
}

/// The completion of a long poll; without a wait it is a short poll.
fn held(wait: Duration) -> Completion {
    if wait.is_zero() { Completion::ShortPoll } else { Completion::LongPoll { until: runtime_now() + wait } }
}

fn streaming(call: &Call, response: Response, driver: Box<Driver>) -> Response {
    response.with_stream(StreamBody(StreamDriver::new(driver, call.sink())))
}

fn json(response: Response) -> Response {
    response.with(CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

/// The document may run only its own scripts, and only pages of allowed origins may frame it.
fn document_headers(response: Response, nonce: &str, call: &Call) -> Response {
    let mut ancestors = String::from("'self'");
    for origin in call.options().allowed_origins.current().iter() {
        let origin = origin.to_string();
        if origin != "null" {
            ancestors.push(' ');
            ancestors.push_str(&origin);
        }
    }
    // Browsers without nonces (CSP 1.0: Safari 6 to 9 and their contemporaries) need 'unsafe-inline'; the others ignore it.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-inline'; frame-ancestors {ancestors}; base-uri 'none'; form-action 'none'"
    );
    response
        .with(CONTENT_TYPE, "text/html; charset=utf-8")
        .with(CONTENT_SECURITY_POLICY, policy)
        // Else a page that requires COEP of its frames could not frame the document.
        .with(HeaderName::from_static("cross-origin-embedder-policy"), "require-corp")
        .with(HeaderName::from_static("x-robots-tag"), "noindex")
}

/// The cursor in a refused request, if it is valid.
fn presented(fields: &Fields<'_>) -> Option<Cursor> {
    match fields.one("cursor").ok().flatten().map(parse_from) {
        Some(Ok(StartFrom::Cursor(cursor))) => Some(cursor),
        _ => None,
    }
}

fn error_batch(framing: &Framing, error: &ApiError, cursor: Option<Cursor>) -> BytesMut {
    let mut item = BytesMut::new();
    Framing::Json.control(&Control::Error(error.item_data()), None, &mut item);
    let mut body = BytesMut::new();
    let (literal, more, known, live) = (Literal::Same, false, true, false);
    let batch = Batch { cursor, items: &item, literal, more, known, live, upto: None };
    framing.batch(&batch, &mut body);
    body
}

/// Adds the cursor's entity tag.
fn etagged(mut response: Response, cursor: Cursor) -> Response {
    if let Ok(tag) = HeaderValue::from_maybe_shared(etag(cursor)) {
        response.fields.insert(ETAG, tag);
    }
    response
}

fn etag(cursor: Cursor) -> Bytes {
    let mut tag = BytesMut::with_capacity(cursor.text_bytes() + 2);
    tag.put_u8(b'"');
    cursor.write(&mut tag);
    tag.put_u8(b'"');
    tag.freeze()
}

/// The cursor's entity tag, where `If-None-Match` lists it.
fn named_tag(header: &[u8], cursor: Cursor) -> Option<HeaderValue> {
    let is_tag = |tag: &[u8]| {
        let text = tag.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        text.is_some_and(|text| cursor.is_text(text))
    };
    // The tag is nearly always the only one: then the header's value is reused, and no tag is encoded.
    if is_tag(header) {
        return HeaderValue::from_bytes(header).ok();
    }
    let named = names(Some(header), |tag| is_tag(tag.as_bytes()));
    named.then(|| HeaderValue::from_maybe_shared(etag(cursor)).ok()).flatten()
}

/// Whether `If-None-Match` lists the tag.
pub(super) fn names_tag(header: Option<&[u8]>, wanted: &[u8]) -> bool {
    names(header, |tag| tag.as_bytes() == wanted)
}

/// Whether `If-None-Match` lists a wanted tag, by weak comparison (RFC 9110 §13.1.2).
fn names(header: Option<&[u8]>, is_wanted: impl Fn(&str) -> bool) -> bool {
    let text = header.and_then(header_text).unwrap_or_default();
    text.split(',').map(|tag| tag.trim()).any(|tag| is_wanted(tag.strip_prefix("W/").unwrap_or(tag)))
}
