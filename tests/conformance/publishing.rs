//! Publishing: body formats, content types, atomic batches, and deduplication.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, post_events, publish, shared, topic};
use crate::support::http::{Request, Response};
use crate::support::wire::{Item, position};

async fn post(server: &Server, kind: &str, body: impl Into<Vec<u8>>) -> Response {
    Request::post("/v1/events", kind, body).send(server.address()).await
}

/// The events on a topic after a cursor, up to the present.
async fn all_on(server: &Server, topic: &str, from: &str) -> Vec<Item> {
    let query = Query::topic(topic).with("cursor", from).with("limit", 1000);
    Link::to(server.address(), Kind::Poll, &query).await.batch().await.events
}

#[tokio::test]
async fn one_event_in_each_type() {
    let server = shared();
    let topic = topic("one");
    let start = end_of_log(&server).await;
    let json = json!({ "topic": topic, "event": "n", "data": { "a": [1, null] }, "id": "k-json" }).to_string();
    let form = format!("topic={topic}&event=n&data=%7B%22a%22%3A%5B1%2Cnull%5D%7D&id=k-form");
    for (kind, body) in [
        ("application/json", json.as_str()),
        ("application/json; charset=utf-8", &json.replace("k-json", "k-charset")),
        ("text/plain", &json.replace("k-json", "k-text")),
        ("text/plain;charset=UTF-8", &json.replace("k-json", "k-text-charset")),
        ("Application/JSON", &format!("\n {}\r\n", json.replace("k-json", "k-case"))),
        ("application/x-www-form-urlencoded", &form),
    ] {
        let answer = post(&server, kind, body).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let answer = answer.created().await;
        let item = all_on(&server, &topic, &start).await.pop().expect("the event");
        assert_eq!(answer, json!({ "cursor": item.cursor, "duplicate": false }), "{kind}");
        assert_eq!((item.event.as_str(), item.value()), ("n", json!({ "a": [1, null] })), "{kind}");
        assert!(item.id.is_some_and(|id| body.contains(&id)), "{kind}");
    }
}

/// A form's data is JSON if it parses, else a string.
#[tokio::test]
async fn forms() {
    let server = shared();
    let topic = topic("form");
    let start = end_of_log(&server).await;
    for (data, expected) in [
        ("5", json!(5)),
        ("%22five%22", json!("five")),
        ("five+and+%2B", json!("five and +")),
        ("", json!("")),
        ("%7Bbroken", json!("{broken")),
        ("%C3%A9", json!("é")),
        ("null", json!(null)),
    ] {
        post(&server, "application/x-www-form-urlencoded", format!("topic={topic}&data={data}")).await.created().await;
        let item = all_on(&server, &topic, &start).await.pop().expect("the event");
        assert_eq!((item.event.as_str(), item.value()), ("message", expected), "{data}");
    }
}

#[tokio::test]
async fn an_array_is_all_or_nothing() {
    let server = shared();
    let topic = topic("array");
    let start = end_of_log(&server).await;
    let good: Vec<Value> = numbers(0..5).into_iter().map(|n| json!({ "topic": topic, "data": n })).collect();
    for kind in ["application/json", "text/plain"] {
        let answer = post(&server, kind, json!(good).to_string()).await.created().await;
        let cursors: Vec<u64> = answer["events"]
            .as_array()
            .expect("outcomes")
            .iter()
            .map(|one| position(one["cursor"].as_str().expect("one")))
            .collect();
        assert!(cursors.windows(2).all(|two| two[1] == two[0] + 1), "consecutive: {cursors:?}");
        assert_eq!(answer["cursor"], answer["events"][4]["cursor"]);
        assert!(answer["events"].as_array().is_some_and(|all| all.iter().all(|one| one["duplicate"] == false)));
    }
    assert_eq!(all_on(&server, &topic, &start).await.len(), 10);
    for bad in [
        json!({ "topic": "a..b", "data": 1 }),
        json!({ "topic": topic }),
        json!(7),
        json!({ "topic": topic, "event": "$x", "data": 1 }),
    ] {
        for at in [0, 3, 5] {
            let mut events = good.clone();
            events.insert(at, bad.clone());
            let mut answer = post(&server, "application/json", json!(events).to_string()).await;
            assert_eq!(answer.error().await.0, 400, "{bad} at {at}");
        }
    }
    assert_eq!(all_on(&server, &topic, &start).await.len(), 10, "no event of a refused batch is stored");
}

