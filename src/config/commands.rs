//! The flags of the commands that are not the server, but for `token`'s.

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::ShowArgs;

/// The flags of a command that speaks to a server.
#[derive(Args, Clone, Debug)]
pub struct RemoteArgs {
    /// The server
    #[arg(long, env = "SWITCHBACK_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// Believe the certificates in this file (PEM), and those that they signed, instead of those that the system believes
    #[arg(long, env = "SWITCHBACK_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Who asks.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// The flags of `publish`.
#[derive(Args, Clone, Debug)]
pub struct PublishArgs {
    /// Where to publish, such as orders.42.status
    pub topic: String,
    /// JSON, or else a text; - or nothing reads standard input, which may be binary
    pub data: Option<String>,
    /// The event's name
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// An idempotency key: the same key on the same topic is stored once
    #[arg(long, value_name = "KEY")]
    pub id: Option<String>,
    /// Say that the topic has no value now, instead of publishing data
    #[arg(long, conflicts_with = "data")]
    pub delete: bool,
    /// A header beside the data; may be repeated, up to 16 of them with 4096 bytes together
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<Header>,
    /// Where the server is.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// One header of an event, as the command line takes it: `NAME=VALUE`, where the value may hold `=` and may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name; never empty.
    pub name: String,
    /// The value.
    pub value: String,
}

impl std::str::FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err("a header is NAME=VALUE, such as reason=left"),
        }
    }
}

/// The flags of `subscribe`.
#[derive(Args, Clone, Debug)]
pub struct SubscribeArgs {
    /// What to subscribe to, such as 'orders.*' or '>'
    #[arg(required_unless_present = "client")]
    pub patterns: Vec<String>,
    /// What to subscribe over; auto takes the best that works
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub transport: SubscribeTransport,
    /// Where to start: a cursor, now, or earliest
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Start with the newest so many events (1 to 1000)
    #[arg(long, value_name = "NUMBER", conflicts_with = "cursor")]
    pub last: Option<u16>,
    /// Start with the first event of this time: milliseconds since 1970, or RFC 3339 such as 2025-11-21T18:33:20Z
    #[arg(long, value_name = "TIME", conflicts_with_all = ["cursor", "last"])]
    pub since: Option<String>,
    /// Be this client: the server remembers its patterns and its place
    #[arg(long, value_name = "UUID")]
    pub client: Option<Uuid>,
    /// Stop after so many events
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// Where the server is.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// What the command line can subscribe over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // Each is the transport of its name.
pub enum SubscribeTransport {
    Auto,
    Ws,
    Sse,
    Stream,
    Longpoll,
    Poll,
}

/// The flags of `backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The file to write; it must not exist
    pub file: PathBuf,
    /// Directory of the disk store
    #[arg(long, env = "SWITCHBACK_DATA", value_name = "DIR", default_value = "./switchback-data")]
    pub data: PathBuf,
}
