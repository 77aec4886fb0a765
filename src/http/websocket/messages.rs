//! Handles the messages of a client on its WebSocket, and their replies.

use std::cell::Cell;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::access::{check_publish, check_still_good, check_subscribe, expiry};
use super::super::activity_log::PublishRecord;
use super::super::call::Refusals;
use super::super::driver::Driver;
use super::super::envelope::{Envelope, Ignored};
use super::super::error::ApiError;
use super::super::object;
use super::super::options::HttpOptions;
use super::super::publish;
use super::super::query::{parse_from, pattern};
use super::super::subscribe::check_patterns;
use super::incoming::TOO_FAST;
use crate::auth::Rights;
use crate::clients;
use crate::cursor::Cursor;
use crate::event::NewEvent;
use crate::hub::{Hub, StartFrom};
use crate::limits::{LimitError, Limits, RateKey};
use crate::net::websocket::CloseReason;
use crate::reader::{StartPoint, gap_at};
use crate::store::StoreError;
use crate::topic::{Pattern, PatternSet, Topic};
use crate::wire::Control;

/// A reply in progress; `None` where none is due.
pub(super) type Pending = LocalBoxFuture<'static, Option<Control>>;

/// Messages in a row that may be refused for their rate, each with a reply; then the WebSocket is closed.
const TOO_FAST_MAX: u32 = 100;

/// The outcome of a message.
pub(super) enum Outcome {
    Close(CloseReason),
    Reply(Option<Control>),
    Pending(Pending),
    /// The store has to be queried for its end; then the message is to be processed again.
    Refresh(LocalBoxFuture<'static, Result<(), StoreError>>),
}

/// Longest `ref`, in bytes: of a string's text, or of a number as it is spelt.
const REF_MAX_BYTES: usize = 256;

/// The context of every message of one WebSocket.
pub(super) struct Context {
    pub(super) hub: Hub,
    pub(super) options: Arc<HttpOptions>,
    pub(super) rights: Rights,
    pub(super) client: Uuid,
    pub(super) binary_topic: Option<Topic>,
    pub(super) limits: Arc<Limits>,
    /// The key that the messages' work is charged to.
    pub(super) key: RateKey,
    /// Charges and logs refusals.
    pub(super) refusals: Refusals,
    /// Messages in a row that were refused for their rate.
    pub(super) too_fast: Cell<u32>,
}

/// The common keys of all messages.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<&'a RawValue>,
}

/// A message's `ref`, as JSON.
type Reference = Box<str>;

#[derive(Deserialize)]
struct Subscribe {
    #[serde(deserialize_with = "object::not_a_string")]
    topics: Vec<String>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct Unsubscribe {
    #[serde(deserialize_with = "object::not_a_string")]
    topics: Vec<String>,
}

#[derive(Deserialize)]
struct Renewal {
    token: String,
}

#[derive(Deserialize)]
struct Ack {
    cursor: String,
}

impl Context {
    /// Handles a text message; `refreshed` where [`Outcome::Refresh`] has completed.
    pub(super) fn text(&mut self, text: &str, driver: &mut Driver, refreshed: bool) -> Outcome {
        let head = match parse::<Head<'_>>(text) {
            Ok(head) => head,
            Err(error) => return self.refuse(reference_in(text), error),
        };
        let reference = match head.reference.map(reference).transpose() {
            Ok(reference) => reference,
            Err(error) => return self.refuse(None, error),
        };
        let answered = match head.kind.as_str() {
            "publish" => match self.publish(text, driver) {
                Ok((event, ignored)) => return self.store(event, ignored, reference),
                Err(error) => Err(error),
            },
            "subscribe" => match self.subscription(text, refreshed) {
                Ok(message) => {
                    if let Some(refresh) = self.refresh_for(&message, driver).filter(|_| !refreshed) {
                        return Outcome::Refresh(refresh);
                    }
                    self.subscribe(&message, driver, reference.as_deref())
                }
                Err(error) => Err(error),
            },
            "unsubscribe" => self.unsubscribe(text, driver),
            "ack" => self.ack(text, driver),
            // A ping always has a reply, with a `ref` or without.
            "ping" => return Outcome::Reply(Some(success(reference, json!({})))),
            "auth" => self.renew(text, driver),
            _ => {
                let message = "`type` must be subscribe, unsubscribe, publish, ack, auth or ping";
                Err(ApiError::bad("bad_type", message))
            }
        };
        match answered {
            Ok(data) => Outcome::Reply(reference.map(|reference| success(Some(reference), data))),
            Err(error) => self.refuse(reference, error),
        }
    }

