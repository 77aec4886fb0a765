//! Serves the client library and the demo pages: built into the binary, or read from a directory during development.

mod coding;

use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LOCATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY,
};

use super::error::ApiError;
use super::origin::{ANY_ORIGIN, CROSS_ORIGIN_RESOURCE_POLICY};
use super::subscribe::names_tag;
use super::{Answer, Call};
use crate::net::Response;
use coding::{Coding, CompressedForms};

/// One file: its name is its path in the URL and in the directory.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    built_in: &'static [u8],
    compressed: CompressedForms,
    /// The version of the built-in content.
    version: OnceLock<String>,
}

macro_rules! assets {
    ($($name:literal: $media_type:literal),* $(,)?) => {
        [$(Asset {
            name: $name,
            media_type: $media_type,
            built_in: include_bytes!(concat!("../../static/", $name)),
            compressed: CompressedForms::new(),
            version: OnceLock::new(),
        }),*]
    };
}

/// The files for an application's page.
static CLIENT: [Asset; 12] = assets! {
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
static PAGES: [Asset; 21] = assets! {
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
    "dashboard.html": "text/html; charset=utf-8",
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
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

/// Caching for a URL that contains the present version of the file (`/client-VERSION.js`) or of the program (`?v=`): a new
/// version has a new URL.
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

/// The digits of a file's version.
const VERSION_DIGITS: usize = 16;

/// The scripts of the client library, by a name that contains their version: its part before the version, and the part after it.
pub(super) fn versioned_files() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    client_files().filter_map(|name| {
        let (stem, extension) = name.split_once('.')?;
        matches!(extension, "js" | "mjs").then_some((name, stem, extension))
    })
}

/// The script that `NAME-VERSION.EXTENSION` names, whatever the version: while nodes are upgraded one by one, a page from one of them
/// gets its script from another.
pub(super) fn versioned(path: &str) -> Option<&'static str> {
    let mut files = versioned_files();
    let found = files.find(|(_, stem, extension)| version_in(path, stem, extension).is_some());
    found.map(|(name, ..)| name)
}

fn version_in<'p>(path: &'p str, stem: &str, extension: &str) -> Option<&'p str> {
    let version = path.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?.strip_suffix('.')?;
    let is_version = version.len() == VERSION_DIGITS && version.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_version.then_some(version)
}

/// `GET /NAME`, `/NAME-VERSION.EXTENSION`, and the addresses of [`page_at`].
pub(super) async fn serve(call: Call, name: &'static str) -> Answer {
    let known = CLIENT.iter().chain(&PAGES).find(|asset| asset.name == name);
    let asset = known.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such file"))?;
    let Representation { version, coding, content } = represent(&call, asset).await?;
    let etag = etag(&version, coding);
    let fresh = names_tag(call.request.headers().get(&IF_NONE_MATCH), etag.as_bytes());
    let mut response = Response::new(if fresh { StatusCode::NOT_MODIFIED } else { StatusCode::OK })
        .with(ETAG, etag)
        .with(VARY, "Origin, Accept-Encoding")
        .with(CACHE_CONTROL, if names_version(&call, asset, &version) { KEEP } else { "no-cache" });
    if let Some((_, stem, extension)) = versioned_files().find(|(file, ..)| *file == name) {
        response = response.with(CONTENT_LOCATION, format!("{stem}-{version}.{extension}"));
    }
    // The files for an application's page, which may be of any origin.
    if client_files().any(|file| file == name) {
        response = response.with(CROSS_ORIGIN_RESOURCE_POLICY, ANY_ORIGIN);
    }
    if fresh {
        return Ok(response);
    }
    if let Some(coding) = coding.name() {
        response = response.with(CONTENT_ENCODING, coding);
    }
    if asset.media_type.starts_with("text/html") {
        response = response.with(CONTENT_SECURITY_POLICY, PAGE_POLICY).with(REFERRER_POLICY, "no-referrer");
    }
    Ok(response.with(CONTENT_TYPE, asset.media_type).with_body(content))
}

/// A file's content, in the coding that it is sent in.
struct Representation {
    version: String,
    coding: Coding,
    content: Bytes,
}

async fn represent(call: &Call, asset: &'static Asset) -> Result<Representation, ApiError> {
    // While the pages are developed, each request reads the file, and does not compress it.
    if let Some(directory) = &call.options().static_dir {
        let content = read(directory, asset.name).await?;
        return Ok(Representation { version: version(&content), coding: Coding::Identity, content });
    }
    let version = asset.version.get_or_init(|| version(asset.built_in)).clone();
    let coding = Coding::negotiated(call.request.headers().text(&ACCEPT_ENCODING).unwrap_or_default());
    let content = asset.compressed.of(asset.built_in, coding).await;
    Ok(Representation { version, coding, content })
}

/// Whether the URL contains the present version of the file, or of the program, so that its content never changes.
fn names_version(call: &Call, asset: &Asset, version: &str) -> bool {
    let file = call.request.head.mounted_path().rsplit('/').next().unwrap_or_default();
    let parts = asset.name.split_once('.');
    let of_file = parts.and_then(|(stem, extension)| version_in(file, stem, extension)) == Some(version);
    let mut fields = call.request.query_string().split('&');
    let of_program = fields.any(|field| field == concat!("v=", env!("CARGO_PKG_VERSION")));
    call.options().static_dir.is_none() && (of_file || of_program)
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

/// The same for the same content, in every process.
fn version(content: &[u8]) -> String {
    let hash = digest(&SHA256, content);
    let digits = hash.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).take(VERSION_DIGITS);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// Each coding has its own (RFC 9110 §8.8.3): a cache must not take one for the other.
fn etag(version: &str, coding: Coding) -> String {
    match coding.name() {
        None => format!("\"{version}\""),
        Some(coding) => format!("\"{version}-{coding}\""),
    }
}
