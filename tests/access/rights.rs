//! Authorization by a token's rights: checked at connect, at every resume, for every publish and every pattern.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::keyed::{Keyed, bearer};
use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{over, uuid};
use crate::support::http::Request;
use crate::support::refusal::refusal;

over!(every:
    every_requested_pattern_must_be_granted,
    public_topics_need_no_token,
    rights_are_checked_again,
    forbidden_and_absent_look_alike,
);

async fn every_requested_pattern_must_be_granted(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let query = |granted: Value, topics: &[&str]| {
        let token = keyed.token(json!({ "subscribe": granted }));
        Query::topics(topics).header("Authorization", bearer(&token))
    };
    for (granted, requested) in [
        (json!(["a.*"]), &["a.b"][..]),
        (json!(["a.*"]), &["a.*"]),
        (json!(["a.>"]), &["a.*.b", "a.c"]),
        (json!(["a.*", "a.*.>"]), &["a.>"]),
        (json!([">"]), &[">"]),
    ] {
        keyed.serves(kind, &query(granted.clone(), requested), &format!("{requested:?} by {granted}")).await;
    }
    for (granted, requested) in [
        (json!([]), &["a"][..]),
        (json!(["a.b"]), &["a.*"]),
        (json!(["a.*"]), &["a.>"]),
        (json!(["a.*"]), &["a"]),
        (json!(["a.*"]), &["*.b"]),
        (json!(["a.b", "a.c"]), &["a.b", "a.d"]),
        (json!(["a.>"]), &[">"]),
        (json!(["*", "*.*.>"]), &[">"]),
    ] {
        keyed.refuses(kind, &query(granted.clone(), requested), 403, &format!("{requested:?} by {granted}")).await;
    }
    // The right to publish is separate.
    let token = keyed.token(json!({ "publish": [">"] }));
    keyed.refuses(kind, &Query::topic("a").header("Authorization", bearer(&token)), 403, "only publishing").await;
}

/// The past is read with the right to subscribe.
#[tokio::test]
async fn the_past_is_for_those_who_may_subscribe() {
    let keyed = Keyed::start(&["--public-subscribe", "news.>"]);
    let token = keyed.token(json!({ "subscribe": ["a.*"] }));
    for (token, topic, status) in [
        (Some(&token), "a.b", 200),
        (Some(&token), "a.*", 200),
        (Some(&token), "news.x", 200),
        (Some(&token), "b", 403),
        (Some(&token), "a.%3E", 403),
        (None, "news.x", 200),
        (None, "a.b", 401),
    ] {
        let mut request = Request::get(format!("/v1/history?topic={topic}"));
        if let Some(token) = token {
            request = request.header("Authorization", bearer(token));
        }
        assert_eq!(request.send(keyed.address()).await.status, status, "{topic}");
    }
}

async fn public_topics_need_no_token(kind: Kind) {
    let keyed = Keyed::start(&["--public-subscribe", "news.>,weather.*"]);
    for topics in [&["news.a"][..], &["news.>", "weather.*"]] {
        keyed.serves(kind, &Query::topics(topics), "public").await;
    }
    for topics in [&["news"][..], &["a"], &[">"], &["news.a", "a"], &["weather.>"]] {
        keyed.refuses(kind, &Query::topics(topics), 401, "a token would do").await;
    }
    // Public patterns add to a token's rights; together they may cover a pattern that neither covers alone.
    let with = |granted: &str, topics: &[&str]| {
        let token = keyed.token(json!({ "subscribe": [granted] }));
        Query::topics(topics).header("Authorization", bearer(&token))
    };
    keyed.serves(kind, &with("a", &["a", "news.b"]), "both").await;
    keyed.serves(kind, &with("weather.*.>", &["weather.>"]), "together").await;
    keyed.refuses(kind, &with("a", &["b"]), 403, "neither").await;
}