    /// Publishes a binary message.
    pub(super) fn binary(&self, bytes: &bytes::Bytes, driver: &Driver) -> Outcome {
        let Some(topic) = &self.binary_topic else {
            let message =
                "a binary message is published to the topic in the URL's `publish` parameter, which is missing";
            return self.refuse(None, ApiError::bad("no_topic", message));
        };
        let allowed = self.check_size(bytes.len()).and_then(|()| self.check_publish(topic, driver));
        match allowed {
            Ok(()) => self.store(publish::binary(topic.clone(), bytes), Ignored::default(), None),
            Err(error) => self.refuse(None, error),
        }
    }

    fn publish(&self, text: &str, driver: &Driver) -> Result<(NewEvent, Ignored), ApiError> {
        self.check_size(text.len())?;
        let (event, ignored) = parse::<Envelope<'_>>(text)?.into_event()?;
        self.check_publish(&event.topic, driver)?;
        let ignored = ignored.without(&["type", "ref"]);
        ignored.check(self.options.strict)?;
        Ok((event, ignored))
    }

    fn check_size(&self, length: usize) -> Result<(), ApiError> {
        let max = self.options.event_bytes_max;
        if length > max { Err(ApiError::too_large("an event", max)) } else { Ok(()) }
    }

    fn check_publish(&self, topic: &Topic, driver: &Driver) -> Result<(), ApiError> {
        self.check_here(driver)?;
        check_publish(&self.rights, topic)
    }

    /// A message that is processed when the connection is already ending is too late.
    fn check_here(&self, driver: &Driver) -> Result<(), ApiError> {
        if driver.registration.as_ref().is_some_and(|registration| registration.connection.is_ending()) {
            return Err(ApiError::forbidden("this connection is being closed"));
        }
        check_still_good(&self.hub, &self.options.access, &self.rights)
    }

    /// Replaces the token by another for the same subject. It has to grant all that is subscribed: to drop a part silently
    /// would look as if no more events were published. Where it does not, the old token stays until it expires.
    fn renew(&mut self, text: &str, driver: &mut Driver) -> Result<Value, ApiError> {
        let access = &self.options.access;
        let Some(keys) = &access.keys else {
            return Err(ApiError::bad("not_supported", "this server has no keys, so there is no token to renew"));
        };
        let message: Renewal = parse(text)?;
        // To verify a signature is the expensive part of a new connection, and it has the same rate limit.
        self.paced(self.limits.connect(&self.key))?;
        let now_ms = self.hub.clock().wall_ms();
        let grant = Arc::new(keys.verify(&message.token, now_ms)?);
        let rights = Rights::Granted(grant.clone(), access.public_subscribe.clone());
        check_still_good(&self.hub, access, &rights)?;
        if rights.subject() != self.rights.subject() {
            return Err(ApiError::forbidden("the new token has another `sub`: open another WebSocket for it"));
        }
        check_subscribe(&rights, driver.delivery.patterns())?;
        driver.delivery.set_expiry(expiry(&self.hub, &rights));
        if let Some(registration) = &driver.registration {
            registration.connection.set_grant(grant.clone());
        }
        self.rights = rights;
        // A revocation in between was matched with the old token.
        check_still_good(&self.hub, &self.options.access, &self.rights)?;
        Ok(json!({ "expires_in": (grant.expires_ms - now_ms) / 1000 }))
    }

