//! TLS: every transport over TLS, certificate reload, flags, the redirect from HTTP, and the commands over HTTPS.

use std::process::{Command, Output};

use serde_json::json;

use super::certificates::{self, Certificate, Files};
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{Items, STREAMS};

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

async fn secure(certificate: &Certificate, server: &Server) -> Connection {
    let stream = super::within("TLS", certificate.connect(server.address(), "http/1.1")).await;
    Connection::on(stream.expect("the certificate is believed"))
}

async fn publish(certificate: &Certificate, server: &Server, topic: &str, data: u32) {
    let mut connection = secure(certificate, server).await;
    let body = json!({ "topic": topic, "data": data }).to_string();
    connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
    assert_eq!(connection.answer().await.expect("an answer").status(), 201);
}

#[tokio::test]
async fn every_transport_works_over_tls() {
    let (server, certificate, _files) = certificates::server(&[]);
    assert!(server.base.starts_with("https://"), "{}", server.base);
    for transport in STREAMS {
        let mut items =
            Items::over(secure(&certificate, &server).await, transport, &format!("topic={transport}")).await;
        let items = items.as_mut().unwrap_or_else(|error| panic!("{transport}: {error}"));
        items.named("$hello").await;
        for number in 0..3 {
            publish(&certificate, &server, transport, number).await;
            assert_eq!(items.news().await["data"], number, "{transport}");
        }
    }
    publish(&certificate, &server, "held", 7).await;
    for path in ["poll?", "longpoll?", "jsonp?callback=f&", "iframe?once=1&"] {
        let mut connection = secure(&certificate, &server).await;
        connection.get(&format!("/v1/{path}topic=held&cursor=earliest")).await.expect("sent");
        let answer = super::within(path, connection.answer()).await.expect("an answer");
        assert!(answer.status() == 200 && answer.text().contains("\"data\":7"), "{path}: {answer:?}");
        assert_eq!(answer.head.header("x-accel-buffering"), Some("no"));
        assert_eq!(answer.head.header("strict-transport-security"), None, "HSTS is sent only where requested");
    }
}

#[tokio::test]
async fn hsts_is_sent_where_it_is_configured() {
    let (server, certificate, _files) = certificates::server(&["--hsts", "1h"]);
    let mut connection = secure(&certificate, &server).await;
    connection.get("/v1/info").await.expect("sent");
    let answer = connection.answer().await.expect("an answer");
    assert_eq!(answer.head.header("strict-transport-security"), Some("max-age=3600"));
}