#[tokio::test]
async fn lines_each_on_their_own() {
    let server = shared();
    let topic = topic("lines");
    let start = end_of_log(&server).await;
    let line = |data: &str| format!("{{\"topic\":\"{topic}\",\"data\":{data}}}");
    let body = [
        line("1"),
        String::new(),
        "not json".to_owned(),
        format!("{}\r", line("2")),
        "{\"topic\":\"a..b\",\"data\":1}".to_owned(),
        format!("{{\"topic\":\"{topic}\",\"data\":3,\"id\":\"k\"}}"),
        format!("{{\"topic\":\"{topic}\",\"data\":4,\"id\":\"k\"}}"),
        line(&format!("\"{}\"", "x".repeat(300 << 10))),
        line("\"\u{e9}\""),
        line("5"),
    ]
    .join("\n");
    let answer = post(&server, "application/x-ndjson", body).await.created().await;
    let items = all_on(&server, &topic, &start).await;
    let values: Vec<Value> = items.iter().map(Item::value).collect();
    assert_eq!(values, [json!(1), json!(2), json!(3), json!("é"), json!(5)]);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(5), &json!(1)));
    assert_eq!(answer["cursor"].as_str(), items.last().and_then(|item| item.cursor.as_deref()));
    let errors = answer["errors"].as_array().expect("errors");
    let lines: Vec<&Value> = errors.iter().map(|one| &one["line"]).collect();
    assert_eq!(lines, [3, 5, 8], "{answer}");
    for error in errors {
        crate::support::http::error_code(error);
    }
    // The first 100 are listed.
    let body = format!("{}\n{}", "x\n".repeat(150), line("6"));
    let answer = post(&server, "application/x-ndjson; charset=utf-8", body).await.created().await;
    assert_eq!((&answer["accepted"], answer["errors"].as_array().map(Vec::len)), (&json!(1), Some(100)));
    // A line that is not UTF-8 is one line.
    let mut body = line("7").into_bytes();
    body.extend_from_slice(b"\n\"\xff\"\n");
    let answer = post(&server, "application/x-ndjson", body).await.created().await;
    assert_eq!((&answer["accepted"], &answer["errors"][0]["line"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn the_body_itself_as_data() {
    let server = shared();
    let topic = topic("body");
    let start = end_of_log(&server).await;
    let text = |text: &str| (json!(text), None);
    let binary = |base64: &str| (json!(base64), Some("base64".to_owned()));
    /// A type, a body, the data with its encoding.
    type Case = (&'static str, &'static [u8], (Value, Option<String>));
    let cases: Vec<Case> = vec![
        ("application/json", b" {\"a\": 1}\n", (json!({ "a": 1 }), None)),
        ("application/ld+json", b"[1]", (json!([1]), None)),
        ("text/plain", b"{\"a\": 1}", (json!({ "a": 1 }), None)),
        ("text/csv", b"{\"a\": 1}", text("{\"a\": 1}")),
        ("text/plain; charset=utf-8", "é\r\n".as_bytes(), text("é\r\n")),
        ("text/html", b"<b>", text("<b>")),
        ("text/plain", b"", text("")),
        ("application/x-www-form-urlencoded", b"{\"a\": 1}", (json!({ "a": 1 }), None)),
        ("application/x-www-form-urlencoded", b"a=1&b=2", text("a=1&b=2")),
        ("application/x-www-form-urlencoded", b"\xff\xfe", binary("//4=")),
        ("", b"17", (json!(17), None)),
        ("", b"plain words", text("plain words")),
        ("", b"\x00\xff", binary("AP8=")),
        ("application/octet-stream", b"{}", binary("e30=")),
        ("image/png", b"\x89PNG", binary("iVBORw==")),
        ("application/xml", b"<a/>", binary("PGEvPg==")),
        ("application/octet-stream", b"", binary("")),
    ];
    for (kind, body, (value, encoding)) in cases {
        let answer = Request::post(format!("/v1/topics/{topic}?event=named"), kind, body).send(server.address()).await;
        let answer = answer.created().await;
        let item = all_on(&server, &topic, &start).await.pop().expect("the event");
        assert_eq!(answer, json!({ "cursor": item.cursor, "duplicate": false }), "{kind}");
        assert_eq!((item.value(), item.encoding), (value, encoding), "{kind}");
        assert_eq!(item.event, "named");
    }
    // Without an event name, and with characters that a path has to encode.
    Request::post("/v1/topics/weird%2F%C3%A9%3F.%25", "text/plain", "x").send(server.address()).await.created().await;
    let item = all_on(&server, "weird/é?.%", &start).await.pop().expect("the event");
    assert_eq!((item.event.as_str(), item.topic.as_deref()), ("message", Some("weird/é?.%")));
}

#[tokio::test]
async fn a_repeat_is_stored_once() {
    let server = shared();
    let (topic, other) = (topic("once"), topic("once"));
    let start = end_of_log(&server).await;
    let event = |topic: &str, data: u32| json!({ "topic": topic, "data": data, "id": "key" });
    let first = post_events(&server, &event(&topic, 1)).await;
    assert_eq!(first["duplicate"], false);
    let same = json!({ "cursor": first["cursor"], "duplicate": true });
    assert_eq!(post_events(&server, &event(&topic, 1)).await, same);
    // The repeat is recognised for any payload and body format; a different payload is reported.
    let other_payload = json!({ "cursor": first["cursor"], "duplicate": true, "differs": true });
    assert_eq!(post_events(&server, &event(&topic, 2)).await, other_payload);
    let form = format!("topic={topic}&data=3&id=key");
    assert_eq!(post(&server, "application/x-www-form-urlencoded", form).await.created().await, other_payload);
    let text = post(&server, "text/plain", event(&topic, 4).to_string()).await.created().await;
    assert_eq!(text, other_payload);
    let header = Request::post(format!("/v1/topics/{topic}"), "text/plain", "5").header("Idempotency-Key", "key");
    assert_eq!(header.send(server.address()).await.created().await, other_payload);
    let header = Request::post("/v1/events", "application/json", json!({ "topic": topic, "data": 6 }).to_string());
    let header = header.header("Idempotency-Key", "key");
    assert_eq!(header.send(server.address()).await.created().await, other_payload);
    let lines = post(&server, "application/x-ndjson", event(&topic, 7).to_string()).await.created().await;
    assert_eq!((&lines["accepted"], &lines["duplicates"]), (&json!(0), &json!(1)));
    let mut socket = Link::to(server.address(), Kind::Ws, &Query::default()).await;
    socket.item().await;
    let reply = socket.ask(json!({ "type": "publish", "topic": topic, "data": 8, "id": "key" })).await;
    assert_eq!((&reply["ok"], &reply["cursor"], &reply["duplicate"]), (&json!(true), &first["cursor"], &json!(true)));
    // The key is topic and id together.
    assert_eq!(post_events(&server, &event(&other, 9)).await["duplicate"], false);
    // An id in the event takes precedence over the header.
    let both = Request::post("/v1/events", "application/json", event(&topic, 10).to_string());
    assert_eq!(both.header("Idempotency-Key", "new").send(server.address()).await.created().await, other_payload);
    let items = all_on(&server, &topic, &start).await;
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].value(), items[0].id.as_deref()), (json!(1), Some("key")));
}

