//! Server-Sent Events (WHATWG HTML §9.2.5).

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::control::{Control, millis};
use crate::cursor::Cursor;
use crate::event::Event;

/// How long an `EventSource` waits before it reconnects by itself.
const RETRY: Duration = Duration::from_secs(2);

/// The `retry` that stands for "do not reconnect", which an `EventSource` does not know: a day.
const RETRY_NEVER: Duration = Duration::from_secs(24 * 3600);

/// Comment bytes for clients that buffer the beginning of a stream.
const PADDING_BYTES: usize = 2048;

/// Names with a meaning of their own in an `EventSource`, so they are not sent as an event's type.
const RESERVED_NAMES: [&str; 3] = ["message", "open", "error"];

pub(super) fn preamble(padding: bool, out: &mut BytesMut) {
    if padding {
        out.put_u8(b':');
        out.put_bytes(b' ', PADDING_BYTES);
        out.put_u8(b'\n');
    }
}

pub(super) fn event(event: &Event, named: bool, out: &mut BytesMut) {
    let name = event.name().filter(|name| named && !RESERVED_NAMES.contains(name));
    // Reserves the exact size, as for a WebSocket's frame.
    let name_bytes = name.map_or(0, |name| "\nevent: ".len() + name.len());
    out.reserve("id: \ndata: \n\n".len() + event.cursor().text_bytes() + name_bytes + event.json_bytes());
    out.put_slice(b"id: ");
    event.cursor().write(out);
    if let Some(name) = name {
        out.put_slice(b"\nevent: ");
        out.put_slice(name.as_bytes());
    }
    out.put_slice(b"\ndata: ");
    event.write_json(out);
    out.put_slice(b"\n\n");
}

pub(super) fn control(control: &Control, cursor: Option<Cursor>, json: &[u8], named: bool, out: &mut BytesMut) {
    if let Some(cursor) = cursor {
        out.put_slice(b"id: ");
        cursor.write(out);
        out.put_u8(b'\n');
    }
    // `retry` is sent in blocks with data: some clients (`httpx-sse`, `sseclient`) pass a block without data to the application.
    match control {
        Control::Hello { .. } => retry(RETRY, out),
        Control::Bye { bye, .. } => retry(bye.retry.unwrap_or(RETRY_NEVER), out),
        _ => {}
    }
    if named {
        out.put_slice(b"event: ");
        out.put_slice(control.name().as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"data: ");
    out.put_slice(json);
    out.put_slice(b"\n\n");
}

fn retry(after: Duration, out: &mut BytesMut) {
    out.put_slice(b"retry: ");
    out.put_slice(itoa::Buffer::new().format(millis(after)).as_bytes());
    out.put_u8(b'\n');
}
