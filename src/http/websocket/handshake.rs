//! The handshake of a WebSocket (RFC 6455 §4.2).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode, Version};

use crate::net::{Headers, Request, Response};

/// Why a request is not a WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("its handshake is a GET request")]
    Method,
    #[error("its handshake is an HTTP/1.1 request")]
    Protocol,
    #[error("`Upgrade: websocket` is required")]
    Upgrade,
    #[error("`Connection: upgrade` is required")]
    Connection,
    #[error("`Sec-WebSocket-Version` is required")]
    NoVersion,
    #[error("`Sec-WebSocket-Version` must be 13, given once")]
    Version,
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64, given once")]
    Key,
}

/// The response that accepts a handshake, without a body yet.
pub(super) fn accept(request: &Request) -> Result<Response, HandshakeError> {
    let key = check(request)?;
    Ok(Response::new(StatusCode::SWITCHING_PROTOCOLS)
        .with(UPGRADE, HeaderValue::from_static("websocket"))
        .with(SEC_WEBSOCKET_ACCEPT, accept_key(key)))
}

/// Checks that a request is a WebSocket handshake; returns its key.
pub(super) fn check(request: &Request) -> Result<&[u8], HandshakeError> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(HandshakeError::Method);
    }
    if request.head.version() != Version::HTTP_11 {
        // RFC 9110 §7.8: an `Upgrade` in an HTTP/1.0 request is ignored. HTTP/2 has none.
        return Err(HandshakeError::Protocol);
    }
    if !lists(headers, &UPGRADE, "websocket") {
        return Err(HandshakeError::Upgrade);
    }
    if !lists(headers, &CONNECTION, "upgrade") {
        return Err(HandshakeError::Connection);
    }
    match only(headers, &SEC_WEBSOCKET_VERSION) {
        Ok(Some(b"13")) => {}
        Ok(Some(_)) | Err(Repeated) => return Err(HandshakeError::Version),
        Ok(None) => return Err(HandshakeError::NoVersion),
    }
    match only(headers, &SEC_WEBSOCKET_KEY) {
        Ok(Some(key)) if is_key(key) => Ok(key),
        _ => Err(HandshakeError::Key),
    }
}

/// A field is given more than once.
struct Repeated;

/// The value of a field that may be given at most once (RFC 6455 §11.3).
fn only<'a>(headers: Headers<'a>, field: &HeaderName) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = headers.get_all(field).into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Repeated),
    }
}

/// Whether one of the elements of a list field, over all its lines, is `token`.
fn lists(headers: Headers<'_>, field: &HeaderName, token: &str) -> bool {
    headers.texts(field).flat_map(|line| line.split(',')).any(|element| element.trim().eq_ignore_ascii_case(token))
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
