//! Known attacks over HTTP/2: the server closes the attacker's connection, and serves others meanwhile.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::certificates;
use super::http2::Connection;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET https://localhost/v1/poll?topic=a`, by HPACK's static table (RFC 7541 §6).
fn request() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04];
    for (before, text) in [(None, &b"/v1/poll?topic=a"[..]), (Some(0x01), b"localhost")] {
        block.extend(before);
        block.push(text.len() as u8);
        block.extend(text);
    }
    block
}

/// Sends repeatedly until the server closes the connection, up to a maximum.
async fn until_refused(times: u32, mut next: impl FnMut(u32) -> Vec<u8>) -> bool {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut stream = certificate.connect(server.address(), "h2").await.expect("TLS");
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sent");
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 16 << 10];
        // Until the server closes.
        while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let mut refused = false;
    for number in 0..times {
        if reading.is_finished() || write.write_all(&next(number)).await.is_err() {
            refused = true;
            break;
        }
    }
    if !refused {
        refused = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await.is_ok();
    }
    // In any case, others are served.
    let mut other = Connection::open(&certificate, &server).await;
    assert_eq!(other.get("/v1/info").await.status, 200);
    refused
}

/// CVE-2023-44487 (rapid reset): requests that are reset at once.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let refused = until_refused(200_000, |number| {
        let stream = 2 * number + 1;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &request()), reset].concat()
    });
    assert!(super::within("the end of it", refused).await);
}

/// CVE-2024-27316 (CONTINUATION flood): a head that never ends.
#[tokio::test]
async fn endless_heads_end_the_connection() {
    let refused = until_refused(20_000, |number| {
        if number == 0 {
            return frame(HEADERS, END_STREAM, 1, &request());
        }
        // `x: yyyy…`, never indexed.
        let mut block = vec![0x00, 0x01, b'x', 0x7F, 0x81, 0x06];
        block.extend(vec![b'y'; 128 + 768]);
        frame(CONTINUATION, 0, 1, &block)
    });
    assert!(super::within("the end of it", refused).await);
}

/// Empty CONTINUATION frames, too.
#[tokio::test]
async fn empty_continuations_end_the_connection() {
    let refused = until_refused(200_000, |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &request()),
        _ => frame(CONTINUATION, 0, 1, &[]),
    });
    assert!(super::within("the end of it", refused).await);
}

/// Streams beyond the limit are refused, not queued.
#[tokio::test]
async fn streams_past_the_limit_are_refused() {
    let (server, certificate, _files) = certificates::server(&["--max-http2-streams", "3"]);
    let mut stream = certificate.connect(server.address(), "h2").await.expect("TLS");
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let held = b"/v1/longpoll?topic=a&wait=60";
    for number in 0..5 {
        let mut block = vec![0x82, 0x87, 0x04, held.len() as u8];
        block.extend(held);
        block.extend([0x01, 9]);
        block.extend(b"localhost");
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &block));
    }
    stream.write_all(&bytes).await.expect("sent");
    let mut refused = Vec::new();
    let reading = async {
        while refused.len() < 2 {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.expect("the payload of the frame");
            if head[3] == RST_STREAM {
                const REFUSED_STREAM: u32 = 7;
                assert_eq!(payload, REFUSED_STREAM.to_be_bytes());
                refused.push(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            }
        }
    };
    super::within("two refusals", reading).await;
    assert_eq!(refused, [7, 9]);
}

/// A request that names no host would pass the checks of hosts (RFC 9113 §8.3.1).
#[tokio::test]
async fn a_request_without_an_authority_is_refused() {
    let (server, certificate, _files) = certificates::server(&[]);
    for target in [&b"/v1/poll?topic=a"[..], b"/v1/nothing"] {
        let mut stream = certificate.connect(server.address(), "h2").await.expect("TLS");
        let block = [&[0x82, 0x87, 0x04, target.len() as u8][..], target].concat();
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).await.expect("sent");
        let mut status = None;
        let body = super::within("a refusal", async {
            loop {
                let (kind, payload) = read_frame(&mut stream).await;
                match kind {
                    HEADERS => status = payload.first().copied(),
                    DATA => return payload,
                    _ => {}
                }
            }
        });
        let body: serde_json::Value = serde_json::from_slice(&body.await).expect("JSON");
        // Index 12 of HPACK's static table is `:status: 400`.
        assert_eq!((status, &body["error"]["code"]), (Some(0x80 | 12), &"bad_host".into()), "{body}");
    }
}

/// The kind of the next frame, and its payload.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.expect("the payload of the frame");
    (head[3], payload)
}

/// Pings are answered one at a time, with bounded memory.
#[tokio::test]
async fn pings_without_end_cost_nothing() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut stream = certificate.connect(server.address(), "h2").await.expect("TLS");
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sent");
    let pings: Vec<u8> = (0..1000).flat_map(|_| frame(PING, 0, 0, &[0; 8])).collect();
    // The client reads nothing: the server stops reading once its responses cannot be sent.
    for _ in 0..1000 {
        if !matches!(
            tokio::time::timeout(std::time::Duration::from_secs(1), stream.write_all(&pings)).await,
            Ok(Ok(()))
        ) {
            break;
        }
    }
    let mut other = Connection::open(&certificate, &server).await;
    assert_eq!(other.get("/v1/info").await.status, 200);
}
