//! `GET /v1/history`: the log's past, read backwards in pages.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, post_events, publish, publish_all, shared, topic};
use crate::support::http::Request;
use crate::support::on_nats;
use crate::support::wire::{moved, position};

async fn page(server: &Server, query: &str) -> Value {
    Request::get(format!("/v1/history?{query}")).send(server.address()).await.json().await
}

fn data(page: &Value) -> Vec<Value> {
    page["events"].as_array().expect("events").iter().map(|event| event["data"].clone()).collect()
}

/// Page by page to the oldest event, while others are published; then on from the newest page by a subscription.
#[tokio::test]
async fn pages_lead_back_and_a_subscription_goes_on() {
    let server = shared();
    let topic = topic("past");
    publish_all(&server, &topic, numbers(0..25)).await;
    publish(&server, "other", 1).await;
    let end = end_of_log(&server).await;
    let newest = page(&server, &format!("topic={topic}&limit=10")).await;
    assert_eq!(data(&newest), numbers(15..25));
    assert_eq!(newest["more"], true);
    assert!(position(newest["cursor"].as_str().unwrap()) >= position(&end));
    publish_all(&server, &topic, numbers(25..28)).await;
    let (mut at, mut expected) = (newest.clone(), 15);
    while at["more"] == true {
        assert_eq!(at["before"], at["events"][0]["cursor"]);
        let before = at["before"].as_str().unwrap().to_owned();
        at = page(&server, &format!("topic={topic}&limit=10&before={before}")).await;
        let from = expected - data(&at).len() as u32;
        assert_eq!(data(&at), numbers(from..expected));
        expected = from;
    }
    assert_eq!((expected, at.get("before"), at.get("trimmed")), (0, None, None));
    let mut subscriber =
        Subscriber::at(server.address(), Kind::Poll, Query::topic(&topic), newest["cursor"].as_str().unwrap());
    assert_eq!(subscriber.values(3).await, numbers(25..28));
}

#[tokio::test]
async fn a_page_has_what_matches_before_its_place() {
    let server = Server::start(&["--workers", "1"]);
    // So many topics that a wildcard does not go by topic.
    let mut cursors = Vec::new();
    for n in 0..30 {
        let events: Vec<Value> = (0..100).map(|m| json!({ "topic": format!("t.{m}"), "data": 100 * n + m })).collect();
        let answer = post_events(&server, &json!(events)).await;
        cursors.extend(
            answer["events"].as_array().unwrap().iter().map(|event| event["cursor"].as_str().unwrap().to_owned()),
        );
    }
    let values = |range: std::ops::Range<u32>| numbers(range);
    let before = |n: usize| format!("&before={}", cursors[n]);
    for (query, expected, more) in [
        ("topic=t.*&limit=3".to_owned(), values(2997..3000), true),
        (format!("topic=t.*&limit=3{}", before(2000)), values(1997..2000), true),
        (format!("topic=t.*&limit=3{}", before(2)), values(0..2), false),
        (format!("topic=t.*&limit=3{}", before(3)), values(0..3), false),
        (format!("topic=t.*{}", before(0)), vec![], false),
        (format!("topic=t.*&limit=1000{}", before(1000)), values(0..1000), false),
        (format!("topic=t.7&topic=t.9&limit=3{}", before(1008)), vec![json!(907), json!(909), json!(1007)], true),
        (format!("topic=t.7&topic=t.*&limit=2{}", before(1008)), values(1006..1008), true),
        ("topic=t.7&limit=30".to_owned(), (0..30).map(|n| json!(100 * n + 7)).collect(), false),
        ("topic=nothing".to_owned(), vec![], false),
    ] {
        let page = page(&server, &query).await;
        assert_eq!((data(&page), &page["more"]), (expected, &json!(more)), "{query}");
        assert_eq!(page.get("before").is_some(), more, "{query}");
        assert!(page.get("trimmed").is_none(), "{query}");
    }
}

/// As a batch, a page ends with so many bytes: the newest events are the ones that stay.
#[tokio::test]
async fn a_page_of_long_events_is_short() {
    let server = shared();
    let topic = topic("long");
    for n in 0..6 {
        publish(&server, &topic, format!("{n}{}", "x".repeat(100_000))).await;
    }
    let first = page(&server, &format!("topic={topic}")).await;
    let begin = |page: &Value| data(page).iter().map(|data| data.as_str().unwrap()[..1].to_owned()).collect::<String>();
    assert_eq!((begin(&first).as_str(), &first["more"]), ("45", &json!(true)));
    let next = page(&server, &format!("topic={topic}&before={}", first["before"].as_str().unwrap())).await;
    assert_eq!(begin(&next), "23");
}

#[tokio::test]
async fn removed_events_are_reported_where_a_page_reaches_them() {
    let server = Server::start(&["--workers", "1", "--max-events", "10"]);
    publish(&server, "gone", 0).await;
    publish_all(&server, "a", numbers(0..20)).await;
    let trimmed = async |query: &str| page(&server, query).await.get("trimmed").cloned();
    assert_eq!(trimmed("topic=a&limit=5").await, None);
    assert_eq!(trimmed("topic=a&limit=10").await, Some(json!(true)));
    assert_eq!(trimmed("topic=gone").await, Some(json!(true)));
    if !on_nats() {
        assert_eq!(trimmed("topic=never").await, None);
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let server = shared();
    let end = end_of_log(&server).await;
    let ahead = format!("topic=a&before={}", moved(&end, position(&end) + 1_000_000));
    for (query, code) in [
        ("", "no_topic"),
        ("topic=a..b", "bad_topic"),
        ("topic=a&before=now", "bad_cursor"),
        ("topic=a&before=", "bad_cursor"),
        ("topic=a&before=other-3", "bad_cursor"),
        (&ahead, "bad_cursor"),
        ("topic=a&before=e-1&before=e-1", "bad_parameter"),
        ("topic=a&limit=0", "bad_parameter"),
        ("topic=a&limit=1001", "bad_parameter"),
        ("topic=a&cursor=earliest", "bad_parameter"),
        ("topic=a&last=3", "bad_parameter"),
        ("topic=a&latest=1", "bad_parameter"),
        ("topic=a&since=0", "bad_parameter"),
    ] {
        let mut answer = Request::get(format!("/v1/history?{query}")).send(server.address()).await;
        assert_eq!(answer.error().await, (400, code.to_owned()), "{query}");
    }
}
