//! Framing: encodes items into bytes for every transport.
//!
//! An item is one line of JSON that is safe in every framing ([`crate::json`]); a framing adds a few bytes around it.

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

/// The response to a poll.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The cursor to present next; `None`, on the wire `null`, in an error that answers a request without one.
    pub cursor: Option<Cursor>,
    /// The items' JSON, separated by commas.
    pub items: &'a [u8],
    /// Whether the items keep their meaning as literals in a script.
    pub literal: Literal,
    /// Whether a limit truncated the batch, so that the client should poll again at once.
    pub more: bool,
    /// Whether the server has a record of the request's client; true also where the request named none.
    pub known: bool,
    /// Whether the cursor is at or after the log's end, as it was when the request arrived.
    pub live: bool,
    /// The end of the round of newest events, where the batch ends before it.
    pub upto: Option<Cursor>,
}

/// How items become bytes on one connection.
#[derive(Clone, Debug)]
pub enum Framing {
    /// A batch as JSON: short and long polling.
    Json,
    /// A batch as the argument of a call in a script.
    Jsonp(Callback),
    /// A document with a script element per item, or with one batch.
    Iframe {
        /// The nonce of every script element, and of the document's Content-Security-Policy.
        nonce: Box<str>,
        /// The only origin of a window that may receive the items; `None` is the document's own.
        target: Option<Box<str>>,
    },
    /// Server-Sent Events.
    Sse {
        /// Whether 2 KiB of comment come first, for clients that buffer the beginning of a stream.
        padding: bool,
        /// Whether each item's name is sent in `event:`. If not, every item is a `message`, with its name in the JSON only.
        named: bool,
    },
    /// Newline-delimited JSON.
    Lines,
    /// Text frames.
    WebSocket,
    /// A WebSocket without items: only pings and the close frame.
    SocketControl,
}

impl Framing {
    /// Writes the bytes before the first item.
    pub fn preamble(&self, out: &mut BytesMut) {
        match self {
            Self::Iframe { nonce, target } => script::document_start(nonce, target.as_deref(), out),
            Self::Sse { padding, .. } => sse::preamble(*padding, out),
            Self::Json | Self::Jsonp(_) | Self::Lines | Self::WebSocket | Self::SocketControl => {}
        }
    }

    /// Writes one event.
    pub fn event(&self, event: &Event, out: &mut BytesMut) {
        match self {
            Self::Json | Self::Jsonp(_) => event.write_json(out),
            Self::Iframe { nonce, .. } => script::chunk(nonce, event.literal(), out, |out| event.write_json(out)),
            Self::Sse { named, .. } => sse::event(event, *named, out),
            Self::Lines => {
                // Else the last byte of a large event would double the buffer.
                out.reserve(event.json_bytes() + 1);
                event.write_json(out);
                out.put_u8(b'\n');
            }
            Self::WebSocket => websocket::event(event, out),
            Self::SocketControl => {}
        }
    }

    /// Writes one control event; `cursor` is the client's position after it.
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

    /// Writes a batch. What is false is left out, as is the usual `known`, since most responses are empty ones to short polls.
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
            if batch.live {
                out.put_slice(b",\"live\":true");
            }
            if let Some(upto) = batch.upto {
                out.put_slice(b",\"upto\":\"");
                upto.write(out);
                out.put_u8(b'"');
            }
            out.put_u8(b'}');
        };
        match self {
            Self::Jsonp(callback) => script::call(callback, literal, out, write),
            Self::Iframe { nonce, .. } => script::chunk(nonce, literal, out, write),
            _ => write(out),
        }
    }

    /// Writes the bytes after the last item of a stream that ends with `bye`.
    pub fn ending(&self, bye: &Bye, out: &mut BytesMut) {
        if matches!(self, Self::WebSocket | Self::SocketControl) {
            out.put_slice(&close_frame(bye.reason.close_code(), bye.reason.name()));
        }
    }
}

#[cfg(test)]
mod tests;
