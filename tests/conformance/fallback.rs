//! Fast-path requests and requests that fall back to the App, mixed on one connection: the client sees no difference.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::find;
use crate::support::{Server, within};

/// An ordinary GET request.
fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

fn publish(topic: &str, data: &str) -> String {
    let length = data.len();
    format!(
        "POST /v1/topics/{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{data}"
    )
}

const POLL: &str = "/v1/poll?topic=%3E&cursor=earliest";
const LAST: &str = "Connection: close\r\n";

/// The statuses of the responses, and all bytes, of a server that closes the connection at the end.
async fn all(mut stream: TcpStream) -> (Vec<u16>, String) {
    let mut said = Vec::new();
    within("the end of the connection", stream.read_to_end(&mut said))
        .await
        .expect("the connection is closed without an error");
    let said = String::from_utf8(said).expect("text");
    let statuses = said.match_indices("HTTP/1.1 ").map(|(at, _)| said[at + 9..at + 12].parse().expect("a status"));
    (statuses.collect(), said)
}

async fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    stream
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let server = Server::start(&["--store", "memory", "--workers", "1"]);
    let head = "HEAD /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    let together = [
        publish("a", "first"),
        get(POLL, ""),
        get("/v1/longpoll?topic=a&wait=1", ""),
        get("/v1/clients/x", ""),
        publish("a", "second"),
        head,
        publish("a", "third"),
        get("/v1/nothing", ""),
        get(POLL, LAST),
    ];
    let mut stream = connect(&server).await;
    stream.write_all(together.concat().as_bytes()).await.expect("sent");
    let (statuses, said) = all(stream).await;
    assert_eq!(statuses, [201, 200, 200, 400, 201, 200, 201, 404, 200], "{said}");
    let (before, after) = said.split_at(said.find("404 ").expect("the last but one"));
    assert_eq!((before.matches("first").count(), before.matches("third").count()), (1, 0), "{said}");
    assert!(["first", "second", "third"].iter().all(|data| after.contains(data)), "{said}");
}

#[tokio::test]
async fn thousands_of_requests_may_come_together() {
    let server = Server::start(&["--store", "memory", "--workers", "1"]);
    const COUNT: usize = 5000;
    let stream = connect(&server).await;
    let (reading, mut writing) = stream.into_split();
    let sending = tokio::spawn(async move {
        let mut text: String = (0..COUNT).map(|number| publish("a", &format!("number {number}."))).collect();
        text.push_str(&get("/v1/info", LAST));
        writing.write_all(text.as_bytes()).await.expect("sent");
        writing
    });
    let mut reading = reading;
    let mut said = Vec::new();
    within("the answers", reading.read_to_end(&mut said)).await.expect("read");
    drop(sending.await.expect("sent"));
    let said = String::from_utf8(said).expect("text");
    assert_eq!(said.matches("HTTP/1.1 201 ").count(), COUNT);
    let positions = said.match_indices("\"cursor\":\"").map(|(at, found)| {
        let cursor = said[at + found.len()..].split('"').next().expect("a cursor");
        cursor.split_once('-').and_then(|(_, position)| position.parse::<usize>().ok()).expect("a position")
    });
    assert!(positions.take(COUNT).eq(1..=COUNT), "pipelined events are stored in the order of their arrival");
}

/// Requests are parsed the same for every split into packets.
#[tokio::test]
async fn requests_may_come_in_pieces() {
    let server = Server::start(&["--store", "memory", "--workers", "1"]);
    let text = [publish("a", "in pieces"), get(POLL, "X-A: b\r\n"), publish("a", "again"), get(POLL, LAST)].concat();
    for piece in [1, 7, 60, 150] {
        let mut stream = connect(&server).await;
        for bytes in text.as_bytes().chunks(piece) {
            stream.write_all(bytes).await.expect("sent");
            // A yield, so that the server may read the piece by itself.
            tokio::task::yield_now().await;
        }
        let (statuses, said) = all(stream).await;
        assert_eq!(statuses, [201, 200, 201, 200], "{piece}: {said}");
    }
}

#[tokio::test]
async fn an_idle_connection_gets_408_and_is_closed() {
    let server = Server::start(&["--header-timeout", "300ms", "--keep-alive", "300ms", "--store", "memory"]);
    let (statuses, said) = all(connect(&server).await).await;
    assert_eq!(statuses, [408], "{said}");
    let mut stream = connect(&server).await;
    stream.write_all(get(POLL, "").as_bytes()).await.expect("sent");
    let (statuses, said) = all(stream).await;
    assert_eq!(statuses, [200], "an idle keep-alive connection is closed without a response: {said}");
}

/// Bytes meant for a WebSocket are not parsed as a request.
#[tokio::test]
async fn a_socket_that_is_refused_ends_its_connection() {
    let server = Server::start(&["--store", "memory"]);
    let upgrade = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    let mut stream = connect(&server).await;
    let text = [get("/v1/ws?topic=a", upgrade), publish("a", "smuggled")].concat();
    stream.write_all(text.as_bytes()).await.expect("sent");
    let (statuses, said) = all(stream).await;
    assert_eq!(statuses, [400], "{said}");
    assert!(find(said.as_bytes(), b"connection: close").is_some(), "{said}");
}
