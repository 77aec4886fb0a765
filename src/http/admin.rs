//! The handlers for administrators: disconnect a client, ban it, revoke a token.

use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::access::{check_admin, check_operator};
use super::body::JsonBody;
use super::error::ApiError;
use super::query::{Fields, number, parse_client};
use super::resources::json_body;
use super::{Answer, Call};
use crate::auth::{NUMERIC_DATE_MAX_S, SUBJECT_MAX_BYTES};
use crate::denylist::Denial;
use crate::excerpt::{excerpt, shorten_quotes};
use crate::net::Response;

/// Longest body, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 4096;

/// Longest ban, in seconds: a year.
const BAN_MAX_S: u64 = 365 * 24 * 3600;

/// The lifetime of a revocation without an end: a century, which every store can represent.
const FOR_GOOD_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

/// `DELETE /v1/clients/{id}`: ends its streams and forgets it; with `ban=SECONDS` its id is banned for that time.
pub(super) async fn kick(call: Call) -> Answer {
    let rights = call.rights().await?;
    check_operator(&rights, &call.options().access)?;
    let client = parse_client(call.request.named().unwrap_or_default())?;
    let fields = Fields::parse(call.request.query_string())?;
    let ban = number(&fields, "ban", 1..=BAN_MAX_S)?;
    let known = call.state.hub.kick(client, ban.map(Duration::from_secs)).await?;
    // A client's id is its credential: the log has only a part of it, enough to find the client among those that are
    // listed.
    let short = excerpt_of_id(client);
    match ban {
        Some(seconds) => call.note("ban", &rights, &format!("client {short} is banned for {seconds} s")),
        None => call.note("kick", &rights, &format!("client {short} is disconnected")),
    }
    match (known, ban) {
        (false, None) => Err(ApiError::unknown_client()),
        (_, Some(seconds)) => Ok(json_body(&json!({ "client": client, "ban": seconds }))),
        (true, None) => Ok(json_body(&json!({ "client": client }))),
    }
}

#[derive(Deserialize)]
struct Revocation {
    jti: Option<String>,
    sub: Option<String>,
    until: Option<f64>,
}

/// `POST /v1/revocations`: a token, by `jti`, or all of a subject's up to now, by `sub`, are worth nothing any more.
pub(super) async fn revoke(call: Call, body: JsonBody) -> Answer {
    let rights = call.rights().await?;
    if call.options().access.keys.is_none() {
        let message = "this server has no keys, so there are no tokens to revoke";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message));
    }
    check_admin(&rights)?;
    let wanted: Revocation = body.read(&call, &rights, |error| bad(shorten_quotes(&error.to_string()))).await?;
    let now_ms = call.state.hub.clock().wall_ms();
    let last_ms = now_ms + FOR_GOOD_MS;
    let until_ms = match wanted.until {
        Some(until) if until > 0.0 && until <= NUMERIC_DATE_MAX_S => ((until * 1000.0) as u64).min(last_ms),
        Some(_) => {
            let message = "`until` must be in seconds since 1970, before the year 5000: is it in milliseconds?";
            return Err(bad(message.into()));
        }
        None => last_ms,
    };
    let (denial, accepted) = match (wanted.jti, wanted.sub) {
        (Some(id), None) => (Denial::Token(legal("jti", id.clone())?), json!({ "jti": id })),
        (None, Some(subject)) => {
            let denial = Denial::Subject { subject: legal("sub", subject.clone())?, issued_ms: now_ms };
            (denial, json!({ "sub": subject }))
        }
        _ => return Err(bad("exactly one of `jti` and `sub` is required".into())),
    };
    call.state.hub.deny(&denial, until_ms).await?;
    call.note(
        "revocation",
        &rights,
        &format!("{} is revoked until {until_ms} ms since 1970", excerpt(&accepted.to_string())),
    );
    let mut answer = accepted;
    if wanted.until.is_some() {
        answer["until"] = (until_ms / 1000).into();
    }
    Ok(Response::new(StatusCode::CREATED).with(CONTENT_TYPE, "application/json").with_body(answer.to_string()))
}

/// A part of a client's id, enough to recognise it.
fn excerpt_of_id(client: Uuid) -> String {
    let text = client.hyphenated().to_string();
    format!("{}…", &text[..8])
}

fn legal(name: &str, text: String) -> Result<String, ApiError> {
    if text.is_empty() || text.len() > SUBJECT_MAX_BYTES {
        return Err(bad(format!("`{name}` must have 1 to {SUBJECT_MAX_BYTES} bytes")));
    }
    Ok(text)
}

fn bad(reason: String) -> ApiError {
    ApiError::bad(
        "bad_revocation",
        format!("{reason}; a revocation is {{\"jti\":ID}} or {{\"sub\":SUBJECT}}, with `until` if it ends"),
    )
}
