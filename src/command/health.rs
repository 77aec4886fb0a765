//! `switchback health`.

use super::remote::{ANSWER_BYTES_MAX, Remote, RemoteError, refused};
use crate::config::RemoteArgs;

/// Asks a server whether it is ready to serve and to store events; returns a line to print.
///
/// # Errors
/// [`RemoteError`], with the server's reason where it is not ready.
pub(super) async fn health(arguments: RemoteArgs) -> Result<&'static str, RemoteError> {
    let remote = Remote::new(arguments)?;
    let request = remote.client.get(remote.url("/readyz", &[]));
    let mut answer = request.send().await.map_err(|error| remote.unreachable(error))?;
    let body = answer.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| RemoteError::Broken(error.to_string()))?;
    if answer.status().is_success() { Ok("ready") } else { Err(refused(answer.status().as_u16(), &body)) }
}
