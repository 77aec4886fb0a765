//! Subscription semantics over every transport: start positions, pattern filters, order, heartbeats and ends.

use serde_json::{Value, json};

use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, over, post_events, publish, publish_all, shared, topic, uuid};
use crate::support::http::Request;
use crate::support::until;
use crate::support::wire::{epoch, moved, position};
use crate::support::{Server, on_nats};

over!(every:
    from_now_on,
    nothing_before_and_everything_after,
    from_a_cursor,
    from_the_earliest,
    the_newest_few,
    a_cursor_takes_precedence_over_last,
    since_a_time,
    the_rest_after_a_cut,
    one_token_and_the_rest,
    overlapping_patterns_deliver_once,
    many_patterns,
    items_equal_the_published_events,
    hostile_payloads,
    far_behind,
    unknown_parameters_are_ignored,
);
over!(in is_notified_of_a_stop: longpoll Longpoll, jsonp Jsonp, iframe Iframe, iframe_once IframeOnce, sse Sse, stream Stream, ws Ws);
over!(streams: hello, last_event_id, heartbeats_move_the_cursor, streams_have_an_age);
over!(batches: limits_and_cursors, a_batch_has_its_end_cursor);
over!(held: held_until_something_comes, held_until_the_time_is_up, held_by_default);

async fn hello(kind: Kind) {
    let server = shared();
    let end = position(&end_of_log(&server).await);
    let client = uuid();
    let mut link = Link::to(server.address(), kind, &Query::topic(&topic("hello")).with("client", &client)).await;
    let hello = link.item().await;
    assert_eq!(hello.event, "$hello");
    let mut data = hello.value();
    // Other tests publish on the same server.
    data.as_object_mut().unwrap().remove("live");
    assert_eq!(
        data,
        json!({
            "client": client,
            "heartbeat": 60_000,
            "server": env!("CARGO_PKG_VERSION"),
            "transport": kind.transport(),
            "known": false,
        })
    );
    assert!(hello.at() >= end, "the subscription starts now");

    // A subscriber without a client name is assigned one.
    let mut link = Link::to(server.address(), kind, &Query::topic(&topic("hello"))).await;
    let hello = link.item().await;
    let given = hello.value()["client"].as_str().and_then(|text| text.parse::<uuid::Uuid>().ok());
    assert!(given.is_some(), "{hello:?}");
    assert!(hello.value().get("known").is_none(), "a new name has no `known` field: {hello:?}");
}

async fn from_now_on(kind: Kind) {
    let server = shared();
    let topic = topic("now");
    publish(&server, &topic, "before").await;
    for cursor in [None, Some("now")] {
        let query = Query::topic(&topic);
        let query = cursor.into_iter().fold(query, |query, cursor| query.with("cursor", cursor));
        let mut subscriber = Subscriber::start(server.address(), kind, query).await;
        publish(&server, &topic, "after").await;
        publish(&server, &topic, "more").await;
        assert_eq!(subscriber.values(2).await, ["after", "more"]);
    }
}

/// Under concurrent publishing, the first cursor of a subscriber is the exact boundary: only later events are delivered.
async fn nothing_before_and_everything_after(kind: Kind) {
    let server = shared();
    let topic = topic("race");
    let (address, publisher_topic) = (server.address().to_owned(), topic.clone());
    let publisher = tokio::spawn(async move {
        let mut cursors = Vec::new();
        for n in 0..60 {
            let body = json!({ "topic": publisher_topic, "data": n }).to_string();
            let answer = Request::post("/v1/events", "application/json", body).send(&address).await.json().await;
            cursors.push(answer["cursor"].as_str().expect("a cursor").to_owned());
        }
        cursors
    });
    until("the first event", || async { position(&end_of_log(&server).await) > 0 }).await;
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topic(&topic)).await;
    let first = position(subscriber.cursor.as_deref().expect("a cursor before the first event"));
    let cursors = publisher.await.expect("the publisher ends");
    publish(&server, &topic, "last").await;
    for cursor in cursors.iter().filter(|cursor| position(cursor) > first) {
        assert_eq!(subscriber.event().await.cursor.as_deref(), Some(cursor.as_str()), "after {first}");
    }
    assert_eq!(subscriber.event().await.value(), "last");
}

