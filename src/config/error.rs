//! Why flags do not make a server.

use std::net::SocketAddr;

/// The flags do not make a server.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The address is not one.
    #[error("--{flag} {text}: {reason}; it is an address and a port, such as 127.0.0.1:8080")]
    Address {
        /// The flag.
        flag: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Open to all, without having been told so.
    #[error(
        "--listen {0} is not loopback, and there is no key: everybody who reaches it could publish and subscribe; \
             ask for tokens with --jwt-secret-file or --jwks, or add --allow-anonymous if everybody is meant"
    )]
    Open(SocketAddr),
    /// A key cannot be used, or the flags about keys do not go together.
    #[error("{0}")]
    Key(String),
    /// The flags name no NATS store. The URL is not shown: there may be a password in it.
    #[error("--{flag} {reason}")]
    Nats {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// One of two flags that need each other.
    #[error("--{given} needs --{missing}")]
    Alone {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        missing: &'static str,
    },
    /// A number is not within its range.
    #[error("--{flag} {reason}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What would be right.
        reason: &'static str,
    },
}
