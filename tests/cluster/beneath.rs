//! Tests of the NATS fixture: its servers start, fail, elect leaders and recover as the other tests assume.

use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, stream};

use crate::support::nats::{Access, Nats, PASSWORD, USER};

async fn create(nats: &Nats, options: ConnectOptions, replicas: usize) -> jetstream::Context {
    // A paused server is detected by its silence.
    let options = options.ping_interval(Duration::from_millis(500));
    let client = options.connect(nats.addresses()).await.expect("a connection");
    let context = jetstream::new(client);
    let config = stream::Config {
        name: "LOG".into(),
        subjects: vec!["log.>".into()],
        num_replicas: replicas,
        ..stream::Config::default()
    };
    context.create_stream(config).await.expect("a stream");
    context
}

/// Stores a message, with retries: an election may intervene.
async fn store(context: &jetstream::Context) {
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = context.publish("log.a", "x".into()).await.expect("the message is sent").await {
        assert!(Instant::now() < end, "the message is not stored: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_its_leader() {
    let mut nats = Nats::cluster();
    assert!(nats.meta_leader().is_some());
    let context = create(&nats, ConnectOptions::new(), 3).await;
    store(&context).await;
    let first = nats.leader_of("LOG").expect("the stream has a leader");
    nats.kill(first);
    store(&context).await;
    assert_ne!(nats.leader_of("LOG"), Some(first));
    nats.restart(first);
    nats.wait_until_ready();
    let second = nats.leader_of("LOG").expect("the stream has a leader");
    nats.pause(second);
    store(&context).await;
    nats.resume(second);
    nats.wait_until_ready();
    let mut stream = context.get_stream("LOG").await.expect("the stream still exists");
    assert!(stream.info().await.expect("the stream's information").state.messages >= 3);
    assert_eq!((nats.len(), nats.streams()), (3, vec!["LOG".to_owned()]));
}

#[tokio::test]
async fn a_server_may_ask_for_a_password() {
    let nats = Nats::start(1, Access::Password, "");
    let refused = async_nats::connect(nats.addresses()).await;
    assert!(refused.is_err(), "without a password");
    let options = ConnectOptions::with_user_and_password(USER.into(), PASSWORD.into());
    store(&create(&nats, options, 1).await).await;
    assert_eq!(nats.leader_of("LOG"), Some(0));
}

#[tokio::test]
async fn a_server_may_ask_for_credentials() {
    let nats = Nats::start(1, Access::Credentials, "");
    let refused = async_nats::connect(nats.addresses()).await;
    assert!(refused.is_err(), "without credentials");
    let options = ConnectOptions::with_credentials_file(nats.credentials_file()).await.expect("a file of credentials");
    store(&create(&nats, options, 1).await).await;
}

#[tokio::test]
async fn a_server_may_speak_tls() {
    let nats = Nats::start(1, Access::Tls, "");
    let stranger = ConnectOptions::new().require_tls(true).connect(nats.addresses()).await;
    assert!(stranger.is_err(), "the CA is not trusted by the system");
    let options = ConnectOptions::new().require_tls(true).add_root_certificates(nats.ca_file());
    store(&create(&nats, options, 1).await).await;
}
