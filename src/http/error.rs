//! Error responses: a status, and a JSON object with a code and a message that says what would be valid.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use crate::auth::Rights;
use crate::cursor::CursorError;
use crate::event::EventError;
use crate::excerpt::shorten_quotes;
use crate::json::JsonError;
use crate::limits::{LimitError, Refusal};
use crate::net::{HeadError, Response, error_object, error_response_with};
use crate::store::StoreError;
use crate::topic::TopicError;

/// Longest message, in bytes. Quoted input is cut where it is quoted; this limit catches the rest.
const MESSAGE_MAX_BYTES: usize = 1024;

/// Codes that classify refusals in the log.
const OVERLOADED: &str = "overloaded";
const TOO_FAST: &str = "too_fast";

/// An error response.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    challenge: Option<&'static str>,
    /// The subject of the refused token, for the log.
    subject: Option<Box<str>>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX_BYTES {
            let end = message.floor_char_boundary(MESSAGE_MAX_BYTES);
            message = format!("{}…", &message[..end]).into();
        }
        Self { status, code, message, retry_after: None, allow: None, challenge: None, subject: None }
    }

    /// 400: not the expected JSON. `expected` is what would be valid.
    pub(crate) fn json(code: &'static str, error: &serde_json::Error, expected: &str) -> Self {
        Self::bad(code, format!("{}; {expected}", shorten_quotes(&error.to_string())))
    }

    /// With the subject of the refused token.
    pub(crate) fn of(self, rights: &Rights) -> Self {
        Self { subject: rights.subject().map(Into::into), ..self }
    }

    /// What is wrong, and what would be valid.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The code, for programs.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// Whether the client has to slow down, or to release something.
    pub(crate) fn is_too_many(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }

    /// The entry in the log of refusals; `None` for an error that is about the input, not about access or a limit.
    pub(crate) fn refusal(&self, address: IpAddr) -> Option<Refusal<'_>> {
        let refuses =
            matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
                || self.code == OVERLOADED;
        let subject = self.subject.as_deref();
        let is_pace = self.is_pace();
        refuses.then(|| Refusal { address, subject, reason: self.code, message: &self.message, is_pace })
    }

    /// Whether a rate limit is exceeded.
    pub(crate) fn is_pace(&self) -> bool {
        self.code == TOO_FAST
    }

    /// 400.
    pub(crate) fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 413.
    pub(crate) fn too_large(what: &str, limit_bytes: usize) -> Self {
        let message = format!("{what} may have at most {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 404, for a client's id.
    pub(crate) fn unknown_client() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_client", "no client with this id is connected or remembered")
    }

    /// 503: to be retried a little later, not by all clients at the same moment.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let seconds = rand::random_range(1..=3);
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self { retry_after: Some(Duration::from_secs(seconds)), ..error }
    }

    /// 429: there is capacity again after `wait`; clients retry at different moments. After a second at least: at a high
    /// rate there is capacity sooner, but `Retry-After` is in whole seconds (RFC 9110 §10.2.3), and 0 would bring all
    /// clients back at once.
    pub(crate) fn too_many(code: &'static str, message: impl Into<Cow<'static, str>>, wait: Duration) -> Self {
        let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
        let jittered = seconds + rand::random_range(0..=seconds / 2 + 2);
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, message);
        Self { retry_after: Some(Duration::from_secs(jittered)), ..error }
    }

    /// 405.
    pub(crate) fn method(allow: &'static str) -> Self {
        let message = format!("this resource supports only {allow}");
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        Self { allow: Some(allow), ..error }
    }

    /// Adds the challenge: which credentials would do (RFC 9110 §11.6.1, RFC 6750 §3).
    pub(crate) fn with_challenge(self, challenge: &'static str) -> Self {
        Self { challenge: Some(challenge), ..self }
    }

    /// The value of `error` in a body, or in a reply.
    pub(crate) fn object(&self) -> Value {
        error_object(self.code, &self.message)
    }

    /// The error item for a page that cannot read the status: the object, and the retry delay. The item has the object's
    /// keys and also, as in a body, has them under `error`, so that one parser of errors serves a page on every transport.
    pub(crate) fn item_data(&self) -> Value {
        let mut data = self.object();
        data["error"] = self.object();
        if let Some(after) = self.retry_after {
            data["retry"] = (after.as_secs() * 1000).into();
        }
        data
    }

    /// The response as JSON.
    pub(crate) fn response(&self) -> Response {
        self.response_with(&json!({ "error": self.object() }))
    }

    /// The response with further keys beside the error.
    pub(crate) fn response_with(&self, body: &Value) -> Response {
        let mut response = error_response_with(self.status, body);
        if let Some(after) = self.retry_after {
            response = response.with(RETRY_AFTER, after.as_secs());
        }
        if let Some(allow) = self.allow {
            response = response.with(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(challenge) = self.challenge {
            response = response.with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.code == "upgrade_required" {
            response = response.with(UPGRADE, HeaderValue::from_static("websocket"));
            // RFC 6455 §4.2.2: the response names the supported version.
            response = response.with(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", error.to_string()),
            StoreError::NotAtomic => Self::new(StatusCode::NOT_IMPLEMENTED, "not_atomic", error.to_string()),
            StoreError::CannotErase(_) => Self::new(StatusCode::NOT_IMPLEMENTED, "cannot_erase", error.to_string()),
            StoreError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string()),
            StoreError::Busy(_) => Self::unavailable("busy", error.to_string()),
            StoreError::Share(_) => Self::too_many("too_many", error.to_string(), Duration::from_secs(1)),
            // The store has logged the error already, once.
            StoreError::Disk(_) => Self::unavailable("store_unavailable", error.to_string()),
            StoreError::Unavailable(reason) => {
                // The reason may name paths: it is logged, not sent to the client.
                tracing::error!(%reason, "the store is unavailable");
                Self::unavailable("store_unavailable", "the store does not respond at the moment: try again")
            }
        }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        /// Retry delay for a client that has too many of something: it can close some.
        const WAIT: Duration = Duration::from_secs(1);
        let message = error.to_string();
        match error {
            LimitError::ServerFull(_) => Self::unavailable(OVERLOADED, message),
            LimitError::Count { .. } | LimitError::Memory { .. } => Self::too_many("too_many", message, WAIT),
            LimitError::Rate { wait, .. } => Self::too_many(TOO_FAST, message, wait),
            LimitError::Burst { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message),
        }
    }
}

impl From<HeadError> for ApiError {
    fn from(error: HeadError) -> Self {
        Self::new(error.status(), error.code(), error.to_string())
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        let code = match &error {
            EventError::Topic(_) => "bad_topic",
            EventError::Name => "bad_event",
            EventError::Id => "bad_id",
            EventError::Headers(_) => "bad_headers",
            EventError::Data(JsonError::Syntax(_)) => "bad_json",
            EventError::Data(_) | EventError::Base64 => "bad_data",
        };
        Self::bad(code, error.to_string())
    }
}

impl From<TopicError> for ApiError {
    fn from(error: TopicError) -> Self {
        let code = if error == TopicError::TooMany { "too_many_topics" } else { "bad_topic" };
        Self::bad(code, error.to_string())
    }
}

impl From<CursorError> for ApiError {
    fn from(error: CursorError) -> Self {
        Self::bad("bad_cursor", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// At a high rate the bucket may have capacity again before the response is sent.
    #[test]
    fn retry_delays_are_positive_and_spread() {
        for wait in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1), Duration::from_millis(9001)] {
            let delays: HashSet<u64> = (0..200)
                .map(|_| {
                    let response = ApiError::too_many("too_fast", "slow down", wait).response();
                    response.fields.get(&RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap()
                })
                .collect();
            let least = wait.as_secs_f64().ceil().max(1.0) as u64;
            assert!(delays.iter().all(|seconds| *seconds >= least), "{wait:?}: {delays:?}");
            assert!(delays.len() > 1, "{wait:?}: {delays:?}");
        }
    }
}
