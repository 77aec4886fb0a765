//! `switchback subscribe`: prints events as they arrive, and reconnects with its cursor when a connection ends.

use std::io::Write as _;
use std::time::Duration;

use awc::ws::{Frame, Message};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::remote::{ANSWER_BYTES_MAX, ANSWER_TIMEOUT, Remote, RemoteError, refused};
use crate::config::{SubscribeArgs, SubscribeTransport};

/// The transports that `auto` tries, best first.
const PREFERRED: [SubscribeTransport; 3] =
    [SubscribeTransport::Ws, SubscribeTransport::Sse, SubscribeTransport::Longpoll];

/// Bounds of the exponential backoff with jitter between attempts, so that many clients do not reconnect at once.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(20);

/// Pause between two short polls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Timeout of a silent stream before its heartbeat interval is known.
const FIRST_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Longest item, in bytes.
const ITEM_BYTES_MAX: usize = 8 << 20;

/// Prints events until `--count` is reached, the server forbids a reconnect, or the process is stopped.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn subscribe(arguments: SubscribeArgs) -> Result<(), RemoteError> {
    let remote = Remote::new(arguments.remote.clone())?;
    let mut reader = Reader {
        cursor: arguments.cursor.clone(),
        upto: None,
        left: arguments.count.unwrap_or(u64::MAX),
        silence_max: FIRST_SILENCE_MAX,
        heard: false,
        retry: None,
    };
    let mut choice = 0;
    let mut failures = 0;
    while reader.left > 0 {
        let transport = match arguments.transport {
            SubscribeTransport::Auto => PREFERRED[choice % PREFERRED.len()],
            other => other,
        };
        reader.heard = false;
        let ended = connect(&remote, &arguments, transport, &mut reader).await;
        if reader.heard {
            failures = 0;
        }
        match ended {
            Ok(()) => {}
            // Before the first success the next transport may work where this one failed.
            Err(error)
                if !reader.heard && arguments.transport == SubscribeTransport::Auto && choice + 1 < PREFERRED.len() =>
            {
                tracing::debug!(%error, "trying the next transport");
                choice += 1;
                continue;
            }
            // The file may have a new token by now.
            Err(RemoteError::Ended(reason)) if reason == "expired" && remote.may_renew() => {}
            Err(error) if !error.is_passing() || reader.cursor.is_none() => return Err(error),
            Err(error) => {
                super::complain(&format!("{error}; reconnecting"));
                failures += 1;
            }
        }
        if reader.left > 0 {
            tokio::time::sleep(reader.retry.take().unwrap_or_else(|| backoff(failures))).await;
        }
    }
    Ok(())
}

fn backoff(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let bound = BACKOFF_MAX.min(BACKOFF_MIN * 2_u32.saturating_pow(failures));
    bound.mul_f64(rand::random::<f64>()).max(BACKOFF_MIN)
}

async fn connect(
    remote: &Remote,
    arguments: &SubscribeArgs,
    transport: SubscribeTransport,
    reader: &mut Reader,
) -> Result<(), RemoteError> {
    let last = arguments.last.map(|last| last.to_string());
    let client = arguments.client.map(|client| client.to_string());
    let cursor = reader.cursor.clone();
    let mut parameters: Vec<(&str, &str)> =
        arguments.patterns.iter().map(|pattern| ("topic", pattern.as_str())).collect();
    parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
    parameters.extend(last.as_deref().filter(|_| cursor.is_none()).map(|last| ("last", last)));
    let since = arguments.since.as_deref().filter(|_| cursor.is_none());
    parameters.extend(since.map(|since| ("since", since)));
    parameters.extend(client.as_deref().map(|client| ("client", client)));
    let pace = arguments.pace.map(|pace| pace.as_millis().to_string());
    parameters.extend(pace.as_deref().map(|pace| ("pace", pace)));
    let upto = reader.upto.clone();
    if arguments.latest {
        parameters.push(("latest", "1"));
        parameters.extend(upto.as_deref().map(|upto| ("upto", upto)));
    }
    match transport {
        SubscribeTransport::Auto | SubscribeTransport::Ws => socket(remote, &parameters, reader).await,
        SubscribeTransport::Sse => stream(remote, "/v1/sse", "data: ", &parameters, reader).await,
        SubscribeTransport::Stream => stream(remote, "/v1/stream", "", &parameters, reader).await,
        SubscribeTransport::Longpoll => poll(remote, "/v1/longpoll", &parameters, reader).await,
        SubscribeTransport::Poll => {
            poll(remote, "/v1/poll", &parameters, reader).await?;
            tokio::time::sleep(POLL_INTERVAL).await;
            Ok(())
        }
    }
}

async fn socket(remote: &Remote, parameters: &[(&str, &str)], reader: &mut Reader) -> Result<(), RemoteError> {
    let mut request = remote.client.ws(remote.url("/v1/ws", parameters)).max_frame_size(ITEM_BYTES_MAX);
    if let Some((name, value)) = remote.authorization()? {
        request = request.header(name, value);
    }
    let (_, mut socket) = match request.connect().await {
        Ok(connected) => connected,
        Err(awc::error::WsClientError::InvalidResponseStatus(status)) => {
            // A refused handshake is reported without its body; the same request as a poll is refused with a message.
            drop(get(remote, "/v1/poll", parameters, ANSWER_TIMEOUT).await?);
            return Err(RemoteError::Strange(format!("the WebSocket handshake was refused with {status}")));
        }
        Err(error) => return Err(remote.unreachable(error)),
    };
    loop {
        let frame = match tokio::time::timeout(reader.silence_max, socket.next()).await {
            Err(_) => return Err(RemoteError::Broken("the stream fell silent".into())),
            Ok(None) => return Err(unannounced()),
            Ok(Some(frame)) => frame.map_err(|error| RemoteError::Broken(error.to_string()))?,
        };
        let reply = match frame {
            Frame::Text(text) => {
                if reader.item(&text)? {
                    return Ok(());
                }
                continue;
            }
            Frame::Ping(payload) => Message::Pong(payload),
            Frame::Close(_) => return Err(unannounced()),
            _ => continue,
        };
        socket.send(reply).await.map_err(|error| RemoteError::Broken(error.to_string()))?;
    }
}

