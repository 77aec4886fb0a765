//! Ownership of clients by token subjects, and the administrator's disconnect, ban and revocation, on every transport.

use serde_json::{Value, json};

use super::keyed::{Keyed, bearer, now_s};
use crate::support::Server;
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::{over, uuid};
use crate::support::http::Request;
use crate::support::until;
use crate::support::wire::Item;

over!(every: belongs_to_its_first_subject, a_banned_client_does_not_come);
over!(in ends_within_a_second: longpoll Longpoll, jsonp Jsonp, iframe Iframe, iframe_once IframeOnce, sse Sse,
      stream Stream, ws Ws);
over!(in a_revoked_token_ends: longpoll Longpoll, jsonp Jsonp, iframe Iframe, iframe_once IframeOnce, sse Sse,
      stream Stream, ws Ws);
over!(every: a_revoked_token_does_not_come);

fn of(keyed: &Keyed, more: Value, query: Query) -> Query {
    let mut claims = json!({ "subscribe": ["a"] });
    for (name, value) in more.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    query.header("Authorization", bearer(&keyed.token(claims)))
}

async fn belongs_to_its_first_subject(kind: Kind) {
    let keyed = Keyed::start(&["--public-subscribe", "a"]);
    let client = uuid();
    let named = || Query::topic("a").with("client", &client);
    // A token without a subject does not claim the client.
    keyed.serves(kind, &named(), "a client without an owner").await;
    keyed.serves(kind, &of(&keyed, json!({ "sub": "li" }), named()), "li's from now on").await;
    keyed.serves(kind, &of(&keyed, json!({ "sub": "li" }), named()), "li's").await;
    keyed.refuses(kind, &of(&keyed, json!({ "sub": "wu" }), named()), 403, "another's").await;
    keyed.refuses(kind, &of(&keyed, json!({}), named()), 403, "a token without a subject").await;
    keyed.refuses(kind, &named(), 403, "a stranger's").await;
    keyed
        .refuses(kind, &of(&keyed, json!({ "sub": "wu", "admin": true }), named()), 403, "an administrator is not li")
        .await;
    // Another subject can neither query the client nor acknowledge for it: the response is the same as for an unknown client.
    let by = async |more: Value, request: Request| {
        request.header("Authorization", bearer(&keyed.token(more))).send(keyed.address()).await
    };
    let look = || Request::get(format!("/v1/clients/{client}"));
    let absent = by(json!({ "sub": "wu" }), Request::get(format!("/v1/clients/{}", uuid()))).await.text().await;
    assert_eq!(by(json!({ "sub": "wu" }), look()).await.text().await, absent);
    assert_eq!(by(json!({ "sub": "wu" }), look()).await.status, 404);
    assert_eq!(by(json!({ "sub": "li" }), look()).await.status, 200);
    assert_eq!(by(json!({ "admin": true }), look()).await.status, 200);
    let cursor = keyed.end().await;
    let ack = || Request::post("/v1/ack", "", json!({ "client": client, "cursor": cursor }).to_string());
    assert_eq!(by(json!({ "sub": "wu" }), ack()).await.error().await, (403, "forbidden".into()));
    assert_eq!(ack().send(keyed.address()).await.error().await, (403, "forbidden".into()));
    assert_eq!(by(json!({ "sub": "li" }), ack()).await.status, 200);
    // The client is still li's after a restart.
    let keyed = keyed.restarted(Server::stop_and_restart);
    keyed.refuses(kind, &of(&keyed, json!({ "sub": "wu" }), named()), 403, "another's, still").await;
    keyed.serves(kind, &of(&keyed, json!({ "sub": "li" }), named()), "li's, still").await;
}

/// The last item of a connection, and how the connection ends.
async fn last_word(kind: Kind, link: &mut Link) -> Item {
    let bye = if kind.streams() {
        let bye = link.telling().await;
        let end = link.end().await;
        assert_eq!(end, (kind == Kind::Ws).then(|| (1008, "kicked".to_owned())));
        bye
    } else {
        let mut batch = link.batch().await;
        assert_eq!(batch.events.len(), 1, "{batch:?}");
        batch.events.remove(0)
    };
    assert_eq!((bye.event.as_str(), bye.value()), ("$bye", json!({ "reason": "kicked" })));
    bye
}

async fn connected(keyed: &Keyed, count: usize) {
    until("a client is connected", || async {
        let listed = keyed.administer(Request::get("/v1/clients")).await.json().await;
        listed["clients"].as_array().is_some_and(|clients| clients.len() == count)
    })
    .await;
}

