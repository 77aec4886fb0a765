//! Conversion of request and response heads between `h2` and `net`.

use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, COOKIE, DATE, HOST, HeaderValue};
use http::{StatusCode, Version};

use crate::net::head::RequestHead;
use crate::net::response::Response;

/// The most header fields of a request, each `Cookie` counted (RFC 9113 §8.2.3): as many as actix accepts over HTTP/1.
const FIELDS_MAX: usize = 96;

/// A head as HTTP/1 would have it: the authority is `Host` (RFC 9113 §8.3.1), and there is one `Cookie` (§8.2.3).
pub(super) fn request_head(parts: &http::request::Parts) -> RequestHead {
    let uri = &parts.uri;
    let mut head = RequestHead::builder(parts.method.clone(), Version::HTTP_2, uri.path(), uri.query());
    if let Some(authority) = uri.authority() {
        head.field(HOST.as_str().as_bytes(), authority.as_str().as_bytes());
    }
    if parts.headers.len() > FIELDS_MAX {
        // One byte of HPACK can be a field of kilobytes: the fields of a request that is refused for their number are
        // not kept.
        head.drop_fields();
        return head.finish();
    }
    for (name, value) in &parts.headers {
        let replaced = name == COOKIE || name == HOST && uri.authority().is_some();
        if !replaced {
            head.field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let cookies: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(|value| value.as_bytes()).collect();
    if !cookies.is_empty() {
        head.field(COOKIE.as_str().as_bytes(), &cookies.join(&b"; "[..]));
    }
    head.finish()
}

/// Connection-specific fields, which are not allowed in HTTP/2 (RFC 9113 §8.2.2).
const CONNECTION_HEADERS: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

pub(super) fn response_head(response: &Response) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = response.status;
    let fields = head.headers_mut();
    for (name, value) in response.fields.iter().filter(|(name, _)| !CONNECTION_HEADERS.contains(&name.as_str())) {
        fields.append(name, value.clone());
    }
    for (name, value) in response.missing_defaults() {
        fields.insert(name, HeaderValue::from_static(value));
    }
    let bodiless = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = response.body.length().filter(|_| !bodiless) {
        fields.insert(CONTENT_LENGTH, length.into());
    }
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        fields.insert(DATE, date);
    }
    head
}
