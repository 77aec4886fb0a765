//! The resources besides publishing and subscribing: log information, health checks, client administration, `Allow`.

use serde_json::{Value, json};

use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, post_events, publish_all, shared, topic, uuid};
use crate::support::http::Request;
use crate::support::until;
use crate::support::wire::{moved, position};
use crate::support::{Server, on_nats};

#[tokio::test]
async fn info() {
    let server = Server::start(&["--heartbeat", "5s", "--workers", "1", "--max-event-bytes", "100KiB"]);
    let last = publish_all(&server, "a", numbers(0..3)).await.pop().expect("a cursor");
    let mut answer = Request::get("/v1/info").send(server.address()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
    let info = answer.json().await;
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["cursor"], last);
    assert_eq!(info["epoch"], crate::support::wire::epoch(&last));
    assert_eq!(info["transports"], json!(["ws", "sse", "stream", "iframe", "longpoll", "jsonp", "poll"]));
    assert_eq!(info["heartbeat"], 5000);
    assert_eq!(info["limits"]["event_bytes"], 100 << 10);
    assert_eq!(info["limits"]["patterns"], 64);
    // The cursor at the end of the log is valid to start from.
    let mut subscriber = Subscriber::at(server.address(), Kind::Sse, Query::topic("a"), &last);
    publish_all(&server, "a", numbers(3..4)).await;
    assert_eq!(subscriber.values(1).await, [3]);
}

