//! Parsers of the flags' values.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::ConfigError;

/// The first socket address that a text resolves to.
pub(super) fn address(flag: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = |reason: String| ConfigError::Address { flag, text: text.to_owned(), reason };
    let mut addresses = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    addresses.next().ok_or_else(|| wrong("it resolves to no address".into()))
}

/// `20s`, `5m`, `24h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; a duration is written 500ms, 20s, 5m, 24h or 7d"))
}

/// `1048576`, `512KiB`, `64MiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err("a number of bytes has the form 1048576, 512KiB, 64MiB or 16GiB".into()),
    };
    let number: Option<u64> = digits.parse().ok();
    let product = number.and_then(|number| number.checked_mul(1 << shift));
    product.ok_or_else(|| "a number of bytes has the form 1048576, 512KiB, 64MiB or 16GiB".into())
}

/// Checks a filter of log lines, which is a list of levels for all modules or for one: `info`, `warn,switchback=debug`.
///
/// A word that is no level, such as `warning`, is refused: the filter's parser would take it as a module's name, and log only
/// that module.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let is_level = |directive: &str| directive.parse::<LevelFilter>().is_ok();
    for directive in text.split(',').map(str::trim) {
        if !directive.contains(['=', '[']) && !is_level(directive) {
            return Err(format!(
                "{directive} is not a level (error, warn, info, debug, trace or off); a module's level has the form MODULE=LEVEL"
            ));
        }
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
