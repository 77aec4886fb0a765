//! Options of the HTTP layer.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access_options::AccessOptions;
use super::origin::AllowedOrigins;

use crate::limits::Limits;
use crate::net::{Headers, ProxyHeader, Response};

/// The options of the routes; parsed once, and valid from then on.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// How long a stream may be idle before the server sends a `$beat`.
    pub heartbeat: Duration,
    /// Maximum age of a stream, each ends at 90 to 100% of it; `None` sets no limit.
    pub stream_age_max: Option<Duration>,
    /// Ends an iframe's document after the item that passes this many bytes, since the browser keeps all of it.
    pub iframe_bytes_max: usize,
    /// Longest event, in bytes as received; also the most that a publisher's line or form may have.
    pub event_bytes_max: usize,
    /// Whether an event with unknown keys is refused, instead of stored without them.
    pub strict: bool,
    /// Longest batch, in bytes as received.
    pub batch_bytes_max: usize,
    /// Most events in a batch.
    pub batch_events_max: usize,
    /// Longest WebSocket message on `/v1/ws`, in bytes: the memory of a connection while a message arrives.
    pub ws_bytes_max: usize,
    /// Longest WebSocket message on `/v1/echo`, in bytes.
    pub echo_bytes_max: usize,
    /// Most patterns of a subscription.
    pub patterns_max: usize,
    /// Longest request head, in bytes of its URL and headers.
    pub header_bytes_max: usize,
    /// The limits, counted over all workers: clones of these options share them.
    pub limits: Arc<Limits>,
    /// Proxies that are trusted to name their client's address.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they name it.
    pub proxy_header: ProxyHeader,
    /// The `max-age` of `Strict-Transport-Security`, where the server terminates TLS; zero omits the header.
    pub hsts: Duration,
    /// Timeout of a request's body; for a stream of lines, of each line.
    pub body_timeout: Duration,
    /// Origins that may read and publish besides the server's own.
    pub allowed_origins: AllowedOrigins,
    /// Access control.
    pub access: AccessOptions,
    /// Whether the server serves its pages, besides the client library. Other programs decide by mounting [`crate::http::pages`].
    pub pages: bool,
    /// The directory from which the pages are served instead of those that are built in.
    pub static_dir: Option<std::path::PathBuf>,
    /// The file to serve as `/.well-known/security.txt`; at most 32 KiB.
    pub security_txt: Option<std::path::PathBuf>,
    /// Whether the server listens on loopback only, so that `Host` must be a loopback name.
    pub loopback_only: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(20),
            stream_age_max: None,
            iframe_bytes_max: 128 << 10,
            event_bytes_max: 256 << 10,
            strict: false,
            batch_bytes_max: 4 << 20,
            batch_events_max: 1000,
            ws_bytes_max: 1 << 20,
            echo_bytes_max: 16 << 20,
            patterns_max: crate::topic::PATTERNS_MAX,
            header_bytes_max: 64 << 10,
            limits: Arc::default(),
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            hsts: Duration::ZERO,
            body_timeout: Duration::from_secs(30),
            allowed_origins: AllowedOrigins::default(),
            access: AccessOptions::default(),
            pages: true,
            static_dir: None,
            security_txt: None,
            loopback_only: false,
        }
    }
}

impl HttpOptions {
    /// The response to a request for another host name than the server's, as [`AccessOptions::check_name`] has it; for a
    /// listener without routes.
    pub(crate) fn wrong_name(&self, headers: Headers<'_>) -> Option<Response> {
        self.access.check_name(headers, self.loopback_only).err().map(|error| error.response())
    }
}
