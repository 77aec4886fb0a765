//! `switchback publish`.

use std::io::Read as _;

use base64::Engine as _;
use serde_json::json;
use serde_json::value::RawValue;

use super::remote::{ANSWER_BYTES_MAX, Remote, RemoteError, refused};
use crate::config::{Header, PublishArgs};

/// Publishes one event; returns the body of the server's response.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn publish(arguments: PublishArgs) -> Result<String, RemoteError> {
    let data = match arguments.data.as_deref() {
        _ if arguments.delete => None,
        None | Some("-") => {
            let mut input = Vec::new();
            std::io::stdin().read_to_end(&mut input)?;
            Some(input)
        }
        Some(text) => Some(text.as_bytes().to_vec()),
    };
    let remote = Remote::new(arguments.remote)?;
    let mut request = remote.client.post(remote.url("/v1/events", &[])).content_type("application/json");
    if let Some(authorization) = remote.authorization()? {
        request = request.insert_header(authorization);
    }
    let (event, id) = (arguments.event.as_deref(), arguments.id.as_deref());
    let body = envelope(&arguments.topic, event, id, data.as_deref(), &arguments.headers);
    let mut answer = request.send_body(body).await.map_err(|error| remote.unreachable(error))?;
    let status = answer.status();
    let body = answer.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| RemoteError::Broken(error.to_string()))?;
    if !status.is_success() {
        return Err(refused(status.as_u16(), &body));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The event as JSON. Data that is JSON is copied unchanged; without data the event is a deletion. Headers are written one by
/// one, so that the server can refuse a duplicate name.
fn envelope(topic: &str, event: Option<&str>, id: Option<&str>, data: Option<&[u8]>, headers: &[Header]) -> String {
    let (content, encoding) = data.map_or((r#""deleted":true"#.to_owned(), None), written);
    let mut fields = vec![format!("\"topic\":{}", json!(topic)), content];
    for (name, value) in [("event", event), ("id", id), ("encoding", encoding)] {
        fields.extend(value.map(|value| format!("\"{name}\":{}", json!(value))));
    }
    if !headers.is_empty() {
        let headers = headers.iter().map(|Header { name, value }| format!("{}:{}", json!(name), json!(value)));
        fields.push(format!("\"headers\":{{{}}}", headers.collect::<Vec<_>>().join(",")));
    }
    format!("{{{}}}", fields.join(","))
}

/// Data as a field of the event, and its encoding.
fn written(data: &[u8]) -> (String, Option<&'static str>) {
    let (data, encoding) = match std::str::from_utf8(data) {
        Ok(text) => match serde_json::from_str::<&RawValue>(text) {
            Ok(value) => (value.get().to_owned(), None),
            Err(_) => (json!(text.strip_suffix('\n').unwrap_or(text)).to_string(), None),
        },
        Err(_) => (json!(base64::engine::general_purpose::STANDARD.encode(data)).to_string(), Some("base64")),
    };
    (format!("\"data\":{data}"), encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_sent_by_its_type() {
        let plain = |data: &[u8]| envelope("a", None, None, Some(data), &[]);
        assert_eq!(plain(b"1.50"), r#"{"topic":"a","data":1.50}"#);
        assert_eq!(plain(&[0xFF]), r#"{"topic":"a","data":"/w==","encoding":"base64"}"#);
        let named = envelope("a", Some("n"), Some("k"), Some(b"hi\n"), &[]);
        assert_eq!(named, r#"{"topic":"a","data":"hi","event":"n","id":"k"}"#);
        let headers = ["b=1", "a=x=\"y\"", "b="].map(|text| text.parse().unwrap());
        let deletion = envelope("a", None, None, None, &headers);
        assert_eq!(deletion, r#"{"topic":"a","deleted":true,"headers":{"b":"1","a":"x=\"y\"","b":""}}"#);
    }
}
