//! Malformed and unfinished requests: the server says what is wrong, in the form that every refusal has, and ends the connection.

use crate::support::http::{Answer, Connection};
use crate::support::{Server, within};

/// Both ways to a handler: this server's own HTTP/1.1 with its fallback, and the `App` alone.
const WAYS: [&[&str]; 2] = [&[], &["--through-app"]];

fn server(way: &[&str], flags: &[&str]) -> Server {
    Server::start(&[&["--store", "memory", "--workers", "1"], way, flags].concat())
}

/// The only response to these bytes, after which the server closes the connection.
async fn refused(server: &Server, bytes: &[u8]) -> Answer {
    let mut connection = Connection::open(server.address()).await.expect("connected");
    // The server may close the connection before it has read everything.
    let _ = connection.send(bytes).await;
    let answer = within("an answer", connection.answer()).await.expect("an answer");
    let rest = within("a close", connection.closed()).await;
    assert_eq!(String::from_utf8_lossy(&rest), "", "one response");
    assert_eq!(answer.head.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.head.header("content-length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!(answer.head.header("connection"), Some("close"), "{answer:?}");
    assert!(answer.body.len() < 500, "{answer:?}");
    answer
}

#[tokio::test]
async fn what_is_not_http_is_refused_with_the_reason() {
    let post = |lines: &str| format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let many: String = (0..100).map(|number| format!("X-{number}: x\r\n")).collect();
    let target = format!("GET /\u{e9}?:[{}] HTTP/1.1\r\nHost: localhost\r\n\r\n", "\"".repeat(1000));
    let shapes = [
        ("nonsense".to_owned() + "\r\n\r\n", 400, "bad_request"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned(), 400, "bad_request"),
        ("GET /v1/info http/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET /v1/info HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(), 505, "unsupported_version"),
        ("GET /v1/info HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_host"),
        (post("Host: other\r\nContent-Length: 0\r\n"), 400, "bad_host"),
        (post("A line\r\n"), 400, "bad_request"),
        (post("A: \u{0}\r\n"), 400, "bad_request"),
        (post("Content-Length: one\r\n"), 400, "bad_length"),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n"), 400, "bad_length"),
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400, "bad_length"),
        (post("Transfer-Encoding: gzip, chunked\r\n"), 501, "unsupported_coding"),
        (post("Transfer-Encoding: chunked, gzip\r\n"), 400, "bad_length"),
        ("POST /v1/events HTTP/1.0\r\n\r\n".to_owned(), 411, "length_required"),
        (post(&many), 431, "head_too_large"),
        (format!("GET /{}", "x".repeat(200 << 10)), 431, "head_too_large"),
        (target, 400, "bad_target"),
    ];
    for way in WAYS {
        let server = server(way, &[]);
        for (text, status, code) in &shapes {
            let shown: String = text.chars().take(80).collect();
            let answer = refused(&server, text.as_bytes()).await;
            assert_eq!((answer.status(), answer.code().as_str()), (*status, *code), "{way:?} {shown:?}");
        }
    }
}

/// A body whose chunks are malformed is refused once, by its handler where that reads it.
#[tokio::test]
async fn a_malformed_body_gets_one_response() {
    for way in WAYS {
        let server = server(way, &[]);
        for body in ["x\r\n", "1\r\nxy\r\n", "0\r\nno trailer\r\n\r\n", "1;\n"] {
            let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
            let text = format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}GET /v1/info HTTP/1.1\r\n\r\n");
            let answer = refused(&server, text.as_bytes()).await;
            assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_body"), "{way:?} {body:?}");
            assert!(answer.text().contains("malformed"), "{way:?} {body:?}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_is_refused_with_the_reason() {
    for way in WAYS {
        let server = server(way, &["--header-timeout", "300ms"]);
        for before in ["", "GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
            for part in ["", "G", "GET /v1/info HTTP/1.1\r\nHost: loc"] {
                if part.is_empty() && !before.is_empty() {
                    continue;
                }
                let mut connection = Connection::open(server.address()).await.expect("connected");
                connection.send([before, part].concat()).await.expect("sent");
                if !before.is_empty() {
                    assert_eq!(connection.answer().await.expect("an answer").status(), 200);
                }
                let answer = within("an answer", connection.answer()).await.expect("an answer");
                let found = (answer.status(), answer.code(), answer.head.header("connection"));
                assert_eq!(found, (408, "timeout".to_owned(), Some("close")), "{way:?} {before:?} {part:?}");
                assert_eq!(within("a close", connection.closed()).await, b"");
            }
        }
    }
}

/// The responses before it are sent, in order and as their own requests ask for them.
#[tokio::test]
async fn requests_before_a_malformed_one_are_answered() {
    for way in WAYS {
        let server = server(way, &[]);
        let mut connection = Connection::open(server.address()).await.expect("connected");
        let head = "HEAD /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let held = "GET /v1/longpoll?topic=a&wait=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        connection.send(format!("{held}{held}{head}nonsense\r\n\r\n")).await.expect("sent");
        for _ in 0..2 {
            assert_eq!(within("an answer", connection.answer()).await.expect("an answer").status(), 200);
        }
        let answer = within("a head", connection.head()).await.expect("a head");
        assert_eq!((answer.status, answer.header("connection")), (200, None), "{way:?}");
        let answer = within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad_request"), "{way:?}");
        assert_eq!(within("a close", connection.closed()).await, b"");
    }
}

/// What follows a connection's last request is not read (RFC 9112 §9.6), malformed or not.
#[tokio::test]
async fn nothing_is_said_of_what_follows_the_last_request() {
    for way in WAYS {
        let server = server(way, &[]);
        let mut connection = Connection::open(server.address()).await.expect("connected");
        let last = "GET /v1/longpoll?topic=a&wait=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        connection.send(format!("{last}nonsense\r\n\r\n")).await.expect("sent");
        let answer = within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!((answer.status(), answer.head.header("connection")), (200, Some("close")), "{way:?}");
        assert_eq!(within("a close", connection.closed()).await, b"", "{way:?}");
    }
}