/// An open stream or a held request.
async fn open(keyed: &Keyed, kind: Kind, query: Query) -> tokio::task::JoinHandle<Item> {
    let address = keyed.address().to_owned();
    tokio::spawn(async move {
        let mut link = Link::to(&address, kind, &query.with("wait", 60)).await;
        if kind.streams() {
            assert_eq!(link.item().await.event, "$hello");
        }
        last_word(kind, &mut link).await
    })
}

async fn ends_within_a_second(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let client = uuid();
    let end = |ban: &str| Request::new("DELETE", format!("/v1/clients/{client}{ban}"));
    let named = || of(&keyed, json!({ "sub": "li" }), Query::topic("a").with("client", &client));
    // For administrators only, also for the client's own subject.
    let token = bearer(&keyed.token(json!({ "sub": "li" })));
    let mut response = end("").header("Authorization", token).send(keyed.address()).await;
    assert_eq!(response.error().await, (403, "forbidden".into()));
    assert_eq!(end("").send(keyed.address()).await.error().await, (401, "unauthorized".into()));
    assert_eq!(keyed.administer(end("")).await.error().await, (404, "unknown_client".into()));
    let notified = open(&keyed, kind, named()).await;
    connected(&keyed, 1).await;
    let mut response = keyed.administer(end("")).await;
    assert_eq!((response.status, response.json().await), (200, json!({ "client": client })));
    notified.await.expect("the connection was notified");
    // The client is forgotten, with its owner, and may reconnect.
    connected(&keyed, 0).await;
    assert_eq!(keyed.administer(Request::get(format!("/v1/clients/{client}"))).await.status, 404);
    let anew = of(&keyed, json!({ "sub": "wu" }), Query::topic("a").with("client", &client));
    keyed.serves(kind, &anew, "the client has no owner now").await;
    // With a ban the client may not reconnect.
    connected(&keyed, 0).await;
    let notified = open(&keyed, kind, anew.clone()).await;
    connected(&keyed, 1).await;
    let answer = keyed.administer(end("?ban=600")).await.json().await;
    assert_eq!(answer, json!({ "client": client, "ban": 600 }));
    notified.await.expect("the connection was notified");
    keyed.refuses(kind, &anew, 403, "banned").await;
    for wrong in ["?ban=0", "?ban=-1", "?ban=x", "?ban=99999999999"] {
        assert_eq!(keyed.administer(end(wrong)).await.status, 400, "{wrong}");
    }
}

async fn a_banned_client_does_not_come(kind: Kind) {
    let keyed = Keyed::start(&["--public-subscribe", "a"]);
    let client = uuid();
    let named = Query::topic("a").with("client", &client);
    // A ban before the client's first connection.
    let request = Request::new("DELETE", format!("/v1/clients/{client}?ban=600"));
    assert_eq!(keyed.administer(request).await.status, 200);
    keyed.refuses(kind, &named, 403, "banned").await;
    let ack = json!({ "client": client, "cursor": keyed.end().await }).to_string();
    assert_eq!(Request::post("/v1/ack", "", ack).send(keyed.address()).await.status, 403);
    keyed.serves(kind, &Query::topic("a").with("client", uuid()), "another").await;
    // The ban survives a restart.
    let keyed = keyed.restarted(Server::kill_and_restart);
    keyed.refuses(kind, &named, 403, "still banned").await;
    // A newer ban replaces the older one; a ban is lifted by a shorter one.
    let request = Request::new("DELETE", format!("/v1/clients/{client}?ban=1"));
    assert_eq!(keyed.administer(request).await.status, 200);
    until("the ban is over", || async { named.request(Kind::Poll).send(keyed.address()).await.status == 200 }).await;
}

async fn revoke(keyed: &Keyed, body: Value) -> Value {
    keyed.administer(Request::post("/v1/revocations", "application/json", body.to_string())).await.created().await
}

async fn a_revoked_token_ends(kind: Kind) {
    let keyed = Keyed::start(&[]);
    // Also where the client has no name: connections are found by the token's subject.
    let by_id = open(&keyed, kind, of(&keyed, json!({ "jti": "t1" }), Query::topic("a"))).await;
    connected(&keyed, 1).await;
    revoke(&keyed, json!({ "jti": "t2" })).await;
    revoke(&keyed, json!({ "sub": "t1" })).await;
    assert_eq!(revoke(&keyed, json!({ "jti": "t1" })).await, json!({ "jti": "t1" }));
    by_id.await.expect("the connection was notified");
    connected(&keyed, 0).await;
    let by_subject = open(&keyed, kind, of(&keyed, json!({ "sub": "li", "jti": "t3" }), Query::topic("a"))).await;
    connected(&keyed, 1).await;
    let until = now_s() + 600;
    assert_eq!(revoke(&keyed, json!({ "sub": "li", "until": until })).await, json!({ "sub": "li", "until": until }));
    by_subject.await.expect("the connection was notified");
}

