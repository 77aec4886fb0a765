//! The configuration of the stream and the buckets: created where they are missing, checked where they exist.

use std::fmt::{Debug, Write as _};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use tokio::time::Instant;

use super::RETRY_WAIT;
use super::connect::{JetStreamOptions, refused};
use super::names::Names;
use crate::store::{OpenError, Retention, SecurityRecordKind, StoreOptions};

/// How long a cluster may take to elect a leader, or to have enough servers, before the start fails.
const SETUP_WAIT: Duration = Duration::from_secs(15);

/// The first version whose streams accept atomic batches with message ids.
const ATOMIC_BATCHES: (i64, i64, i64) = (2, 12, 1);

/// How long our own retries have to be recognized, where publishers' ids are not.
const OWN_WINDOW: Duration = Duration::from_secs(10);

/// JetStream's shortest deduplication window.
const WINDOW_MIN: Duration = Duration::from_millis(100);

/// The default number of replicas in a cluster.
const REPLICAS_IN_CLUSTER: usize = 3;

/// Marks per client in the bucket's limit: more marks would be the weight of a table that is already full.
const MARKS_PER_CLIENT: usize = 2;

/// The required configuration.
pub(super) struct Plan {
    pub(super) retention: Retention,
    /// Whether publishers' ids are deduplicated.
    pub(super) knows_ids: bool,
    /// JetStream's deduplication window.
    pub(super) window: Duration,
    /// Whether batches can be stored atomically.
    pub(super) atomic: bool,
    /// The number of replicas, where it was given.
    replicas: Option<usize>,
    events: Config,
    buckets: Vec<Config>,
}

