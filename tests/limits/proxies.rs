//! Trusted proxies: which forwarded headers the server accepts for the address of a client.

use serde_json::json;

use crate::support::Server;
use crate::support::http::{Answer, Connection};

async fn publish(server: &Server, headers: &str) -> Answer {
    let mut connection = Connection::open(server.address()).await.expect("connected");
    let body = json!({ "topic": "a", "data": 1 }).to_string();
    let length = body.len();
    let text = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.send(text).await.expect("sent");
    connection.answer().await.expect("an answer")
}

/// Publishes with each header until one is refused; returns the number of accepted requests.
async fn accepted(server: &Server, headers: impl Fn(u32) -> String) -> usize {
    for number in 0..20 {
        if publish(server, &headers(number)).await.status() == 429 {
            return number as usize;
        }
    }
    20
}

const SLOW: [&str; 5] = ["--allow-anonymous", "--publish-rate-per-address", "1", "--publish-burst", "5"];

#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_not_believed() {
    let server = Server::start(&SLOW);
    let accepted = accepted(&server, |number| format!("X-Forwarded-For: 10.0.0.{number}\r\n")).await;
    assert!((5..10).contains(&accepted), "an untrusted peer is one address, with any header: {accepted}");
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_its_clients() {
    let flags: Vec<&str> = SLOW.into_iter().chain(["--trusted-proxy", "127.0.0.0/8,10.9.0.0/16"]).collect();
    let server = Server::start(&flags);
    let many = accepted(&server, |number| format!("X-Forwarded-For: 192.0.2.{number}, 10.9.1.1\r\n")).await;
    assert_eq!(many, 20, "each forwarded address is a client of its own");
    // Addresses forged by the client are on the left, and are ignored.
    let one = accepted(&server, |number| format!("X-Forwarded-For: 198.51.100.{number}, 203.0.113.1\r\n")).await;
    assert!((5..10).contains(&one), "{one}");
    // The other header is forged.
    let ignored = |number| format!("Forwarded: for=192.0.3.{number}\r\nX-Forwarded-For: 203.0.113.2\r\n");
    let one = accepted(&server, ignored).await;
    assert!((5..10).contains(&one), "{one}");
}

#[tokio::test]
async fn the_other_header_where_that_is_the_one() {
    let flags = ["--trusted-proxy", "127.0.0.1", "--proxy-header", "forwarded"];
    let flags: Vec<&str> = SLOW.into_iter().chain(flags).collect();
    let server = Server::start_at("127.0.0.1:0", &flags);
    let many = accepted(&server, |number| format!("Forwarded: for=\"[2001:db8:{number}::1]\";proto=https\r\n")).await;
    assert_eq!(many, 20);
    // One IPv6 /64 network is one client.
    let one = accepted(&server, |number| format!("Forwarded: for=\"[2001:db8:ffff::{number}]\"\r\n")).await;
    assert!((5..10).contains(&one), "{one}");
}

/// A trusted proxy does not grant access: without a key, a forwarded request may come from anywhere.
#[tokio::test]
async fn a_trusted_proxy_is_refused_where_there_is_no_key() {
    let server = Server::start(&["--trusted-proxy", "127.0.0.0/8"]);
    let answer = publish(&server, "X-Forwarded-For: 192.0.2.1\r\n").await;
    assert_eq!((answer.status(), answer.code().as_str()), (403, "proxied"));
}

/// Connections of a trusted proxy carry many clients, and are not counted as those of one address.
#[tokio::test]
async fn a_trusted_proxy_has_any_number_of_connections() {
    let trusted = ["--max-connections-per-address", "2", "--trusted-proxy", "127.0.0.0/8", "--allow-anonymous"];
    for (flags, limited) in [(&trusted[..2], true), (&trusted[..], false)] {
        let server = Server::start(flags);
        let mut open = Vec::new();
        let mut refused = false;
        for _ in 0..5 {
            let mut connection = Connection::open(server.address()).await.expect("connected");
            connection.get("/v1/info").await.expect("sent");
            refused |= connection.answer().await.expect("an answer").status() == 429;
            open.push(connection);
        }
        assert_eq!(refused, limited);
    }
}

/// A page on plain HTTP is not same-origin where a trusted proxy reports that the server is on HTTPS.
#[tokio::test]
async fn the_scheme_of_a_trusted_proxy_counts() {
    let flags = ["--allow-anonymous", "--trusted-proxy", "127.0.0.0/8"];
    for (flags, scheme, origin, status) in [
        (&flags[..], "https", "https://localhost", 201),
        (&flags, "https", "http://localhost", 403),
        (&flags, "http", "http://localhost", 201),
        (&flags[..1], "https", "http://localhost", 201),
    ] {
        let server = Server::start(flags);
        let headers = format!("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: {scheme}\r\nOrigin: {origin}\r\n");
        assert_eq!(publish(&server, &headers).await.status(), status, "{flags:?} {scheme} {origin}");
    }
}