#[tokio::test]
async fn repeats_inside_one_array_count() {
    let server = shared();
    let topic = topic("within");
    let start = end_of_log(&server).await;
    let old = post_events(&server, &json!({ "topic": topic, "data": "old", "id": "old" })).await;
    let event = |data: u32, id: Option<&str>| json!({ "topic": topic, "data": data, "id": id });
    let all = [event(0, Some("a")), event(1, None), event(2, Some("a")), event(3, Some("old")), event(4, Some("b"))];
    let answer = post_events(&server, &json!(all)).await;
    let outcomes = answer["events"].as_array().expect("outcomes");
    let duplicates: Vec<&Value> = outcomes.iter().map(|one| &one["duplicate"]).collect();
    assert_eq!(duplicates, [false, false, true, true, false]);
    assert_eq!(outcomes[2]["cursor"], outcomes[0]["cursor"]);
    assert_eq!(outcomes[3]["cursor"], old["cursor"]);
    let values: Vec<Value> = all_on(&server, &topic, &start).await.iter().map(Item::value).collect();
    assert_eq!(values, [json!("old"), json!(0), json!(1), json!(4)]);
    // The whole array again.
    let again = post_events(&server, &json!([all[0], all[4]])).await;
    assert!(again["events"].as_array().is_some_and(|all| all.iter().all(|one| one["duplicate"] == true)), "{again}");
}

