//! The redirect from plain HTTP to HTTPS.

use http::StatusCode;
use http::header::{CACHE_CONTROL, HOST, LOCATION};
use http::uri::Authority;

use super::error_object::error_response;
use super::head::RequestHead;
use super::response::Response;

/// Redirects to the same resource over HTTPS, on a port. With 308, so that a publish is repeated as a publish (RFC 9110 §15.4.9);
/// its content was readable on the way here, which no redirect can undo.
pub(crate) fn to_https(head: &RequestHead, port: u16) -> Response {
    let Some(location) = location(head, port) else {
        let message = "a request must have a valid `Host` to be redirected to HTTPS";
        return error_response(StatusCode::BAD_REQUEST, "bad_host", message);
    };
    Response::new(StatusCode::PERMANENT_REDIRECT).with(LOCATION, location).with(CACHE_CONTROL, "no-store")
}

fn location(head: &RequestHead, port: u16) -> Option<String> {
    let host = head.headers().text(&HOST)?;
    let authority: Authority = host.parse().ok()?;
    // `Host` may contain no userinfo: the redirect's target would not be what it seems.
    if host.contains('@') || authority.host().is_empty() {
        return None;
    }
    let path = if head.path().starts_with('/') { head.path() } else { "/" };
    let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    Some(format!("https://{}{port}{path}{query}", authority.host()))
}