async fn from_a_cursor(kind: Kind) {
    let server = shared();
    let topic = topic("cursor");
    let before = end_of_log(&server).await;
    let cursors = publish_all(&server, &topic, numbers(0..5)).await;
    let query = || Query::topic(&topic);
    let mut all = Subscriber::at(server.address(), kind, query(), &before);
    assert_eq!(all.values(5).await, numbers(0..5));
    let mut rest = Subscriber::at(server.address(), kind, query(), &cursors[2]);
    assert_eq!(rest.values(2).await, numbers(3..5));
    // Both receive the following events.
    publish(&server, &topic, 5).await;
    assert_eq!(all.values(1).await, [5]);
    assert_eq!(rest.values(1).await, [5]);
    // Position 0 is before the first event.
    let mut zero = Subscriber::at(server.address(), kind, query(), &moved(&before, 0));
    assert_eq!(zero.values(6).await, numbers(0..6));
    if let Some(hello) = &zero.hello {
        assert_eq!(hello.cursor, Some(moved(&before, 0)), "the stream starts at the requested cursor");
    }
}

async fn from_the_earliest(kind: Kind) {
    let server = shared();
    let topic = topic("earliest");
    publish_all(&server, &topic, numbers(0..3)).await;
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic), "earliest");
    assert_eq!(subscriber.values(3).await, numbers(0..3));
    publish(&server, &topic, 3).await;
    assert_eq!(subscriber.values(1).await, [3]);
}

async fn since_a_time(kind: Kind) {
    let server = shared();
    let topic = topic("since");
    let start = end_of_log(&server).await;
    publish_all(&server, &topic, numbers(0..3)).await;
    let mut all = Subscriber::at(server.address(), kind, Query::topic(&topic), &start);
    let mut last = None;
    for _ in 0..3 {
        last = all.event().await.time;
    }
    let then = last.expect("a time");
    // Events with a time that is certainly later: the log uses the clock of this machine.
    until("the clock advances", || async {
        std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64 > then
    })
    .await;
    publish_all(&server, &topic, numbers(3..5)).await;
    let later = all.event().await.time.expect("a time");
    assert!(later > then);
    let rfc3339 = |time_ms: u64| {
        let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ms) * 1_000_000).expect("a time");
        time.format(&time::format_description::well_known::Rfc3339).expect("a text")
    };
    for since in [later.to_string(), (then + 1).to_string(), rfc3339(later)] {
        let mut subscriber = Subscriber::new(server.address(), kind, Query::topic(&topic).with("since", &since));
        // NATS knows when an event was stored, not the event's own time: events of the five seconds before are delivered as well.
        let expected = if on_nats() { numbers(0..5) } else { numbers(3..5) };
        assert_eq!(subscriber.values(expected.len()).await, expected, "{since}");
    }
    for since in ["0", "1970-01-01T00:00:00Z", &(then - 60_000).to_string()] {
        let mut subscriber = Subscriber::new(server.address(), kind, Query::topic(&topic).with("since", since));
        assert_eq!(subscriber.values(5).await, numbers(0..5), "{since}");
    }
    let ahead = Query::topic(&topic).with("since", "9999-12-31T23:59:59Z");
    let mut ahead = Subscriber::start(server.address(), kind, ahead).await;
    publish(&server, &topic, 5).await;
    assert_eq!(ahead.values(1).await, [5], "a time in the future starts now");
    // A cursor takes precedence over the time.
    let mut resumed = Subscriber::at(server.address(), kind, Query::topic(&topic).with("since", later), &start);
    assert_eq!(resumed.values(6).await, numbers(0..6));
}