#[tokio::test]
async fn plain_http_gets_nothing_where_tls_is() {
    let (server, _certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.get("/v1/info").await.expect("sent");
    let answer = super::within("a close", connection.closed()).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test]
async fn the_certificate_is_exchanged_while_streams_go_on() {
    let (server, first, files) = certificates::server(&[]);
    let mut items = Items::over(secure(&first, &server).await, "sse", "topic=a").await.expect("open");
    items.named("$hello").await;

    // An invalid certificate, or a certificate with another's key, is not served.
    let second = Certificate::new();
    std::fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA").expect("written");
    secure(&first, &server).await;
    std::fs::write(&files.certificate, &second.pem).expect("written");
    secure(&first, &server).await;
    assert!(
        second.connect(server.address(), "http/1.1").await.is_err(),
        "the new certificate is not served before its key"
    );

    std::fs::write(&files.key, &second.key_pem).expect("written");
    super::until("the new certificate is served", async || second.connect(server.address(), "http/1.1").await.is_ok())
        .await;
    assert!(first.connect(server.address(), "http/1.1").await.is_err(), "the old certificate is not served any more");
    publish(&second, &server, "a", 1).await;
    assert_eq!(items.news().await["data"], 1, "an open stream continues");
}

fn refused(flags: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let output =
        Command::new(BINARY).args(["--listen", "127.0.0.1:0", "--data"]).arg(directory.path()).args(flags).output();
    let output = output.expect("the binary runs");
    assert!(!output.status.success(), "{flags:?} is accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn errors_about_flags_name_the_valid_ones() {
    let (certificate, other, files) = (Certificate::new(), Certificate::new(), Files::new());
    certificate.write(&files);
    let [cert, cert_file, key, key_file] = files.flags();
    for (flags, expected) in [
        (&[cert, cert_file][..], "--tls-cert needs --tls-key"),
        (&[key, key_file], "--tls-key needs --tls-cert"),
        (&["--http-redirect", "127.0.0.1:0"], "--http-redirect needs --tls-cert"),
        (&[cert, "/nowhere.pem", key, key_file], "--tls-cert /nowhere.pem"),
        (&[cert, cert_file, key, "/nowhere.pem"], "--tls-key /nowhere.pem"),
        (&[cert, key_file, key, key_file], "there is no certificate in it"),
        (&[cert, cert_file, key, cert_file], "--tls-key"),
    ] {
        let text = refused(flags);
        assert!(text.contains(expected), "{flags:?}: {text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    std::fs::write(&files.key, &other.key_pem).expect("written");
    let text = refused(&files.flags());
    assert!(text.contains("do not make a pair"), "{text}");
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    // A port that is free unless another process takes it: the greeting has only the HTTPS port.
    let plain = std::net::TcpListener::bind("127.0.0.3:0").and_then(|listener| listener.local_addr());
    let plain = plain.expect("a free port").to_string();
    let (server, _certificate, _files) =
        certificates::server(&["--http-redirect", &plain, "--allow-host", "app.example.com"]);
    let port = server.address().rsplit_once(':').expect("a port").1;
    for (host, location) in [
        ("app.example.com", format!("https://app.example.com:{port}/v1/sse?topic=a%2Eb")),
        ("app.example.com:8080", format!("https://app.example.com:{port}/v1/sse?topic=a%2Eb")),
        ("[::1]:8080", format!("https://[::1]:{port}/v1/sse?topic=a%2Eb")),
    ] {
        let mut connection = Connection::open(&plain).await.expect("connected");
        let request = format!("GET /v1/sse?topic=a%2Eb HTTP/1.1\r\nHost: {host}\r\n\r\n");
        connection.send(request).await.expect("sent");
        let answer = super::within("a redirect", connection.answer()).await.expect("an answer");
        assert_eq!((answer.status(), answer.head.header("location")), (308, Some(location.as_str())));
    }
    // Requests that HTTPS would refuse are not redirected.
    for (host, status) in
        [("", 400), ("user@evil.example", 400), ("a b", 400), ("evil.example", 403), ("10.0.0.1:80", 403)]
    {
        let mut connection = Connection::open(&plain).await.expect("connected");
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.expect("sent");
        let answer = super::within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!(answer.status(), status, "{host:?}");
        assert_eq!(answer.head.header("location"), None);
    }
}

async fn command(server: &Server, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(BINARY);
    command.args(arguments).args(["--server", &server.base.replace("127.0.0.1", "localhost")]);
    super::within("the command", command.output()).await.expect("the binary runs")
}

#[tokio::test]
async fn the_command_line_speaks_https() {
    let (certificate, files) = (Certificate::new(), Files::new());
    certificate.write(&files);
    let server = Server::start_at("127.0.0.1:0", &files.flags());
    let ca = files.certificate.to_str().expect("a path of text");
    let published = command(&server, &["publish", "a.b", "7", "--ca", ca]).await;
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    for transport in ["ws", "sse", "stream", "longpoll", "poll"] {
        let flags = ["subscribe", "a.b", "--cursor", "earliest", "--count", "1", "--transport", transport, "--ca", ca];
        let received = command(&server, &flags).await;
        let text = String::from_utf8_lossy(&received.stdout);
        assert!(received.status.success() && text.contains("\"data\":7"), "{transport}: {received:?}");
    }
    // A certificate that no trusted CA signed is refused.
    let unbelieved = command(&server, &["publish", "a.b", "8"]).await;
    assert!(!unbelieved.status.success());
    let broken = command(&server, &["publish", "a.b", "8", "--ca", "/nowhere.pem"]).await;
    assert!(String::from_utf8_lossy(&broken.stderr).contains("--ca /nowhere.pem"));
}

/// As without TLS: a stalled reader is cut.
#[tokio::test]
async fn a_stalled_reader_is_cut_in_time() {
    let (server, certificate, _files) = certificates::server(&["--stall-timeout", "2s", "--heartbeat", "500ms"]);
    let mut stalled = Vec::new();
    for (number, transport) in STREAMS.into_iter().enumerate() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("small");
        let stream = socket.connect(server.address().parse().expect("an address")).await.expect("connected");
        let stream = certificate.over(stream, "http/1.1").await.expect("TLS");
        let mut connection = Connection::on(stream);
        let client = uuid::Uuid::from_u128(number as u128 + 1);
        let query = format!("topic=a&cursor=earliest&client={client}");
        Items::request(&mut connection, transport, &query).await.expect("sent");
        stalled.push((transport, client, connection));
    }
    let text = "x".repeat(1000);
    for _ in 0..100 {
        let mut connection = secure(&certificate, &server).await;
        let events: Vec<_> = (0..50).map(|number| json!({ "topic": "a", "data": [number, text] })).collect();
        connection.post("/v1/events", "application/json", json!(events).to_string().as_bytes()).await.expect("sent");
        assert_eq!(connection.answer().await.expect("an answer").status(), 201);
    }
    // An iframe document is recycled after 128 KiB, which the buffers of the socket and of TLS may hold.
    for (transport, client, _connection) in stalled.iter().filter(|(transport, ..)| *transport != "iframe") {
        super::until(&format!("the stalled {transport} is cut"), async || {
            let mut connection = secure(&certificate, &server).await;
            connection.get(&format!("/v1/clients/{client}")).await.expect("sent");
            let answer = connection.answer().await.expect("an answer").json();
            answer["transports"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    }
}
