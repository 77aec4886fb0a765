//! `switchback erase`.

use super::remote::{ANSWER_BYTES_MAX, ERASE_TIMEOUT, Remote, RemoteError, refused};
use crate::config::EraseArgs;

/// Erases the events of a topic; returns the body of the server's response.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn erase(arguments: EraseArgs) -> Result<String, RemoteError> {
    let remote = Remote::new(arguments.remote)?;
    let mut request = remote.client.delete(remote.topic_url(arguments.topic.as_str())).timeout(ERASE_TIMEOUT);
    if let Some(authorization) = remote.authorization()? {
        request = request.insert_header(authorization);
    }
    let mut answer = request.send().await.map_err(|error| remote.unreachable(error))?;
    let body = answer.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| RemoteError::Broken(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(refused(answer.status().as_u16(), &body));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}