async fn the_newest_few(kind: Kind) {
    let server = shared();
    let (topic, other) = (topic("last"), topic("lastother"));
    for n in 0..6 {
        publish(&server, &topic, n).await;
        publish(&server, &other, "other").await;
    }
    let mut three = Subscriber::new(server.address(), kind, Query::topic(&topic).with("last", 3));
    assert_eq!(three.values(3).await, numbers(3..6), "the last three of the matching events");
    let mut all = Subscriber::new(server.address(), kind, Query::topic(&topic).with("last", 1000));
    assert_eq!(all.values(6).await, numbers(0..6), "all events where there are fewer than requested");
    publish(&server, &topic, 6).await;
    assert_eq!(three.values(1).await, [6]);
    assert_eq!(all.values(1).await, [6]);
}

async fn a_cursor_takes_precedence_over_last(kind: Kind) {
    let server = shared();
    let topic = topic("order");
    let cursors = publish_all(&server, &topic, numbers(0..4)).await;
    let query = Query::topic(&topic).with("last", 1);
    let mut by_cursor = Subscriber::at(server.address(), kind, query.clone(), &cursors[0]);
    assert_eq!(by_cursor.values(3).await, numbers(1..4));
    // The remembered cursor of a client takes precedence, too.
    let client = uuid();
    let known = Query::topic(&topic).with("client", &client).with("cursor", &cursors[1]);
    Subscriber::start(server.address(), kind, known).await.cut();
    let mut by_client = Subscriber::new(server.address(), kind, query.with("client", &client));
    assert_eq!(by_client.values(2).await, numbers(2..4));
}

async fn last_event_id(kind: Kind) {
    let server = shared();
    let topic = topic("lastid");
    let cursors = publish_all(&server, &topic, numbers(0..4)).await;
    let query = Query::topic(&topic).with("cursor", &cursors[0]);
    let mut link = Link::to(server.address(), kind, &query.clone().header("Last-Event-ID", &cursors[2])).await;
    let hello = link.item().await;
    let expected = if kind.resumes_by_header() { 2 } else { 0 };
    assert_eq!(
        hello.cursor.as_deref(),
        Some(cursors[expected].as_str()),
        "the header takes precedence over the cursor, on transports that use the header"
    );
    assert_eq!(link.telling().await.value(), json!(expected + 1));
    // As EventSource polyfills send it, to avoid a CORS preflight.
    let mut link = Link::to(server.address(), kind, &query.clone().with("lastEventId", &cursors[2])).await;
    assert_eq!(link.item().await.cursor.as_deref(), Some(cursors[expected].as_str()));
    assert_eq!(link.telling().await.value(), json!(expected + 1));
    // An empty value is the same as an absent one.
    for query in [query.clone().header("Last-Event-ID", ""), query.with("lastEventId", "")] {
        let mut link = Link::to(server.address(), kind, &query).await;
        assert_eq!(link.item().await.cursor.as_deref(), Some(cursors[0].as_str()));
    }
}

/// After any end of the connection, the last seen cursor is the position to resume at.
async fn the_rest_after_a_cut(kind: Kind) {
    let server = shared();
    let topic = topic("cut");
    let cursors = publish_all(&server, &topic, numbers(0..30)).await;
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic).with("limit", 7), &cursors[0]);
    for n in 1..30 {
        assert_eq!(subscriber.event().await.value(), n);
        if n % 4 == 0 {
            subscriber.cut();
        }
    }
}

