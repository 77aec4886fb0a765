//! Event contents other than data: headers, trace context, deletions.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, over, post_events, publish, shared, topic};
use crate::support::http::Request;
use crate::support::wire::{Item, position};

over!(every: deletions_and_headers_come_as_they_were_published, hostile_headers);

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The newest event on a topic.
async fn newest(server: &Server, topic: &str) -> Item {
    let query = Query::topic(topic).with("last", 1);
    Link::to(server.address(), Kind::Poll, &query).await.batch().await.events.pop().expect("an event")
}

/// The event's headers as a value; `null` where there are none.
fn headers(item: &Item) -> Value {
    item.headers.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).expect("JSON"))
}

async fn deletions_and_headers_come_as_they_were_published(kind: Kind) {
    let server = shared();
    let topic = topic("content");
    let mut live = Subscriber::start(server.address(), kind, Query::topic(&topic)).await;
    let start = end_of_log(&server).await;
    let published = [
        json!({ "topic": topic, "data": 1, "headers": { "z": "1", "a": "" } }),
        json!({ "topic": topic, "deleted": true }),
        json!({ "topic": topic, "deleted": true, "event": "leave", "id": "k", "headers": { "reason": "gone" } }),
        json!({ "topic": topic, "data": "AAEC/w==", "encoding": "base64", "headers": { "content-type": "image/png" } }),
        json!({ "topic": topic, "data": null, "deleted": false, "headers": {} }),
        json!({ "topic": topic, "data": 2, "deleted": null, "headers": null }),
    ];
    for event in &published {
        post_events(&server, event).await;
    }
    let mut later = Subscriber::at(server.address(), kind, Query::topic(&topic), &start);
    for subscriber in [&mut live, &mut later] {
        for event in &published {
            let item = subscriber.event().await;
            let deleted = event["deleted"] == true;
            assert_eq!((item.deleted, item.data.is_some()), (deleted, !deleted), "{event}");
            assert_eq!(item.value(), event["data"], "{event}");
            let given = event["headers"].as_object().filter(|headers| !headers.is_empty());
            assert_eq!(headers(&item).as_object(), given, "{event}");
            assert_eq!(item.event, event["event"].as_str().unwrap_or("message"));
            assert_eq!(
                (item.id.as_deref(), item.encoding.as_deref()),
                (event["id"].as_str(), event["encoding"].as_str())
            );
        }
    }
}

