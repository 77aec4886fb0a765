//! Named (durable) clients: a client that reconnects with only its name, over any transport, resumes at its acknowledged cursor.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, over, publish, publish_all, shared, topic, uuid};
use crate::support::http::Request;
use crate::support::until;
use crate::support::wire::{moved, position};

over!(every:
    resumes_by_name_alone,
    resumes_on_another_transport,
    a_presented_cursor_is_acknowledged,
    the_first_place_is_remembered,
    acknowledged_over_http,
    no_record_is_kept_of_an_unknown_client,
    remembered_after_a_restart,
    resumes_at_its_last_cursor_of_another_log,
    an_unknown_client_gets_known_false,
    an_older_attempt_ends_nothing,
);
over!(in the_newer_connection_wins: longpoll Longpoll, jsonp Jsonp, iframe Iframe, iframe_once IframeOnce, sse Sse,
      stream Stream, ws Ws);

fn by_name(client: &str) -> Query {
    Query::default().with("client", client)
}

async fn ack(server: &Server, client: &str, cursor: &str) -> crate::support::http::Response {
    let body = json!({ "client": client, "cursor": cursor }).to_string();
    Request::post("/v1/ack", "application/json", body).send(server.address()).await
}

async fn state(server: &Server, client: &str) -> Value {
    let mut answer = Request::get(format!("/v1/clients/{client}")).send(server.address()).await;
    answer.json().await
}

/// Waits until the server has noticed that a client's connections are gone.
async fn gone(server: &Server, client: &str) {
    until("the client's connections are closed", || async { state(server, client).await["transports"] == json!([]) })
        .await;
}

async fn resumes_by_name_alone(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("name"), uuid());
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topic(&topic).with("client", &client)).await;
    let cursors = publish_all(&server, &topic, numbers(0..3)).await;
    assert_eq!(subscriber.values(2).await, numbers(0..2));
    subscriber.cut();
    gone(&server, &client).await;
    // Without a cursor and without patterns: the client resumes at its acknowledged cursor, the last one it presented, if any.
    let acknowledged = state(&server, &client).await["acknowledged"].as_str().map(position).expect("a cursor");
    assert!(acknowledged <= position(&cursors[1]), "an event that did not arrive is not acknowledged");
    if kind.streams() {
        assert!(acknowledged < position(&cursors[0]), "no cursor was presented");
    }
    let left = cursors.iter().zip(numbers(0..3)).filter(|(cursor, _)| position(cursor) > acknowledged);
    let left: Vec<Value> = left.map(|(_, value)| value).collect();
    let mut again = Subscriber::new(server.address(), kind, by_name(&client));
    assert_eq!(again.values(left.len()).await, left, "events are redelivered (at least once)");
    // A client name is case-insensitive.
    let mut upper = Subscriber::new(server.address(), kind, by_name(&client.to_uppercase()));
    publish(&server, &topic, 3).await;
    loop {
        if upper.event().await.value() == 3 {
            break;
        }
    }
}

async fn resumes_on_another_transport(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("hop"), uuid());
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topic(&topic).with("client", &client)).await;
    publish(&server, &topic, 0).await;
    assert_eq!(subscriber.values(1).await, [0]);
    let cursor = subscriber.cursor.clone().expect("a cursor");
    assert_eq!(ack(&server, &client, &cursor).await.status, 200);
    subscriber.cut();
    publish(&server, &topic, 1).await;
    for other in Kind::ALL {
        let mut other = Subscriber::new(server.address(), other, by_name(&client));
        assert_eq!(other.values(1).await, [1], "the client resumes with its patterns, after its acknowledged cursor");
    }
}

