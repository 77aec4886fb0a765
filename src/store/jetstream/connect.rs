//! The connection to NATS: its options, how it is made, and whether it is up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

use super::error::OptionsError;
use super::names::Names;
use super::servers::Servers;
use crate::store::OpenError;

/// The interval of pings to the server. After two missed answers the connection counts as lost, so a server that hangs is left
/// for another one after about six seconds.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the store waits at startup for NATS, which may be starting as well. After that the process ends, and its supervisor
/// restarts it.
const START_WAIT: Duration = Duration::from_secs(15);

/// The delay between two attempts to connect at startup.
const START_RETRY: Duration = Duration::from_millis(500);

/// The longest delay between two attempts to reconnect.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Commands queued for the connection's writer.
const COMMANDS_MAX: usize = 4096;

/// Messages queued for a subscription; flow control keeps the number below this limit.
const MESSAGES_MAX: usize = 64 << 10;

/// The oldest NATS with the features that the store needs: batched direct reads, and a TTL per message of a bucket.
const OLDEST_SERVER: (i64, i64, i64) = (2, 11, 0);

/// How to connect to NATS, and the names that the store uses there.
#[derive(Clone)]
pub struct JetStreamOptions {
    /// The servers to connect to at first; they report the other servers of their cluster.
    pub servers: Vec<NatsServer>,
    /// The prefix of the names of the stream, the buckets and the subjects, so that several installations can share a NATS.
    pub prefix: String,
    /// Replicas of each event; `None`: three where the servers are a cluster, else one.
    pub replicas: Option<u8>,
    /// Whether an existing stream and its buckets are changed to fit the options instead of being refused.
    pub reconfigure: bool,
    /// User and password.
    pub login: Option<NatsLogin>,
    /// A credentials file with a JWT and a seed, as `nsc` writes it.
    pub credentials: Option<PathBuf>,
    /// Certificates of authorities to trust besides the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// A client certificate and its key, in PEM, for servers that require one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl JetStreamOptions {
    /// The default options for some servers.
    #[must_use]
    pub fn new(servers: Vec<NatsServer>) -> Self {
        Self {
            servers,
            prefix: "switchback".into(),
            replicas: None,
            reconfigure: false,
            login: None,
            credentials: None,
            ca: None,
            client_certificate: None,
        }
    }
}

impl fmt::Debug for JetStreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamOptions")
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .finish_non_exhaustive()
    }
}

/// A server's address without user and password, so that it may be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsServer {
    /// Whether an unencrypted connection is refused.
    pub tls: bool,
    /// `host:port`; the port defaults to 4222.
    pub address: String,
}

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "tls" } else { "nats" }, self.address)
    }
}

/// A user and a password.
pub type NatsLogin = (String, String);

/// What `nats://user:password@host:4222,host2:4222` says: the servers, and who we are there.
///
/// # Errors
/// [`OptionsError::Address`] and [`OptionsError::Login`]; neither shows the text.
pub fn parse_servers(text: &str) -> Result<(Vec<NatsServer>, Option<NatsLogin>), OptionsError> {
    let mut login = None;
    let mut servers = Vec::new();
    let (scheme, rest) = text.split_once("://").ok_or(OptionsError::Address)?;
    let tls_of = |scheme: &str| match scheme {
        "nats" => Ok(false),
        "tls" => Ok(true),
        _ => Err(OptionsError::Address),
    };
    let tls = tls_of(scheme)?;
    for part in rest.split(',') {
        let (tls, part) = match part.split_once("://") {
            Some((scheme, part)) => (tls_of(scheme)?, part),
            None => (tls, part),
        };
        let (userinfo, address) = match part.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, part),
        };
        if let Some(userinfo) = userinfo {
            let (user, password) = userinfo.split_once(':').ok_or(OptionsError::Login)?;
            let decode = |text| percent_encoding::percent_decode_str(text).decode_utf8().map(String::from);
            let found = (decode(user), decode(password));
            let (Ok(user), Ok(password)) = found else { return Err(OptionsError::Login) };
            login = Some((user, password));
        }
        let address = address.trim_end_matches('/');
        let port_follows = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if port_follows { address.to_owned() } else { format!("{address}:4222") };
        let server = NatsServer { tls, address };
        server.parsed()?;
        servers.push(server);
    }
    Ok((servers, login))
}

impl NatsServer {
    fn parsed(&self) -> Result<ServerAddr, OptionsError> {
        self.to_string().parse().map_err(|_| OptionsError::Address)
    }
}

/// Whether the connection is up, and which one it is: each reconnection has the next generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) up: bool,
    pub(super) generation: u64,
}

/// A connection that reconnects, to any of the servers, when it is lost.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) link: watch::Receiver<LinkState>,
    pub(super) servers: Arc<Servers>,
}

