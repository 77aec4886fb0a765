//! `switchback publish`.

use std::io::Read as _;

use base64::Engine as _;
use serde_json::json;
use serde_json::value::RawValue;

use super::remote::{ANSWER_BYTES_MAX, Remote, RemoteError, refused};
use crate::config::PublishArgs;

/// Publishes one event; returns the server's answer.
///
/// # Errors
/// [`RemoteError`].
pub async fn publish(arguments: PublishArgs) -> Result<String, RemoteError> {
    let data = match arguments.data.as_deref() {
        None | Some("-") => {
            let mut input = Vec::new();
            std::io::stdin().read_to_end(&mut input)?;
            input
        }
        Some(text) => text.as_bytes().to_vec(),
    };
    let remote = Remote::new(arguments.remote)?;
    let mut request = remote.client.post(remote.url("/v1/events", &[])).content_type("application/json");
    if let Some(authorization) = remote.authorization()? {
        request = request.insert_header(authorization);
    }
    let body = envelope(&arguments.topic, arguments.event.as_deref(), arguments.id.as_deref(), &data);
    let mut answer = request.send_body(body).await.map_err(|error| remote.unreachable(error))?;
    let status = answer.status();
    let body = answer.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| RemoteError::Broken(error.to_string()))?;
    if !status.is_success() {
        return Err(refused(status.as_u16(), &body));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The event as JSON: its data is written into it as it is, where it is JSON.
fn envelope(topic: &str, event: Option<&str>, id: Option<&str>, data: &[u8]) -> String {
    let text = std::str::from_utf8(data);
    let (data, encoding) = match text {
        Ok(text) => match serde_json::from_str::<&RawValue>(text) {
            Ok(value) => (value.get().to_owned(), None),
            Err(_) => (json!(text.strip_suffix('\n').unwrap_or(text)).to_string(), None),
        },
        Err(_) => (json!(base64::engine::general_purpose::STANDARD.encode(data)).to_string(), Some("base64")),
    };
    let mut fields = vec![format!("\"topic\":{}", json!(topic)), format!("\"data\":{data}")];
    for (name, value) in [("event", event), ("id", id), ("encoding", encoding)] {
        fields.extend(value.map(|value| format!("\"{name}\":{}", json!(value))));
    }
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::envelope;

    #[test]
    fn data_is_sent_as_what_it_is() {
        assert_eq!(envelope("a", None, None, b"1.50"), r#"{"topic":"a","data":1.50}"#);
        assert_eq!(envelope("a", Some("n"), Some("k"), b"hi\n"), r#"{"topic":"a","data":"hi","event":"n","id":"k"}"#);
        assert_eq!(envelope("a", None, None, &[0xFF]), r#"{"topic":"a","data":"/w==","encoding":"base64"}"#);
    }
}
