//! The handshake of a WebSocket (RFC 6455 §4.2).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{Method, StatusCode};

use crate::net::{Request, Response};

/// Why a request does not begin a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("it begins with GET")]
    Method,
    #[error("WebSocket upgrade is expected")]
    Upgrade,
    #[error("connection upgrade is expected")]
    Connection,
    #[error("WebSocket version header is required")]
    NoVersion,
    #[error("unsupported WebSocket version")]
    Version,
    #[error("unknown WebSocket key")]
    Key,
}

/// The answer that accepts a handshake, without a body yet.
pub(super) fn accept(request: &Request) -> Result<Response, HandshakeError> {
    let key = check(request)?;
    Ok(Response::new(StatusCode::SWITCHING_PROTOCOLS)
        .with(UPGRADE, HeaderValue::from_static("websocket"))
        .with(SEC_WEBSOCKET_ACCEPT, accept_key(key)))
}

/// Whether a request begins a WebSocket; its key.
pub(super) fn check(request: &Request) -> Result<&[u8], HandshakeError> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(HandshakeError::Method);
    }
    let names = |value: &str, token: &str| value.to_ascii_lowercase().contains(token);
    if !headers.text(&UPGRADE).is_some_and(|value| names(value, "websocket")) {
        return Err(HandshakeError::Upgrade);
    }
    if !headers.texts(&CONNECTION).any(|value| names(value, "upgrade")) {
        return Err(HandshakeError::Connection);
    }
    match headers.get(&SEC_WEBSOCKET_VERSION) {
        Some(b"13") => {}
        Some(_) => return Err(HandshakeError::Version),
        None => return Err(HandshakeError::NoVersion),
    }
    headers.get(&SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).ok_or(HandshakeError::Key)
}

/// Whether it is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let mut nonce = [0; 16];
    key.len() == 24 && BASE64_STANDARD.decode_slice(key, &mut nonce) == Ok(nonce.len())
}

fn accept_key(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_answered_as_the_standard_shows() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!is_key(b"dGhlIHNhbXBsZSBub25jZQ") && !is_key(b"!GhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