/// Connects, and waits a while for a NATS that is not up yet.
pub(super) async fn connect(options: &JetStreamOptions) -> Result<Connection, OpenError> {
    let known = Arc::new(Servers::default());
    let end = tokio::time::Instant::now() + START_WAIT;
    let mut is_logged = false;
    loop {
        let (link, watched) = watch::channel(LinkState { up: true, generation: 1 });
        let servers: Result<Vec<ServerAddr>, _> = options.servers.iter().map(NatsServer::parsed).collect();
        let servers = servers.map_err(|error| refused(options, &error))?;
        let reason = match with(options, link, known.clone()).await?.connect(servers).await {
            Ok(client) => {
                check_version(options, &client)?;
                return Ok(Connection { client, link: watched, servers: known });
            }
            Err(error) => error,
        };
        if is_final(&reason) || tokio::time::Instant::now() >= end {
            return Err(refused(options, &reason_text(&reason)));
        }
        if !std::mem::replace(&mut is_logged, true) {
            tracing::warn!(reason = %reason_text(&reason), "NATS does not answer at {}: waiting for it", list(options));
        }
        tokio::time::sleep(START_RETRY).await;
    }
}

async fn with(
    options: &JetStreamOptions,
    link: watch::Sender<LinkState>,
    servers: Arc<Servers>,
) -> Result<ConnectOptions, OpenError> {
    let mut connect = ConnectOptions::new()
        .name("switchback")
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .client_capacity(COMMANDS_MAX)
        .subscription_capacity(MESSAGES_MAX)
        .require_tls(options.servers.iter().any(|server| server.tls))
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(5)).unwrap_or_default();
            let longest = (Duration::from_millis(50) * 2_u32.pow(exponent)).min(RECONNECT_WAIT_MAX);
            longest.mul_f64(rand::random_range(0.5..=1.0))
        })
        .reconnect_to_server_callback(move |pool, _| std::future::ready(servers.choose(&pool)))
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    link.send_modify(|link| *link = LinkState { up: true, generation: link.generation + 1 });
                    tracing::info!("connected to NATS");
                }
                Event::Disconnected => {
                    link.send_modify(|link| link.up = false);
                    tracing::warn!("the connection to NATS is lost: reconnecting");
                }
                Event::Closed => link.send_modify(|link| link.up = false),
                other => tracing::debug!("NATS: {other}"),
            }
            std::future::ready(())
        });
    if let Some((user, password)) = &options.login {
        connect = connect.user_and_password(user.clone(), password.clone());
    }
    if let Some(file) = &options.credentials {
        let read = connect.credentials_file(file).await;
        connect = read.map_err(|error| OpenError::Path { path: file.clone(), reason: error.to_string() })?;
    }
    if let Some(file) = &options.ca {
        readable(file)?;
        connect = connect.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &options.client_certificate {
        readable(certificate)?;
        readable(key)?;
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(connect)
}

/// An unreadable file is reported by its path, rather than as a failed TLS handshake.
fn readable(file: &std::path::Path) -> Result<(), OpenError> {
    let opened = std::fs::File::open(file);
    opened.map(drop).map_err(|error| OpenError::Path { path: file.to_owned(), reason: error.to_string() })
}

/// Whether retrying is useless.
fn is_final(error: &async_nats::ConnectError) -> bool {
    use async_nats::ConnectErrorKind as Kind;
    matches!(error.kind(), Kind::Authentication | Kind::AuthorizationViolation | Kind::Tls | Kind::ServerParse)
}

fn check_version(options: &JetStreamOptions, client: &Client) -> Result<(), OpenError> {
    let (major, minor, patch) = OLDEST_SERVER;
    if client.is_server_compatible(major, minor, patch) {
        return Ok(());
    }
    let version = client.server_info().version;
    let reason = format!("the server is NATS {version}, and {major}.{minor} or later is required: upgrade the server");
    Err(refused(options, &reason))
}

/// An error about this NATS.
pub(super) fn refused(options: &JetStreamOptions, reason: &dyn fmt::Display) -> OpenError {
    OpenError::Nats { servers: list(options), reason: reason.to_string() }
}

fn list(options: &JetStreamOptions) -> String {
    options.servers.iter().map(NatsServer::to_string).collect::<Vec<_>>().join(",")
}

/// The error with its causes. The library's errors contain addresses, never the login.
fn reason_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

pub(super) fn names(options: &JetStreamOptions) -> Result<Names, OpenError> {
    Names::new(&options.prefix).map_err(|error| refused(options, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_listed_and_the_login_is_taken_out() {
        let (servers, login) = parse_servers("nats://li:s%40cret@a:4223,b,tls://c:1").unwrap();
        let texts: Vec<String> = servers.iter().map(NatsServer::to_string).collect();
        assert_eq!(texts, ["nats://a:4223", "nats://b:4222", "tls://c:1"]);
        assert_eq!(login, Some(("li".into(), "s@cret".into())));
        let (servers, _) = parse_servers("tls://[::1]:4222").unwrap();
        assert_eq!(servers[0].to_string(), "tls://[::1]:4222");
    }

    #[test]
    fn what_is_wrong_does_not_show_the_password() {
        for text in ["nats://", "http://a", "nats://u:s3cret@", "nats://u:s3cret@a b", "nats://s3cret@a", "a:4222"] {
            let error = parse_servers(text).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let mut options = JetStreamOptions::new(Vec::new());
        options.login = Some(("li".into(), "s3cret".into()));
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}
