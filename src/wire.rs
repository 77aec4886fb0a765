//! Framing: items to bytes, for every transport.
//!
//! An item is one line of JSON that is safe everywhere ([`crate::json`]); a framing puts its own few bytes around it.

mod control;
mod script;
mod sse;
mod websocket;

use bytes::{BufMut, BytesMut};

use crate::cursor::Cursor;
use crate::event::Event;
use crate::json::Literal;

pub use control::{Bye, ByeReason, Control, Gap, GapReason};
pub use script::{Callback, CallbackError};
pub use websocket::{binary_frame, close_frame, ping_frame, pong_frame, text_frame};

/// The answer of a request that completes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The cursor to present next; `None`, on the wire `null`, in an error that answers a request without one.
    pub cursor: Option<Cursor>,
    /// The items' JSON, with commas between.
    pub items: &'a [u8],
    /// How all of it stands in a script.
    pub literal: Literal,
    /// Whether a limit cut it, so that the client does best to ask again at once.
    pub more: bool,
    /// Whether the client that the request named is remembered; true also where it named none.
    pub known: bool,
}

/// How items become bytes on one connection.
#[derive(Clone, Debug)]
pub enum Framing {
    /// A batch as JSON: short and long polling.
    Json,
    /// A batch as the argument of a call in a script.
    Jsonp(Callback),
    /// A document with a chunk of script an item, or with one batch.
    Iframe {
        /// Stands in every script tag, and in the document's Content-Security-Policy.
        nonce: Box<str>,
        /// The only window origin that may hear the items; the document's own where it is `None`.
        target: Option<Box<str>>,
    },
    /// Server-Sent Events.
    Sse {
        /// Puts 2 KiB of comment first, for readers that hold back the beginning.
        padding: bool,
        /// Says each item's name in `event:`; else every item is a `message`, and its name stands in the JSON only.
        named: bool,
    },
    /// Newline-delimited JSON.
    Lines,
    /// Text frames.
    WebSocket,
    /// A WebSocket without items: nothing but pings and the close frame.
    SocketControl,
}

impl Framing {
    /// What stands before the first item.
    pub fn preamble(&self, out: &mut BytesMut) {
        match self {
            Self::Iframe { nonce, target } => script::document_start(nonce, target.as_deref(), out),
            Self::Sse { padding, .. } => sse::preamble(*padding, out),
            Self::Json | Self::Jsonp(_) | Self::Lines | Self::WebSocket | Self::SocketControl => {}
        }
    }

    /// One event.
    pub fn event(&self, event: &Event, out: &mut BytesMut) {
        match self {
            Self::Json | Self::Jsonp(_) => event.write_json(out),
            Self::Iframe { nonce, .. } => script::chunk(nonce, event.literal(), out, |out| event.write_json(out)),
            Self::Sse { named, .. } => sse::event(event, *named, out),
            Self::Lines => {
                event.write_json(out);
                out.put_u8(b'\n');
            }
            Self::WebSocket => websocket::event(event, out),
            Self::SocketControl => {}
        }
    }

    /// One control event; `cursor` is where it leaves the client.
    pub fn control(&self, control: &Control, cursor: Option<Cursor>, out: &mut BytesMut) {
        let json = control.json(cursor);
        match self {
            Self::Json | Self::Jsonp(_) => out.put_slice(&json),
            Self::Iframe { nonce, .. } => script::chunk(nonce, Literal::Same, out, |out| out.put_slice(&json)),
            Self::Sse { named, .. } => sse::control(control, cursor, &json, *named, out),
            Self::Lines => {
                out.put_slice(&json);
                out.put_u8(b'\n');
            }
            Self::WebSocket => out.put_slice(&text_frame(&json)),
            Self::SocketControl => {}
        }
    }

    /// A whole answer. What is so nearly always (no more, known) is left out, since most answers are short polls' empty ones.
    pub fn batch(&self, batch: &Batch<'_>, out: &mut BytesMut) {
        let literal = batch.literal;
        let write = |out: &mut BytesMut| {
            match batch.cursor {
                Some(cursor) => {
                    out.put_slice(b"{\"cursor\":\"");
                    cursor.write(out);
                    out.put_slice(b"\",\"events\":[");
                }
                None => out.put_slice(b"{\"cursor\":null,\"events\":["),
            }
            out.put_slice(batch.items);
            out.put_u8(b']');
            if batch.more {
                out.put_slice(b",\"more\":true");
            }
            if !batch.known {
                out.put_slice(b",\"known\":false");
            }
            out.put_u8(b'}');
        };
        match self {
            Self::Jsonp(callback) => script::call(callback, literal, out, write),
            Self::Iframe { nonce, .. } => script::chunk(nonce, literal, out, write),
            _ => write(out),
        }
    }

    /// What stands after the last item of a stream that ends with `bye`.
    pub fn ending(&self, bye: &Bye, out: &mut BytesMut) {
        if matches!(self, Self::WebSocket | Self::SocketControl) {
            out.put_slice(&close_frame(bye.reason.close_code(), bye.reason.name()));
        }
    }
}

#[cfg(test)]
mod tests;