impl Plan {
    pub(super) fn new(client: &Client, names: &Names, options: &JetStreamOptions, store: &StoreOptions) -> Self {
        let (major, minor, patch) = ATOMIC_BATCHES;
        let atomic = client.is_server_compatible(major, minor, patch);
        let retention = store.retention;
        let knows_ids = !store.dedupe_window.is_zero();
        let window = if knows_ids { store.dedupe_window.max(WINDOW_MIN) } else { OWN_WINDOW };
        let window = window.min(retention.age_max.unwrap_or(Duration::MAX));
        let limit = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let events = Config {
            name: names.stream.clone(),
            description: Some("Switchback's log".into()),
            subjects: vec![names.every_subject()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            max_messages: limit(retention.events_max),
            max_bytes: limit(retention.bytes_max),
            max_age: retention.age_max.unwrap_or_default(),
            max_messages_per_subject: -1,
            max_message_size: -1,
            max_consumers: -1,
            duplicate_window: window,
            // Nothing inside the log may be deleted: a hole would look like nothing was published.
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            allow_atomic_publish: atomic,
            ..Config::default()
        };
        let bucket = |bucket: String, description: &str, max_messages: usize, discard, max_age| Config {
            name: format!("KV_{bucket}"),
            description: Some(description.into()),
            subjects: vec![format!("$KV.{bucket}.>")],
            retention: RetentionPolicy::Limits,
            discard,
            storage: StorageType::File,
            max_messages: i64::try_from(max_messages).unwrap_or(i64::MAX),
            max_bytes: -1,
            max_age,
            max_messages_per_subject: 1,
            max_message_size: -1,
            max_consumers: -1,
            duplicate_window: OWN_WINDOW.min(if max_age.is_zero() { Duration::MAX } else { max_age }),
            allow_rollup: true,
            allow_direct: true,
            allow_message_ttl: true,
            ..Config::default()
        };
        // A full table of clients evicts the least recently seen one; a full bucket of security records refuses new ones.
        let mut buckets = vec![bucket(
            names.clients_bucket(),
            "Switchback's remembered clients",
            store.clients_max,
            DiscardPolicy::Old,
            store.client_idle_max,
        )];
        // A record has at most as many marks as its weight.
        let marks_max = store.clients_max.saturating_mul(MARKS_PER_CLIENT);
        let marks = names.shares_bucket();
        let description = "Switchback's shares of remembered clients";
        buckets.push(bucket(marks, description, marks_max, DiscardPolicy::Old, store.client_idle_max));
        for kind in [SecurityRecordKind::Ticket, SecurityRecordKind::Ban, SecurityRecordKind::Revocation] {
            let name = names.records_bucket(kind);
            let description = format!("Switchback's {}s", kind.name());
            buckets.push(bucket(name, &description, store.security_records_max, DiscardPolicy::New, Duration::ZERO));
        }
        let quorum = names.quorum_bucket();
        buckets.push(bucket(quorum, "Switchback's proofs of a quorum", 1, DiscardPolicy::Old, Duration::ZERO));
        Self { retention, knows_ids, window, atomic, replicas: options.replicas.map(usize::from), events, buckets }
    }

    /// Creates or checks the stream and all buckets; returns the log's stream.
    pub(super) async fn ensure(&self, context: &Context, options: &JetStreamOptions) -> Result<Info, OpenError> {
        let end = Instant::now() + SETUP_WAIT;
        let info = self.one(context, options, &self.events, end).await?;
        for bucket in &self.buckets {
            self.one(context, options, bucket, end).await?;
        }
        Ok(info)
    }

    /// Creates the log's stream again, with the same configuration, where it was deleted. A missing bucket is created
    /// by its next writer.
    pub(super) async fn remake_events(&self, context: &Context) -> Result<(), String> {
        self.create(context, &self.events).await.map(drop).map_err(|error| error.to_string())
    }

    /// Creates a bucket again, with the same configuration, where it was deleted.
    pub(super) async fn remake_bucket(&self, context: &Context, bucket: &str) -> Result<(), String> {
        match self.buckets.iter().find(|config| config.name.strip_prefix("KV_") == Some(bucket)) {
            Some(config) => self.create(context, config).await.map(drop).map_err(|error| error.to_string()),
            None => Err("the bucket does not belong to this installation".to_owned()),
        }
    }

    async fn one(
        &self,
        context: &Context,
        options: &JetStreamOptions,
        wanted: &Config,
        end: Instant,
    ) -> Result<Info, OpenError> {
        loop {
            let outcome = match context.get_stream(&wanted.name).await {
                Ok(stream) => return self.check(context, options, wanted, stream.cached_info().clone()).await,
                Err(error) if is_missing(&error) => self.create(context, wanted).await,
                Err(error) => Err(Refusal::Passing(error.to_string())),
            };
            match outcome {
                Ok(info) => {
                    tracing::info!(stream = %wanted.name, replicas = info.config.num_replicas, "created a JetStream stream");
                    return Ok(info);
                }
                Err(Refusal::Passing(_)) if Instant::now() < end => tokio::time::sleep(RETRY_WAIT).await,
                Err(reason) => return Err(refused(options, &format!("stream {}: {reason}", wanted.name))),
            }
        }
    }

    async fn create(&self, context: &Context, wanted: &Config) -> Result<Info, Refusal> {
        let with = |num_replicas| Config { num_replicas, ..wanted.clone() };
        let made = context.create_stream(with(self.replicas.unwrap_or(REPLICAS_IN_CLUSTER))).await;
        let made = match made {
            // An unclustered server, and no number of replicas was given.
            Err(error) if code(&error) == Some(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED) && self.replicas.is_none() => {
                context.create_stream(with(1)).await
            }
            made => made,
        };
        match made {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(error) => Err(match code(&error) {
                None => Refusal::Passing(error.to_string()),
                Some(ErrorCode::CLUSTER_NO_PEERS | ErrorCode::INSUFFICIENT_RESOURCES) => Refusal::Passing(format!(
                    "{error}; the stream needs {} servers with JetStream and free storage: start them, or give --replicas 1",
                    self.replicas.unwrap_or(REPLICAS_IN_CLUSTER)
                )),
                Some(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED) => {
                    Refusal::Final(format!("{error}; start NATS as a cluster, or omit --replicas"))
                }
                Some(ErrorCode::STORAGE_RESOURCES_EXCEEDED) => Refusal::Final(format!(
                    "{error}: JetStream reserves the log's maximum size; lower --max-bytes, or raise max_file_store"
                )),
                // An election is under way, or another node created the same stream first: the loop checks again.
                Some(
                    ErrorCode::CLUSTER_NOT_AVAILABLE
                    | ErrorCode::CLUSTER_NOT_LEADER
                    | ErrorCode::CLUSTER_NOT_ACTIVE
                    | ErrorCode::STREAM_NAME_EXIST,
                ) => Refusal::Passing(error.to_string()),
                Some(_) => Refusal::Final(error.to_string()),
            }),
        }
    }

    async fn check(
        &self,
        context: &Context,
        options: &JetStreamOptions,
        wanted: &Config,
        found: Info,
    ) -> Result<Info, OpenError> {
        let wanted = Config { num_replicas: self.replicas.unwrap_or(found.config.num_replicas), ..wanted.clone() };
        let differences = differences(&wanted, &found.config);
        if differences.is_empty() {
            return Ok(found);
        }
        let texts: Vec<String> = differences.iter().map(Difference::to_string).collect();
        let texts = texts.join("; ");
        if options.reconfigure {
            let changed =
                context.update_stream(Config { metadata: found.config.metadata.clone(), ..wanted.clone() }).await;
            return match changed {
                Ok(info) => {
                    tracing::warn!(stream = %wanted.name, "the stream was reconfigured, as --nats-reconfigure demands: {texts}");
                    Ok(info)
                }
                Err(error) => {
                    Err(refused(options, &format!("stream {} cannot be changed: {error}; {texts}", wanted.name)))
                }
            };
        }
        Err(refused(
            options,
            &format!(
                "the configuration of stream {} differs from the flags: {texts}. Start with matching flags, as all nodes must; or \
                 change the stream to these, once, by starting one node with --nats-reconfigure",
                wanted.name
            ),
        ))
    }
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind as Kind;
    matches!(error.kind(), Kind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn code(error: &async_nats::jetstream::context::CreateStreamError) -> Option<ErrorCode> {
    use async_nats::jetstream::context::CreateStreamErrorKind as Kind;
    match error.kind() {
        Kind::JetStream(error) => Some(error.error_code()),
        Kind::TimedOut | Kind::Response | Kind::ResponseParse => None,
        // The library's own checks: a retry does not change them.
        _ => Some(ErrorCode::BAD_REQUEST),
    }
}

enum Refusal {
    Passing(String),
    Final(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Passing(reason) | Self::Final(reason)) = self;
        f.write_str(reason)
    }
}

/// A setting of a stream that differs from the required one.
struct Difference {
    setting: &'static str,
    found: String,
    wanted: String,
    /// The flag that decides it.
    flag: &'static str,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {} in the stream and {} by the flags", self.setting, self.found, self.wanted)?;
        if !self.flag.is_empty() {
            write!(f, " ({})", self.flag)?;
        }
        Ok(())
    }
}

fn differences(wanted: &Config, found: &Config) -> Vec<Difference> {
    let mut all = Vec::new();
    fn compare<T: PartialEq>(
        all: &mut Vec<Difference>,
        setting: &'static str,
        flag: &'static str,
        found: T,
        wanted: T,
        text: impl Fn(&T) -> String,
    ) {
        if found != wanted {
            all.push(Difference { setting, found: text(&found), wanted: text(&wanted), flag });
        }
    }
    fn plain<T: Debug>(value: &T) -> String {
        format!("{value:?}").to_lowercase()
    }
    let clients = wanted.name.ends_with("-clients") || wanted.name.ends_with("-shares");
    let flags = if wanted.name.starts_with("KV_") {
        if clients { ["--max-clients", "", "--client-idle", ""] } else { ["", "", "", ""] }
    } else {
        ["--max-events", "--max-bytes", "--max-age", "--dedupe-window"]
    };
    // JetStream writes "no limit" as -1 or 0.
    let limit = |limit: i64| (limit > 0).then_some(limit);
    let number = |limit: &Option<i64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    compare(&mut all, "max_msgs", flags[0], limit(found.max_messages), limit(wanted.max_messages), number);
    compare(&mut all, "max_bytes", flags[1], limit(found.max_bytes), limit(wanted.max_bytes), number);
    compare(&mut all, "max_age", flags[2], found.max_age, wanted.max_age, duration);
    compare(&mut all, "duplicate_window", flags[3], found.duplicate_window, wanted.duplicate_window, duration);
    compare(&mut all, "replicas", "--replicas", found.num_replicas, wanted.num_replicas, plain);
    let of_subject = |config: &Config| limit(config.max_messages_per_subject);
    compare(&mut all, "max_msgs_per_subject", "", of_subject(found), of_subject(wanted), number);
    let of_size = |config: &Config| limit(i64::from(config.max_message_size));
    compare(&mut all, "max_msg_size", "", of_size(found), of_size(wanted), number);
    compare(&mut all, "subjects", "--nats-prefix", found.subjects.clone(), wanted.subjects.clone(), plain);
    compare(&mut all, "storage", "", found.storage, wanted.storage, plain);
    compare(&mut all, "retention", "", found.retention, wanted.retention, plain);
    compare(&mut all, "discard", "", found.discard, wanted.discard, plain);
    for (setting, of) in [
        ("deny_delete", (|config| config.deny_delete) as fn(&Config) -> bool),
        ("deny_purge", |config| config.deny_purge),
        ("allow_direct", |config| config.allow_direct),
        ("allow_atomic", |config| config.allow_atomic_publish),
        ("allow_msg_ttl", |config| config.allow_message_ttl),
        ("sealed", |config| config.sealed),
        ("no_ack", |config| config.no_ack),
        ("mirror or sources", |config| {
            config.mirror.is_some() || config.sources.as_ref().is_some_and(|all| !all.is_empty())
        }),
        ("subject_transform", |config| config.subject_transform.is_some()),
    ] {
        compare(&mut all, setting, "", of(found), of(wanted), plain);
    }
    all
}

fn duration(duration: &Duration) -> String {
    let mut text = String::new();
    if duration.is_zero() {
        text.push_str("unlimited");
    } else {
        // Writing to a string does not fail.
        let _ = write!(text, "{}", humantime::format_duration(*duration));
    }
    text
}