async fn one_token_and_the_rest(kind: Kind) {
    let server = shared();
    let root = topic("tree");
    let start = end_of_log(&server).await;
    for branch in ["", ".a", ".a.b", ".a.b.c", ".é.b", ".x.y"] {
        publish(&server, &format!("{root}{branch}"), branch).await;
    }
    for (pattern, expected) in [
        ("", &[""][..]),
        (".*", &[".a"]),
        (".>", &[".a", ".a.b", ".a.b.c", ".é.b", ".x.y"]),
        (".*.b", &[".a.b", ".é.b"]),
        (".a.*", &[".a.b"]),
        (".a.>", &[".a.b", ".a.b.c"]),
        (".*.*.*", &[".a.b.c"]),
        (".*.>", &[".a.b", ".a.b.c", ".é.b", ".x.y"]),
        (".é.b", &[".é.b"]),
    ] {
        let query = Query::topic(&format!("{root}{pattern}"));
        let mut subscriber = Subscriber::at(server.address(), kind, query.clone(), &start);
        assert_eq!(subscriber.values(expected.len()).await, expected, "{pattern}");
        if !kind.streams() {
            let end = subscriber.cursor.clone().expect("a cursor");
            let more = Link::to(server.address(), kind, &query.with("wait", 0).with("cursor", end)).await.batch().await;
            assert!(more.events.is_empty(), "{pattern}: {more:?}");
        }
    }
    // No event before the last one is delivered afterwards.
    let mut everything = Subscriber::at(server.address(), kind, Query::topic(&format!("{root}.a.b")), &start);
    publish(&server, &format!("{root}.a"), "no").await;
    publish(&server, &format!("{root}.a.b"), "yes").await;
    assert_eq!(everything.values(2).await, [".a.b", "yes"]);
}

async fn overlapping_patterns_deliver_once(kind: Kind) {
    let server = shared();
    let root = topic("overlap");
    let patterns = [">", "*", "a", "a", "*"].map(|last| format!("{root}.{last}"));
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topics(&patterns)).await;
    for n in 0..5 {
        publish(&server, &format!("{root}.a"), n).await;
    }
    assert_eq!(subscriber.values(5).await, numbers(0..5));
    // The same for history, and with `>` alone.
    let start = moved(subscriber.cursor.as_deref().expect("a cursor"), 0);
    let mut again = Subscriber::at(server.address(), kind, Query::topics(&patterns), &start);
    assert_eq!(again.values(5).await, numbers(0..5));
}

async fn many_patterns(kind: Kind) {
    let server = shared();
    let root = topic("many");
    let patterns: Vec<String> = (0..64).map(|n| format!("{root}.{n}")).collect();
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topics(&patterns)).await;
    for n in [63, 0, 31] {
        publish(&server, &patterns[n], n).await;
    }
    assert_eq!(subscriber.values(3).await, [63, 0, 31]);
}

async fn items_equal_the_published_events(kind: Kind) {
    let server = shared();
    let topic = topic("item");
    let start = end_of_log(&server).await;
    let published = json!([
        { "topic": topic, "data": { "by": "li" } },
        { "topic": topic, "event": "approved", "data": null, "id": "k1" },
        { "topic": topic, "event": "error", "data": "AAEC/w==", "encoding": "base64" },
        { "topic": topic, "event": "message", "data": [] },
        { "topic": topic, "event": "open: 1", "data": 1 },
    ]);
    let answer = post_events(&server, &published).await;
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic), &start);
    for (index, event) in published.as_array().expect("an array").iter().enumerate() {
        let item = subscriber.event().await;
        assert_eq!(item.cursor.as_deref(), answer["events"][index]["cursor"].as_str());
        assert_eq!(item.topic.as_deref(), Some(topic.as_str()));
        assert_eq!(item.event, event["event"].as_str().unwrap_or("message"));
        assert_eq!(item.value(), event["data"]);
        assert_eq!(item.id.as_deref(), event["id"].as_str());
        assert_eq!(item.encoding.as_deref(), event["encoding"].as_str());
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64;
        let time = item.time.expect("a time");
        assert!(time <= now && time > now - 600_000, "milliseconds since the epoch: {time}");
    }
}

/// Payloads that would break a framing if they were written unescaped.
const HOSTILE: [&str; 24] = [
    r#""</script><script>alert(1)</script>""#,
    r#""<!--<script>""#,
    r#""]]>""#,
    "\"\u{2028}\u{2029}\u{85}\"",
    r#""\u2028\u2029""#,
    r#""\r\ndata: x\r\rid: 1\n\n""#,
    r#""\u0000\u0001\u001f\u007f""#,
    r#""😀 \ud83d\ude00 é 漢字 ﷽ \u200f""#,
    "\"\u{feff}bom\"",
    r#""\\\"\/\b\f\n\r\t""#,
    "{\r\n \"a\" :\r\n\t[ 1 ,\n2 ]\r}",
    r#"{"__proto__":1,"constructor":{"prototype":2}}"#,
    r#"{"__proto__":1,"__proto__":[2]}"#,
    r#""a \"__proto__\" in a text""#,
    r#"{"b":1,"a":2,"b":3,"":4}"#,
    "123456789012345678901234567890.123456789012345678901234567890",
    "-0.0",
    "1e999",
    "1E+2",
    r#"["a","b"]"#,
    "true",
    r#""""#,
    r#""p(1)</script>\n""#,
    r#""*/ ); //""#,
];

