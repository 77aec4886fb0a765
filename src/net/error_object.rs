//! The error object that every refusal has.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::response::Response;

/// The value of `error` in a body, or in a reply: a code for programs, and a message for their developers.
pub(crate) fn error_object(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

/// A response with the error object.
pub(crate) fn error_response(status: StatusCode, code: &str, message: &str) -> Response {
    error_response_with(status, &json!({ "error": error_object(code, message) }))
}

/// A response whose body has further keys beside `error`.
pub(crate) fn error_response_with(status: StatusCode, body: &Value) -> Response {
    Response::new(status).with(CONTENT_TYPE, HeaderValue::from_static("application/json")).with_body(body.to_string())
}
