//! `POST /v1/tickets`: a ticket replaces a token where the token would be in a URL.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::json;

use super::access::ticket;
use super::body::JsonBody;
use super::error::ApiError;
use super::{Answer, Call};
use crate::net::Response;
use crate::transport::Transport;

/// Longest body, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
struct Wanted {
    transport: String,
}

/// Makes a ticket for one stream over one transport, good for what the token grants, once, and not for long.
pub(super) async fn make(call: Call, body: JsonBody) -> Answer {
    let rights = call.rights().await?;
    let access = &call.state.options.access;
    if access.keys.is_none() {
        let message = "this server has no keys, so no client needs a ticket";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message));
    }
    let bad = |error: &_| ApiError::json("bad_json", error, "a ticket is asked for with {\"transport\":NAME}");
    let wanted: Wanted = body.read(&call, &rights, bad).await?;
    let transport = Transport::ALL.into_iter().find(|transport| transport.name() == wanted.transport);
    let Some(transport) = transport else {
        let names: Vec<&str> = Transport::ALL.iter().map(|transport| transport.name()).collect();
        return Err(ApiError::bad("bad_transport", format!("`transport` must be one of {}", names.join(", "))));
    };
    let Some(ticket) = ticket(&rights, transport) else {
        return Err(ApiError::unauthorized(
            "a ticket is issued for a token: present one, as `Authorization: Bearer TOKEN`",
        ));
    };
    // A ticket is kept for each request until it is used, or expires.
    let key = call.rate_key_of(&rights);
    call.limits().connect(&key)?;
    let share = match key.subject() {
        Some(subject) => format!("subject {subject}"),
        None => format!("address {}", key.address()),
    };
    let hub = &call.state.hub;
    let permit = call.limits().ticket(&key, hub.count_tickets(&share).await?)?;
    let Some(name) = hub.make_ticket(&ticket, &share, access.ticket_ttl).await? else {
        let message = "the token's grant is too large for a ticket: it has over 16 KiB of patterns";
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
    };
    call.limits().ticket_made(&name, permit, access.ticket_ttl);
    let answer = json!({ "ticket": name, "expires_in": access.ticket_ttl.as_secs() });
    Ok(Response::new(StatusCode::CREATED).with(CONTENT_TYPE, "application/json").with_body(answer.to_string()))
}
