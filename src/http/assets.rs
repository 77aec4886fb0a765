//! Serves the client library and the demo pages: built into the binary, or read from a directory during development.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY};

use super::error::ApiError;
use super::origin::{ANY_ORIGIN, CROSS_ORIGIN_RESOURCE_POLICY};
use super::subscribe::names_tag;
use super::{Answer, Call};
use crate::net::Response;

/// One file: its name is its path in the URL and in the directory.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    built_in: &'static [u8],
}

macro_rules! assets {
    ($($name:literal: $media_type:literal),* $(,)?) => {
        &[$(Asset { name: $name, media_type: $media_type, built_in: include_bytes!(concat!("../../static/", $name)) }),*]
    };
}

/// The files for an application's page.
const CLIENT: &[Asset] = assets! {
    "client.js": "text/javascript; charset=utf-8",
    "client.mjs": "text/javascript; charset=utf-8",
    "client.d.ts": "text/plain; charset=utf-8",
    "client.d.mts": "text/plain; charset=utf-8",
    "share.js": "text/javascript; charset=utf-8",
    "share.mjs": "text/javascript; charset=utf-8",
    "share.d.ts": "text/plain; charset=utf-8",
    "share.d.mts": "text/plain; charset=utf-8",
    "state.js": "text/javascript; charset=utf-8",
    "state.mjs": "text/javascript; charset=utf-8",
    "state.d.ts": "text/plain; charset=utf-8",
    "state.d.mts": "text/plain; charset=utf-8",
};

/// The server's own pages.
const PAGES: &[Asset] = assets! {
    "index.html": "text/html; charset=utf-8",
    "home.css": "text/css; charset=utf-8",
    "home.js": "text/javascript; charset=utf-8",
    "snippets.js": "text/javascript; charset=utf-8",
    "compare.html": "text/html; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "demo.css": "text/css; charset=utf-8",
    "demo.js": "text/javascript; charset=utf-8",
    "meter.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "legacy.html": "text/html; charset=utf-8",
    "legacy.css": "text/css; charset=utf-8",
    "legacy.js": "text/javascript; charset=utf-8",
    "review.html": "text/html; charset=utf-8",
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "token.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
};

/// The pages load from and connect to this server only; everything that is not listed is off. `'self'` includes the
/// server's WebSockets (CSP 3 §6.7.2.8); `ws: wss:` would let injected code connect to any other server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; frame-src 'self'; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'";

/// Caching for a URL with `?v=` and the present version: a new version has a new URL.
const KEEP: &str = "public, max-age=31536000, immutable";

/// The names of the client library's files.
pub(super) fn client_files() -> impl Iterator<Item = &'static str> {
    CLIENT.iter().map(|asset| asset.name)
}

/// The names of the pages' files.
pub(super) fn page_files() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|asset| asset.name)
}

/// The file of a page that has an address besides its name.
pub(super) fn page_at(path: &str) -> Option<&'static str> {
    match path {
        "/" => Some("index.html"),
        "/compare" => Some("compare.html"),
        _ => None,
    }
}

/// `GET /NAME`, and the addresses of [`page_at`].
pub(super) async fn serve(call: Call, name: &'static str) -> Answer {
    let known = CLIENT.iter().chain(PAGES).find(|asset| asset.name == name);
    let asset = known.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such file"))?;
    let content = match &call.options().static_dir {
        None => Bytes::from_static(asset.built_in),
        Some(directory) => read(directory, asset.name).await?,
    };
    let etag = etag(&content);
    let kept = call.request.query_string().split('&').any(|field| field == concat!("v=", env!("CARGO_PKG_VERSION")));
    let kept = kept && call.options().static_dir.is_none();
    let fresh = names_tag(call.request.headers().get(&IF_NONE_MATCH), etag.as_bytes());
    let response = Response::new(if fresh { StatusCode::NOT_MODIFIED } else { StatusCode::OK })
        .with(ETAG, etag)
        .with(CACHE_CONTROL, if kept { KEEP } else { "no-cache" });
    // The files for an application's page, which may be of any origin.
    let shared = client_files().any(|file| file == name);
    let response = if shared { response.with(CROSS_ORIGIN_RESOURCE_POLICY, ANY_ORIGIN) } else { response };
    if fresh {
        return Ok(response);
    }
    let response = response.with(CONTENT_TYPE, asset.media_type);
    if !asset.media_type.starts_with("text/html") {
        return Ok(response.with_body(content));
    }
    let response = response.with(CONTENT_SECURITY_POLICY, PAGE_POLICY).with(REFERRER_POLICY, "no-referrer");
    Ok(response.with_body(content))
}

async fn read(directory: &Path, name: &str) -> Result<Bytes, ApiError> {
    // Only names of the tables above are ever joined, so no file outside the directory can be reached.
    let path = directory.join(name);
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    match read {
        Ok(Ok(content)) => Ok(content.into()),
        _ => Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "the file is not in the directory of `--static`")),
    }
}

fn etag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}
