//! Request rates: every path but the health checks is limited; a rate in a token applies to its subject; refusals are logged,
//! in limited number.

use serde_json::json;

use super::counts::assert_refused;
use super::keyed::{keyed, token};
use crate::support::Server;
use crate::support::http::{Answer, Connection};
use crate::support::raw;

const NOT_FOUND: &str = "/v1/nothing";

async fn exchange(address: &str, request: &str, headers: &str, body: &str) -> Answer {
    let mut connection = Connection::open(address).await.expect("connected");
    let length = body.len();
    let text = format!("{request} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    connection.send(text).await.expect("sent");
    super::within(request, connection.answer()).await.expect("an answer")
}

#[tokio::test]
async fn every_path_has_a_pace_but_the_probes() {
    let server = Server::start(&["--request-rate-per-address", "1", "--connect-burst", "3"]);
    let address = server.address();
    for path in ["/v1/info", "/client.js", "/", "/v1/clients", NOT_FOUND, "/nowhere"] {
        super::until(path, async || {
            let answer = raw::get(address, path).await.expect("an answer");
            answer.status() == 429 && {
                assert_refused(&answer, 429, "too_fast");
                assert!(
                    answer.text().contains("--request-rate-per-address"),
                    "the error names the flag: {}",
                    answer.text()
                );
                true
            }
        })
        .await;
    }
    // Refused requests on a path with a rate of its own count, too.
    super::until("bad publishes are refused", async || {
        let answer = exchange(address, "POST /v1/events", "Content-Type: application/json\r\n", "{").await;
        answer.status() == 429
    })
    .await;
    super::until("bad subscriptions are refused", async || {
        raw::get(address, "/v1/poll?limit=x").await.expect("an answer").status() == 429
    })
    .await;
    for _ in 0..50 {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(raw::get(address, path).await.expect("an answer").status(), 200);
        }
    }
    // Publishing has a separate rate, and so has another address.
    assert_eq!(raw::post(address, &json!({ "topic": "a", "data": 1 })).await.expect("an answer").status(), 201);
    let mut other = Connection::from([127, 0, 0, 77].into(), address).await.expect("connected");
    other.get("/v1/info").await.expect("sent");
    assert_eq!(other.answer().await.expect("an answer").status(), 200);
}

/// On loopback, too: behind a trusted proxy each client has its own address.
#[tokio::test]
async fn limits_of_an_address_count_behind_a_trusted_proxy() {
    let server = Server::start(&["--allow-anonymous", "--trusted-proxy", "127.0.0.0/8", "--connect-burst", "5"]);
    let address = server.address();
    super::until("one client is too fast", async || {
        let all = (0..20).map(|_| exchange(address, "GET /v1/info", "X-Forwarded-For: 10.0.0.1\r\n", ""));
        futures_util::future::join_all(all).await.iter().any(|answer| answer.status() == 429)
    })
    .await;
    assert_eq!(exchange(address, "GET /v1/info", "X-Forwarded-For: 10.0.0.2\r\n", "").await.status(), 200);
}

#[tokio::test]
async fn a_claimed_rate_replaces_the_rate_of_the_address() {
    let (server, _secret) = keyed(&["--publish-rate-per-address", "1", "--publish-burst", "2", "--log", "warn"]);
    let address = server.address();
    let publish = async |claims| {
        let header = format!("Authorization: Bearer {}\r\n", token(&claims));
        exchange(address, "POST /v1/topics/a", &header, "1").await
    };
    let plain = || json!({ "sub": "page", "publish": ["a"] });
    super::until("a page is too fast", async || {
        let answer = publish(plain()).await;
        answer.status() == 429 && {
            assert!(answer.text().contains("--publish-rate-per-address"), "{}", answer.text());
            true
        }
    })
    .await;
    for _ in 0..100 {
        let answer = publish(json!({ "sub": "backend", "publish": ["a"], "rate": 100_000 })).await;
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    // The claimed rate is of this subject alone.
    super::until("a claimed rate is reached", async || {
        publish(json!({ "sub": "slow", "publish": ["a"], "rate": 1 })).await.status() == 429
    })
    .await;
    for rate in [json!(0), json!(1_000_001), json!("many"), json!(-1)] {
        assert_eq!(publish(json!({ "publish": ["a"], "rate": rate })).await.status(), 401);
    }
    // Logged once a minute for an address, with the flag.
    for _ in 0..20 {
        publish(plain()).await;
    }
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("too_fast")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("page") && lines[0].contains("--publish-rate-per-address"), "{log}");
}