async fn a_presented_cursor_is_acknowledged(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("presented"), uuid());
    let start = end_of_log(&server).await;
    let cursors = publish_all(&server, &topic, numbers(0..6)).await;
    let query = |cursor: &str| Query::topic(&topic).with("client", &client).with("cursor", cursor);
    Link::to(server.address(), kind, &query(&start)).await;
    Link::to(server.address(), kind, &query(&cursors[3])).await;
    // An acknowledged cursor only moves forward.
    Link::to(server.address(), kind, &query(&cursors[1])).await;
    assert_eq!(state(&server, &client).await["acknowledged"], cursors[3]);
    let mut again = Subscriber::new(server.address(), kind, by_name(&client));
    assert_eq!(again.values(2).await, numbers(4..6));
}

/// The very first response is lost: with only its name the client resumes at the same cursor, even after `kill -9`.
async fn the_first_place_is_remembered(kind: Kind) {
    let server = Server::start_at("127.0.0.2:0", &["--workers", "1"]);
    let client = uuid();
    publish(&server, "first.a", "before").await;
    let query = Query::topics(["first.*", "other"]).with("client", &client);
    if kind.holds() {
        // A held request without a byte of response.
        let mut held = Box::pin(Link::to(server.address(), kind, &query));
        let known = || async { state(&server, &client).await["transports"] == json!([kind.transport()]) };
        tokio::select! {
            _ = &mut held => panic!("the long poll completed before there was an event"),
            () = until("the request is held", known) => {}
        }
    } else {
        drop(Link::to(server.address(), kind, &query).await);
    }
    let server = server.kill_and_restart();
    publish(&server, "first.a", 1).await;
    publish(&server, "other", 2).await;
    let mut again = Subscriber::new(server.address(), kind, by_name(&client));
    assert_eq!(again.values(2).await, [1, 2]);
}

async fn acknowledged_over_http(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("ack"), uuid());
    let start = end_of_log(&server).await;
    let cursors = publish_all(&server, &topic, numbers(0..4)).await;
    drop(Subscriber::at(server.address(), kind, Query::topic(&topic).with("client", &client), &start).event().await);
    let mut answer = ack(&server, &client, &cursors[1]).await;
    assert_eq!((answer.status, answer.json().await), (200, json!({ "client": client, "cursor": cursors[1] })));
    // As `sendBeacon` sends it; the cursor does not move backwards.
    let body = json!({ "client": client, "cursor": cursors[0] }).to_string();
    let mut answer = Request::post("/v1/ack", "text/plain;charset=UTF-8", body).send(server.address()).await;
    assert_eq!((answer.status, &answer.json().await["cursor"]), (200, &json!(cursors[1])));
    let mut again = Subscriber::new(server.address(), kind, by_name(&client));
    assert_eq!(again.values(2).await, numbers(2..4));
    // A client cannot acknowledge events that were not sent to it, nor positions beyond the log.
    again.cut();
    gone(&server, &client).await;
    let unheard = publish(&server, "unheard.of", 0).await;
    assert_eq!(ack(&server, &client, &unheard).await.error().await, (400, "bad_cursor".to_owned()));
    let beyond = moved(&start, position(&end_of_log(&server).await) + 1_000_000);
    assert_eq!(ack(&server, &client, &beyond).await.error().await, (400, "bad_cursor".to_owned()));
    // A cursor of another log: no error, and no effect.
    assert_eq!(ack(&server, &client, "another-5").await.status, 200);
    let acknowledged = state(&server, &client).await["acknowledged"].as_str().map(position);
    assert!(acknowledged.is_some_and(|at| at >= position(&cursors[1])), "{acknowledged:?}");
}

#[tokio::test]
async fn an_unknown_client_cannot_acknowledge() {
    let server = shared();
    let client = uuid();
    let end = end_of_log(&server).await;
    for _ in 0..2 {
        assert_eq!(ack(&server, &client, &end).await.error().await, (404, "unknown_client".to_owned()));
    }
    assert_eq!(state(&server, &client).await["error"]["code"], "unknown_client", "the client is not remembered");
}