/// A client reconnects with a token that grants less.
async fn rights_are_checked_again(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let client = uuid();
    let with = |granted: Value, query: Query| {
        let token = keyed.token(json!({ "subscribe": granted, "sub": "li" }));
        query.with("client", &client).header("Authorization", bearer(&token))
    };
    let mut subscriber =
        Subscriber::start(keyed.address(), kind, with(json!(["a", "b"]), Query::topics(["a", "b"]))).await;
    keyed.publish("a", 1).await;
    assert_eq!(subscriber.event().await.value(), 1);
    let cursor = subscriber.cursor.clone().expect("a cursor");
    subscriber.cut();
    // With its cursor, and with its remembered patterns.
    let resumed = Query::topics(["a", "b"]).with("cursor", &cursor);
    let batched = matches!(kind, Kind::Jsonp | Kind::JsonpPoll | Kind::IframeOnce);
    for (query, presented) in [(resumed, Some(cursor.as_str()).filter(|_| batched)), (Query::default(), None)] {
        let response = with(json!(["a"]), query).request(kind).send(keyed.address()).await;
        assert_eq!(refusal(kind, presented, response, 403).await.0, "forbidden");
    }
    // The remaining rights still work.
    keyed.publish("a", 2).await;
    let mut left = Subscriber::at(keyed.address(), kind, with(json!(["a"]), Query::topic("a")), &cursor);
    assert_eq!(left.event().await.value(), 2);
}

/// No side channel: responses do not depend on events that the client may not read.
async fn forbidden_and_absent_look_alike(kind: Kind) {
    let keyed = Keyed::start(&[]);
    keyed.publish("secret.here", 1).await;
    let mut answers = Vec::new();
    for topic in ["secret.here", "secret.gone"] {
        let query = keyed.query(topic, json!({ "subscribe": ["a"] })).with("cursor", "earliest");
        let mut response = query.request(kind).send(keyed.address()).await;
        let text = response.text().await.replace(topic, "TOPIC");
        // Each document has a nonce of its own.
        let nonce =
            response.header("content-security-policy").map(crate::support::wire::nonce_of).unwrap_or("-".into());
        answers.push((response.status, text.replace(&nonce, "NONCE")));
    }
    assert_eq!(answers[0], answers[1]);
}

/// Every way to publish, to a topic.
fn publishes(topic: &str) -> Vec<(&'static str, Request)> {
    let event = json!({ "topic": topic, "data": 1 });
    let form = format!("topic={topic}&data=1");
    vec![
        ("JSON", Request::post("/v1/events", "application/json", event.to_string())),
        ("an array", Request::post("/v1/events", "application/json", json!([event]).to_string())),
        ("text", Request::post("/v1/events", "text/plain", event.to_string())),
        ("a form", Request::post("/v1/events", "application/x-www-form-urlencoded", form)),
        ("a body", Request::post(format!("/v1/topics/{topic}"), "text/plain", "1")),
    ]
}

