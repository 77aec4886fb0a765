//! `switchback clients`.

use std::io::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::remote::{Remote, RemoteError};
use crate::config::ClientsArgs;

/// Prints the connected clients, one line of JSON each, in the order of their ids.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn clients(arguments: ClientsArgs) -> Result<(), RemoteError> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        clients: Vec<&'a RawValue>,
        #[serde(default)]
        more: bool,
    }
    #[derive(Deserialize)]
    struct Identified {
        client: Uuid,
    }
    let remote = Remote::new(arguments.remote)?;
    let strange = |error: serde_json::Error| RemoteError::Strange(error.to_string());
    let mut after: Option<String> = None;
    loop {
        let mut parameters: Vec<(&str, &str)> =
            arguments.subject.iter().map(|subject| ("subject", &**subject)).collect();
        parameters.extend(after.as_deref().map(|after| ("after", after)));
        let body = remote.get("/v1/clients", &parameters).await?;
        let page: Page<'_> = serde_json::from_slice(&body).map_err(strange)?;
        let mut out = std::io::stdout().lock();
        for client in &page.clients {
            out.write_all(client.get().as_bytes())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        let Some(last) = page.clients.last().filter(|_| page.more) else { return Ok(()) };
        let Identified { client } = serde_json::from_str(last.get()).map_err(strange)?;
        after = Some(client.to_string());
    }
}