async fn no_record_is_kept_of_an_unknown_client(kind: Kind) {
    let server = shared();
    let client = uuid();
    let query = by_name(&client);
    match kind {
        // The client can send its patterns later.
        Kind::Ws => assert_eq!(Link::to(server.address(), kind, &query).await.item().await.event, "$hello"),
        Kind::Jsonp | Kind::JsonpPoll => {
            let batch = Link::to(server.address(), kind, &query).await.batch().await;
            assert_eq!(batch.events[0].value()["error"]["code"], "no_topic");
        }
        _ => assert_eq!(query.request(kind).send(server.address()).await.status, 400),
    }
    // The client may start at any position, as others may.
    let topic = topic("stranger");
    publish_all(&server, &topic, numbers(0..3)).await;
    let query = Query::topic(&topic).with("client", uuid()).with("last", 2);
    assert_eq!(Subscriber::new(server.address(), kind, query).values(2).await, numbers(1..3));
}

async fn remembered_after_a_restart(kind: Kind) {
    let mut server = Server::start_at("127.0.0.2:0", &["--workers", "1", "--drain", "0s"]);
    let client = uuid();
    let start = end_of_log(&server).await;
    let cursors = publish_all(&server, "kept.a", numbers(0..6)).await;
    let query = Query::topic("kept.>").with("client", &client);
    assert_eq!(Subscriber::at(server.address(), kind, query, &start).values(2).await, numbers(0..2));
    for (stop, at) in [(true, 1), (false, 3)] {
        assert_eq!(
            ack(&server, &client, &cursors[at]).await.status,
            200,
            "the response is sent once the client is remembered"
        );
        server = if stop { server.stop_and_restart() } else { server.kill_and_restart() };
        let state = state(&server, &client).await;
        assert_eq!((&state["acknowledged"], &state["patterns"]), (&json!(cursors[at]), &json!(["kept.>"])));
        let mut again = Subscriber::new(server.address(), kind, by_name(&client));
        assert_eq!(again.values(5 - at).await, numbers(at as u32 + 1..6));
    }
}

/// A remembered client's cursor is of a lost log: a gap, then all events of the new log.
async fn resumes_at_its_last_cursor_of_another_log(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("oldlog"), uuid());
    let query = Query::topic(&topic).with("client", &client).with("cursor", "another-7").with("wait", 0);
    drop(Link::to(server.address(), kind, &query).await);
    publish(&server, &topic, 1).await;
    let mut subscriber = Subscriber::new(server.address(), kind, Query::topic(&topic).with("client", &client));
    let gap = subscriber.item().await;
    assert_eq!((gap.event.as_str(), &gap.value()["reason"]), ("$gap", &json!("epoch")));
    assert_eq!(subscriber.values(1).await, [1]);
}

async fn the_newer_connection_wins(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("replaced"), uuid());
    let start = end_of_log(&server).await;
    let query = Query::topic(&topic).with("client", &client).with("cursor", &start);
    let older = tokio::spawn({
        let (address, query) = (server.address().to_owned(), query.clone());
        async move {
            let mut link = Link::to(&address, kind, &query).await;
            if kind.streams() {
                assert_eq!(link.item().await.event, "$hello");
                let bye = link.telling().await;
                let end = link.end().await;
                assert_eq!(end, (kind == Kind::Ws).then(|| (1008, "replaced".to_owned())));
                bye
            } else {
                let mut batch = link.batch().await;
                assert_eq!(batch.events.len(), 1, "{batch:?}");
                assert!(position(batch.cursor.as_deref().expect("a cursor")) >= position(&start));
                batch.events.remove(0)
            }
        }
    });
    let connected = || async { state(&server, &client).await["transports"] == json!([kind.transport()]) };
    until("the older connection is open", connected).await;
    // A connection on another transport does not replace the older one: switching overlaps.
    let other = if kind == Kind::Sse { Kind::Stream } else { Kind::Sse };
    let mut beside = Link::to(server.address(), other, &query).await;
    assert_eq!(beside.item().await.event, "$hello");
    let query = query.with("wait", 60);
    let mut newer = Subscriber::new(server.address(), kind, query);
    let (bye, event) = tokio::join!(
        async {
            let bye = older.await;
            // A different client does not replace the connection.
            drop(Link::to(server.address(), Kind::Poll, &Query::topic(&topic).with("client", uuid())).await);
            publish(&server, &topic, "for the newer").await;
            bye
        },
        newer.event()
    );
    let bye = bye.expect("the older connection ends");
    assert_eq!(
        (bye.event.as_str(), bye.value()),
        ("$bye", json!({ "reason": "replaced" })),
        "`$bye` has no retry delay"
    );
    assert_eq!(event.value(), "for the newer");
    assert_eq!(beside.telling().await.value(), "for the newer", "the connection on another transport is not replaced");
}

