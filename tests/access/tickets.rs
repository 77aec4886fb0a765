//! Tickets: short-lived, single-use credentials for one stream over one transport.

use serde_json::{Value, json};

use super::keyed::{Keyed, bearer};
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::{over, uuid};
use crate::support::http::Request;

over!(every: opens_one_stream, is_for_one_transport, is_in_time, a_stream_opened_by_a_ticket_ends_with_the_token);

async fn ticket(keyed: &Keyed, transport: &str, more: Value) -> String {
    let body = json!({ "transport": transport }).to_string();
    let request = Request::post("/v1/tickets", "application/json", body);
    let answer = request.header("Authorization", bearer(&keyed.token(more))).send(keyed.address()).await;
    let answer = answer.created().await;
    assert!(answer["expires_in"].as_u64().is_some_and(|seconds| (1..=300).contains(&seconds)), "{answer}");
    let ticket = answer["ticket"].as_str().expect("a ticket").to_owned();
    assert!(ticket.len() >= 22 && !ticket.contains('.'), "a ticket is opaque and unguessable: {ticket}");
    ticket
}

async fn opens_one_stream(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let ticket = ticket(&keyed, kind.transport(), json!({ "subscribe": ["a"] })).await;
    let query = Query::topic("a").with("ticket", &ticket);
    keyed.serves(kind, &query, "once").await;
    keyed.refuses(kind, &query, 401, "twice").await;
    // A ticket grants the rights of its token.
    let ticket = self::ticket(&keyed, kind.transport(), json!({ "subscribe": ["a"] })).await;
    keyed.refuses(kind, &Query::topic("b").with("ticket", &ticket), 403, "not granted").await;
    keyed.refuses(kind, &Query::topic("a").with("ticket", "x"), 401, "none").await;
    let guess = "A".repeat(ticket.len());
    keyed.refuses(kind, &Query::topic("a").with("ticket", &guess), 401, "guessed").await;
}

async fn is_for_one_transport(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let other = if kind.transport() == "sse" { "ws" } else { "sse" };
    let ticket = ticket(&keyed, other, json!({ "subscribe": ["a"] })).await;
    let query = Query::topic("a").with("ticket", &ticket);
    keyed.refuses(kind, &query, 401, "for another transport").await;
    // A refused attempt has used the ticket up.
    let other = if other == "sse" { Kind::Sse } else { Kind::Ws };
    keyed.refuses(other, &query, 401, "used").await;
}

async fn is_in_time(kind: Kind) {
    let keyed = Keyed::start_with_clock(&["--ticket-ttl", "30s"]);
    let ticket = ticket(&keyed, kind.transport(), json!({ "subscribe": ["a"] })).await;
    // The end of a stream with the same expiry shows that the server has checked its clock.
    let query = keyed.query("a", json!({ "subscribe": ["a"], "exp": keyed.now_s() + 30 }));
    let mut stream = Link::to(keyed.address(), Kind::Sse, &query).await;
    assert_eq!(stream.item().await.event, "$hello");
    keyed.pass(31);
    assert_eq!(stream.telling().await.value(), json!({ "reason": "expired" }));
    keyed.refuses(kind, &Query::topic("a").with("ticket", &ticket), 401, "late").await;
}

async fn a_stream_opened_by_a_ticket_ends_with_the_token(kind: Kind) {
    if matches!(kind, Kind::Poll | Kind::JsonpPoll) {
        return;
    }
    let keyed = Keyed::start_with_clock(&[]);
    let ticket = ticket(&keyed, kind.transport(), json!({ "subscribe": ["a"], "exp": keyed.now_s() + 60 })).await;
    let client = uuid();
    let query = Query::topic("a").with("ticket", &ticket).with("wait", 60).with("client", &client);
    let address = keyed.address().to_owned();
    let opened = tokio::spawn(async move {
        let mut link = Link::to(&address, kind, &query).await;
        if !kind.streams() {
            return link.batch().await.events.remove(0);
        }
        assert_eq!(link.item().await.event, "$hello");
        link.telling().await
    });
    keyed.connected(&client).await;
    keyed.pass(120);
    assert_eq!(opened.await.expect("an end").value(), json!({ "reason": "expired" }));
}

