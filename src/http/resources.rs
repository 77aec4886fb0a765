//! The other handlers: acknowledgements, the list of clients, and the server's own state.

use futures_util::FutureExt as _;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::access::{check_client, check_may_come, check_operator};
use super::body::JsonBody;
use super::error::ApiError;
use super::query::{Fields, parse_client};
use super::scan::wait_after;
use super::{Answer, Call};
use crate::auth::Rights;
use crate::clients::{Ack, ClientState, ListFilter};
use crate::cursor::{Cursor, Position};
use crate::event::{ID_MAX_BYTES, NAME_MAX_BYTES};
use crate::hub::Hub;
use crate::limits::Scanner;
use crate::log::ReadRequest;
use crate::net::Response;
use crate::store::{ClockSkew, StoreError};
use crate::topic::{PatternSet, TOPIC_MAX_BYTES};
use crate::transport::Transport;

/// Longest body of an acknowledgement, in bytes.
pub(super) const ACK_BYTES_MAX: usize = 1024;

/// Most clients in one response.
const CLIENTS_LISTED: usize = 1000;

/// Bytes of patterns after which a response lists no more clients.
const LISTED_PATTERN_BYTES: usize = 1 << 20;

/// Row budget for the lags in one response, divided evenly among its clients.
const LAG_ROWS_MAX: u64 = 20_000;

/// Row budget for the lag of one client.
const LAG_ROWS_OF_ONE: u64 = 10_000;

#[derive(Deserialize)]
struct Acknowledgement {
    client: String,
    cursor: String,
}

/// `POST /v1/ack`, as JSON or, for `sendBeacon`, as text.
pub(super) async fn ack(call: Call, body: JsonBody) -> Answer {
    let rights = call.rights().await?;
    check_may_come(&rights)?;
    // A read from the store and a durable write: it counts as a subscription.
    call.limits().connect(&call.rate_key_of(&rights))?;
    let expected = "an acknowledgement is {\"client\":UUID,\"cursor\":CURSOR}";
    let ack: Acknowledgement = body.read(&call, &rights, |error| ApiError::json("bad_json", error, expected)).await?;
    let client = parse_client(&ack.client)?;
    check_client(&call.state.hub, client)?;
    let hub = &call.state.hub;
    let cursor = hub.translate(ack.cursor.parse()?);
    let bounds = hub.bounds_for(cursor).await?;
    if cursor.epoch == bounds.epoch && cursor.position > bounds.last {
        return Err(ApiError::bad(
            "bad_cursor",
            "the cursor is ahead of the log: the client cannot have received so much",
        ));
    }
    let ack = Ack { client, cursor, log: bounds.epoch, rights: &rights, now_ms: hub.clock().believed_ms() };
    let remembered = hub.clients().acknowledge_now(ack).await?;
    Ok(json_body(&json!({ "client": client, "cursor": remembered })))
}

/// `GET /v1/info`. The log's end discloses how much is published: it is for callers that may read any of it.
pub(super) async fn info(call: Call) -> Answer {
    let options = call.options();
    let rights = call.rights().await?;
    let names: Vec<&str> = Transport::ALL.iter().map(|transport| transport.name()).collect();
    let cursor = call.state.hub.cursor();
    let mut info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "transports": names,
        "heartbeat": options.heartbeat.as_millis() as u64,
        "access": if options.access.keys.is_some() { "token" } else { "open" },
        "limits": {
            "topic_bytes": TOPIC_MAX_BYTES,
            "event_name_bytes": NAME_MAX_BYTES,
            "id_bytes": ID_MAX_BYTES,
            "patterns": options.patterns_max,
            "event_bytes": options.event_bytes_max,
            "batch_bytes": options.batch_bytes_max,
            "batch_events": options.batch_events_max,
            "ws_bytes": options.ws_bytes_max,
            "echo_bytes": options.echo_bytes_max,
        },
    });
    if rights.may_come() {
        info["epoch"] = cursor.epoch.as_str().into();
        info["cursor"] = json!(cursor);
    }
    Ok(json_body(&info))
}

/// `GET /v1/clients`: the connected clients, with `subject=NAME` those of one subject; `after=UUID` continues the list. The work is bounded, and counts as a
/// subscription.
pub(super) async fn clients(call: Call) -> Answer {
    let rights = call.rights().await?;
    check_operator(&rights, &call.options().access)?;
    let key = call.rate_key_of(&rights);
    call.limits().connect(&key)?;
    let scanner = call.limits().scan(&key)?;
    let fields = Fields::parse(call.request.query_string())?;
    let (after, subject) = (fields.one("after")?.map(parse_client).transpose()?, fields.one("subject")?);
    let hub = &call.state.hub;
    let (states, more) = hub.clients().list(ListFilter { after, subject }, CLIENTS_LISTED, LISTED_PATTERN_BYTES);
    let rows_of_one = (LAG_ROWS_MAX / states.len().max(1) as u64).clamp(1, LAG_ROWS_OF_ONE);
    let lags = Lags { scanner, rows_of_one };
    let mut listed = Vec::new();
    for state in states {
        let mut one = describe(hub, &state, &rights, &lags).await?;
        identify(&state, &mut one);
        listed.push(one);
    }
    let mut answer = json!({ "clients": listed });
    if more {
        answer["more"] = true.into();
    }
    Ok(json_body(&answer))
}