#[tokio::test]
async fn alive_and_ready() {
    let server = shared();
    for path in ["/healthz", "/readyz"] {
        let mut answer = Request::get(path).send(server.address()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
        assert!(answer.json().await.is_object(), "{path}");
        // Load balancers send health checks by address, also through proxies.
        let odd = Request::get(path).host("example.com").header("X-Forwarded-For", "192.0.2.1");
        assert_eq!(odd.send(server.address()).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn lists_the_connected_clients() {
    let server = Server::start(&["--workers", "1"]);
    let client = uuid();
    let cursors = publish_all(&server, "seen.a", numbers(0..5)).await;
    let query = Query::topics(["seen.*", "other"]).with("client", &client);
    let mut links = Vec::new();
    for kind in [Kind::Sse, Kind::Ws, Kind::Iframe] {
        let mut link = Link::to(server.address(), kind, &query.clone().with("cursor", &cursors[1])).await;
        link.item().await;
        for _ in 0..3 {
            link.telling().await;
        }
        links.push(link);
    }
    let one = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
    assert_eq!(one["client"], client);
    assert_eq!(one["transports"], json!(["ws", "sse", "iframe"]));
    assert_eq!(one["patterns"], json!(["other", "seen.*"]), "in order");
    assert_eq!((&one["sent"], &one["acknowledged"]), (&json!(cursors[4]), &json!(cursors[1])));
    assert_eq!(one["lag"]["events"], 0, "the client has no lag: {one}");
    assert!(one["lag"]["ms"].is_u64());
}

#[tokio::test]
async fn clients_are_listed_and_leave() {
    let server = shared();
    let (topic, client) = (topic("listed"), uuid());
    let start = end_of_log(&server).await;
    let link = Link::to(server.address(), Kind::Stream, &Query::topic(&topic).with("client", &client)).await;
    let listed = || async {
        let all = Request::get("/v1/clients").send(server.address()).await.json().await;
        let all = all["clients"].as_array().expect("a list").clone();
        all.into_iter().find(|one| one["client"] == client)
    };
    let one = listed().await.expect("who is connected is listed");
    assert_eq!((&one["transports"], &one["patterns"]), (&json!(["stream"]), &json!([topic])));
    drop(link);
    until("the client is disconnected", || async { listed().await.is_none() }).await;
    // The client is still remembered, with its lag.
    publish_all(&server, &topic, numbers(0..3)).await;
    let one = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
    assert_eq!((&one["transports"], &one["lag"]["events"]), (&json!([]), &json!(3)));
    assert!(one["acknowledged"].as_str().is_some_and(|cursor| position(cursor) >= position(&start)));
    assert!(one["sent"].is_null(), "{one}");
    // An unknown client.
    let mut answer = Request::get(format!("/v1/clients/{}", uuid())).send(server.address()).await;
    assert_eq!(answer.error().await, (404, "unknown_client".to_owned()));
    let mut answer = Request::get("/v1/clients/me").send(server.address()).await;
    assert_eq!(answer.error().await, (400, "bad_client".to_owned()));
}

/// A disconnect is noticed, even during a held request.
#[tokio::test]
async fn a_client_that_disconnects_is_not_listed() {
    let server = shared();
    for kind in [Kind::Longpoll, Kind::Jsonp, Kind::IframeOnce, Kind::Iframe, Kind::Sse, Kind::Stream, Kind::Ws] {
        let client = uuid();
        let query = Query::topic(&topic("gone")).with("client", &client).with("wait", 60);
        let address = server.address().to_owned();
        let held = tokio::spawn(async move {
            let mut link = Link::to(&address, kind, &query).await;
            loop {
                if link.next().await.is_err() {
                    break;
                }
            }
        });
        let transports = || async {
            let one = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
            one["transports"].clone()
        };
        until("the client is connected", || async { transports().await == json!([kind.transport()]) }).await;
        held.abort();
        until("the client is disconnected", || async { transports().await == json!([]) }).await;
    }
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let server = shared();
    for path in ["/v1/nothing", "/v1", "/v1/", "/v1/SSE", "/v1/poll/", "/v1/websocket?topic=a", "/v1/sse/x"] {
        let (status, code) = Request::get(path).send(server.address()).await.error().await;
        assert_eq!((status, code.as_str()), (404, "not_found"), "{path}");
    }
    for (method, path, allowed) in [
        ("POST", "/v1/poll?topic=a", "GET"),
        ("PUT", "/v1/sse?topic=a", "GET"),
        ("DELETE", "/v1/ws", "GET"),
        ("POST", "/v1/longpoll?topic=a", "GET"),
        ("PATCH", "/v1/jsonp?topic=a&callback=c", "GET"),
        ("POST", "/v1/iframe?topic=a", "GET"),
        ("POST", "/v1/stream?topic=a", "GET"),
        ("POST", "/v1/info", "GET"),
        ("POST", "/v1/clients", "GET"),
        ("POST", "/v1/history?topic=a", "GET"),
        ("POST", "/v1/echo", "GET"),
        ("POST", "/healthz", "GET"),
        ("DELETE", "/readyz", "GET"),
        ("GET", "/v1/events", "POST"),
        ("PUT", "/v1/topics/a.b", "POST"),
        ("GET", "/v1/ack", "POST"),
    ] {
        let mut answer = Request::new(method, path).send(server.address()).await;
        let allow = answer.header("allow").unwrap_or_default().to_owned();
        assert!(allow.split(", ").any(|one| one == allowed), "{method} {path}: Allow: {allow}");
        assert!(!allow.split(", ").any(|one| one == method), "{method} {path}: Allow: {allow}");
        assert_eq!(answer.error().await, (405, "method_not_allowed".to_owned()), "{method} {path}");
    }
}

/// Text in an event's data that resembles a cursor does not acknowledge anything.
#[tokio::test]
async fn an_acknowledgement_needs_a_client_and_a_cursor() {
    let server = shared();
    let end = end_of_log(&server).await;
    let client = uuid();
    for (body, code) in [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("[]", "bad_json"),
        ("{\"cursor\":\"a-1\"}", "bad_json"),
        (&json!({ "client": client }).to_string(), "bad_json"),
        (&json!({ "client": "me", "cursor": end }).to_string(), "bad_client"),
        (&json!({ "client": client, "cursor": "now" }).to_string(), "bad_cursor"),
        (&json!({ "client": client, "cursor": "x" }).to_string(), "bad_cursor"),
        (&json!({ "client": client, "cursor": moved(&end, u64::MAX) }).to_string(), "bad_cursor"),
    ] {
        let mut answer = Request::post("/v1/ack", "application/json", body).send(server.address()).await;
        assert_eq!(answer.error().await, (400, code.to_owned()), "{body}");
    }
    let mut answer = Request::post("/v1/ack", "text/html", "{}").send(server.address()).await;
    assert_eq!(answer.error().await.0, 415);
    let mut answer = Request::post("/v1/ack", "application/json", " ".repeat(100_000)).send(server.address()).await;
    assert_eq!(answer.error().await.0, 413);
    assert_eq!(Request::get(format!("/v1/clients/{client}")).send(server.address()).await.status, 404);
}

/// The cost of listing clients is bounded: beyond the row budget the lags are not counted to the end.
#[tokio::test]
async fn a_list_of_clients_that_lag_is_bounded_in_work() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let start = end_of_log(&server).await;
    let mut held = Vec::new();
    let mut clients = Vec::new();
    for number in 0..30 {
        clients.push(uuid());
        let query = Query::topic(&format!("never.{number}")).with("client", &clients[number]).with("wait", 60);
        let query = query.with("cursor", &start).with("topic", "*.many.>");
        let (address, kind) = (server.address().to_owned(), Kind::Longpoll);
        held.push(tokio::spawn(async move { Link::to(&address, kind, &query).await }));
    }
    let list = async || Request::get("/v1/clients").send(server.address()).await.json().await;
    until("all requests are held", || async { list().await["clients"].as_array().map(Vec::len) == Some(30) }).await;
    for round in 0..3 {
        let events = (0..1000).map(|number| json!({ "topic": format!("t.{number}.{round}"), "data": 0 }));
        post_events(&server, &json!(events.collect::<Vec<_>>())).await;
    }
    let listed = list().await;
    let lags: Vec<&Value> = listed["clients"].as_array().expect("a list").iter().map(|one| &one["lag"]).collect();
    if on_nats() {
        // JetStream finds in its index that no event matches, without a scan.
        assert!(lags.iter().all(|lag| **lag == json!({ "events": 0, "ms": 0 })), "{lags:?}");
    } else {
        assert!(lags.iter().all(|lag| lag["more"] == true), "no lag is counted to the end: {lags:?}");
    }
    // A request for a single client counts its lag to the end.
    let last = listed["clients"][29]["client"].as_str().expect("a client");
    let alone = Request::get(format!("/v1/clients/{last}")).send(server.address()).await.json().await;
    assert_eq!(alone["lag"], json!({ "events": 0, "ms": 0 }));
}