async fn hostile_payloads(kind: Kind) {
    let server = shared();
    let topic = topic("hostile");
    let start = end_of_log(&server).await;
    let long = format!("\"{}\"", "漢<\u{2028}".repeat(10_000));
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    let wide = format!("\"{}\"", "x".repeat(70 << 10));
    let payloads: Vec<&str> = HOSTILE.iter().copied().chain([long.as_str(), &deep, &wide]).collect();
    for payload in &payloads {
        let body = format!(r#"{{"topic":"{topic}","event":"</script>\u2028","data":{payload}}}"#);
        Request::post("/v1/events", "application/json", body).send(server.address()).await.created().await;
    }
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic), &start);
    for payload in payloads {
        let item = subscriber.event().await;
        assert_eq!(item.event, "</script>\u{2028}");
        let data = item.data.expect("data");
        assert_eq!(plain(&data), plain(payload), "the data is unchanged, except for equivalent escapes");
    }
}

/// Normalised JSON: without line ends between tokens, and with `<`, U+0085, U+2028 and U+2029 in strings in one form.
fn plain(json: &str) -> String {
    let mut out = json
        .replace("\\u003c", "<")
        .replace("\\u0085", "\u{85}")
        .replace("\\u2028", "\u{2028}")
        .replace("\\u2029", "\u{2029}");
    out.retain(|c| !matches!(c, '\r' | '\n'));
    out
}

/// More events than a single write, batch or store read holds are delivered in order, once.
async fn far_behind(kind: Kind) {
    let server = Server::start(&["--tail-events", "50", "--workers", "2"]);
    let start = end_of_log(&server).await;
    let filler = "x".repeat(600);
    let mut expected = Vec::new();
    for block in 0..4 {
        let events: Vec<Value> = (0..250)
            .map(|n| {
                let n = block * 250 + n;
                let topic = if n % 3 == 0 { "far.a" } else { "far.b" };
                json!({ "topic": topic, "data": { "n": n, "filler": filler } })
            })
            .collect();
        expected
            .extend(events.iter().filter(|event| event["topic"] == "far.a").map(|event| event["data"]["n"].clone()));
        post_events(&server, &json!(events)).await;
    }
    let mut some = Subscriber::at(server.address(), kind, Query::topic("far.a"), &start);
    for n in &expected {
        assert_eq!(&some.event().await.value()["n"], n);
    }
    let mut last = Subscriber::new(server.address(), kind, Query::topic("far.a").with("last", 2));
    let values: Vec<Value> = last.values(2).await.iter().map(|value| value["n"].clone()).collect();
    assert_eq!(values, expected[expected.len() - 2..], "the events are read from the store");
}

async fn unknown_parameters_are_ignored(kind: Kind) {
    let server = shared();
    let topic = topic("buster");
    let query = Query::topic(&topic).with("_", 1_763_750_000).with("utm", "a&b=c").with("_", 2).with("", "");
    let mut subscriber = Subscriber::start(server.address(), kind, query).await;
    publish(&server, &topic, 1).await;
    assert_eq!(subscriber.values(1).await, [1]);
}

