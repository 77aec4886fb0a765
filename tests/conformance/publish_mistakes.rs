//! Publishing never guesses: an event is stored as the publisher meant it, or refused with an explanation.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::{end_of_log, shared, topic};
use crate::support::http::Request;
use crate::support::wire::Item;

async fn last_on(server: &Server, topic: &str) -> Item {
    let query = Query::topic(topic).with("last", 1);
    Link::to(server.address(), Kind::Poll, &query).await.batch().await.events.pop().expect("an event")
}

async fn publish(server: &Server, event: &Value) -> Value {
    Request::post("/v1/events", "application/json", event.to_string()).send(server.address()).await.created().await
}

/// `fetch(url, { body: JSON.stringify(x) })` sends `text/plain`.
#[tokio::test]
async fn plain_text_that_is_an_object_or_an_array_is_json() {
    let server = shared();
    let topic = topic("plain");
    for (kind, body, expected) in [
        ("text/plain;charset=UTF-8", r#"{"by":"li","n":1.50}"#, json!({ "by": "li", "n": 1.5 })),
        ("text/plain", " [1,2]\n", json!([1, 2])),
        ("text/plain", "5", json!("5")),
        ("text/plain", "true", json!("true")),
        ("text/plain", "\"quoted\"", json!("\"quoted\"")),
        ("text/plain", "{not json", json!("{not json")),
        ("text/plain", "[1] and more", json!("[1] and more")),
        ("text/csv", "[1,2]", json!("[1,2]")),
    ] {
        let request = Request::post(format!("/v1/topics/{topic}"), kind, body);
        request.send(server.address()).await.created().await;
        assert_eq!(last_on(&server, &topic).await.value(), expected, "{kind} {body}");
    }
}

/// The first event with an id stays; a publisher that sends the id again with a different payload is notified.
#[tokio::test]
async fn an_id_with_another_payload_differs() {
    let server = shared();
    let topic = topic("differs");
    let event = |data: Value| json!({ "topic": topic, "data": data, "id": "k" });
    let first = publish(&server, &event(json!({ "a": 1 }))).await;
    assert_eq!(first.get("differs"), None);
    let same = publish(&server, &event(json!({ "a": 1 }))).await;
    assert_eq!(same, json!({ "cursor": first["cursor"], "duplicate": true }));
    let expected = json!({ "cursor": first["cursor"], "duplicate": true, "differs": true });
    assert_eq!(publish(&server, &event(json!({ "a": 2 }))).await, expected);
    let named = json!({ "topic": topic, "event": "n", "data": { "a": 1 }, "id": "k" });
    assert_eq!(publish(&server, &named).await, expected);
    let array = publish(&server, &json!([event(json!({ "a": 1 })), event(json!(0))])).await;
    assert_eq!(array["events"], json!([same, expected]));
    // The same within one array.
    let pair = json!([{ "topic": topic, "data": 1, "id": "l" }, { "topic": topic, "data": 2, "id": "l" }]);
    let pair = publish(&server, &pair).await;
    assert_eq!((&pair["events"][0]["duplicate"], pair["events"][0].get("differs")), (&json!(false), None));
    assert_eq!((&pair["events"][1]["duplicate"], &pair["events"][1]["differs"]), (&json!(true), &json!(true)));
    let lines = format!("{}\n{}\n", event(json!({ "a": 1 })), event(json!(3)));
    let request = Request::post("/v1/events", "application/x-ndjson", lines);
    let summary = request.send(server.address()).await.created().await;
    assert_eq!((&summary["duplicates"], &summary["differing"]), (&json!(2), &json!(1)));
    assert_eq!(last_on(&server, &topic).await.value(), json!(1), "no event of the refused array was stored");
}

/// The id is also known after a restart.
#[tokio::test]
async fn a_restart_keeps_the_fingerprints_of_payloads() {
    let server = Server::start(&["--store", "disk"]);
    let event = |data: Value| json!({ "topic": "a", "data": data, "id": "k" });
    publish(&server, &event(json!("é\u{2028}<"))).await;
    let server = server.kill_and_restart();
    assert_eq!(publish(&server, &event(json!("é\u{2028}<"))).await.get("differs"), None);
    assert_eq!(publish(&server, &event(json!("é"))).await["differs"], true);
}

#[tokio::test]
async fn unknown_keys_are_named() {
    let server = shared();
    let topic = topic("ignored");
    let event = json!({ "topic": topic, "data": 1, "name": "n", "Event": "e" });
    let answer = publish(&server, &event).await;
    assert_eq!(answer["ignored"], json!(["Event", "name"]));
    let array = publish(&server, &json!([event, { "topic": topic, "data": 1 }])).await;
    assert_eq!(array["events"][0]["ignored"], json!(["Event", "name"]));
    assert_eq!(array["events"][1].get("ignored"), None);
    let lines = format!("{event}\n{event}\n");
    let summary =
        Request::post("/v1/events", "application/x-ndjson", lines).send(server.address()).await.created().await;
    assert_eq!((&summary["accepted"], &summary["ignored"]), (&json!(2), &json!(["Event", "name"])));
    let form = format!("topic={topic}&data=1&name=n");
    let form = Request::post("/v1/events", "application/x-www-form-urlencoded", form);
    assert_eq!(form.send(server.address()).await.created().await["ignored"], json!(["name"]));
    let mut link = Link::to(server.address(), Kind::Ws, &Query::topic("x")).await;
    let message = json!({ "type": "publish", "topic": topic, "data": 1, "name": "n" });
    assert_eq!(link.ask(message).await["ignored"], json!(["name"]));
}

#[tokio::test]
async fn strict_servers_refuse_unknown_keys() {
    let server = Server::start(&["--strict"]);
    let start = end_of_log(&server).await;
    let event = json!({ "topic": "a", "data": 1, "name": "n" });
    for (kind, body) in [
        ("application/json", event.to_string()),
        ("application/json", json!([{ "topic": "a", "data": 1 }, event]).to_string()),
        ("application/x-ndjson", event.to_string()),
        ("application/x-www-form-urlencoded", "topic=a&data=1&name=n".to_owned()),
    ] {
        let mut answer = Request::post("/v1/events", kind, body).send(server.address()).await;
        assert_eq!(answer.status, 400);
        let text = answer.text().await;
        assert!(text.contains("unknown keys: name"), "{text}");
    }
    assert_eq!(end_of_log(&server).await, start, "nothing was stored");
    publish(&server, &json!({ "topic": "a", "event": "e", "data": 1, "id": "k" })).await;
}

/// A topic that is valid but certainly a mistake is refused, and the message suggests a correct one.
#[tokio::test]
async fn formats_of_other_systems_are_refused_with_the_right_one_named() {
    let server = shared();
    for (topic, right) in [
        ("a,b", "topic=a&topic="),
        ("orders.>,news.>", "topic=orders.>&topic="),
        ("a/#", "orders.>"),
        ("#", "orders.>"),
        ("a/+/b", "orders.*.status"),
        ("a/", "orders.>"),
        ("a.**", "orders.>"),
        ("**", "orders.>"),
    ] {
        for kind in [Kind::Poll, Kind::Sse, Kind::Ws] {
            let mut answer = Query::topic(topic).request(kind).send(server.address()).await;
            assert_eq!(answer.status, 400, "{kind} {topic}");
            let text = answer.text().await;
            assert!(text.contains("bad_topic") && text.contains(right), "{kind} {topic}: {text}");
        }
    }
    let star = json!({ "topic": topic("star"), "event": "*", "data": 1 }).to_string();
    let mut answer = Request::post("/v1/events", "application/json", star).send(server.address()).await;
    assert_eq!(answer.error().await, (400, "bad_event".into()));
}
