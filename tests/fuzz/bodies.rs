//! Fuzzing of request bodies of every content type, at every path that accepts a body.

use proptest::prelude::*;
use serde_json::Value;

use super::inputs::{damaged, json};
use super::{Sent, check, fuzz, send};

const TYPES: [&str; 9] = [
    "application/json",
    "application/x-ndjson",
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "application/vnd.api+json; charset=utf-8",
    "text/html; charset=\"UTF-8\"",
    "multipart/form-data; boundary=x",
    "",
];

const PATHS: [&str; 7] = [
    "/v1/events",
    "/v1/events",
    "/v1/topics/fuzz.a?event=x",
    "/v1/topics/fuzz.a?deleted=1",
    "/v1/topics/%F0%9F%A6%80.b",
    "/v1/ack",
    "/v1/tickets",
];

fn good() -> Vec<Vec<u8>> {
    [
        r#"{"topic":"fuzz.a","event":"changed","data":{"n":[1,2.5e300,-0,"\ud83e\udd80"]},"id":"one"}"#,
        r#"[{"topic":"fuzz.a","data":null},{"topic":"fuzz.b","data":"AAEC","encoding":"base64"}]"#,
        "{\"topic\":\"fuzz.a\",\"data\":1}\n\n{\"topic\":\"fuzz.b\",\"data\":2}\r\n{\"topic\":\"fuzz.c\",\"data\":3}",
        r#"{"topic":"fuzz.a","deleted":true,"headers":{"reason":"left","</script>":"\u2028\ud83e\udd80"},"id":"three"}"#,
        "topic=fuzz.a&deleted=1&headers=%7B%22a%22%3A%22b%22%7D",
        "topic=fuzz.a&event=changed&data=%7B%22a%22%3A1%7D&id=two",
        r#"{"client":"0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d","cursor":"abc-5"}"#,
        r#"{"transport":"sse"}"#,
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[{\"\\u2028</script>\":\"\u{2028}<!--\"}]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

#[test]
fn bodies() {
    let body = prop_oneof![
        4 => damaged(good(), 5),
        3 => json().prop_map(|value| value.to_string().into_bytes()),
        2 => (prop::collection::vec(json(), 0..4), prop::sample::select(vec!["\n", "\r\n", "\n\n", "\r"]))
            .prop_map(|(lines, end)| lines.iter().map(Value::to_string).collect::<Vec<_>>().join(end).into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..400),
        1 => (1_usize..3000).prop_map(|deep| "[".repeat(deep).into_bytes()),
    ];
    let inputs = (prop::sample::select(PATHS.to_vec()), prop::sample::select(TYPES.to_vec()), body, any::<bool>());
    fuzz("bodies", &[], 1500, &inputs, |address, (path, kind, body, chunked)| {
        let mut request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        if !kind.is_empty() {
            request.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        let mut request = request.into_bytes();
        if chunked && !body.is_empty() {
            request.extend_from_slice(format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes());
            request.extend_from_slice(&body);
            request.extend_from_slice(b"\r\n0\r\n\r\n");
        } else {
            request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            request.extend_from_slice(&body);
        }
        let answer = send(address, &request, Sent::LastRequest)?.ok_or_else(|| TestCaseError::fail("no answer"))?;
        // The response to a stream of lines lists the refused lines.
        if kind == "application/x-ndjson" && path == "/v1/events" && answer.status() == 400 {
            let body: Value =
                serde_json::from_slice(&answer.body).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(body["errors"].is_array() || body["error"].is_object(), "{body}");
            return Ok(());
        }
        check(&answer)
    });
}
