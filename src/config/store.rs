//! The choice of the store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::store::JetStreamOptions;

/// The store of a server's log, with all that is needed to open it.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// On disk.
    Disk {
        /// The data directory.
        directory: PathBuf,
    },
    /// In memory, lost when the process ends.
    Memory,
    /// In NATS JetStream.
    Nats(Box<JetStreamOptions>),
}

/// The store's engine, as the flag names it.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// In the data directory.
    Disk,
    /// In memory.
    Memory,
    /// In NATS JetStream, at this URL, which may have a password. The URL is parsed later, where an error does not show it (clap
    /// shows the value).
    Nats(String),
}

impl fmt::Debug for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "Disk",
            Self::Memory => "Memory",
            Self::Nats(_) => "Nats(…)",
        })
    }
}

impl FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disk" => Ok(Self::Disk),
            "memory" => Ok(Self::Memory),
            nats if nats.starts_with("nats://") || nats.starts_with("tls://") => Ok(Self::Nats(nats.to_owned())),
            _ => Err("the store must be disk, memory, nats://host:4222[,host:4222...] or tls://host:4222".into()),
        }
    }
}
