//! Who may read the metrics, and where.

use serde_json::json;

use super::text::Metrics;
use crate::access::keyed::{Keyed, bearer};
use crate::support::Server;
use crate::support::http::{Connection, Request};
use crate::support::{until, within};

#[tokio::test]
async fn with_a_key_they_are_an_administrators() {
    let keyed = Keyed::start(&["--store", "memory"]);
    let mut refused = Request::get("/metrics").send(keyed.address()).await;
    assert_eq!(refused.error().await, (401, "unauthorized".into()));
    let reader = keyed.token(json!({ "subscribe": [">"] }));
    let mut refused = Request::get("/metrics").header("Authorization", bearer(&reader)).send(keyed.address()).await;
    assert_eq!(refused.error().await, (403, "forbidden".into()));
    let mut answer = keyed.administer(Request::get("/metrics")).await;
    assert_eq!(answer.status, 200);
    let metrics = Metrics(answer.text().await);
    assert_eq!(metrics.value("switchback_refusals_total{reason=\"unauthorized\"}"), Some(1.0));
    assert_eq!(metrics.value("switchback_refusals_total{reason=\"forbidden\"}"), Some(1.0));
}

#[tokio::test]
async fn to_anonymous_callers_they_are_refused() {
    let server = Server::start(&["--store", "memory", "--allow-anonymous"]);
    let mut refused = Request::get("/metrics").send(server.address()).await;
    assert_eq!(refused.error().await, (403, "forbidden".into()));
}

/// The address in the log's line about the metrics.
async fn metrics_address(server: &Server) -> String {
    let found = || {
        let log = server.log();
        Some(log.split("the metrics are at http://").nth(1)?.split('/').next()?.to_owned())
    };
    until("the log says where the metrics are", async || found().is_some()).await;
    found().expect("an address")
}

#[tokio::test]
async fn on_an_address_of_their_own_they_need_no_key_and_nothing_else_is_there() {
    let keyed = Keyed::start(&["--store", "memory", "--metrics-listen", "127.0.0.2:0", "--log", "info"]);
    let address = metrics_address(&keyed.server).await;
    assert_eq!(Metrics::at(&address).await.value("switchback_draining"), Some(0.0));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(Request::get(path).send(&address).await.status, 200, "{path}");
    }
    for path in ["/", "/v1/info", "/v1/clients", "/client.js"] {
        assert_eq!(Request::get(path).send(&address).await.status, 404, "{path}");
    }
    let mut rebound = Request::get("/metrics").host("evil.example").send(&address).await;
    assert_eq!(rebound.error().await, (403, "bad_host".into()));
    let publish = Request::post("/v1/topics/a", "application/json", "1").send(&address).await;
    assert_eq!(publish.status, 404);
    assert_eq!(Request::post("/metrics", "application/json", "1").send(&address).await.status, 405);
}

/// Connections to the address are limited, each has to send a request in time, and a refused caller leaves room for others.
#[tokio::test]
async fn their_address_has_limits_of_its_own() {
    let flags = ["--store", "memory", "--metrics-listen", "127.0.0.2:0", "--log", "info", "--header-timeout", "2s"];
    let server = Server::start(&flags);
    let address = metrics_address(&server).await;
    let mut silent = Vec::new();
    until("an address has no connection left", async || {
        assert!(silent.len() < 200, "the connections are not limited");
        let from = [127, 0, 0, 77].into();
        silent.push(Connection::from(from, &address).await.expect("connected"));
        let mut next = Connection::from(from, &address).await.expect("connected");
        next.get("/metrics").await.expect("sent");
        let answer = within("an answer", next.answer()).await.expect("an answer");
        answer.status() != 200 && {
            assert_eq!((answer.status(), answer.code().as_str()), (429, "too_many"), "{answer:?}");
            true
        }
    })
    .await;
    assert_eq!(Metrics::at(&address).await.value("switchback_draining"), Some(0.0), "another address is served");
    // A head that does not come ends its connection.
    for connection in &mut silent {
        let rest = within("a close", connection.closed()).await;
        let text = String::from_utf8_lossy(&rest);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408") && text.contains("\"timeout\""), "{text}");
    }
    until("there is room again", async || {
        let mut next = Connection::from([127, 0, 0, 77].into(), &address).await.expect("connected");
        next.get("/metrics").await.expect("sent");
        within("an answer", next.answer()).await.expect("an answer").status() == 200
    })
    .await;
}

/// A body is not waited for, and is not read for ever.
#[tokio::test]
async fn a_body_sent_to_their_address_is_not_read() {
    let server = Server::start(&["--store", "memory", "--metrics-listen", "127.0.0.2:0", "--log", "info"]);
    let address = metrics_address(&server).await;
    let mut connection = Connection::open(&address).await.expect("connected");
    connection
        .send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .expect("sent");
    let answer = within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!((answer.status(), answer.head.header("connection")), (200, Some("close")));
    within("a close", connection.dribble(b"1\r\nx\r\n")).await;
    let mut malformed = Connection::open(&address).await.expect("connected");
    malformed.send("nonsense\r\n\r\n").await.expect("sent");
    let answer = within("an answer", malformed.answer()).await.expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"));
}

#[tokio::test]
async fn a_server_without_a_free_connection_still_shows_them() {
    let server = Server::start(&[
        "--store",
        "memory",
        "--max-connections",
        "1",
        "--metrics-listen",
        "127.0.0.2:0",
        "--log",
        "info",
    ]);
    let address = metrics_address(&server).await;
    let _taken = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
    until("the connection is counted", async || {
        let metrics = Metrics::at(&address).await;
        metrics.value("switchback_connections") == Some(1.0)
            && metrics.value("switchback_connections_limit") == Some(1.0)
    })
    .await;
}