    /// Checks the outcome of a rate limit.
    fn paced(&self, allowed: Result<(), LimitError>) -> Result<(), ApiError> {
        match allowed {
            Ok(()) => {
                self.too_fast.set(0);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a message with a reply; it is charged as a refused request is.
    fn refuse(&self, reference: Option<Reference>, error: ApiError) -> Outcome {
        let error = self.refusals.charge(error.of(&self.rights));
        if error.is_pace() {
            self.too_fast.set(self.too_fast.get() + 1);
        }
        if self.too_fast.get() > TOO_FAST_MAX {
            return Outcome::Close(TOO_FAST);
        }
        Outcome::Reply(Some(refusal(reference, &error)))
    }

    fn store(&self, event: NewEvent, ignored: Ignored, reference: Option<Reference>) -> Outcome {
        let bytes = event.cost_bytes();
        if let Err(error) = self.paced(self.limits.publish(&self.key, 1, bytes)) {
            return self.refuse(reference, error);
        }
        let mut budget = self.limits.inbound(self.key.clone()).privileged(self.rights.is_admin());
        if let Err(error) = budget.grow(usize::try_from(bytes).unwrap_or(usize::MAX)) {
            return self.refuse(reference, error.into());
        }
        let record = PublishRecord::begin(&self.key);
        record.add(std::slice::from_ref(&event));
        let hub = self.hub.clone();
        let event = event.by(self.limits.publisher(&self.key));
        let published = async move {
            let published = hub.publish(event).await;
            // Until then the event is in memory, and a WebSocket may have several in flight.
            drop(budget);
            match published {
                Ok(published) => {
                    record.stored(published.cursor);
                    record.end("stored");
                    reference.map(|reference| success(Some(reference), publish::outcome(&published, &ignored)))
                }
                Err(error) => {
                    let error = ApiError::from(error);
                    record.end(error.code());
                    Some(refusal(reference, &error))
                }
            }
        };
        Outcome::Pending(published.boxed_local())
    }

    fn subscription(&self, text: &str, refreshed: bool) -> Result<Subscribe, ApiError> {
        let message: Subscribe = parse(text)?;
        if !refreshed {
            // As much work as a new connection.
            self.paced(self.limits.connect(&self.key))?;
        }
        Ok(message)
    }

    /// A cursor that is unknown here may be from another node, of events that have not arrived here yet.
    fn refresh_for(
        &self,
        message: &Subscribe,
        driver: &Driver,
    ) -> Option<LocalBoxFuture<'static, Result<(), StoreError>>> {
        let Ok(StartFrom::Cursor(cursor)) = parse_from(message.cursor.as_deref()?) else { return None };
        let cursor = self.hub.translate(cursor);
        if !driver.delivery.patterns().is_empty() || gap_at(cursor, &self.hub.bounds()).is_none() {
            return None;
        }
        let hub = self.hub.clone();
        Some(async move { hub.bounds_for(cursor).await.map(drop) }.boxed_local())
    }

    /// The reply to a message that cannot be processed now.
    pub(super) fn unanswered(text: &str, error: ApiError) -> Control {
        refusal(reference_in(text), &error)
    }

    /// New patterns apply to events after the cursor in the reply. Without a subscription the position is the given one,
    /// else the one that the WebSocket was opened with, else the log's end.
    fn subscribe(&self, message: &Subscribe, driver: &mut Driver, reference: Option<&str>) -> Result<Value, ApiError> {
        let added = topics(&message.topics)?;
        let from = message.cursor.as_deref().map(parse_from).transpose()?;
        let before = driver.delivery.patterns().clone();
        let patterns = PatternSet::new(before.iter().cloned().chain(added))?;
        self.check_here(driver)?;
        check_subscribe(&self.rights, &patterns)?;
        check_patterns(&patterns, self.options.patterns_max)?;
        let seek = if before.is_empty() { self.seek(from, driver) } else { None };
        let continues_start = driver.delivery.is_awaiting_first_subscribe();
        driver.set_patterns(patterns.clone())?;
        if let Some(start) = seek {
            driver.delivery.seek(start);
        }
        if from.is_some() {
            driver.begin_again(reference.map(Into::into));
        } else if continues_start {
            // The stream's own beginning, at the cursor that it was opened with.
            driver.begin_again(None);
        }
        self.hub.clients().remember_patterns(self.client, &patterns);
        Ok(json!({ "cursor": driver.delivery.cursor(), "topics": patterns.iter().collect::<Vec<_>>() }))
    }

    fn seek(&self, from: Option<StartFrom>, driver: &Driver) -> Option<StartPoint> {
        let bounds = self.hub.bounds();
        let cursor_at = |position| Cursor::new(bounds.epoch, position);
        let at = |position| StartPoint::at(cursor_at(position));
        match from {
            Some(StartFrom::Cursor(cursor)) => {
                let cursor = self.hub.translate(cursor);
                Some(StartPoint::after(cursor, gap_at(cursor, &bounds)))
            }
            Some(StartFrom::Earliest) => Some(StartPoint::beginning_at(cursor_at(bounds.floor))),
            Some(StartFrom::Now | StartFrom::Last(_) | StartFrom::Since(_)) => Some(at(bounds.last)),
            None if driver.delivery.is_awaiting_first_subscribe() => None,
            None => Some(at(bounds.last)),
        }
    }

    fn unsubscribe(&self, text: &str, driver: &mut Driver) -> Result<Value, ApiError> {
        let message: Unsubscribe = parse(text)?;
        let removed = topics(&message.topics)?;
        let left = driver.delivery.patterns().iter().filter(|pattern| !removed.contains(pattern)).cloned();
        let patterns = PatternSet::new(left)?;
        driver.set_patterns(patterns.clone())?;
        self.hub.clients().remember_patterns(self.client, &patterns);
        Ok(json!({ "topics": patterns.iter().collect::<Vec<_>>() }))
    }

    fn ack(&self, text: &str, driver: &Driver) -> Result<Value, ApiError> {
        let message: Ack = parse(text)?;
        let cursor = self.hub.translate(message.cursor.parse()?);
        let sent = driver.delivery.cursor();
        if cursor.epoch == sent.epoch && cursor.position > sent.position {
            return Err(ApiError::bad("bad_cursor", "the cursor is ahead of what was sent on this WebSocket"));
        }
        self.check_here(driver)?;
        // Includes the events that were skipped because they do not match.
        driver.note_sent();
        let ack = clients::Ack {
            client: self.client,
            cursor,
            log: sent.epoch,
            rights: &self.rights,
            now_ms: self.hub.clock().believed_ms(),
        };
        let remembered = self.hub.clients().acknowledge(ack)?;
        Ok(json!({ "cursor": remembered }))
    }
}

fn topics(texts: &[String]) -> Result<Vec<Pattern>, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::bad("no_topic", "`topics` must have at least one pattern, such as [\"orders.*\"]"));
    }
    texts.iter().map(|text| pattern(text)).collect()
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ApiError> {
    object::parse(text).map_err(|error| {
        let code = if error.is_data() { "bad_message" } else { "bad_json" };
        ApiError::json(code, &error, "a message is {\"type\":\"subscribe\",\"topics\":[\"a.b\"]} or the like")
    })
}