/// Heartbeats advance the cursor of an idle stream, so that a reconnect need not scan the same events again.
async fn heartbeats_move_the_cursor(kind: Kind) {
    let server = Server::start(&["--heartbeat", "100ms", "--workers", "1", "--store", "memory"]);
    let mut link = Link::to(server.address(), kind, &Query::topic("quiet")).await;
    let hello = link.item().await;
    assert_eq!(hello.value()["heartbeat"], 100);
    let first = link.item().await;
    assert_eq!(
        (first.event.as_str(), first.at()),
        ("$beat", hello.at()),
        "the first heartbeat has the cursor of `$hello`"
    );
    let last = publish_all(&server, "loud", numbers(0..10)).await.pop().expect("a cursor");
    let beat = loop {
        let beat = link.item().await;
        assert_eq!(beat.event, "$beat", "no event matched");
        if beat.at() > hello.at() {
            break beat;
        }
    };
    assert_eq!(beat.cursor, Some(last));
    publish(&server, "quiet", 1).await;
    assert_eq!(link.telling().await.value(), 1);
    // A heartbeat's cursor is valid to start from.
    let mut again =
        Subscriber::at(server.address(), kind, Query::topics(["quiet", "loud"]), &beat.cursor.expect("one"));
    assert_eq!(again.event().await.topic.as_deref(), Some("quiet"));
}

async fn streams_have_an_age(kind: Kind) {
    let server = Server::start(&["--max-stream-age", "300ms", "--workers", "1", "--store", "memory"]);
    let mut link = Link::to(server.address(), kind, &Query::topic("aged")).await;
    let hello = link.item().await;
    let cursor = publish(&server, "aged", 1).await;
    assert_eq!(link.telling().await.value(), 1);
    let bye = link.telling().await;
    assert_eq!((bye.event.as_str(), &bye.value()["reason"]), ("$bye", &json!("recycle")));
    assert!(bye.value()["retry"].is_u64(), "{bye:?}");
    assert_eq!(bye.cursor, Some(cursor));
    let end = link.end().await;
    assert_eq!(end, (kind == Kind::Ws).then(|| (1001, "recycle".to_owned())), "1001 means reconnect");
    assert!(hello.at() < bye.at());
}

/// Graceful shutdown: every open connection gets a `$bye` with a cursor and a retry delay; then the server exits with success.
async fn is_notified_of_a_stop(kind: Kind) {
    let mut server = Server::start(&["--workers", "1", "--drain", "500ms"]);
    let cursor = publish(&server, "stop", 1).await;
    let client = uuid();
    let query = Query::topic("stop").with("cursor", &cursor).with("client", &client).with("wait", 60);
    let address = server.address().to_owned();
    let open = tokio::spawn(async move {
        let mut link = Link::to(&address, kind, &query).await;
        if !kind.streams() {
            let mut batch = link.batch().await;
            assert_eq!(batch.events.len(), 1, "{batch:?}");
            return (batch.events.remove(0), batch.cursor);
        }
        assert_eq!(link.item().await.event, "$hello");
        let bye = link.telling().await;
        assert_eq!(link.end().await, (kind == Kind::Ws).then(|| (1001, "shutdown".to_owned())), "1001 means reconnect");
        let cursor = bye.cursor.clone();
        (bye, cursor)
    });
    until("the subscriber is connected", || async {
        let state = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
        state["transports"] == json!([kind.transport()])
    })
    .await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let (bye, end) = open.await.expect("the stream gets its end");
    assert_eq!((bye.event.as_str(), &bye.value()["reason"]), ("$bye", &json!("shutdown")));
    assert!(bye.value()["retry"].is_u64(), "{bye:?}");
    assert_eq!(
        (bye.cursor.as_ref(), end.as_ref()),
        (Some(&cursor), Some(&cursor)),
        "the end has the cursor to resume at"
    );
    assert!(server.wait().success());
}

