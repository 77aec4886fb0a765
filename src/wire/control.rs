//! Control events: items that the server itself sends on a subscription. Never stored.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::cursor::Cursor;
use crate::topic::Pattern;
use crate::transport::Transport;

/// A control event.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// The first item of every stream.
    Hello {
        /// The client's UUID: the one that the request named, or a new one.
        client: Uuid,
        /// The interval of heartbeats on an idle stream.
        heartbeat: Duration,
        /// The stream's transport.
        transport: Transport,
        /// Whether the server has a record of the request's client; true also where the request named none.
        known: bool,
        /// Whether nothing lay behind the stream's beginning.
        live: bool,
    },
    /// The past is over: every event was sent that was in the log at a beginning. The `ref` of the message that made the
    /// beginning, as JSON.
    Live(Option<Box<str>>),
    /// Events that the client was due are not available any more.
    Gap(Gap),
    /// A heartbeat: there was no match up to its cursor.
    Beat {
        /// The end of the round of newest events that is under way.
        upto: Option<Cursor>,
    },
    /// The server ends the stream.
    Bye {
        /// Why, and when to reconnect.
        bye: Bye,
        /// As for a heartbeat.
        upto: Option<Cursor>,
    },
    /// An error of the request, for transports whose clients cannot read the status.
    Error(Value),
    /// The reply to a WebSocket message.
    Reply {
        /// An object.
        data: Value,
        /// The message's `ref` as JSON: the number as it was written, or a string. Not a [`Value`], which would round numbers
        /// of many digits.
        reference: Option<Box<str>>,
    },
}

/// A range of the log that is not available any more, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// The client's position before the gap.
    pub from: Cursor,
    /// The position at which delivery continues.
    pub to: Cursor,
    /// The patterns of lost events, where known.
    pub patterns: Vec<Pattern>,
    /// The number of lost events, where known.
    pub missed: Option<u64>,
}

/// Why there is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Removed by retention.
    Expired,
    /// Erased by an administrator.
    Erased,
    /// The cursor is of another log.
    Epoch,
    /// The cursor is past the log's end: the events up to it were lost.
    Ahead,
}

/// Why the server ends a stream, and when to reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bye {
    /// Why.
    pub reason: ByeReason,
    /// The delay of the reconnect; `None` forbids a reconnect with the same request.
    pub retry: Option<Duration>,
}

/// Why the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByeReason {
    /// The server stops, or restarts.
    Shutdown,
    /// The stream has reached its maximum size or age.
    Recycle,
    /// The token has expired.
    Expired,
    /// The same client has connected again on the same transport.
    Replaced,
    /// An administrator ended the stream.
    Kicked,
    /// The peer reads too slowly, or does not answer pings.
    Slow,
}

impl GapReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Expired, Self::Erased, Self::Epoch, Self::Ahead];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Erased => "erased",
            Self::Epoch => "epoch",
            Self::Ahead => "ahead",
        }
    }
}

impl ByeReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [Self::Shutdown, Self::Recycle, Self::Expired, Self::Replaced, Self::Kicked, Self::Slow];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Recycle => "recycle",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Kicked => "kicked",
            Self::Slow => "slow",
        }
    }

    /// The WebSocket close code (RFC 6455 §7.4.1, and the IANA registry for 1013).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Shutdown | Self::Recycle => 1001,
            Self::Expired | Self::Replaced | Self::Kicked => 1008,
            Self::Slow => 1013,
        }
    }
}

impl Control {
    /// The event's name. It begins with `$`, unlike the name of any published event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "$hello",
            Self::Live(_) => "$live",
            Self::Gap(_) => "$gap",
            Self::Beat { .. } => "$beat",
            Self::Bye { .. } => "$bye",
            Self::Error(_) => "$error",
            Self::Reply { .. } => "$reply",
        }
    }

    /// The item, as one safe line of JSON.
    pub(super) fn json(&self, cursor: Option<Cursor>) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(b'{');
        if let Some(cursor) = cursor {
            out.extend_from_slice(b"\"cursor\":\"");
            cursor.write(&mut out);
            out.extend_from_slice(b"\",");
        }
        if let Self::Beat { upto: Some(upto) } | Self::Bye { upto: Some(upto), .. } = self {
            out.extend_from_slice(b"\"upto\":\"");
            upto.write(&mut out);
            out.extend_from_slice(b"\",");
        }
        out.extend_from_slice(b"\"event\":\"");
        out.extend_from_slice(self.name().as_bytes());
        out.push(b'"');
        if let Some(data) = self.data() {
            out.extend_from_slice(b",\"data\":");
            // A serialized `Value` of this server is always valid: it is not deeply nested, and strings have no surrogates.
            let mut text = data.to_string();
            if let Self::Reply { reference: Some(reference), .. } | Self::Live(Some(reference)) = self
                && text.pop().is_some()
            {
                let separator = if text.len() > 1 { "," } else { "" };
                text.extend([separator, "\"ref\":", reference, "}"]);
            }
            out.extend_from_slice(crate::json::safe_syntax(&text).unwrap_or_default().as_bytes());
        }
        out.push(b'}');
        out
    }

    fn data(&self) -> Option<Value> {
        match self {
            Self::Hello { client, heartbeat, transport, known, live } => {
                let mut data = json!({
                    "client": client,
                    "heartbeat": millis(*heartbeat),
                    "server": env!("CARGO_PKG_VERSION"),
                    "transport": transport.name(),
                });
                if !known {
                    data["known"] = false.into();
                }
                if *live {
                    data["live"] = true.into();
                }
                Some(data)
            }
            Self::Gap(gap) => {
                let mut data = json!({ "reason": gap.reason.name(), "from": gap.from, "to": gap.to });
                if !gap.patterns.is_empty() {
                    data["patterns"] = json!(gap.patterns);
                }
                if let Some(missed) = gap.missed {
                    data["missed"] = missed.into();
                }
                Some(data)
            }
            Self::Beat { .. } => None,
            Self::Live(_) => Some(json!({})),
            Self::Bye { bye, .. } => {
                let mut data = json!({ "reason": bye.reason.name() });
                if let Some(retry) = bye.retry {
                    data["retry"] = millis(retry).into();
                }
                Some(data)
            }
            Self::Error(data) | Self::Reply { data, .. } => Some(data.clone()),
        }
    }
}

/// Whole milliseconds, the unit of durations on the wire.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
