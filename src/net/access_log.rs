//! The access log: one line per request, written when its response is complete, so that a stream's line has its duration and
//! size.

use std::time::Instant;

use http::Version;

use super::direct_write::DirectSink;
use super::head::RequestHead;
use super::peer::{Peer, Proxies};
use crate::cursor::Cursor;
use crate::transport::Transport;

/// The target by which the log is filtered.
pub(crate) const TARGET: &str = "switchback::access";

/// The longest path and query that are logged, in characters.
const SHOWN_CHARS: usize = 512;

/// Writes the lines of one server.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    pub(crate) proxies: Proxies,
}

/// A line that is not written yet; it is written on drop.
pub(super) struct AccessRecord {
    began: Instant,
    address: std::net::IpAddr,
    method: String,
    target: String,
    transport: &'static str,
    version: Version,
    status: Option<u16>,
    bytes: u64,
    /// The stream's sink for direct writes, whose bytes are not counted here, and its count before.
    sink: Option<(DirectSink, u64)>,
}

impl AccessLog {
    pub(super) fn begin(&self, head: &RequestHead, peer: &Peer) -> AccessRecord {
        let name = head.path().strip_prefix("/v1/").unwrap_or_default();
        let transport = Transport::ALL.into_iter().find(|transport| transport.name() == name);
        AccessRecord {
            began: Instant::now(),
            address: self.proxies.caller(peer, head.headers()).address,
            method: head.method().as_str().chars().take(16).collect(),
            target: target(head.path(), head.query()),
            transport: transport.map_or("-", Transport::name),
            version: head.version(),
            status: None,
            bytes: 0,
            sink: None,
        }
    }
}

impl AccessRecord {
    pub(super) fn answered(&mut self, status: u16, sink: Option<DirectSink>) {
        self.status = Some(status);
        self.sink = sink.map(|sink| (sink.clone(), sink.sent_bytes()));
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let Self { address, method, target, transport, version, bytes, .. } = self;
        // 499, as in nginx: the client has gone before the response.
        let status = self.status.unwrap_or(499);
        let direct = self.sink.as_ref().map_or(0, |(sink, before)| sink.sent_bytes() - before);
        let bytes = *bytes + direct;
        let ms = self.began.elapsed().as_millis();
        tracing::info!(target: TARGET, "{address} \"{method} {target} {version:?}\" {status} {bytes}B {ms}ms {transport}");
    }
}

/// The path and the query, without possible secrets, and without any character that could end the line.
fn target(path: &str, query: Option<&str>) -> String {
    let mut text = path.to_owned();
    for (index, pair) in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if is_shown(name, value) {
            text.push_str(pair);
        } else {
            // A name may be a secret, too, where a client forgot the name before the value.
            let known = name.len() <= 16 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            text.push_str(if known { name } else { "?" });
            text.push_str(if value.is_empty() { "" } else { "=-" });
        }
    }
    let plain = |c: char| if c.is_control() || c == '"' || c == '\\' { '?' } else { c };
    text.chars().take(SHOWN_CHARS).map(plain).collect()
}

/// Parameters whose values are logged, where they have the expected form. The values of all others are not logged, since any may
/// be a secret.
fn is_shown(name: &str, value: &str) -> bool {
    match name {
        "topic" => true,
        "cursor" => matches!(value, "now" | "earliest") || value.parse::<Cursor>().is_ok(),
        "lastEventId" => value.parse::<Cursor>().is_ok(),
        "last" | "limit" | "wait" | "once" => value.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn only_what_is_known_to_be_harmless_is_shown() {
        for (query, shown) in [
            ("topic=a.b&cursor=e-1", "/v1/sse?topic=a.b&cursor=e-1"),
            ("topic=a&token=eyJhbGciOi&ticket=x", "/v1/sse?topic=a&token=-&ticket=-"),
            ("eyJhbGciOi", "/v1/sse??"),
            ("Token=x", "/v1/sse??=-"),
            ("t%6Fken=x", "/v1/sse??=-"),
            ("cursor=eyJhbGciOi.x&limit=1x", "/v1/sse?cursor=-&limit=-"),
            ("callback=secret", "/v1/sse?callback=-"),
        ] {
            assert_eq!(target("/v1/sse", Some(query)), shown);
        }
    }
}
