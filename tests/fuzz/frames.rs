//! Fuzzing of WebSocket frames on an open connection: random frames, and mutated valid ones.

use proptest::prelude::*;

use super::inputs::{damaged, json};
use super::{exchange, fuzz};
use crate::support::http::Connection;
use crate::support::raw::masked;

const MESSAGES: [&str; 9] = [
    r#"{"type":"subscribe","topics":["a.>","b.*"],"ref":1}"#,
    r#"{"type":"subscribe","topics":["a"],"cursor":"earliest","ref":"x"}"#,
    r#"{"type":"unsubscribe","topics":["a.>"],"ref":2}"#,
    r#"{"type":"publish","topic":"a.b","event":"e","data":{"x":[1,null]},"id":"i","ref":3}"#,
    r#"{"type":"publish","topic":"a.b","data":"AAEC","encoding":"base64"}"#,
    r#"{"type":"ack","cursor":"abc-1","ref":4}"#,
    r#"{"type":"auth","token":"a.b.c","ref":5}"#,
    r#"{"type":"ping","ref":6}"#,
    r#"{"type":"nothing we know"}"#,
];

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x80, 0x89, 0x8A, 0x00]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => prop::sample::select(MESSAGES.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        3 => damaged(MESSAGES.map(|text| text.as_bytes().to_vec()).to_vec(), 4),
        2 => json().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    (first, payload, prop::option::weighted(0.1, any::<[u8; 14]>())).prop_map(|(first, payload, header)| {
        let frame = masked(first, &payload);
        match header {
            None => frame,
            // A frame header whose length differs from the payload's.
            Some(header) => [&header[..2 + payload.len() % 13], &payload[..]].concat(),
        }
    })
}

/// Checks the server's frames (RFC 6455 §5.2): complete, unmasked, with a known opcode.
fn check_frames(mut bytes: &[u8], texts_are_json: bool) -> Result<(), TestCaseError> {
    while bytes.len() >= 2 {
        let (first, second) = (bytes[0], bytes[1]);
        prop_assert!(second & 0x80 == 0, "a server does not mask");
        prop_assert!(first & 0x70 == 0, "reserved bits");
        let (header, length) = match second {
            126 if bytes.len() >= 4 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 if bytes.len() >= 10 => {
                (10, u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize)
            }
            126 | 127 => return Ok(()),
            short => (2, usize::from(short)),
        };
        let Some(payload) = bytes.get(header..header + length) else { return Ok(()) };
        match first & 0x0F {
            1 if texts_are_json => {
                let item: Result<serde_json::Value, _> = serde_json::from_slice(payload);
                prop_assert!(item.is_ok_and(|item| item["event"].is_string()), "{}", String::from_utf8_lossy(payload));
            }
            0..=2 | 9 | 10 => {}
            8 if payload.len() >= 2 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let known = [1000, 1001, 1002, 1007, 1008, 1009, 1013];
                // The peer's own close code is echoed (§5.5.1).
                prop_assert!(
                    known.contains(&code) || (3000..5000).contains(&code) || (1000..1015).contains(&code),
                    "{code}"
                );
            }
            8 => {}
            kind => prop_assert!(false, "a frame of kind {kind}"),
        }
        bytes = &bytes[header + length..];
    }
    Ok(())
}

fn talk(address: &str, path: &str, frames: &[Vec<u8>], cut: usize) -> Result<(), TestCaseError> {
    let (head, received) = exchange(async {
        let mut connection = Connection::open(address).await?;
        connection.upgrade(path).await?;
        let head = connection.head().await?;
        for piece in frames.concat().chunks(cut) {
            // The server may close the connection before it has read everything.
            if connection.send(piece).await.is_err() {
                break;
            }
        }
        let _ = connection.finish().await;
        // Earlier responses may be lost by a reset.
        Ok((head, connection.closed().await))
    })?;
    prop_assert_eq!(head.status, 101, "{}", head.text);
    check_frames(&received, path.starts_with("/v1/ws"))
}

#[test]
fn frames() {
    let paths = vec!["/v1/ws", "/v1/ws?topic=a.%3E", "/v1/ws?topic=b.*&publish=a.c&cursor=earliest", "/v1/echo"];
    let frames = prop::collection::vec(frame(), 1..8);
    let inputs = (prop::sample::select(paths), frames, prop::sample::select(vec![1_usize, 7, 100, 1 << 16]));
    fuzz("frames", &["--store", "memory"], 700, &inputs, |address, (path, frames, cut)| {
        talk(address, path, &frames, cut)
    });
}

/// Random bytes instead of frames after the handshake.
#[test]
fn no_frames() {
    let inputs = prop::collection::vec(any::<u8>(), 0..2000);
    fuzz("no frames", &["--store", "memory"], 300, &inputs, |address, bytes| {
        talk(address, "/v1/ws", &[bytes], 1 << 16)
    });
}
