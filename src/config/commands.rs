//! The flags of the client commands, and of those that work on a data directory.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::ShowArgs;
use super::values::duration;
use crate::topic::Topic;

/// The flags of a command that connects to a server.
#[derive(Args, Clone, Debug)]
pub struct RemoteArgs {
    /// The server
    #[arg(long, env = "SWITCHBACK_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// Trust the certificates in this file (PEM), and those that they signed, instead of the system's
    #[arg(long, env = "SWITCHBACK_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The token to present.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// The flags of `publish`.
#[derive(Args, Clone, Debug)]
pub struct PublishArgs {
    /// The topic, such as orders.42.status
    pub topic: String,
    /// JSON, or else text; - or nothing reads standard input, which may be binary
    pub data: Option<String>,
    /// The event's name
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// An idempotency key: the same key on the same topic is stored once
    #[arg(long, value_name = "KEY")]
    pub id: Option<String>,
    /// Publish a deletion instead of data: the topic has no value then
    #[arg(long, conflicts_with = "data")]
    pub delete: bool,
    /// A header of the event; may be repeated, up to 16 headers with 4096 bytes together
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<Header>,
    /// The server, and how to connect to it.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// One header of an event, from the command line: `NAME=VALUE`, where the value may contain `=` and may be empty.
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
            _ => Err("a header has the form NAME=VALUE, such as reason=left"),
        }
    }
}

/// The flags of `subscribe`.
#[derive(Args, Clone, Debug)]
pub struct SubscribeArgs {
    /// The patterns to subscribe to, such as 'orders.*' or '>'
    #[arg(required_unless_present = "client")]
    pub patterns: Vec<String>,
    /// The transport; auto takes the best one that works
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub transport: SubscribeTransport,
    /// Where to start: a cursor, now, or earliest
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Start with the newest NUMBER events (1 to 1000)
    #[arg(long, value_name = "NUMBER", conflicts_with = "cursor")]
    pub last: Option<u16>,
    /// Start with the first event of this time: milliseconds since 1970, or RFC 3339 such as 2025-11-21T18:33:20Z
    #[arg(long, value_name = "TIME", conflicts_with_all = ["cursor", "last"])]
    pub since: Option<String>,
    /// Of each topic only the newest event, whenever the subscription is behind: the present state, then its changes
    #[arg(long)]
    pub latest: bool,
    /// Receive events at most this often (up to 60s); with --latest each time the newest of each topic
    #[arg(long, value_name = "DURATION", value_parser = pace)]
    pub pace: Option<Duration>,
    /// Be this client: the server remembers its patterns and its place
    #[arg(long, value_name = "UUID")]
    pub client: Option<Uuid>,
    /// Stop after this number of events
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// The server, and how to connect to it.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// The flags of `history`.
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// The patterns of the events, such as 'orders.*' or '>'
    #[arg(required = true)]
    pub patterns: Vec<String>,
    /// Print the events before this cursor instead of the newest
    #[arg(long, value_name = "CURSOR")]
    pub before: Option<String>,
    /// At most this number of events (1 to 1000)
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u16>,
    /// The server, and how to connect to it.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// The flags of `clients`.
#[derive(Args, Clone, Debug)]
pub struct ClientsArgs {
    /// Only the clients of this token subject
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// The server, and how to connect to it.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// The flags of `erase`.
#[derive(Args, Clone, Debug)]
pub struct EraseArgs {
    /// The topic, such as users.42.chat; no pattern
    pub topic: Topic,
    /// The server, and how to connect to it.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// The greatest `--pace`, as in the protocol.
const PACE_MAX: Duration = Duration::from_secs(60);

fn pace(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|pace| if pace > PACE_MAX { Err("at most 60s".into()) } else { Ok(pace) })
}

/// The transports of `subscribe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // Each is the transport with that name.
pub enum SubscribeTransport {
    Auto,
    Ws,
    Sse,
    Stream,
    Longpoll,
    Poll,
}

/// The data directory that a command works on.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    /// Directory of the disk store
    #[arg(long, env = "SWITCHBACK_DATA", value_name = "DIR", default_value = "./switchback-data")]
    pub data: PathBuf,
}

/// The flags of `backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The file to write; it must not exist
    pub file: PathBuf,
    /// The directory.
    #[command(flatten)]
    pub directory: DataArgs,
}

/// The flags of `restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// The directory.
    #[command(flatten)]
    pub directory: DataArgs,
}

/// The flags of `verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Verify this backup instead of a data directory
    pub backup: Option<PathBuf>,
    /// The directory.
    #[command(flatten)]
    pub directory: DataArgs,
}

/// The flags of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// The flags of `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// The page of this command, such as serve; the program's own page if none is given
    pub command: Option<String>,
}