async fn a_revoked_token_does_not_come(kind: Kind) {
    let keyed = Keyed::start(&["--public-subscribe", "news"]);
    let by = |more: Value| of(&keyed, more, Query::topic("a"));
    revoke(&keyed, json!({ "jti": "t1" })).await;
    revoke(&keyed, json!({ "sub": "li" })).await;
    keyed.refuses(kind, &by(json!({ "jti": "t1" })), 401, "by the token's id").await;
    keyed.refuses(kind, &by(json!({ "sub": "li" })), 401, "a token without `iat`").await;
    keyed.refuses(kind, &by(json!({ "sub": "li", "iat": now_s() - 5 })), 401, "one from before").await;
    keyed.refuses(kind, &by(json!({ "sub": "li", "iat": now_s() + 3 })), 401, "from before, by a clock ahead").await;
    // A token that is issued after the revocation is accepted.
    keyed.serves(kind, &by(json!({ "sub": "li", "iat": now_s() + 7 })), "one from after").await;
    keyed.serves(kind, &by(json!({ "jti": "t2", "sub": "wu" })), "another").await;
    let publish = Request::post("/v1/topics/a", "", "1");
    let token = bearer(&keyed.token(json!({ "publish": ["a"], "jti": "t1" })));
    let mut response = publish.header("Authorization", token).send(keyed.address()).await;
    assert_eq!(response.error().await, (401, "unauthorized".into()), "a revoked token cannot publish either");
    let keyed = keyed.restarted(Server::kill_and_restart);
    keyed.refuses(kind, &of(&keyed, json!({ "jti": "t1" }), Query::topic("a")), 401, "after a restart").await;
}

