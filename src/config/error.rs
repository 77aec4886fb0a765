//! Errors of the configuration.

use std::net::SocketAddr;

use crate::store::KeepError;

/// Why the configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The address is invalid.
    #[error("--{flag} {text}: {reason}; give an address and a port, such as 127.0.0.1:8080")]
    Address {
        /// The flag.
        flag: &'static str,
        /// The given value.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Open to all clients without `--allow-anonymous`.
    #[error(
        "--listen {0} is not a loopback address, and no key is configured: every client could publish and subscribe; \
             require tokens with --jwt-secret-file or --jwks, or add --allow-anonymous to serve every client"
    )]
    OpenWithoutKey(SocketAddr),
    /// A key is invalid, or the flags of keys conflict.
    #[error("{0}")]
    Key(String),
    /// The flags of the NATS store are invalid. The URL is not shown, since it may have a password.
    #[error("--{flag} {reason}")]
    Nats {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A flag is given without another one that it needs.
    #[error("--{given} needs --{missing}")]
    Alone {
        /// The given flag.
        given: &'static str,
        /// The missing flag.
        missing: &'static str,
    },
    /// A rule of retention is invalid, or contradicts another.
    #[error("--keep: {0}")]
    Keep(#[from] KeepError),
    /// A number is out of its range.
    #[error("--{flag} {reason}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What would be right.
        reason: &'static str,
    },
}
