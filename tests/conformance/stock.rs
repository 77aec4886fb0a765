//! Unmodified third-party clients: curl, an EventSource library, tokio-tungstenite.

use std::process::Stdio;

use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use launchdarkly_sdk_transport::HyperTransport;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::Server;
use crate::support::fixture::{end_of_log, numbers, post_events, publish, publish_all, shared, topic};
use crate::support::wire::Item;
use crate::support::within;

/// `curl -N`, line by line.
fn curl(url: &str, more: &[&str]) -> (tokio::process::Child, tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) {
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sN", "--noproxy", "*"]).args(more).arg(url).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("curl runs");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    (child, lines)
}

async fn line(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    within("a line from curl", lines.next_line()).await.expect("curl's output is read").expect("a line")
}

#[tokio::test]
async fn curl_reads_lines() {
    let server = shared();
    let topic = topic("curl");
    let url = format!("{}/v1/stream?topic={topic}.*&cursor=now", server.base);
    let (_child, mut lines) = curl(&url, &[]);
    assert_eq!(Item::parse(&line(&mut lines).await).event, "$hello");
    for n in 0..5 {
        publish(&server, &format!("{topic}.{n}"), n).await;
        let item = loop {
            let item = Item::parse(&line(&mut lines).await);
            if !matches!(item.event.as_str(), "$beat" | "$live") {
                break item;
            }
        };
        assert_eq!((item.topic, item.data), (Some(format!("{topic}.{n}")), Some(n.to_string())));
    }
}

#[tokio::test]
async fn curl_reads_server_sent_events() {
    let server = shared();
    let topic = topic("curlsse");
    let cursor = publish(&server, &topic, "é").await;
    let url = format!("{}/v1/sse?topic={topic}&cursor=earliest", server.base);
    let (_child, mut lines) = curl(&url, &["-H", "Accept: text/event-stream", "--compressed"]);
    assert!(line(&mut lines).await.starts_with("id: "));
    assert_eq!(line(&mut lines).await, "retry: 2000");
    while line(&mut lines).await != format!("id: {cursor}") {}
    let data = line(&mut lines).await;
    assert_eq!(Item::parse(data.strip_prefix("data: ").expect("data")).value(), "é");
    assert_eq!(line(&mut lines).await, "");
}

/// `curl -d` publishes, with as few options as possible.
#[tokio::test]
async fn curl_publishes() {
    let server = shared();
    let topic = topic("curlpub");
    let start = end_of_log(&server).await;
    let by_topic = format!("{}/v1/topics/{topic}", server.base);
    let events = format!("{}/v1/events", server.base);
    let event = format!("{{\"topic\":\"{topic}\",\"data\":3}}");
    let lines = format!("{{\"topic\":\"{topic}\",\"data\":4}}\n{{\"topic\":\"{topic}\",\"data\":5}}\n");
    for arguments in [
        vec!["-d", "{\"n\":1}", &by_topic],
        vec!["-d", "hello world", &by_topic],
        vec!["-H", "Content-Type: application/json", "-d", &event, &events],
        vec!["-H", "Content-Type: application/x-ndjson", "--data-binary", &lines, &events],
        vec!["--data-urlencode", "data=a&b", "-d", &format!("topic={topic}"), &events],
        vec!["-H", "Expect: 100-continue", "-d", "7", &by_topic],
        vec!["-H", "Transfer-Encoding: chunked", "-d", "8", &by_topic],
    ] {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-s", "--noproxy", "*", "-w", "%{http_code}"]).args(&arguments);
        let output = within("curl", command.output()).await.expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.ends_with("201"), "{arguments:?}: {text}");
    }
    let query = crate::support::client::Query::topic(&topic);
    let mut subscriber =
        crate::support::client::Subscriber::at(server.address(), crate::support::client::Kind::Poll, query, &start);
    let expected =
        [json!({ "n": 1 }), json!("hello world"), json!(3), json!(4), json!(5), json!("a&b"), json!(7), json!(8)];
    assert_eq!(subscriber.values(8).await, expected);
}