async fn stream(
    remote: &Remote,
    path: &str,
    prefix: &str,
    parameters: &[(&str, &str)],
    reader: &mut Reader,
) -> Result<(), RemoteError> {
    let mut body = get(remote, path, parameters, ANSWER_TIMEOUT).await?;
    let mut buffer = BytesMut::new();
    loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            if let Some(item) = line.strip_prefix(prefix.as_bytes()).filter(|item| !item.is_empty())
                && reader.item(item)?
            {
                return Ok(());
            }
        }
        if buffer.len() > ITEM_BYTES_MAX {
            return Err(RemoteError::Strange("an item is too long".into()));
        }
        match tokio::time::timeout(reader.silence_max, body.next()).await {
            Err(_) => return Err(RemoteError::Broken("the stream fell silent".into())),
            Ok(None) => return Err(unannounced()),
            Ok(Some(chunk)) => {
                buffer.extend_from_slice(&chunk.map_err(|error| RemoteError::Broken(error.to_string()))?)
            }
        }
    }
}

/// A stream that ends without `$bye` has failed: the reconnect waits.
fn unannounced() -> RemoteError {
    RemoteError::Broken("the stream ended without $bye".into())
}

async fn poll(
    remote: &Remote,
    path: &str,
    parameters: &[(&str, &str)],
    reader: &mut Reader,
) -> Result<(), RemoteError> {
    #[derive(Deserialize)]
    struct Batch<'a> {
        cursor: String,
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
        upto: Option<String>,
    }
    const WAIT: Duration = Duration::from_secs(25);
    let mut body = get(remote, path, parameters, ANSWER_TIMEOUT + WAIT).await?;
    let mut text = BytesMut::new();
    while let Some(chunk) = body.next().await {
        text.extend_from_slice(&chunk.map_err(|error| RemoteError::Broken(error.to_string()))?);
        if text.len() > ANSWER_BYTES_MAX {
            return Err(RemoteError::Strange("the batch is too long".into()));
        }
    }
    let batch: Batch<'_> = serde_json::from_slice(&text).map_err(|error| RemoteError::Strange(error.to_string()))?;
    for item in batch.events {
        if reader.item(item.get().as_bytes())? {
            return Ok(());
        }
    }
    reader.heard = true;
    (reader.cursor, reader.upto) = (Some(batch.cursor), batch.upto);
    Ok(())
}

async fn get(
    remote: &Remote,
    path: &str,
    parameters: &[(&str, &str)],
    timeout: Duration,
) -> Result<impl Stream<Item = Result<Bytes, awc::error::PayloadError>> + Unpin + use<>, RemoteError> {
    let mut request = remote.client.get(remote.url(path, parameters)).timeout(timeout);
    if let Some(authorization) = remote.authorization()? {
        request = request.insert_header(authorization);
    }
    let mut answer = request.send().await.map_err(|error| remote.unreachable(error))?;
    if !answer.status().is_success() {
        let status = answer.status().as_u16();
        let body = answer.body().limit(ANSWER_BYTES_MAX).await.unwrap_or_default();
        return Err(refused(status, &body));
    }
    // The timeout is for the head; a stream has none.
    Ok(answer.timeout(Duration::from_secs(365 * 24 * 3600)))
}

/// The state of the subscription across connections.
struct Reader {
    cursor: Option<String>,
    /// The end of the round of `--latest` that the cursor is in.
    upto: Option<String>,
    left: u64,
    silence_max: Duration,
    /// Whether anything was received on the present connection.
    heard: bool,
    retry: Option<Duration>,
}

impl Reader {
    /// Processes an item; returns whether it was the last of `--count`, or the last of the connection.
    fn item(&mut self, text: &[u8]) -> Result<bool, RemoteError> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            cursor: Option<String>,
            #[serde(default)]
            upto: Option<String>,
            event: String,
            #[serde(default)]
            data: Value,
        }
        let head: Head = serde_json::from_slice(text).map_err(|error| RemoteError::Strange(error.to_string()))?;
        self.heard = true;
        match head.event.as_str() {
            "$hello" => {
                let heartbeat = head.data["heartbeat"].as_u64().map(Duration::from_millis);
                self.silence_max = heartbeat.map_or(FIRST_SILENCE_MAX, |heartbeat| heartbeat * 2);
            }
            "$bye" => {
                let reason = head.data["reason"].as_str().unwrap_or("bye").to_owned();
                match head.data["retry"].as_u64() {
                    Some(retry) => self.retry = Some(Duration::from_millis(retry)),
                    None => return Err(RemoteError::Ended(reason)),
                }
            }
            "$error" => return Err(RemoteError::Strange(head.data.to_string())),
            name => {
                let control = name.starts_with('$');
                if !control || name == "$gap" {
                    let mut out = std::io::stdout().lock();
                    out.write_all(text)?;
                    out.write_all(b"\n")?;
                    out.flush()?;
                }
                self.left -= u64::from(!control);
            }
        }
        if head.cursor.is_some() {
            self.cursor = head.cursor;
        }
        // An `upto` that the cursor has passed is ignored.
        self.upto = head.upto.or(self.upto.take());
        Ok(self.left == 0 || head.event == "$bye")
    }
}
