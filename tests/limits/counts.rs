//! Limits on the number of connections and open subscriptions, in total and for each address; every permit is released.

use serde_json::Value;

use crate::support::Server;
use crate::support::http::{Answer, Connection};
use crate::support::raw::{self, Items, STREAMS};

/// Asserts that a response is a refusal with a retry delay.
pub(crate) fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{answer:?}");
    let after: Option<u64> = answer.head.header("retry-after").and_then(|text| text.parse().ok());
    assert!(after.is_some_and(|seconds| (1..60).contains(&seconds)), "{answer:?}");
}

async fn get(connection: &mut Connection, path: &str) -> Answer {
    connection.get(path).await.expect("sent");
    super::within(path, connection.answer()).await.expect("an answer")
}

#[tokio::test]
async fn connections_of_one_address_are_counted() {
    let server = Server::start(&["--max-connections-per-address", "3"]);
    let address = server.address();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(address).await.expect("connected");
        assert_eq!(get(&mut connection, "/healthz").await.status(), 200);
        open.push(connection);
    }
    let mut fourth = Connection::open(address).await.expect("connected");
    assert_refused(&get(&mut fourth, "/v1/info").await, 429, "too_many");
    // After the refusal the connection is closed.
    assert!(super::within("a close", fourth.closed()).await.is_empty());
    // Another address is not affected.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.77:0".parse().expect("an address")).expect("bound");
    let mut other = Connection::on(socket.connect(address.parse().expect("an address")).await.expect("connected"));
    assert_eq!(get(&mut other, "/v1/info").await.status(), 200);
    // A closed connection releases its permit.
    open.pop();
    super::until("there is room again", async || {
        raw::get(address, "/v1/info").await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

#[tokio::test]
async fn all_connections_are_counted() {
    let server = Server::start(&["--max-connections", "3", "--workers", "2"]);
    let address = server.address();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(address).await.expect("connected");
        assert_eq!(get(&mut connection, "/v1/info").await.status(), 200);
        open.push(connection);
    }
    assert_refused(&raw::get(address, "/v1/info").await.expect("an answer"), 503, "overloaded");
    // Health checks are still answered.
    assert_eq!(raw::get(address, "/healthz").await.expect("an answer").status(), 200);
    open.clear();
    super::until("there is room again", async || {
        raw::get(address, "/v1/info").await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

/// A connection flood: connections beyond those that get a refusal are cut, and the server continues.
#[tokio::test]
async fn a_crowd_past_the_limit_is_cut() {
    let server = Server::start(&["--max-connections", "2"]);
    let address = server.address();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(Items::open(address, "sse", "topic=a").await.expect("open"));
    }
    let mut crowd = Vec::new();
    for _ in 0..600 {
        crowd.push(Connection::open(address).await.expect("connected"));
    }
    // More connections than get a refusal may be waiting: the last are closed without a response.
    let mut last = crowd.pop().expect("the crowd is not empty");
    assert!(super::within("a close", last.closed()).await.is_empty());
    drop(crowd);
    server_goes_on(&server, &mut held[0]).await;
}

async fn server_goes_on(server: &Server, items: &mut Items) {
    super::until("the event is published", async || {
        let event = serde_json::json!({ "topic": "a", "data": "still here" });
        raw::post(server.address(), &event).await.is_ok_and(|answer| matches!(answer.status(), 201 | 503))
    })
    .await;
    items.named("$hello").await;
}

/// Each kind of open subscription takes a permit, and releases it at any end.
#[tokio::test]
async fn open_subscriptions_are_counted() {
    for (flags, status, code) in
        [(&["--max-held", "4"][..], 503, "overloaded"), (&["--max-held-per-address", "4"], 429, "too_many")]
    {
        let server = Server::start(flags);
        let address = server.address();
        for _ in 0..3 {
            let mut open = Vec::new();
            for transport in STREAMS {
                open.push(Items::open(address, transport, "topic=a").await.expect("open"));
            }
            for path in ["sse", "stream", "longpoll"] {
                let answer = raw::get(address, &format!("/v1/{path}?topic=a")).await.expect("an answer");
                assert_refused(&answer, status, code);
            }
            for (path, upgraded) in [("/v1/ws?topic=a", true), ("/v1/echo", true)] {
                let mut connection = Connection::open(address).await.expect("connected");
                if upgraded {
                    connection.upgrade(path).await.expect("sent");
                }
                assert_refused(&connection.answer().await.expect("an answer"), status, code);
            }
            // A page cannot read a status, so the refusal is an item.
            let jsonp = raw::get(address, "/v1/jsonp?topic=a&callback=f").await.expect("an answer");
            let text = jsonp.text();
            let batch = text.strip_prefix("/**/f(").and_then(|rest| rest.strip_suffix(");")).expect("a call");
            let batch: Value = serde_json::from_str(batch).expect("JSON");
            let item = &batch["events"][0];
            assert_eq!((jsonp.status(), item["event"].as_str()), (200, Some("$error")));
            assert_eq!(item["data"]["code"], code);
            assert!(item["data"]["retry"].as_u64().is_some_and(|ms| ms >= 1000), "{item}");
            let iframe = raw::get(address, "/v1/iframe?topic=a").await.expect("an answer");
            assert_eq!(iframe.status(), status);
            assert!(iframe.text().contains("\"$error\"") && iframe.text().contains("\"retry\":"), "{}", iframe.text());
            // Short polls hold no permit.
            assert_eq!(raw::get(address, "/v1/poll?topic=a").await.expect("an answer").status(), 200);
            drop(open);
            super::until("the permits are released", async || {
                let Ok(mut items) = Items::open(address, "sse", "topic=a").await else { return false };
                items.named("$hello").await;
                let more = futures_util::future::join_all((0..3).map(|_| Items::open(address, "sse", "topic=a")));
                more.await.iter().all(Result::is_ok)
            })
            .await;
            super::until("the subscriptions have ended", async || {
                let answer = raw::get(address, "/v1/longpoll?topic=a&wait=0").await.expect("an answer");
                answer.status() == 200 && {
                    let four = futures_util::future::join_all((0..4).map(|_| Items::open(address, "sse", "topic=a")));
                    four.await.iter().all(Result::is_ok)
                }
            })
            .await;
            super::until("all subscriptions have ended", async || {
                let clients = raw::get(address, "/v1/clients").await.expect("an answer").json();
                clients["clients"].as_array().is_some_and(Vec::is_empty)
            })
            .await;
        }
    }
}