#[tokio::test]
async fn only_a_token_makes_one() {
    let keyed = Keyed::start(&["--public-subscribe", ">"]);
    let token = keyed.token(json!({ "subscribe": ["a"] }));
    let ticket_request = |body: &str| Request::post("/v1/tickets", "application/json", body);
    let good = r#"{"transport":"sse"}"#;
    assert_eq!(ticket_request(good).send(keyed.address()).await.error().await, (401, "unauthorized".into()));
    let answer =
        ticket_request(good).header("Authorization", bearer(&token)).send(keyed.address()).await.created().await;
    // A ticket obtained by a ticket would extend access for ever.
    let ticket = answer["ticket"].as_str().expect("a ticket");
    let request = Request::post(format!("/v1/tickets?ticket={ticket}"), "application/json", good);
    assert_eq!(request.send(keyed.address()).await.error().await, (401, "unauthorized".into()));
    for (body, code) in [
        ("", "bad_json"),
        ("{}", "bad_json"),
        (r#"{"transport":"carrier pigeon"}"#, "bad_transport"),
        (r#"{"transport":7}"#, "bad_json"),
    ] {
        let mut response = ticket_request(body).header("Authorization", bearer(&token)).send(keyed.address()).await;
        assert_eq!(response.error().await, (400, code.into()), "{body}");
    }
    let foreign = ticket_request(good).header("Authorization", bearer(&token)).header("Origin", "https://evil.example");
    assert_eq!(foreign.send(keyed.address()).await.error().await, (403, "origin_not_allowed".into()));
    // Without keys no ticket is needed; the client library then connects without one.
    let server = crate::support::fixture::shared();
    assert_eq!(ticket_request(good).send(server.address()).await.error().await, (501, "not_supported".into()));
}

/// Of many concurrent uses of a ticket, one is accepted.
#[tokio::test]
async fn a_ticket_is_used_once_however_many_try() {
    let keyed = Keyed::start(&[]);
    for _ in 0..5 {
        let ticket = ticket(&keyed, "poll", json!({ "subscribe": ["a"] })).await;
        let query = Query::topic("a").with("ticket", &ticket);
        let requests = (0..8).map(|_| {
            let request = query.request(Kind::Poll);
            let address = keyed.address().to_owned();
            tokio::spawn(async move { request.send(&address).await.status })
        });
        let mut statuses = Vec::new();
        for one in requests.collect::<Vec<_>>() {
            statuses.push(one.await.expect("an answer"));
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401, 401, 401, 401, 401, 401, 401]);
    }
}

/// The number of open tickets for each subject is limited, so that there is room for others.
#[tokio::test]
async fn one_subject_has_a_share_of_them() {
    let keyed = Keyed::start(&["--max-tickets-per-subject", "2"]);
    let body = json!({ "transport": "sse" }).to_string();
    let new_ticket = async |sub: &str| {
        let request = Request::post("/v1/tickets", "application/json", body.as_str());
        let token = keyed.token(json!({ "sub": sub, "subscribe": ["a"] }));
        request.header("Authorization", bearer(&token)).send(keyed.address()).await
    };
    let first = new_ticket("mallory").await.created().await["ticket"].as_str().expect("a ticket").to_owned();
    assert_eq!(new_ticket("mallory").await.status, 201);
    assert_eq!(new_ticket("mallory").await.error().await, (429, "too_many".to_owned()));
    assert_eq!(new_ticket("li").await.status, 201);
    // A used ticket frees its permit.
    keyed.serves(Kind::Sse, &Query::topic("a").with("ticket", first), "one of the two open tickets").await;
    assert_eq!(new_ticket("mallory").await.status, 201);
}
