//! Fuzzing of request heads: the query of every transport, the headers that the server reads, and whole requests.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::inputs::damaged;
use super::{Sent, check, fuzz, send};
use crate::support::http::Answer;

const PATHS: [&str; 12] = [
    "/v1/poll",
    "/v1/longpoll",
    "/v1/jsonp",
    "/v1/iframe",
    "/v1/sse",
    "/v1/stream",
    "/v1/ws",
    "/v1/echo",
    "/v1/info",
    "/v1/clients",
    "/v1/clients/x",
    "/healthz",
];

const NAMES: [&str; 18] = [
    "topic", "topic", "topic", "cursor", "client", "last", "since", "limit", "once", "callback", "origin", "padding",
    "named", "publish", "ticket", "token", "after", "ban",
];

const VALUES: [&str; 38] = [
    "1763750000123",
    "2025-11-21T18:33:20Z",
    "a",
    "a.b",
    ">",
    "*",
    "a.>",
    "a..b",
    ".",
    ">.a",
    "now",
    "earliest",
    "abc-0",
    "abc-18446744073709551615",
    "abc-18446744073709551616",
    "ABC-1",
    "-",
    "-1",
    "0",
    "1",
    "2",
    "60",
    "61",
    "1000",
    "1001",
    "1e3",
    "0x1",
    "+1",
    "0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d",
    "0190b5a27c3e4f6a9d1b2e8f4c6a0b1d",
    "cb",
    "a.b.$c",
    "a[0]",
    "alert(1)",
    "http://127.0.0.1",
    "https://*.example.com",
    "null",
    "eyJhbGciOiJub25lIn0.e30.",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(VALUES.to_vec()).prop_map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()),
        2 => any::<String>().prop_map(|text| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string()),
        1 => "[!-~&&[^#]]{0,60}",
        1 => "(%[0-9a-fA-F]{2}){0,20}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    let field =
        (prop_oneof![9 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), 1 => "[a-z]{0,8}"], value());
    prop_oneof![
        6 => prop::collection::vec(field, 0..6).prop_map(|fields| {
            fields.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
        }),
        1 => "[!-~&&[^#]]{0,200}",
    ]
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn queries() {
    let inputs = (prop::sample::select(PATHS.to_vec()), query());
    fuzz("queries", &["--store", "memory"], 1500, &inputs, |address, (path, query)| {
        // No request is held: a query that would be held is made to complete at once.
        let at_once = if query.contains("wait") { "" } else { "&wait=0" };
        let upgrade = if matches!(path, "/v1/ws" | "/v1/echo") { UPGRADE } else { "" };
        let request = format!("GET {path}?{query}{at_once} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n");
        let answer = send(address, request.as_bytes(), Sent::Request)?;
        let answer = answer.ok_or_else(|| TestCaseError::fail("no answer"))?;
        prop_assert!(answer.status() < 500, "{}", answer.status());
        Ok(())
    });
}

#[test]
fn headers() {
    let names = vec![
        "Origin",
        "Host",
        "Content-Type",
        "If-None-Match",
        "Last-Event-ID",
        "Idempotency-Key",
        "Authorization",
        "Cookie",
        "Forwarded",
        "X-Forwarded-For",
        "Accept",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Key",
        "Sec-Fetch-Site",
        "Access-Control-Request-Method",
        "Content-Encoding",
        "Expect",
        "Range",
        "Connection",
        "Upgrade",
        "X-Real-IP",
    ];
    let value = prop_oneof![
        3 => prop::collection::vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..], 0..80),
        2 => prop::sample::select(VALUES.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        2 => damaged(
            [
                "http://localhost", "https://a.example:443", "W/\"abc-1\", \"abc-2\"", "*", "Bearer a.b.c",
                "switchback_token=a.b.c; x=\"y\"", "for=192.0.2.1;proto=https;host=x", "192.0.2.1, ::1, unknown",
                "application/json; charset=\"utf-8\"", "multipart/form-data; boundary=x", "gzip, br",
                "switchback.v1, switchback.token.a.b.c", "127.0.0.1:80", "[::1]:80", "cross-site",
            ]
            .map(|text| text.as_bytes().to_vec())
            .to_vec(),
            4,
        )
        .prop_map(|bytes| bytes.into_iter().filter(|byte| !matches!(byte, 0..0x20 | 0x7f)).collect()),
    ];
    let paths =
        vec!["/v1/poll?topic=a", "/v1/sse?topic=a", "/v1/ws?topic=a", "/v1/iframe?topic=a", "/v1/info", "/client.js"];
    let inputs = (
        prop::sample::select(vec!["GET", "POST", "OPTIONS", "HEAD", "DELETE"]),
        prop::sample::select(paths),
        prop::collection::vec((prop::sample::select(names), value), 1..5),
    );
    fuzz(
        "headers",
        &["--store", "memory", "--allow-origin", "https://*.example.com"],
        1500,
        &inputs,
        |address, input| {
            let (method, path, headers) = input;
            let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
            if path.starts_with("/v1/ws") {
                request.extend_from_slice(UPGRADE.as_bytes());
            }
            for (name, value) in headers {
                request.extend_from_slice(name.as_bytes());
                request.extend_from_slice(b": ");
                request.extend_from_slice(&value);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"\r\n");
            let answer = send(address, &request, Sent::Request)?;
            prop_assert!(answer.is_none_or(|answer| answer.status() < 500));
            Ok(())
        },
    );
}

/// Whole requests, mutated anywhere.
#[test]
fn requests() {
    let post = |more: &str, body: &str| {
        let head =
            "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
        format!("{head}{more}\r\n{body}").into_bytes()
    };
    let good = vec![
        b"GET /v1/poll?topic=a.%3E&cursor=earliest&limit=5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            .to_vec(),
        b"OPTIONS /v1/events HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: close\r\n\r\n"
            .to_vec(),
        format!("GET /v1/ws?topic=a HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n").into_bytes(),
        post("Content-Length: 22\r\n", "{\"topic\":\"a\",\"data\":1}"),
        post("Transfer-Encoding: chunked\r\n", "16\r\n{\"topic\":\"a\",\"data\":1}\r\n0\r\n\r\n"),
    ];
    fuzz("requests", &["--store", "memory"], 500, &damaged(good, 6), |address, request| {
        match send(address, &request, Sent::Anything)? {
            Some(answer) => check(&Answer { body: Vec::new(), ..answer }),
            None => Ok(()),
        }
    });
}
