//! `switchback history`.

use std::io::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::remote::{Remote, RemoteError};
use crate::config::HistoryArgs;

/// Prints a page of past events, the oldest first; says on standard error how to print the page before it, and whether older events
/// were removed.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn history(arguments: HistoryArgs) -> Result<(), RemoteError> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
        before: Option<String>,
        #[serde(default)]
        trimmed: bool,
    }
    let remote = Remote::new(arguments.remote)?;
    let limit = arguments.limit.map(|limit| limit.to_string());
    let mut parameters: Vec<(&str, &str)> = arguments.patterns.iter().map(|pattern| ("topic", &**pattern)).collect();
    parameters.extend(arguments.before.as_deref().map(|before| ("before", before)));
    parameters.extend(limit.as_deref().map(|limit| ("limit", limit)));
    let body = remote.get("/v1/history", &parameters).await?;
    let page: Page<'_> = serde_json::from_slice(&body).map_err(|error| RemoteError::Strange(error.to_string()))?;
    let mut out = std::io::stdout().lock();
    for event in page.events {
        out.write_all(event.get().as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    if let Some(before) = page.before {
        super::complain(&format!("there are older events: --before {before}"));
    } else if page.trimmed {
        super::complain("older events have been removed");
    }
    Ok(())
}