#[tokio::test]
async fn publishing_is_granted_topic_by_topic() {
    let keyed = Keyed::start(&["--public-subscribe", ">"]);
    let start = keyed.end().await;
    let token = keyed.token(json!({ "publish": ["orders.*"], "subscribe": [">"] }));
    let lines = Request::post("/v1/events", "application/x-ndjson", r#"{"topic":"orders.1","data":1}"#);
    for (how, request) in publishes("orders.1").into_iter().chain([("lines", lines)]) {
        let mut response = request.clone().send(keyed.address()).await;
        assert_eq!(response.error().await, (401, "unauthorized".into()), "{how}: publishing requires a token");
        let mut response = request.header("Authorization", "Bearer x").send(keyed.address()).await;
        assert_eq!(response.error().await, (401, "unauthorized".into()), "{how}");
    }
    for (how, request) in publishes("others.1").into_iter().chain(publishes("orders.1.x")) {
        let mut response = request.header("Authorization", bearer(&token)).send(keyed.address()).await;
        assert_eq!(response.error().await, (403, "forbidden".into()), "{how}");
    }
    // An array is accepted or refused as a whole.
    let mixed = json!([{ "topic": "orders.1", "data": 1 }, { "topic": "others.1", "data": 1 }]).to_string();
    let request = Request::post("/v1/events", "application/json", mixed).header("Authorization", bearer(&token));
    assert_eq!(request.send(keyed.address()).await.error().await, (403, "forbidden".into()));
    assert_eq!(keyed.end().await, start, "nothing was published");
    for (how, request) in publishes("orders.1") {
        let response = request.header("Authorization", bearer(&token)).send(keyed.address()).await;
        assert_eq!(response.status, 201, "{how}");
    }
    // Each line by itself.
    let lines = ["orders.1", "others.1", "orders.2"].map(|topic| json!({ "topic": topic, "data": 1 }).to_string());
    let request = Request::post("/v1/events", "application/x-ndjson", lines.join("\n"));
    let answer = request.header("Authorization", bearer(&token)).send(keyed.address()).await.created().await;
    assert_eq!((&answer["accepted"], &answer["errors"][0]["line"]), (&json!(2), &json!(2)));
    assert_eq!(answer["errors"][0]["error"]["code"], "forbidden");
}

#[tokio::test]
async fn on_a_socket_each_message_is_held_to_its_rights() {
    let keyed = Keyed::start(&[]);
    let token = keyed.token(json!({ "subscribe": ["a.*"], "publish": ["a.1", "bin"] }));
    let start = keyed.end().await;
    let query = Query::topic("a.1").with("publish", "other").header("Authorization", bearer(&token));
    let mut link = Link::to(keyed.address(), Kind::Ws, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    let code = |reply: &Value| reply["error"]["code"].clone();
    let reply = link.ask(json!({ "type": "subscribe", "topics": ["a.2", "b"] })).await;
    assert_eq!((&reply["ok"], code(&reply)), (&json!(false), json!("forbidden")));
    let reply = link.ask(json!({ "type": "subscribe", "topics": ["a.2"] })).await;
    assert_eq!(reply["topics"], json!(["a.1", "a.2"]), "refused patterns are not subscribed");
    for topic in ["a.2", "b"] {
        let reply = link.ask(json!({ "type": "publish", "topic": topic, "data": 1 })).await;
        assert_eq!(code(&reply), "forbidden", "{topic}");
    }
    link.send(Message::binary(vec![1, 2, 3])).await;
    let reply = link.telling().await;
    assert_eq!((reply.event.as_str(), code(&reply.value())), ("$reply", json!("forbidden")));
    assert_eq!(keyed.end().await, start, "nothing was published");
    let reply = link.ask(json!({ "type": "publish", "topic": "a.1", "data": 7 })).await;
    assert_eq!(reply["ok"], true);
    assert_eq!(link.telling().await.value(), 7);
    let query = Query::default().with("publish", "bin").header("Authorization", bearer(&token));
    let mut link = Link::to(keyed.address(), Kind::Ws, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    link.send(Message::binary(vec![1, 2, 3])).await;
    assert_ne!(keyed.end().await, start);
    // Without public patterns, a WebSocket requires a token.
    keyed.refuses(Kind::Ws, &Query::default(), 401, "nothing to hear").await;
}

#[tokio::test]
async fn rights_of_the_other_resources() {
    let keyed = Keyed::start(&[]);
    let token = keyed.token(json!({}));
    let exchange = async |request: Request, token: &str| {
        let request = if token.is_empty() { request } else { request.header("Authorization", bearer(token)) };
        request.send(keyed.address()).await
    };
    // Health checks and static files need no token.
    for path in ["/healthz", "/readyz", "/client.js", "/client.mjs", "/"] {
        for token in ["", "x"] {
            assert_eq!(exchange(Request::get(path), token).await.status, 200, "{path}");
        }
    }
    // A client without a token gets the protocol information; the log's position requires access.
    let mut info = exchange(Request::get("/v1/info"), "").await.json().await;
    assert!(info["transports"].is_array() && info["cursor"].is_null() && info["epoch"].is_null(), "{info}");
    info = exchange(Request::get("/v1/info"), &token).await.json().await;
    assert!(info["cursor"].is_string() && info["epoch"].is_string(), "{info}");
    assert_eq!(exchange(Request::get("/v1/info"), "x").await.status, 401);
    for request in [Request::get("/v1/clients"), Request::post("/v1/revocations", "", r#"{"jti":"x"}"#)] {
        assert_eq!(exchange(request.clone(), "").await.error().await, (401, "unauthorized".into()));
        assert_eq!(exchange(request.clone(), &token).await.error().await, (403, "forbidden".into()));
    }
    assert_eq!(exchange(Request::get("/v1/clients"), &keyed.admin()).await.status, 200);
    let ack = json!({ "client": uuid(), "cursor": keyed.end().await }).to_string();
    for (request, good) in [
        (Request::post("/v1/ack", "text/plain", ack), 404),
        (Request::get("/v1/echo").upgrade(), 101),
        (Request::get(format!("/v1/clients/{}", uuid())), 404),
    ] {
        assert_eq!(exchange(request.clone(), "").await.error().await, (401, "unauthorized".into()));
        assert_eq!(exchange(request, &token).await.status, good);
    }
}