/// A third-party EventSource: event names, ids, and automatic reconnection through restarts with `Last-Event-ID`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_source_comes_back_by_itself() {
    let mut server = Server::start_at("127.0.0.2:0", &["--workers", "1", "--heartbeat", "200ms", "--drain", "0s"]);
    let start = end_of_log(&server).await;
    let mut cursors = publish_all(&server, "source", numbers(0..3)).await;
    let answer = post_events(&server, &json!({ "topic": "source", "event": "named", "data": 3 })).await;
    cursors.push(answer["cursor"].as_str().expect("a cursor").to_owned());

    let url = format!("{}/v1/sse?topic=source&cursor={start}", server.base);
    let transport = HyperTransport::builder().build_http().expect("a transport");
    let again =
        ReconnectOptions::reconnect(true).retry_initial(true).delay(std::time::Duration::from_millis(50)).build();
    let client = ClientBuilder::for_url(&url).expect("a URL").reconnect(again).build_with_transport(transport);
    let mut events = client.stream();
    let mut received: Vec<(String, String, Value)> = Vec::new();
    while received.len() < 12 {
        match within("an event", events.try_next()).await {
            Ok(Some(SSE::Event(event))) if event.event_type.starts_with('$') => {
                let item = Item::parse(&event.data);
                assert!(matches!(item.event.as_str(), "$hello" | "$live" | "$beat" | "$bye"), "{item:?}");
            }
            Ok(Some(SSE::Event(event))) => {
                let item = Item::parse(&event.data);
                received.push((event.id.expect("an id"), event.event_type, item.value()));
                if received.len().is_multiple_of(4) && received.len() < 12 {
                    // The server is stopped, then killed; events published meanwhile are not lost.
                    let n = received.len() as u32;
                    let kill = n == 8;
                    cursors.extend(publish_all(&server, "source", numbers(n..n + 2)).await);
                    server = tokio::task::block_in_place(|| {
                        if kill { server.kill_and_restart() } else { server.stop_and_restart() }
                    });
                    cursors.extend(publish_all(&server, "source", numbers(n + 2..n + 4)).await);
                }
            }
            Ok(Some(SSE::Connected(_) | SSE::Comment(_))) => {}
            // The client reports the lost connection, and reconnects.
            Err(_) => {}
            Ok(None) => panic!("the EventSource gave up"),
        }
    }
    let expected: Vec<(String, String, Value)> = (0..12)
        .map(|n| {
            let name = if n == 3 { "named" } else { "message" };
            (cursors[n].clone(), name.to_owned(), json!(n))
        })
        .collect();
    assert_eq!(received, expected);
}

/// tokio-tungstenite as its manual shows it.
#[tokio::test]
async fn tungstenite_subscribes_and_publishes() {
    let server = shared();
    let topic = topic("stockws");
    let url = format!("ws://{}/v1/ws?topic={topic}", server.address());
    let mut request = url.into_client_request().expect("a URL");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "switchback.v1".parse().expect("a value"));
    let (socket, response) = tokio_tungstenite::connect_async(request).await.expect("the handshake");
    assert_eq!(response.headers()["sec-websocket-protocol"], "switchback.v1");
    let (mut write, mut read) = socket.split();
    let message = json!({ "type": "publish", "topic": topic, "data": { "n": 1 }, "ref": 1 });
    write.send(Message::text(message.to_string())).await.expect("sent");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = within("a message", read.next()).await.expect("open").expect("whole");
        if let Message::Text(text) = message {
            let item = Item::parse(&text);
            if !matches!(item.event.as_str(), "$beat" | "$live") {
                seen.push(item);
            }
        }
    }
    let names: Vec<&str> = seen.iter().map(|item| item.event.as_str()).collect();
    assert!(names[0] == "$hello" && names.contains(&"message") && names.contains(&"$reply"), "{names:?}");
    write.close().await.expect("the socket closes");
    let close = within("the answer to the close", async {
        loop {
            match read.next().await {
                Some(Ok(Message::Close(frame))) => break frame,
                Some(Ok(_)) => {}
                other => panic!("not a close frame: {other:?}"),
            }
        }
    })
    .await;
    assert!(close.is_none_or(|frame| u16::from(frame.code) == 1000));
}
