//! From plain HTTP to HTTPS.

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, LOCATION};
use http::uri::Authority;

use super::head::RequestHead;
use super::response::Response;

/// The same resource over HTTPS, on a port. 308, so that a publish is repeated as one (RFC 9110 §15.4.9); what it held has
/// been readable on the way here, which no redirect can undo.
pub(crate) fn to_https(head: &RequestHead, port: u16) -> Response {
    let Some(location) = location(head, port) else {
        return Response::new(StatusCode::BAD_REQUEST)
            .with(CONTENT_TYPE, "text/plain; charset=utf-8")
            .with_body("this is HTTPS by another name: Host says which\n");
    };
    Response::new(StatusCode::PERMANENT_REDIRECT).with(LOCATION, location).with(CACHE_CONTROL, "no-store")
}

fn location(head: &RequestHead, port: u16) -> Option<String> {
    let host = head.headers().text(&HOST)?;
    let authority: Authority = host.parse().ok()?;
    // Whose name is it that stands before an @? Not one to send anybody to.
    if host.contains('@') || authority.host().is_empty() {
        return None;
    }
    let path = if head.path().starts_with('/') { head.path() } else { "/" };
    let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    Some(format!("https://{}{port}{path}{query}", authority.host()))
}
