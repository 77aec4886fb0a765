//! From plain HTTP to HTTPS.

use actix_http::header::{HOST, HeaderValue, LOCATION};
use actix_http::{HttpMessage as _, Request, Response, StatusCode};

/// The same resource over HTTPS, on a port. 308, so that a publish is repeated as one (RFC 9110 §15.4.9); what it held has
/// been readable on the way here, which no redirect can undo.
pub(super) fn to_https(request: &Request, port: u16) -> Response<actix_http::body::BoxBody> {
    let Some(location) = location(request, port) else {
        return Response::with_body(StatusCode::BAD_REQUEST, "this is HTTPS by another name: Host says which\n")
            .map_into_boxed_body();
    };
    let mut response = Response::build(StatusCode::PERMANENT_REDIRECT);
    response.insert_header((LOCATION, location)).insert_header(("referrer-policy", "no-referrer"));
    response.insert_header(("cache-control", "no-store")).finish().map_into_boxed_body()
}

fn location(request: &Request, port: u16) -> Option<HeaderValue> {
    let host = request.headers().get(HOST)?.to_str().ok()?;
    let authority: actix_http::uri::Authority = host.parse().ok()?;
    // Whose name is it that stands before an @? Not ours to send anybody to.
    if host.contains('@') || authority.host().is_empty() {
        return None;
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    HeaderValue::from_str(&format!("https://{}{port}{path}", authority.host())).ok()
}