/// The `known` field that a connection receives.
async fn is_known(server: &Server, kind: Kind, query: &Query) -> bool {
    let mut link = Link::to(server.address(), kind, query).await;
    if kind.streams() { link.item().await.value().get("known").is_none() } else { link.batch().await.known }
}

async fn an_unknown_client_gets_known_false(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("known"), uuid());
    let unnamed = Query::topic(&topic).with("wait", 0);
    let query = unnamed.clone().with("client", &client);
    assert!(!is_known(&server, kind, &query).await, "the client connects for the first time");
    assert!(is_known(&server, kind, &query).await);
    assert!(is_known(&server, kind, &unnamed).await, "the client has no name");
    // A forgotten client must learn that it starts now, and not at its old cursor.
    assert_eq!(Request::new("DELETE", format!("/v1/clients/{client}")).send(server.address()).await.status, 200);
    let end = end_of_log(&server).await;
    if kind == Kind::Poll {
        let tagged = query.clone().with("cursor", &end).header("If-None-Match", format!("\"{end}\""));
        assert!(!is_known(&server, kind, &tagged).await, "a 304 could not have the `known` field");
    } else {
        assert!(!is_known(&server, kind, &query.with("cursor", &end)).await);
    }
}

/// A request that its client has cancelled reaches the server after the newer one.
async fn an_older_attempt_ends_nothing(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("attempt"), uuid());
    let start = end_of_log(&server).await;
    let query = Query::topic(&topic).with("client", &client).with("cursor", &start);
    let late = query.clone().set("topic", "given.up").with("attempt", 6).with("wait", 0);
    let mut newer = Subscriber::new(server.address(), kind, query.with("attempt", 7).with("wait", 60));
    if kind.holds() || kind.streams() {
        let held = async {
            until("the newer request is held", || async { state(&server, &client).await["transports"] != json!([]) })
                .await;
            for other in Kind::ALL {
                let bye = is_dismissed(&server, other, &late).await;
                assert_eq!(
                    bye,
                    json!({ "reason": "replaced" }),
                    "{other}: the late request is replaced, without a retry delay"
                );
            }
            publish(&server, &topic, "for the newer").await;
        };
        assert_eq!(tokio::join!(held, newer.event()).1.value(), "for the newer");
    } else {
        publish(&server, &topic, "for the newer").await;
        assert_eq!(newer.event().await.value(), "for the newer");
        assert_eq!(is_dismissed(&server, kind, &late).await, json!({ "reason": "replaced" }));
    }
    assert_eq!(
        state(&server, &client).await["patterns"],
        json!([topic]),
        "the patterns of the cancelled request are dropped"
    );
}

/// The `$bye` of a connection that ends as soon as it has begun.
async fn is_dismissed(server: &Server, kind: Kind, query: &Query) -> Value {
    let mut link = Link::to(server.address(), kind, query).await;
    let bye = if kind.streams() {
        assert_eq!(link.item().await.event, "$hello");
        link.telling().await
    } else {
        link.batch().await.events.pop().expect("an item")
    };
    assert_eq!(bye.event, "$bye");
    bye.value()
}
