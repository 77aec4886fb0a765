//! The log on standard error, written by a thread of its own so that a blocked or failing log never affects the workers.
//!
//! Standard error can be a closed pipe, a full disk, or a pipe whose reader is stopped. If worker threads wrote to it,
//! the first two would make them panic (both `eprintln!` and tracing-subscriber's report of a failed
//! write do), and the last would block them in the middle of a write. So lines go through a bounded queue to another
//! thread. Lines that cannot be written, or do not fit into the queue, are dropped.

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::config::LogFormat;

/// Most queued lines; further ones are dropped.
const QUEUED_LINES_MAX: usize = 8192;

/// The thread that writes the log. When dropped, it flushes the queue, for a second at most.
#[must_use = "the log ends with it"]
pub(super) struct LogWriter {
    _worker: WorkerGuard,
}

/// Logs on standard error, filtered by `filter` (`info`, or `switchback=debug,actix_web=warn`); `access_log` turns the access
/// log on or off, whatever the filter says. Panics are logged, too. Lines for a person have colours on terminals, unless `NO_COLOR`
/// is set; as JSON, a line is an object with `timestamp`, `level`, `target`, `message` and the line's own fields.
///
/// # Errors
/// Where the filter is invalid.
pub(super) fn log_to_stderr(filter: &str, format: LogFormat, access_log: bool) -> Result<LogWriter, String> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    let wanted = format!("{}={}", crate::server::ACCESS_LOG, if access_log { "info" } else { "off" });
    let filter = filter.add_directive(wanted.parse().map_err(|error| format!("--log {wanted}: {error}"))?);
    let stderr = std::io::stderr();
    let colours = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES_MAX).thread_name("log");
    let (writer, worker) = queue.finish(stderr);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours && format == LogFormat::Human)
        .with_writer(writer)
        .log_internal_errors(false);
    match format {
        LogFormat::Human => lines.init(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogWriter { _worker: worker })
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(%place, thread = thread.name().unwrap_or("unnamed"), "panicked: {message}");
}