/// `GET /v1/clients/{id}`. A client of another subject is answered like one that does not exist.
pub(super) async fn client(call: Call) -> Answer {
    let rights = call.rights().await?;
    check_may_come(&rights)?;
    let key = call.rate_key_of(&rights);
    call.limits().connect(&key)?;
    let lags = Lags { scanner: call.limits().scan(&key)?, rows_of_one: LAG_ROWS_OF_ONE };
    let client: Uuid = parse_client(call.request.named().unwrap_or_default())?;
    let hub = &call.state.hub;
    match hub.clients().get(client).await? {
        Some(state) if rights.is_admin() || rights.may_use(state.owner.as_deref()) => {
            let mut one = describe(hub, &state, &rights, &lags).await?;
            // The holder of a client's id need not be on the machine that the id is used on.
            if check_operator(&rights, &call.options().access).is_ok() {
                identify(&state, &mut one);
            }
            Ok(json_body(&one))
        }
        _ => Err(ApiError::unknown_client()),
    }
}

/// The budget for the lags of one response.
struct Lags {
    scanner: Scanner,
    /// Row budget for one client.
    rows_of_one: u64,
}

async fn describe(hub: &Hub, state: &ClientState, rights: &Rights, lags: &Lags) -> Result<Value, ApiError> {
    let bounds = hub.bounds();
    let acknowledged = state
        .acknowledged
        .map(|cursor| hub.translate(cursor))
        .filter(|cursor| cursor.epoch == bounds.epoch)
        .map(|cursor| cursor.position);
    let reached = state.sent.or(acknowledged).unwrap_or(bounds.last);
    // How much is published where the caller may not read (any more) must not be disclosed to the caller.
    let readable = state.patterns.iter().filter(|pattern| rights.is_admin() || rights.may_read(pattern)).cloned();
    let lag = lags.of(hub, PatternSet::new(readable)?, reached).await?;
    Ok(json!({
        "client": state.client,
        "transports": state.transports.iter().map(|transport| transport.name()).collect::<Vec<_>>(),
        "patterns": state.patterns.iter().collect::<Vec<_>>(),
        "sent": state.sent.map(|position| Cursor::new(bounds.epoch, position)),
        "acknowledged": state.acknowledged,
        "lag": lag,
    }))
}

/// Adds what is for operators alone: whose client it is, and where it is connected from.
fn identify(state: &ClientState, client: &mut Value) {
    client["subject"] = json!(state.owner);
    let connections = state.connections.iter().map(|connection| {
        json!({
            "transport": connection.transport.name(),
            "address": connection.address(),
            "user_agent": connection.user_agent(),
            "since": connection.since_ms,
        })
    });
    client["connections"] = connections.collect();
    let changes =
        state.changes.iter().map(|(transport, since)| json!({ "transport": transport.name(), "since": since }));
    client["history"] = changes.collect();
}

impl Lags {
    /// The lag of a client: the number of pending events that match, counted up to 1000, and the age of the first of them
    /// in milliseconds; with `more` where the count ended before the log's end.
    async fn of(&self, hub: &Hub, patterns: PatternSet, after: Position) -> Result<Value, ApiError> {
        let end = hub.bounds().last;
        if patterns.is_empty() || after >= end {
            return Ok(json!({ "events": 0, "ms": 0 }));
        }
        let rows_max = self.rows_of_one;
        let events_max = usize::try_from(rows_max).unwrap_or(usize::MAX).min(1000);
        let request = ReadRequest { patterns, after, events_max, bytes_max: 1 << 20, rows_max, latest_upto: None };
        let page = hub.read(request).await?;
        // Matching rows are charged, too: they are read to be counted, not to be sent.
        wait_after(&self.scanner, page.unmatched_rows.max(page.rows)).await;
        let since = page.events.first().map_or(0, |event| hub.clock().wall_ms().saturating_sub(event.time_ms()));
        let mut lag = json!({ "events": page.events.len(), "ms": since });
        if page.through < end {
            lag["more"] = true.into();
        }
        Ok(lag)
    }
}

/// `GET /healthz`: the process responds.
pub(super) async fn healthz(_: Call) -> Answer {
    Ok(json_body(&json!({ "status": "ok" })))
}

/// `GET /readyz`: the store responds and accepts events, the denylist is loaded, and the server is not shutting down.
pub(super) async fn readyz(call: Call) -> Answer {
    let hub = &call.state.hub;
    if hub.draining().is_some() {
        return Err(ApiError::unavailable("shutting_down", "this server is shutting down"));
    }
    let probed = hub.clone();
    call.state.readiness.check(move || async move { probe(&probed).await }.boxed_local()).await?;
    let mut answer = json!({ "status": "ready" });
    // Not a reason to take the node out: expiry allows for the skew. But an operator should correct the clock.
    if let Some(ClockSkew { nats_ms, nodes_ms }) = hub.clock_skew().filter(ClockSkew::is_large) {
        answer["clock_skew"] = json!({ "nats_ms": nats_ms, "nodes_ms": nodes_ms });
    }
    Ok(json_body(&answer))
}

async fn probe(hub: &Hub) -> Result<(), ApiError> {
    hub.ready().await.map_err(|error| match error {
        // A health check does not publish: the status means only that the node is not ready.
        StoreError::Full => ApiError::unavailable("disk_full", error.to_string()),
        error => error.into(),
    })?;
    let bounds = hub.refreshed().await?;
    let request = ReadRequest {
        patterns: PatternSet::everything(),
        after: bounds.last.before(),
        events_max: 1,
        bytes_max: 1,
        rows_max: 1,
        latest_upto: None,
    };
    hub.read(request).await?;
    if !hub.knows_denied() {
        return Err(ApiError::unavailable(
            "behind",
            "this node has not loaded the banned clients and revoked tokens yet",
        ));
    }
    Ok(())
}

pub(super) fn json_body(body: &Value) -> Response {
    let json = HeaderValue::from_static("application/json");
    Response::new(StatusCode::OK).with(CONTENT_TYPE, json).with_body(body.to_string())
}