/// A ticket is checked against its token's state at the time of use.
#[tokio::test]
async fn a_ticket_of_a_revoked_token_opens_nothing() {
    let keyed = Keyed::start(&[]);
    let token = bearer(&keyed.token(json!({ "jti": "t1", "subscribe": ["a"] })));
    let request = Request::post("/v1/tickets", "", r#"{"transport":"sse"}"#).header("Authorization", token);
    let ticket = request.send(keyed.address()).await.created().await["ticket"].as_str().expect("a ticket").to_owned();
    revoke(&keyed, json!({ "jti": "t1" })).await;
    keyed.refuses(Kind::Sse, &Query::topic("a").with("ticket", ticket), 401, "revoked since").await;
}

#[tokio::test]
async fn a_socket_cannot_be_renewed_with_a_revoked_token() {
    let keyed = Keyed::start(&[]);
    let query = of(&keyed, json!({ "sub": "li", "jti": "t1", "iat": now_s() + 5 }), Query::topic("a"));
    let mut link = Link::to(keyed.address(), Kind::Ws, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    revoke(&keyed, json!({ "jti": "t2" })).await;
    let auth = |id: &str| {
        let token = keyed.token(json!({ "subscribe": ["a"], "sub": "li", "jti": id, "iat": now_s() + 5 }));
        json!({ "type": "auth", "token": token })
    };
    assert_eq!(link.ask(auth("t2")).await["error"]["code"], "unauthorized");
    // After a renewal the new token decides.
    assert_eq!(link.ask(auth("t3")).await["ok"], true);
    revoke(&keyed, json!({ "jti": "t1" })).await;
    assert_eq!(link.ask(json!({ "type": "ping" })).await["ok"], true);
    revoke(&keyed, json!({ "jti": "t3" })).await;
    last_word(Kind::Ws, &mut link).await;
}

#[tokio::test]
async fn revocations_say_whom_they_mean() {
    let keyed = Keyed::start(&[]);
    for body in [
        json!({}),
        json!({ "jti": "a", "sub": "b" }),
        json!({ "jti": "" }),
        json!({ "jti": "x".repeat(251) }),
        json!({ "jti": 7 }),
        json!({ "sub": "a", "until": -1 }),
        json!({ "sub": "a", "until": "tomorrow" }),
        json!([]),
    ] {
        let mut response = keyed.administer(Request::post("/v1/revocations", "", body.to_string())).await;
        assert_eq!(response.error().await, (400, "bad_revocation".into()), "{body}");
    }
    let server = crate::support::fixture::shared();
    let request = Request::post("/v1/revocations", "", r#"{"jti":"a"}"#);
    assert_eq!(request.send(server.address()).await.error().await, (501, "not_supported".into()));
}

/// A client must not learn how much is published on topics that it may not read any more, though its patterns are remembered.
#[tokio::test]
async fn lag_is_counted_over_the_granted_topics() {
    let keyed = Keyed::start(&["--public-subscribe", "news"]);
    let client = uuid();
    let named = Query::topics(["secret.>", "open"]).with("client", &client);
    keyed
        .serves(
            Kind::Poll,
            &named.header(
                "Authorization",
                bearer(&keyed.token(json!({
                    "sub": "li", "subscribe": ["secret.>", "open"],
                }))),
            ),
            "granted",
        )
        .await;
    for (topic, count) in [("secret.a", 3), ("open", 2)] {
        for number in 0..count {
            keyed.publish(topic, number).await;
        }
    }
    let lag = async |more: Value| {
        let look = Request::get(format!("/v1/clients/{client}")).header("Authorization", bearer(&keyed.token(more)));
        look.send(keyed.address()).await.json().await["lag"]["events"].clone()
    };
    assert_eq!(lag(json!({ "sub": "li", "subscribe": ["secret.>", "open"] })).await, 5);
    assert_eq!(lag(json!({ "sub": "li", "subscribe": ["open", "other"] })).await, 2);
    assert_eq!(lag(json!({ "sub": "li" })).await, 0);
    assert_eq!(lag(json!({ "admin": true })).await, 5);
}

/// Without a key: on loopback every client has operator rights; with `--allow-anonymous` no client has.
#[tokio::test]
async fn without_keys_only_loopback_may_kick() {
    for (flags, status) in [(&[][..], 200), (&["--allow-anonymous"], 403)] {
        let server = crate::support::Server::start(flags);
        let client = uuid();
        let query = Query::topic("a").with("client", &client);
        let mut link = Link::to(server.address(), Kind::Sse, &query).await;
        assert_eq!(link.item().await.event, "$hello");
        let request = Request::new("DELETE", format!("/v1/clients/{client}"));
        assert_eq!(request.send(server.address()).await.status, status);
        if status == 200 {
            last_word(Kind::Sse, &mut link).await;
        }
        let foreign = Request::new("DELETE", format!("/v1/clients/{client}")).header("Origin", "https://evil.example");
        assert_eq!(foreign.send(server.address()).await.error().await, (403, "origin_not_allowed".into()));
    }
}

/// Whose a client is, where it is connected from, and over what it came, are for operators.
#[tokio::test]
async fn operators_see_where_clients_are() {
    let keyed = Keyed::start(&[]);
    let (client, other) = (uuid(), uuid());
    let agent = format!("Mozilla/5.0 (test) {}", "x".repeat(1000));
    let by = async |more: Value, target: String| {
        let request = Request::get(target).header("Authorization", bearer(&keyed.token(more)));
        request.header("User-Agent", agent.clone()).send(keyed.address()).await
    };
    let subscriber = |subject: &str| json!({ "sub": subject, "subscribe": ["a"] });
    let admin = || json!({ "sub": "root", "admin": true });
    let sse = by(subscriber("li"), format!("/v1/sse?topic=a&client={client}")).await;
    assert_eq!(sse.status, 200);
    drop(sse);
    let streams = [
        by(subscriber("li"), format!("/v1/stream?topic=a&client={client}")).await,
        by(subscriber("wu"), format!("/v1/stream?topic=a&client={other}")).await,
    ];
    assert!(streams.iter().all(|stream| stream.status == 200));
    let list = async |query: &str| -> Vec<Value> {
        let page = by(admin(), format!("/v1/clients{query}")).await.json().await;
        page["clients"].as_array().expect("a list").clone()
    };
    assert_eq!(list("").await.len(), 2);
    assert!(list("?subject=nobody").await.is_empty());
    // The end of the first stream is noticed after the beginning of the second.
    until("the client has one stream", || async { list("?subject=li").await[0]["transports"] == json!(["stream"]) })
        .await;
    let of_li = list("?subject=li").await;
    let [one] = &of_li[..] else { panic!("{of_li:?}") };
    assert_eq!((&one["client"], &one["subject"]), (&json!(client), &json!("li")));
    let [connection] = &one["connections"].as_array().expect("a list")[..] else { panic!("{one}") };
    assert_eq!((&connection["transport"], &connection["address"]), (&json!("stream"), &json!("127.0.0.1")));
    assert_eq!(connection["user_agent"], agent[..160]);
    assert!(connection["since"].as_u64().is_some_and(|ms| ms / 1000 <= now_s() && ms / 1000 > now_s() - 600), "{one}");
    let transports: Vec<_> =
        one["history"].as_array().expect("a list").iter().map(|change| &change["transport"]).collect();
    assert_eq!(transports, ["sse", "stream"], "{one}");
    // The client's own subject is told neither.
    let own = by(subscriber("li"), format!("/v1/clients/{client}")).await.json().await;
    assert!(own["transports"].is_array() && own["connections"].is_null() && own["subject"].is_null(), "{own}");
    let known = by(admin(), format!("/v1/clients/{client}")).await.json().await;
    assert_eq!(known["subject"], "li");
}