/// The `ref` of an otherwise invalid message, so that the client can match the error.
fn reference_in(text: &str) -> Option<Reference> {
    #[derive(Deserialize)]
    struct Referring<'a> {
        #[serde(borrow, rename = "ref")]
        reference: &'a RawValue,
    }
    reference(object::parse::<Referring<'_>>(text).ok()?.reference).ok()
}

fn reference(raw: &RawValue) -> Result<Reference, ApiError> {
    let text = raw.get();
    let legal = match text.as_bytes() {
        // Encoded again: half of a surrogate pair is refused, here and by a client's parser.
        [b'"', ..] => serde_json::from_str::<String>(text)
            .ok()
            .filter(|text| text.len() <= REF_MAX_BYTES)
            .map(|text| Value::from(text).to_string().into()),
        [b'-' | b'0'..=b'9', ..] if text.len() <= REF_MAX_BYTES => Some(text.into()),
        _ => None,
    };
    legal.ok_or_else(|| {
        ApiError::bad("bad_ref", "`ref` must be a number of at most 256 digits, or a string of at most 256 bytes")
    })
}

fn success(reference: Option<Reference>, mut data: Value) -> Control {
    data["ok"] = true.into();
    Control::Reply { data, reference }
}

fn refusal(reference: Option<Reference>, error: &ApiError) -> Control {
    Control::Reply { data: json!({ "ok": false, "error": error.object() }), reference }
}
