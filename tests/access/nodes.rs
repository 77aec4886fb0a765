//! Access control across two nodes on one store: a ticket of one node opens one stream on the other; bans and revocations apply
//! to both.

use serde_json::{Value, json};

use super::keyed::{Keyed, bearer};
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::uuid;
use crate::support::http::Request;
use crate::support::nats::Nats;

/// Two nodes, and their common store.
fn nodes(nats: &Nats) -> [Keyed; 2] {
    nodes_with(nats, &[])
}

fn nodes_with(nats: &Nats, flags: &[&str]) -> [Keyed; 2] {
    let url = nats.url();
    let flags = [&["--store", &url, "--replicas", "1"], flags].concat();
    [(); 2].map(|()| Keyed::start(&flags))
}

async fn post(keyed: &Keyed, path: &str, body: Value, claims: Value) -> Value {
    let request = Request::post(path, "application/json", body.to_string());
    request.header("Authorization", bearer(&keyed.token(claims))).send(keyed.address()).await.created().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_on_any_node() {
    let nats = tokio::task::spawn_blocking(Nats::single).await.expect("a NATS server");
    let [one, other] = nodes(&nats);
    for kind in [Kind::Sse, Kind::Poll] {
        let body = json!({ "transport": kind.transport() });
        let answer = post(&one, "/v1/tickets", body, json!({ "subscribe": ["a"] })).await;
        let query = Query::topic("a").with("ticket", answer["ticket"].as_str().expect("a ticket"));
        other.serves(kind, &query, "on another node").await;
        one.refuses(kind, &query, 401, "used there").await;
        other.refuses(kind, &query, 401, "used here").await;
    }
    // Of many concurrent uses on both nodes, one is accepted.
    for _ in 0..5 {
        let answer = post(&one, "/v1/tickets", json!({ "transport": "poll" }), json!({ "subscribe": ["a"] })).await;
        let query = Query::topic("a").with("ticket", answer["ticket"].as_str().expect("a ticket"));
        let requests = (0..6).map(|n| {
            let (request, node) = (query.request(Kind::Poll), if n % 2 == 0 { &one } else { &other });
            let address = node.address().to_owned();
            tokio::spawn(async move { request.send(&address).await.status })
        });
        let statuses = futures_util::future::join_all(requests.collect::<Vec<_>>()).await;
        let let_in = statuses.iter().filter(|status| *status.as_ref().expect("an answer") == 200).count();
        assert_eq!(let_in, 1, "{statuses:?}");
    }
}

/// The share of a subject holds over all nodes, or with each node a subject could take more of the common table.
#[tokio::test(flavor = "multi_thread")]
async fn unused_tickets_of_one_subject_count_on_all_nodes_together() {
    let nats = tokio::task::spawn_blocking(Nats::single).await.expect("a NATS server");
    let [one, other] = nodes_with(&nats, &["--max-tickets-per-subject", "3", "--max-tickets-per-address", "1"]);
    let new_ticket = async |node: &Keyed, claims: Value| {
        let body = json!({ "transport": "poll" }).to_string();
        let request = Request::post("/v1/tickets", "application/json", body);
        request.header("Authorization", bearer(&node.token(claims))).send(node.address()).await
    };
    let li = |sub: &str| json!({ "sub": sub, "subscribe": ["a"] });
    let first = new_ticket(&one, li("li")).await.created().await["ticket"].as_str().expect("a ticket").to_owned();
    assert_eq!(new_ticket(&other, li("li")).await.status, 201);
    assert_eq!(new_ticket(&one, li("li")).await.status, 201);
    for node in [&one, &other] {
        assert_eq!(new_ticket(node, li("li")).await.error().await, (429, "too_many".to_owned()));
    }
    assert_eq!(new_ticket(&other, li("wu")).await.status, 201, "another subject");
    // Tokens without a subject count for the address.
    assert_eq!(new_ticket(&one, json!({ "subscribe": ["a"] })).await.status, 201);
    assert_eq!(new_ticket(&other, json!({ "subscribe": ["a"] })).await.error().await, (429, "too_many".to_owned()));
    // A ticket that is used on any node counts no more.
    other.serves(Kind::Poll, &Query::topic("a").with("ticket", first), "one of the three").await;
    assert_eq!(new_ticket(&other, li("li")).await.status, 201);
    assert_eq!(new_ticket(&other, li("li")).await.error().await, (429, "too_many".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_on_one_node_holds_on_the_other() {
    let nats = tokio::task::spawn_blocking(Nats::single).await.expect("a NATS server");
    let [one, other] = nodes(&nats);
    let kicked = json!({ "reason": "kicked" });
    let client = uuid();
    let named = |sub: &str| other.query("a", json!({ "subscribe": ["a"], "sub": sub })).with("client", &client);
    for (ban, may_come_back) in [("", true), ("?ban=600", false)] {
        let mut link = Link::to(other.address(), Kind::Ws, &named("li")).await;
        assert_eq!(link.item().await.event, "$hello");
        let request = Request::new("DELETE", format!("/v1/clients/{client}{ban}"));
        assert_eq!(one.administer(request).await.status, 200);
        assert_eq!(link.telling().await.value(), kicked);
        if may_come_back {
            other.serves(Kind::Poll, &named("li"), "it may come again").await;
        } else {
            other.refuses(Kind::Poll, &named("li"), 403, "banned there, too").await;
        }
    }
    for (claims, revocation) in [
        (json!({ "subscribe": ["a"], "jti": "t1" }), json!({ "jti": "t1" })),
        (json!({ "subscribe": ["a"], "sub": "wu" }), json!({ "sub": "wu" })),
    ] {
        let query = other.query("a", claims);
        let mut link = Link::to(other.address(), Kind::Sse, &query).await;
        assert_eq!(link.item().await.event, "$hello");
        post(&one, "/v1/revocations", revocation, json!({ "admin": true })).await;
        assert_eq!(link.telling().await.value(), kicked);
        other.refuses(Kind::Poll, &query, 401, "revoked there, too").await;
    }
    // A node that starts later knows earlier bans and revocations, from its first response on.
    let late = Keyed::start(&["--store", &nats.url(), "--replicas", "1"]);
    late.refuses(Kind::Poll, &named("li"), 403, "banned before the node started").await;
    let token = late.query("a", json!({ "subscribe": ["a"], "jti": "t1" }));
    late.refuses(Kind::Poll, &token, 401, "revoked before the node started").await;
    assert_eq!(Request::get("/readyz").send(late.address()).await.status, 200);
}