/// Header names and values that would break a framing if unescaped: each reaches every client unchanged.
async fn hostile_headers(kind: Kind) {
    let server = shared();
    let topic = topic("hostileheaders");
    let start = end_of_log(&server).await;
    let all = [
        r#"{"</script>":"<!--<script>"}"#,
        "{\"\u{2028}\":\"\u{85}\u{2029}\"}",
        r#"{"__proto__":"1"}"#,
        r#"{"\u005f_proto__":"__proto__","data":"x","cursor":"e-1"}"#,
        "{ \"b\" :\r\n\t\"1\",\n\"a\":\"\\r\\ndata: x\\n\\n\" }",
        r#"{"a":"\u0000\/\ud83d\ude00"}"#,
    ];
    for text in all {
        let body = format!(r#"{{"topic":"{topic}","data":{{"__proto__":1}},"headers":{text}}}"#);
        Request::post("/v1/events", "application/json", body).send(server.address()).await.created().await;
    }
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic), &start);
    for text in all {
        let item = subscriber.event().await;
        assert_eq!(item.data.as_deref(), Some(r#"{"__proto__":1}"#));
        let written = item.headers.expect("headers");
        let plain = |text: &str| {
            let mut text = text.replace("\\u003c", "<");
            for (escape, c) in [("\\u0085", "\u{85}"), ("\\u2028", "\u{2028}"), ("\\u2029", "\u{2029}")] {
                text = text.replace(escape, c);
            }
            text.replace(['\r', '\n'], "")
        };
        assert_eq!(plain(&written), plain(text));
    }
}

#[tokio::test]
async fn every_body_can_delete_and_carry_headers() {
    let server = shared();
    let topic = topic("bodies");
    let event = json!({ "topic": topic, "deleted": true, "event": "n", "headers": { "a": "b" } });
    let form = format!("topic={topic}&event=n&deleted=1&headers=%7B%22a%22%3A%22b%22%7D");
    for (kind, body) in [
        ("application/json", event.to_string()),
        ("text/plain", event.to_string()),
        ("application/json", json!([event]).to_string()),
        ("application/x-ndjson", format!("{event}\n")),
        ("application/x-www-form-urlencoded", form),
    ] {
        publish(&server, &topic, "before").await;
        Request::post("/v1/events", kind, body).send(server.address()).await.created().await;
        let item = newest(&server, &topic).await;
        assert_eq!((item.deleted, headers(&item), item.event.as_str()), (true, json!({ "a": "b" }), "n"), "{kind}");
    }
    // A form with an empty field, as a page sends an input that was not filled in.
    let form = format!("topic={topic}&data=1&deleted=0&headers=");
    Request::post("/v1/events", "application/x-www-form-urlencoded", form).send(server.address()).await.created().await;
    let item = newest(&server, &topic).await;
    assert_eq!((item.deleted, item.value(), item.headers), (false, json!(1), None));
    // The body is the data: a deletion has none, so the query requests it.
    for kind in ["", "application/json", "text/plain", "application/octet-stream"] {
        publish(&server, &topic, "before").await;
        let request = Request::post(format!("/v1/topics/{topic}?deleted=1&event=gone"), kind, "");
        request.send(server.address()).await.created().await;
        let item = newest(&server, &topic).await;
        assert_eq!((item.deleted, item.event.as_str()), (true, "gone"), "{kind}");
    }
    let mut socket = Link::to(server.address(), Kind::Ws, &Query::default()).await;
    socket.item().await;
    publish(&server, &topic, "before").await;
    let reply = socket
        .ask(json!({ "type": "publish", "topic": topic, "deleted": true, "headers": { "c": "d" }, "traceparent": 1 }))
        .await;
    assert_eq!((&reply["ok"], &reply["ignored"]), (&json!(true), &json!(["traceparent"])));
    let item = newest(&server, &topic).await;
    assert_eq!((item.deleted, headers(&item)), (true, json!({ "c": "d" })));
}

#[tokio::test]
async fn a_repeat_that_differs_in_headers_or_is_a_deletion_is_a_conflict() {
    let server = shared();
    let topic = topic("differs");
    let event = |more: Value| {
        let mut event = json!({ "topic": topic, "id": "k" });
        for (key, value) in more.as_object().expect("an object") {
            event[key] = value.clone();
        }
        event
    };
    let first = post_events(&server, &event(json!({ "data": null, "headers": { "a": "b" } }))).await;
    for (again, differs) in [
        (json!({ "data": null, "headers": { "a": "b" } }), false),
        (json!({ "data": null, "headers": { "a": "b", "traceparent": PARENT, "tracestate": "a=1" } }), false),
        (json!({ "data": null, "headers": { "a": "c" } }), true),
        (json!({ "data": null }), true),
        (json!({ "deleted": true, "headers": { "a": "b" } }), true),
    ] {
        let answer = post_events(&server, &event(again.clone())).await;
        assert_eq!((&answer["cursor"], &answer["duplicate"]), (&first["cursor"], &json!(true)));
        assert_eq!(answer["differs"] == true, differs, "{again}");
    }
    // Every attempt of a traced publisher has a span of its own.
    let traced = Request::post(
        "/v1/events",
        "application/json",
        event(json!({ "data": null, "headers": { "a": "b" } })).to_string(),
    );
    let answer = traced.header("traceparent", PARENT).send(server.address()).await.created().await;
    assert_eq!(answer, json!({ "cursor": first["cursor"], "duplicate": true }));
}

#[tokio::test]
async fn a_requests_trace_is_taken_where_the_event_has_none() {
    let server = shared();
    let topic = topic("trace");
    let state = "vendor=1,t1@other=x y";
    let traced = |request: Request| request.header("Traceparent", PARENT).header("TraceState", state);
    let taken = json!({ "traceparent": PARENT, "tracestate": state });
    let event = json!({ "topic": topic, "data": 1 });
    for (path, kind, body) in [
        ("/v1/events".to_owned(), "application/json", event.to_string()),
        ("/v1/events".to_owned(), "application/json", json!([event]).to_string()),
        ("/v1/events".to_owned(), "application/x-ndjson", event.to_string()),
        ("/v1/events".to_owned(), "application/x-www-form-urlencoded", format!("topic={topic}&data=1")),
        (format!("/v1/topics/{topic}"), "text/plain", "x".to_owned()),
        (format!("/v1/topics/{topic}?deleted=1"), "", String::new()),
    ] {
        publish(&server, &topic, "before").await;
        let before = position(&end_of_log(&server).await);
        traced(Request::post(path.as_str(), kind, body)).send(server.address()).await.created().await;
        let item = newest(&server, &topic).await;
        assert!(item.at() > before);
        assert_eq!(headers(&item), taken, "{path} {kind}");
    }
    let publish_traced = async |event: Value| {
        let request = traced(Request::post("/v1/events", "application/json", event.to_string()));
        request.send(server.address()).await.created().await;
    };
    // The publisher's own trace context takes precedence, as a whole.
    for own in [json!({ "traceparent": "mine" }), json!({ "tracestate": "mine" })] {
        let event = json!({ "topic": topic, "data": 1, "headers": own });
        publish_traced(event).await;
        assert_eq!(headers(&newest(&server, &topic).await), own);
    }
    // A publish is never refused for its trace context.
    for bad in ["", "x", &PARENT.to_uppercase(), &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32))] {
        let request = Request::post("/v1/events", "application/json", event.to_string()).header("traceparent", bad);
        request.header("tracestate", state).send(server.address()).await.created().await;
        assert_eq!(newest(&server, &topic).await.headers, None, "{bad}");
    }
    let many: serde_json::Map<String, Value> = (0..16).map(|n| (format!("h{n}"), json!(""))).collect();
    let full = json!({ "topic": topic, "data": 1, "headers": many });
    publish_traced(full).await;
    assert_eq!(
        headers(&newest(&server, &topic).await),
        Value::Object(many),
        "the trace context is left out where there is no room"
    );
}

#[tokio::test]
async fn they_survive_a_restart() {
    let mut server = Server::start_at("127.0.0.2:0", &["--workers", "1", "--drain", "0s"]);
    let event = json!({ "topic": "kept", "deleted": true, "headers": { "a": "b" }, "id": "k" });
    let first = post_events(&server, &event).await;
    for kill in [false, true] {
        server = if kill { server.kill_and_restart() } else { server.stop_and_restart() };
        assert_eq!(post_events(&server, &event).await, json!({ "cursor": first["cursor"], "duplicate": true }));
        let other = json!({ "topic": "kept", "deleted": true, "id": "k" });
        assert_eq!(post_events(&server, &other).await["differs"], true);
        let item = newest(&server, "kept").await;
        assert_eq!((item.deleted, headers(&item)), (true, json!({ "a": "b" })), "killed: {kill}");
    }
}
