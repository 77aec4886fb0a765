//! WebSocket frames, server to client: never masked, never fragmented (RFC 6455 §5.2).

use bytes::{BufMut, BytesMut};

use crate::event::Event;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Longest payload of a control frame, in bytes (RFC 6455 §5.5).
const CONTROL_MAX_BYTES: usize = 125;

/// One event in a text frame.
pub(super) fn event(event: &Event, out: &mut BytesMut) {
    let length = event.json_bytes();
    // Reserves the exact size: a full buffer can become shared `Bytes` without another allocation.
    out.reserve(header_bytes(length) + length);
    header(TEXT, length, out);
    event.write_json(out);
}

/// A text frame.
#[must_use]
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    frame(TEXT, text)
}

/// A binary frame.
#[must_use]
pub fn binary_frame(bytes: &[u8]) -> Vec<u8> {
    frame(BINARY, bytes)
}

/// A ping without payload.
#[must_use]
pub fn ping_frame() -> Vec<u8> {
    frame(PING, b"")
}

/// The pong to a ping, with its payload (at most 125 bytes of it).
#[must_use]
pub fn pong_frame(payload: &[u8]) -> Vec<u8> {
    frame(PONG, &payload[..payload.len().min(CONTROL_MAX_BYTES)])
}

/// A close frame; a reason that is too long is truncated.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    let fitting = reason.floor_char_boundary(CONTROL_MAX_BYTES - 2);
    payload.extend_from_slice(&reason.as_bytes()[..fitting]);
    frame(CLOSE, &payload)
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(header_bytes(payload.len()) + payload.len());
    header(opcode, payload.len(), &mut out);
    out.put_slice(payload);
    out
}

/// Length of a frame's header without a mask, in bytes.
fn header_bytes(length: usize) -> usize {
    match length {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

fn header(opcode: u8, length: usize, out: &mut impl BufMut) {
    const FIN: u8 = 0x80;
    out.put_u8(FIN | opcode);
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xFFFF => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}
