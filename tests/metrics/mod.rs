//! `/metrics` of the real program: what happens is counted, once, where it belongs; who may read it; and that Prometheus's own
//! checker finds nothing to say.

mod places;
mod rules;
mod text;

use serde_json::json;

use crate::support::Server;
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::{over, post_events, publish_all, topic, uuid};
use crate::support::http::Request;
use crate::support::until;
use text::Metrics;

over!(every: deliveries_are_counted_for_their_transport);

async fn deliveries_are_counted_for_their_transport(kind: Kind) {
    let server = Server::start(&["--workers", "2", "--store", "memory"]);
    let topic = topic("counted");
    let cursors = publish_all(&server, &topic, [1, 2, 3].map(|number| json!(number))).await;
    let query = Query::topic(&topic).with("cursor", "earliest");
    let mut link = Link::to(server.address(), kind, &query).await;
    if kind.streams() {
        for _ in 0..3 {
            link.telling().await;
        }
    } else {
        assert_eq!(link.batch().await.events.len(), 3);
    }
    let series = |name: &str| format!("switchback_{name}{{transport=\"{}\"}}", kind.transport());
    // On a stream `$live` is an item, too.
    let items = if kind.streams() { 4.0 } else { 3.0 };
    until("what was delivered is counted", async || {
        let metrics = Metrics::of(&server).await;
        metrics.value(&series("delivered_items_total")) == Some(items)
            && metrics.value(&series("subscriptions")) == Some(f64::from(u8::from(kind.streams())))
    })
    .await;
    drop(link);
    until("the end of the subscription is counted", async || {
        Metrics::of(&server).await.value(&series("subscriptions")) == Some(0.0)
    })
    .await;
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.value(&series("subscriptions_opened_total")), Some(1.0));
    assert!(metrics.value(&series("delivered_bytes_total")).is_some_and(|bytes| bytes > 30.0));
    let position: f64 = cursors[2].rsplit('-').next().and_then(|text| text.parse().ok()).expect("a position");
    assert_eq!(metrics.value("switchback_log_last_position"), Some(position));
}

#[tokio::test]
async fn publishes_are_counted_by_their_outcome() {
    let server = Server::start(&["--workers", "1"]);
    for _ in 0..3 {
        post_events(&server, &json!({ "topic": "a", "data": 1, "id": "one" })).await;
    }
    post_events(&server, &json!([{ "topic": "a", "data": 2 }, { "topic": "b", "data": 3 }])).await;
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.value("switchback_published_events_total{outcome=\"stored\"}"), Some(3.0));
    assert_eq!(metrics.value("switchback_published_events_total{outcome=\"duplicate\"}"), Some(2.0));
    assert_eq!(metrics.value("switchback_publish_duration_seconds_count"), Some(4.0));
    if !crate::support::on_nats() {
        assert_eq!(metrics.value("switchback_commit_events_sum"), Some(3.0));
        assert!(metrics.value("switchback_sync_duration_seconds_sum").is_some_and(|seconds| seconds > 0.0));
        assert!(metrics.value("switchback_log_bytes").is_some_and(|bytes| bytes > 0.0));
    }
}

#[tokio::test]
async fn gaps_ends_and_switches_are_counted_by_their_reason() {
    let server = Server::start(&["--workers", "1", "--store", "memory", "--max-events", "2"]);
    let first = publish_all(&server, "a", (0..6).map(|number| json!(number))).await;
    let client = uuid();
    let query = Query::topic("a").with("cursor", &first[0]).with("client", &client).with("switched", "ws.sse.silent");
    let mut link = Link::to(server.address(), Kind::Sse, &query).await;
    while link.item().await.event != "$gap" {}
    let end = Request::new("DELETE", format!("/v1/clients/{client}")).send(server.address()).await;
    assert_eq!(end.status, 200);
    while link.item().await.event != "$bye" {}
    let metrics = Metrics::of(&server).await;
    for series in [
        "switchback_gaps_total{reason=\"expired\"}",
        "switchback_byes_total{reason=\"kicked\"}",
        "switchback_transport_switches_total{from=\"ws\",reason=\"silent\",to=\"sse\"}",
    ] {
        assert_eq!(metrics.value(series), Some(1.0), "{series}");
    }
}

#[tokio::test]
async fn clients_that_lag_are_counted() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    // A subscription without a match is moved past what is published; one that is stopped by its peer is not.
    let mut link = Link::to(server.address(), Kind::Sse, &Query::topic("big").with("client", uuid())).await;
    link.item().await;
    let text = "x".repeat(100_000);
    for _ in 0..20 {
        publish_all(&server, "big", (0..10).map(|_| json!(text))).await;
    }
    let metrics = Metrics::of(&server).await;
    let behind = |more_than: u32| metrics.value(&format!("switchback_clients_behind{{more_than=\"{more_than}\"}}"));
    assert_eq!([behind(10), behind(10_000)], [Some(1.0), Some(0.0)]);
}
