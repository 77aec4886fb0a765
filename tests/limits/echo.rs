//! `/v1/echo` has the lifecycle of every WebSocket: it is listed, and ended with its token, by an administrator, at its maximum
//! age, at shutdown, and when its peer is silent.

use serde_json::{Value, json};

use super::keyed::{keyed, now_s, token};
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{Items, masked};

/// An echo WebSocket after its upgrade.
async fn echo(server: &Server, claims: &Value) -> Items {
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.upgrade(&format!("/v1/echo?token={}", token(claims))).await.expect("sent");
    let head = connection.head().await.expect("a head");
    Items::after(connection, "ws", &head).expect("a socket")
}

/// The close code. Until the close the socket has to echo, and to send nothing else.
async fn close_code(mut items: Items) -> u16 {
    items.connection.send(masked(0x81, b"\"hello\"")).await.expect("sent");
    assert_eq!(items.item().await, "hello");
    let rest = super::within("its end", items.next()).await.expect("frames");
    assert_eq!(rest, None);
    items.close_code.expect("a close frame")
}

/// An administrator's request.
async fn administer(server: &Server, request: &str, body: &str) -> Value {
    let mut connection = Connection::open(server.address()).await.expect("connected");
    let (length, token) = (body.len(), token(&json!({ "admin": true, "sub": "root" })));
    let text = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.send(text).await.expect("sent");
    let answer = super::within(request, connection.answer()).await.expect("an answer");
    assert!(matches!(answer.status(), 200 | 201), "{request}: {answer:?}");
    answer.json()
}

#[tokio::test]
async fn is_listed_and_can_be_kicked() {
    let (server, _secret) = keyed(&[]);
    let items = echo(&server, &json!({ "sub": "li" })).await;
    let clients = administer(&server, "GET /v1/clients", "").await;
    let client = &clients["clients"][0];
    assert_eq!((&client["transports"], &client["patterns"]), (&json!(["echo"]), &json!([])), "{clients}");
    let id = client["client"].as_str().expect("an id");
    administer(&server, &format!("DELETE /v1/clients/{id}"), "").await;
    assert_eq!(close_code_of_ended(items).await, 1008);
}

/// As [`close_code`], for a socket that is being closed already.
async fn close_code_of_ended(mut items: Items) -> u16 {
    assert_eq!(super::within("its end", items.next()).await.expect("frames"), None);
    items.close_code.expect("a close frame")
}

#[tokio::test]
async fn ends_with_its_token() {
    let (server, _secret) = keyed(&[]);
    let exp = now_s() + 2;
    assert_eq!(close_code(echo(&server, &json!({ "exp": exp })).await).await, 1008);
    assert!(now_s() >= exp, "the socket does not end before its token");
}

#[tokio::test]
async fn ends_with_a_revocation() {
    let (server, _secret) = keyed(&[]);
    let items = echo(&server, &json!({ "sub": "li", "jti": "one" })).await;
    administer(&server, "POST /v1/revocations", r#"{"jti":"one"}"#).await;
    assert_eq!(close_code_of_ended(items).await, 1008);
}

#[tokio::test]
async fn ends_at_its_age_and_with_the_server() {
    let server = Server::start(&["--max-stream-age", "1s"]);
    assert_eq!(close_code(echo(&server, &json!({})).await).await, 1001);
    let server = Server::start(&["--drain", "1s"]);
    let items = echo(&server, &json!({})).await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(close_code_of_ended(items).await, 1001);
}

/// A peer that answers no ping is closed; a peer that does stays connected.
#[tokio::test]
async fn is_pinged() {
    let server = Server::start(&["--heartbeat", "500ms"]);
    let mut silent = echo(&server, &json!({})).await;
    silent.pongs = false;
    let mut alive = echo(&server, &json!({})).await;
    let answering = tokio::spawn(async move { alive.next().await.map(|item| (item, alive.close_code)) });
    assert_eq!(close_code_of_ended(silent).await, 1013);
    assert!(!answering.is_finished(), "the peer that answers pings stays connected");
}

/// A long message is echoed unchanged, for any fragmentation, also with heartbeats in between.
#[tokio::test]
async fn echoes_long_messages() {
    let server = Server::start(&["--heartbeat", "100ms"]);
    let mut items = echo(&server, &json!({})).await;
    for length in [0, 1, 125, 126, 65_535, 65_536, 3 << 20] {
        let text = json!("x".repeat(length));
        items.connection.send(masked(0x81, text.to_string().as_bytes())).await.expect("sent");
        assert_eq!(items.item().await, text);
    }
}