/// A publish that is refused for its pace costs work, too.
#[tokio::test]
async fn refusals_for_a_pace_count_as_requests() {
    let publish_slowly = ["--publish-rate-per-address", "1", "--publish-burst", "1"];
    let server =
        Server::start(&[&["--request-rate-per-address", "1", "--connect-burst", "3"][..], &publish_slowly].concat());
    let address = server.address();
    let event = json!({ "topic": "a", "data": 1 });
    super::until("other requests have no room left", async || {
        let all = (0..10).map(|_| raw::post(address, &event));
        let (answers, other) = tokio::join!(futures_util::future::join_all(all), raw::get(address, "/v1/info"));
        for answer in answers {
            let answer = answer.expect("an answer");
            if answer.status() != 201 {
                assert_refused(&answer, 429, "too_fast");
                assert!(answer.text().contains("--publish-rate-per-address"), "{}", answer.text());
            }
        }
        other.expect("an answer").status() == 429
    })
    .await;
}

/// A publish without the right is refused before its body arrives.
#[tokio::test]
async fn the_right_to_publish_is_checked_before_the_body() {
    let (server, _secret) = keyed(&[]);
    let none = token(&json!({ "sub": "li" }));
    let some = token(&json!({ "sub": "li", "publish": ["b"] }));
    for (path, authorization, status) in [
        ("events", String::new(), 401),
        ("topics/a", String::new(), 401),
        ("events", format!("Authorization: Bearer {none}\r\n"), 403),
        ("topics/a", format!("Authorization: Bearer {none}\r\n"), 403),
        ("topics/a", format!("Authorization: Bearer {some}\r\n"), 403),
    ] {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        let head = format!(
            "POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        );
        // The body is never sent.
        connection.send(head).await.expect("sent");
        let head = super::within("a refusal", connection.head()).await.expect("a head");
        assert_eq!(head.status, status, "{path}");
    }
}

/// Each refusal is logged with address and reason, up to a limit, and without secrets.
#[tokio::test]
async fn refusals_are_written_down() {
    let (server, _secret) = keyed(&["--log", "info"]);
    let address = server.address();
    let evil = token(&json!({ "sub": "eve\n2026 INFO all is well", "subscribe": ["b"] }));
    for _ in 0..100 {
        let header = format!("Authorization: Bearer {evil}\r\n");
        assert_eq!(exchange(address, "GET /v1/poll?topic=a", &header, "").await.status(), 403);
    }
    assert_eq!(exchange(address, "GET /v1/poll?topic=a&token=eyJhbGciOi.eyJzdWIi.c2ln", "", "").await.status(), 401);
    let admin = format!("Authorization: Bearer {}\r\n", token(&json!({ "sub": "root", "admin": true })));
    assert_eq!(exchange(address, "POST /v1/revocations", &admin, "{\"sub\":\"eve\"}").await.status(), 201);
    super::until("the revocation is logged", async || server.log().contains("revocation")).await;
    let log = server.log();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("forbidden")).collect();
    assert!((1..=40).contains(&refused.len()), "ten a second, until there are too many: {log}");
    for line in refused {
        assert!(line.contains("127.0.0.1") && line.contains("eve\\n2026"), "{line}");
    }
    let revoked = log.lines().find(|line| line.contains("revocation")).expect("the revocation is logged");
    assert!(revoked.contains("root") && revoked.contains("eve"), "{revoked}");
    assert!(log.contains("unauthorized") && !log.contains("eyJ"), "{log}");
}
