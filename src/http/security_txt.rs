//! `GET /.well-known/security.txt` (RFC 9116): where a vulnerability of this installation is reported. Served if it is configured.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use super::error::ApiError;
use super::{Answer, Call, not_found};
use crate::net::Response;

/// The path, from the server's root.
pub(super) const PATH: &str = "/.well-known/security.txt";

/// The longest file that is served, in bytes; RFC 9116 §5.4 suggests a limit of 32 KiB.
const BYTES_MAX: u64 = 32 << 10;

/// The file as it is now: its `Expires` has to be renewed once a year, which needs no restart.
pub(super) async fn serve(call: Call) -> Answer {
    let Some(path) = call.options().security_txt.clone() else { return not_found(call).await };
    let shown = path.clone();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(text) => Ok(Response::new(StatusCode::OK)
            .with(CONTENT_TYPE, "text/plain; charset=utf-8")
            .with(CACHE_CONTROL, "no-cache")
            .with_body(text)),
        Err(error) => {
            tracing::error!(%error, path = %shown.display(), "the file of --security-txt cannot be served");
            Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "the file of `--security-txt` cannot be read"))
        }
    }
}

/// The content of the file.
///
/// # Errors
/// The operating system's; `InvalidData` where the file is not text, `FileTooLarge` where it is too long.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}
