//! The HTTP layer: the table of routes, the handlers, and the checks that every request passes before its handler.
//!
#![doc = include_str!("http/protocol.md")]

mod access;
mod access_options;
mod activity_log;
mod admin;
mod assets;
mod batch_body;
mod body;
mod call;
mod driver;
mod embed;
mod envelope;
mod erase;
mod error;
mod history;
mod host;
mod metrics;
mod object;
mod openapi;
mod options;
mod origin;
mod proxied;
mod publish;
mod query;
mod readiness;
mod resources;
mod route;
mod scan;
mod security_txt;
mod site;
mod state;
mod subscribe;
mod tickets;
mod trace_context;
mod websocket;

use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, HeaderValue,
};

use crate::net::Response;
use crate::transport::Transport;
use call::Call;
use error::ApiError;
use route::Methods;

pub use crate::net::ProxyHeader;
pub use access_options::AccessOptions;
pub use embed::{pages, routes};
pub use options::HttpOptions;
pub use origin::{AllowedOrigin, AllowedOrigins, OriginError};
pub(crate) use security_txt::read as read_security_txt;
pub(crate) use site::Site;

/// The result of every handler.
type Answer = Result<Response, ApiError>;

/// CORS preflight (Fetch §3.2.2): permits the server's own pages and allowed origins, and no other.
fn preflight(call: &Call, methods: Methods) -> Answer {
    call.source().check()?;
    let names = HeaderValue::from_static(methods.names());
    Ok(Response::new(StatusCode::NO_CONTENT)
        .with(ACCESS_CONTROL_ALLOW_METHODS, names.clone())
        .with(
            ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Traceparent, Tracestate",
        )
        .with(ACCESS_CONTROL_MAX_AGE, "600")
        .with(ALLOW, names))
}

async fn not_found(_: Call) -> Answer {
    Err(nothing_here())
}

fn nothing_here() -> ApiError {
    let names: Vec<&str> = Transport::ALL.iter().map(|transport| transport.name()).collect();
    let message = format!(
        "there is no such resource: subscribe with GET /v1/<transport>, where the transport is one of {}, and publish with POST /v1/events",
        names.join(", ")
    );
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}