/// Many concurrent publishes with one key: one is stored, all responses have its cursor.
#[tokio::test]
async fn repeats_at_the_same_moment() {
    let server = shared();
    let topic = topic("together");
    let start = end_of_log(&server).await;
    let body = json!({ "topic": topic, "data": 1, "id": "same" });
    let all = futures_util::future::join_all((0..16).map(|_| post_events(&server, &body))).await;
    assert_eq!(all.iter().filter(|one| one["duplicate"] == false).count(), 1);
    assert!(all.iter().all(|one| one["cursor"] == all[0]["cursor"]));
    assert_eq!(all_on(&server, &topic, &start).await.len(), 1);
}

#[tokio::test]
async fn repeats_after_a_restart() {
    let mut server = Server::start_at("127.0.0.2:0", &["--workers", "1", "--drain", "0s"]);
    let body = json!({ "topic": "kept", "data": 1, "id": "key" });
    let first = post_events(&server, &body).await;
    for kill in [false, true] {
        server = if kill { server.kill_and_restart() } else { server.stop_and_restart() };
        let again = post_events(&server, &body).await;
        assert_eq!(again, json!({ "cursor": first["cursor"], "duplicate": true }), "killed: {kill}");
    }
    assert_eq!(
        all_on(&server, "kept", &crate::support::wire::moved(first["cursor"].as_str().expect("one"), 0)).await.len(),
        1
    );
}

/// Without a deduplication window a repeat is stored again.
#[tokio::test]
async fn no_window_no_repeats() {
    let server = Server::start(&["--workers", "1", "--store", "memory", "--dedupe-window", "0s"]);
    let body = json!({ "topic": "twice", "data": 1, "id": "key" });
    for _ in 0..2 {
        assert_eq!(post_events(&server, &body).await["duplicate"], false);
    }
}

/// Read your writes: an acknowledged event is visible to the next request, on any worker.
#[tokio::test]
async fn answered_is_readable() {
    let server = shared();
    let topic = topic("readable");
    for n in 0..20 {
        let cursor = publish(&server, &topic, n).await;
        let before = crate::support::wire::moved(&cursor, position(&cursor) - 1);
        for kind in [Kind::Poll, Kind::Sse] {
            let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic), &before);
            assert_eq!(subscriber.event().await.cursor.as_ref(), Some(&cursor));
        }
    }
}

/// Concurrent publishers: all events are in one total order, which keeps each publisher's order.
#[tokio::test]
async fn one_total_order() {
    let server = shared();
    let topic = topic("total");
    let start = end_of_log(&server).await;
    let publisher = |name: u32| {
        let (address, topic) = (server.address().to_owned(), topic.clone());
        tokio::spawn(async move {
            for n in 0..40 {
                let body = json!({ "topic": format!("{topic}.{}", n % 3), "data": [name, n] }).to_string();
                Request::post("/v1/events", "application/json", body).send(&address).await.created().await;
            }
        })
    };
    let publishers: Vec<_> = (0..4).map(publisher).collect();
    let query = Query::topic(&format!("{topic}.*"));
    let readers = Kind::ALL.map(|kind| Subscriber::at(server.address(), kind, query.clone(), &start));
    let read = readers.map(|mut reader| async move { reader.values(160).await });
    let all = futures_util::future::join_all(read).await;
    for publisher in publishers {
        publisher.await.expect("a publisher ends");
    }
    assert!(all.iter().all(|one| one == &all[0]), "all subscribers see the same order");
    for name in 0..4 {
        let own: Vec<&Value> = all[0].iter().filter(|data| data[0] == name).map(|data| &data[1]).collect();
        assert_eq!(own, numbers(0..40).iter().collect::<Vec<_>>());
    }
}
