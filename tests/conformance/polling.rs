//! HTTP semantics of polling and of the iframe: entity tags, `HEAD`, HTTP/1.0, byte budgets and origins.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, over, publish, shared, topic, uuid};
use crate::support::http::{Request, find};
use crate::support::wire::Batch;
use crate::support::{Server, within};

over!(every: over_http_1_0, padding_on_request);

#[tokio::test]
async fn nothing_new_is_304() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let start = publish(&server, "tag", 0).await;
    let poll_request =
        |tag: String| Query::topic("tag").with("cursor", &start).request(Kind::Poll).header("If-None-Match", tag);
    for tag in [format!("\"{start}\""), format!("W/\"{start}\""), format!("\"x\", W/\"{start}\" , \"y\"")] {
        let mut answer = poll_request(tag.clone()).send(server.address()).await;
        assert_eq!((answer.status, answer.text().await.as_str()), (304, ""), "{tag}");
        assert_eq!(answer.header("etag"), Some(format!("\"{start}\"").as_str()), "the client keeps its cursor");
        assert_eq!(answer.header("cache-control"), Some("no-store, no-transform"));
    }
    for tag in ["\"other\"", "W/\"x-1\"", start.as_str(), ""] {
        let mut answer = poll_request(tag.to_owned()).send(server.address()).await;
        assert_eq!(answer.status, 200, "{tag} matches nothing");
        assert_eq!(answer.json().await, json!({ "cursor": start, "events": [], "live": true }));
    }
    // An event that does not match does not change the entity tag; the client's cursor stays valid.
    publish(&server, "other", 1).await;
    let quiet = poll_request(format!("\"{start}\"")).send(server.address()).await;
    assert!(matches!(quiet.status, 304 | 200));
    let end = publish(&server, "tag", 2).await;
    let mut answer = poll_request(format!("\"{start}\"")).send(server.address()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("etag"), Some(format!("\"{end}\"").as_str()), "the entity tag is the cursor");
    assert_eq!(Batch::parse(&answer.text().await).events.len(), 1);
    // A client that presents no cursor, or one that differs from the tag, gets a response with a cursor.
    for query in [Query::topic("tag"), Query::topic("tag").with("cursor", "now"), Query::topic("tag").with("last", 1)] {
        let request = query.request(Kind::Poll).header("If-None-Match", format!("\"{end}\""));
        assert_eq!(request.send(server.address()).await.status, 200, "{query:?}");
    }
}