/// A batch that is cut by the limit ends with its last event; the batch's cursor is the one to present next.
async fn limits_and_cursors(kind: Kind) {
    let server = shared();
    let (topic, other) = (topic("limit"), topic("limitother"));
    let start = end_of_log(&server).await;
    for n in 0..5 {
        publish(&server, &topic, n).await;
        publish(&server, &other, n).await;
    }
    let mut cursor = start;
    for (limit, expected) in [(2, numbers(0..2)), (1, numbers(2..3)), (1000, numbers(3..5))] {
        let query = Query::topic(&topic).with("limit", limit).with("cursor", &cursor);
        let batch = Link::to(server.address(), kind, &query).await.batch().await;
        let values: Vec<Value> = batch.events.iter().map(|item| item.value()).collect();
        assert_eq!(values, expected);
        assert_eq!(batch.more, values.len() == limit, "`more` is set exactly where the limit cut the batch");
        let end = batch.cursor.expect("a cursor");
        if values.len() == limit {
            assert_eq!(Some(&end), batch.events.last().and_then(|item| item.cursor.as_ref()), "cut at its last event");
        }
        cursor = end;
    }
    // The default limit is 256.
    publish_all(&server, &topic, numbers(0..300)).await;
    let batch = Link::to(server.address(), kind, &Query::topic(&topic).with("cursor", cursor)).await.batch().await;
    assert_eq!((batch.events.len(), batch.more), (256, true));
}

/// A batch's cursor skips events that did not match, and never an event that did.
async fn a_batch_has_its_end_cursor(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let start = end_of_log(&server).await;
    publish(&server, "mine", 1).await;
    let end = publish_all(&server, "theirs", numbers(0..10)).await.pop().expect("a cursor");
    let query = Query::topic("mine").with("cursor", &start).with("wait", 0);
    let batch = Link::to(server.address(), kind, &query).await.batch().await;
    assert_eq!((batch.events.len(), batch.cursor), (1, Some(end.clone())));
    let query = Query::topic("mine").with("cursor", &end).with("wait", 0);
    let batch = Link::to(server.address(), kind, &query).await.batch().await;
    assert_eq!((batch.events.len(), batch.cursor), (0, Some(end.clone())));
    let query = Query::topic("mine").with("cursor", "now").with("wait", 0);
    let batch = Link::to(server.address(), kind, &query).await.batch().await;
    assert_eq!((batch.events.len(), batch.cursor), (0, Some(end)));
}

async fn held_until_something_comes(kind: Kind) {
    let server = shared();
    let (topic, other) = (topic("held"), topic("heldother"));
    let client = uuid();
    let start = end_of_log(&server).await;
    let query = Query::topic(&topic).with("cursor", start).with("wait", 60).with("client", &client);
    let mut subscriber = Box::pin(Link::to(server.address(), kind, &query));
    // The request is held: the server lists the client, and has not responded.
    let held = || async {
        let state = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
        state["transports"] == json!([kind.transport()])
    };
    tokio::select! {
        _ = &mut subscriber => panic!("the long poll completed before there was an event"),
        () = until("the request is held", held) => {}
    }
    publish(&server, &other, "not for it").await;
    let cursor = publish(&server, &topic, "first").await;
    let batch = subscriber.await.batch().await;
    assert_eq!(batch.events.len(), 1);
    assert_eq!((batch.events[0].value(), batch.events[0].cursor.as_ref()), (json!("first"), Some(&cursor)));
}

async fn held_until_the_time_is_up(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    publish(&server, "other", 1).await;
    let start = end_of_log(&server).await;
    for wait in [0, 1] {
        let query = Query::topic("held").with("cursor", &start).with("wait", wait);
        let batch = Link::to(server.address(), kind, &query).await.batch().await;
        assert_eq!((batch.events.len(), batch.cursor.as_ref()), (0, Some(&start)), "the batch is empty, with a cursor");
    }
    // Events that did not match advance the cursor of an empty batch, too.
    let query = Query::topic("held").with("cursor", moved(&start, 0)).with("wait", 1);
    let batch = Link::to(server.address(), kind, &query).await.batch().await;
    assert_eq!((batch.events.len(), batch.cursor), (0, Some(start)));
}

/// Without `wait` a long poll is held, too: it completes with the next event.
async fn held_by_default(kind: Kind) {
    let server = shared();
    let topic = topic("default");
    let start = end_of_log(&server).await;
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topic(&topic), &start);
    let (values, _) = tokio::join!(subscriber.values(1), publish(&server, &topic, 1));
    assert_eq!(values, [1]);
    assert_eq!(epoch(&start), epoch(subscriber.cursor.as_deref().expect("a cursor")));
}
