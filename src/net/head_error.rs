//! Errors of a request's head, and the responses to them.

use http::StatusCode;

use super::error_object::error_response;
use super::response::Response;
use crate::excerpt::excerpt;

/// Why a request is refused before its handler is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// The first line is not a method, a target and a version.
    #[error("the request line is malformed: it must be a method, a target and HTTP/1.1, with one space between them")]
    RequestLine,
    /// The target.
    #[error("the request's target \"{}\" is not a valid path or URL: percent-encode what is not allowed in it", excerpt(.0))]
    Target(String),
    /// Another version of HTTP than those that are served.
    #[error("this server speaks HTTP/1.1 and HTTP/1.0, and HTTP/2 over TLS")]
    Version,
    /// A line after the first.
    #[error(
        "a header field is malformed: it must be a name, a colon and a value on one line, without control characters"
    )]
    Field,
    /// The head has too many bytes.
    #[error("a request's head is too long: a URL and its headers may have at most {} bytes", .limit_bytes)]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// The head has too many fields.
    #[error("a request may have at most {limit} header fields")]
    TooManyFields {
        /// The limit.
        limit: usize,
    },
    /// The head did not arrive in time.
    #[error("the request's head did not arrive in time (--header-timeout)")]
    Timeout,
    /// `Host` is missing, or given more than once.
    #[error("a request must have exactly one `Host`, or over HTTP/2 an `:authority`")]
    Host,
    /// `Content-Length` is not a number, or given more than once.
    #[error("`Content-Length` must be given once, as a decimal number of bytes")]
    Length,
    /// The end of the body cannot be known.
    #[error("a body must have a `Content-Length`")]
    NoLength,
    /// The body's framing is ambiguous.
    #[error(
        "`Transfer-Encoding` must be given once, end with `chunked`, and stand without `Content-Length` in an HTTP/1.1 request"
    )]
    Framing,
    /// A transfer coding besides `chunked`.
    #[error("the transfer coding \"{}\" is not supported, only `chunked` is", excerpt(.0))]
    Coding(String),
}

impl HeadError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TooLong { .. } | Self::TooManyFields { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::NoLength => StatusCode::LENGTH_REQUIRED,
            Self::Coding(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The error's code, for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::RequestLine | Self::Field => "bad_request",
            Self::Target(_) => "bad_target",
            Self::Version => "unsupported_version",
            Self::TooLong { .. } | Self::TooManyFields { .. } => "head_too_large",
            Self::Timeout => "timeout",
            Self::Host => "bad_host",
            Self::Length | Self::Framing => "bad_length",
            Self::NoLength => "length_required",
            Self::Coding(_) => "unsupported_coding",
        }
    }

    /// The response, for a connection that knows no handler. The connection ends with it.
    pub(crate) fn response(&self) -> Response {
        error_response(self.status(), self.code(), &self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_at_most_80_characters_of_its_input() {
        for error in [HeadError::Target("é\"".repeat(1000)), HeadError::Coding("x".repeat(1000))] {
            assert!(error.to_string().chars().count() < 200, "{error}");
        }
    }
}