/// A client that gets 304 for long is given a newer cursor, or else the server would scan the same events at each poll.
#[tokio::test]
async fn a_quiet_poller_keeps_a_good_cursor() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let mut cursor = end_of_log(&server).await;
    for round in 0..4 {
        let filler: Vec<_> = (0..200).map(|n| json!({ "topic": "loud", "data": n })).collect();
        crate::support::fixture::post_events(&server, &json!(filler)).await;
        let request = Query::topic("quiet").with("cursor", &cursor).request(Kind::Poll);
        let mut answer = request.header("If-None-Match", format!("\"{cursor}\"")).send(server.address()).await;
        if answer.status == 200 {
            let batch = Batch::parse(&answer.text().await);
            assert!(batch.events.is_empty(), "round {round}");
            cursor = batch.cursor.expect("a cursor");
        } else {
            assert_eq!(answer.status, 304);
        }
    }
    publish(&server, "quiet", 1).await;
    let mut subscriber = Subscriber::at(server.address(), Kind::Poll, Query::topic("quiet"), &cursor);
    assert_eq!(subscriber.values(1).await, [1]);
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let server = shared();
    for path in ["/v1/info", "/v1/clients", "/healthz", "/readyz", "/v1/poll?topic=a"] {
        let get = Request::get(path).send(server.address()).await;
        let mut head = Request::new("HEAD", path).send(server.address()).await;
        assert_eq!((head.status, head.text().await.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
}

/// Some proxies speak HTTP/1.0 to the server: no chunked bodies there.
async fn over_http_1_0(kind: Kind) {
    if kind == Kind::Ws {
        // A WebSocket needs HTTP/1.1 (RFC 6455 §4.1).
        return;
    }
    let server = shared();
    let topic = topic("old");
    let start = end_of_log(&server).await;
    publish(&server, &topic, "here").await;
    let once = if kind == Kind::IframeOnce { "&once=1" } else { "" };
    let wait = if kind == Kind::JsonpPoll { "&wait=0" } else { "" };
    let target = format!("/v1/{}?topic={topic}&cursor={start}&callback=cb{once}{wait}", kind.transport());
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
    let request = format!("GET {target} HTTP/1.0\r\nHost: {}\r\n\r\n", server.address());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    within("an answer over HTTP/1.0", async {
        while find(&all, b"\"here\"").is_none() {
            assert!(stream.read_buf(&mut all).await.expect("bytes") > 0, "{}", String::from_utf8_lossy(&all));
        }
    })
    .await;
    let text = String::from_utf8(all).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{head}");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    let first = match kind {
        Kind::Sse => "id: ",
        Kind::Iframe | Kind::IframeOnce => "<!DOCTYPE html>",
        Kind::Jsonp | Kind::JsonpPoll => "/**/cb(",
        _ => "{",
    };
    assert!(body.starts_with(first), "no chunk sizes: {body}");
}

/// `padding=1` is for clients that buffer the beginning of a stream; on other transports it is an ordinary parameter.
async fn padding_on_request(kind: Kind) {
    let server = shared();
    let topic = topic("padding");
    let query = Query::topic(&topic).with("padding", 1).with("client", uuid());
    let mut subscriber = Subscriber::start(server.address(), kind, query).await;
    if kind == Kind::Sse {
        let raw = &subscriber.link.as_ref().expect("a stream").raw;
        assert!(raw.starts_with(b":") && raw.iter().position(|b| *b == b'\n').is_some_and(|end| end >= 2048));
    }
    publish(&server, &topic, 1).await;
    assert_eq!(subscriber.values(1).await, [1]);
}

/// An iframe document ends at its byte budget, with a cursor to continue from.
#[tokio::test]
async fn a_document_is_recycled() {
    let server = shared();
    let topic = topic("grown");
    let start = end_of_log(&server).await;
    let filler = "y".repeat(10_000);
    let events: Vec<_> = (0..40).map(|n| json!({ "topic": topic, "data": { "n": n, "filler": filler } })).collect();
    crate::support::fixture::post_events(&server, &json!(events)).await;
    let (mut next, mut cursor, mut documents) = (0, start, 0);
    while next < 40 {
        let mut link = Link::to(server.address(), Kind::Iframe, &Query::topic(&topic).with("cursor", &cursor)).await;
        assert_eq!(link.item().await.event, "$hello");
        loop {
            let item = link.item().await;
            cursor = item.cursor.clone().expect("a cursor");
            if item.is_control() {
                assert_eq!((item.event.as_str(), &item.value()["reason"]), ("$bye", &json!("recycle")));
                assert!(item.value()["retry"].is_u64(), "{item:?}");
                link.end().await;
                assert!((128 << 10..(128 << 10) + 11_000).contains(&link.raw.len()), "{} bytes", link.raw.len());
                documents += 1;
                break;
            }
            assert_eq!(item.value()["n"], next);
            next += 1;
            if next == 40 {
                break;
            }
        }
    }
    assert_eq!(documents, 3);
    // A single event that exceeds the budget is delivered all the same.
    let start = end_of_log(&server).await;
    publish(&server, &topic, "z".repeat(200 << 10)).await;
    let mut link = Link::to(server.address(), Kind::Iframe, &Query::topic(&topic).with("cursor", start)).await;
    for expected in ["$hello", "message", "$bye"] {
        assert_eq!(link.item().await.event, expected);
    }
    link.end().await;
}

/// The iframe posts its items to a window of one origin: the server's own, or a requested one that is allowed.
#[tokio::test]
async fn an_iframe_posts_to_one_origin() {
    let server = Server::start(&["--workers", "1", "--store", "memory", "--allow-origin", "https://app.example.com"]);
    let own = format!("http://{}", server.address());
    for once in [false, true] {
        for (origin, written) in [
            (None, "location.protocol+\"//\"+location.host".to_owned()),
            (Some("https://app.example.com"), "\"https://app.example.com\"".to_owned()),
            (Some(own.as_str()), format!("\"{own}\"")),
        ] {
            let query = Query::topic("a").with("wait", 0);
            let query = origin.into_iter().fold(query, |query, origin| query.with("origin", origin));
            let kind = if once { Kind::IframeOnce } else { Kind::Iframe };
            let mut link = Link::to(server.address(), kind, &query).await;
            if once {
                link.batch().await;
            } else {
                link.item().await;
            }
            let text = String::from_utf8(link.raw.clone()).expect("UTF-8");
            assert!(text.contains(&format!("var t={written};")), "{origin:?}: {text}");
            let policy = link.headers.iter().find(|(name, _)| name == "content-security-policy").expect("a policy");
            assert!(policy.1.contains("frame-ancestors 'self' https://app.example.com"), "{policy:?}");
        }
    }
}

/// Each document has a nonce of its own.
#[tokio::test]
async fn nonces_are_used_once() {
    let server = shared();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..8 {
        let link = Link::to(server.address(), Kind::IframeOnce, &Query::topic("a").with("wait", 0)).await;
        let policy = link.headers.iter().find(|(name, _)| name == "content-security-policy").expect("a policy");
        assert!(seen.insert(crate::support::wire::nonce_of(&policy.1)), "{policy:?}");
    }
}

/// An `EventSource` that is to receive everything in `onmessage` requests blocks without event names.
#[tokio::test]
async fn events_without_names_on_request() {
    let server = shared();
    let topic = topic("unnamed");
    let start = end_of_log(&server).await;
    crate::support::fixture::post_events(&server, &json!({ "topic": topic, "event": "named", "data": 1 })).await;
    let query = Query::topic(&topic).with("cursor", start).with("named", 0);
    let mut answer = query.request(Kind::Sse).send(server.address()).await;
    let mut text = String::new();
    while !text.contains("\"named\"") || !text.ends_with("\n\n") {
        let chunk = within("an event", answer.body.chunk()).await.expect("bytes").expect("a stream");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
    assert!(text.lines().all(|line| !line.starts_with("event")), "{text}");
    assert!(text.contains("\"event\":\"$hello\""), "the names are in the items: {text}");
}
