//! Which store the flags name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::store::JetStreamOptions;

/// Where a server's log is, with all that it takes to open it.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// On disk.
    Disk {
        /// The data directory.
        directory: PathBuf,
    },
    /// In memory, gone with the process.
    Memory,
    /// In NATS JetStream.
    Nats(Box<JetStreamOptions>),
}

/// Which engine keeps the log.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// In the data directory.
    Disk,
    /// In memory.
    Memory,
    /// In NATS JetStream, at this URL, which may hold a password. It is looked at once it can be told what is wrong with
    /// it without showing it.
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
            _ => Err("a store is disk, memory, nats://host:4222[,host:4222...] or tls://host:4222".into()),
        }
    }
}
