//! Malformed requests to a server that is watched for panics: sends raw bytes, collects the responses until the server closes the
//! connection, and checks afterwards that the server still serves.

use super::Server;
use super::http::Connection;
use super::raw;

/// Server flags with short timeouts, so that every connection ends soon.
pub(crate) const IMPATIENT: [&str; 7] =
    ["--allow-anonymous", "--header-timeout", "2s", "--body-timeout", "1s", "--keep-alive", "2s"];

/// What the server sent before it closed the connection.
pub(crate) struct Received {
    pub(crate) text: String,
    /// The statuses of the responses, in their order.
    pub(crate) statuses: Vec<u16>,
}

/// Sends bytes and reads until the server closes the connection, by its timeouts at the latest.
pub(crate) async fn exchange(address: &str, name: &str, bytes: &[u8]) -> Received {
    let mut connection = Connection::open(address).await.expect("connected");
    // The server may close the connection before it has read everything.
    let _ = connection.send(bytes).await;
    let received = super::within(&format!("the end of {name}"), connection.closed()).await;
    let text = String::from_utf8_lossy(&received).into_owned();
    let mut statuses: Vec<u16> = Vec::new();
    for (at, _) in text.match_indices("HTTP/1.") {
        statuses.extend(text.get(at + 9..at + 12).and_then(|digits| digits.parse::<u16>().ok()));
    }
    Received { text, statuses }
}

/// The topics of events published to `smuggled.>`: each is a request smuggling that succeeded.
pub(crate) async fn smuggled(server: &Server) -> Vec<String> {
    let events = raw::history(server.address(), "smuggled.%3E").await;
    events.iter().map(|event| event["topic"].as_str().expect("a topic").to_owned()).collect()
}

/// A server whose standard error is a file, so that a panic is found there.
pub(crate) fn watched(flags: &[&str]) -> (Server, std::path::PathBuf) {
    let directory = std::sync::Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let errors = directory.path().join("errors");
    let wrapper = ["sh", "-c", "exec \"$@\" 2>\"$0\"", errors.to_str().expect("a path in UTF-8")];
    (Server::start_under(&wrapper, directory, flags), errors)
}

/// Asserts that the server has not panicked and still serves.
pub(crate) async fn check_unharmed(server: &Server, errors: &std::path::Path) {
    let published = server.publish(&serde_json::json!({ "topic": "alive", "data": 1 })).await;
    let (_, events) = raw::poll(server.address(), "/v1/poll?topic=alive&last=1").await.expect("a batch");
    assert_eq!(events[0]["cursor"], published["cursor"]);
    let errors = std::fs::read_to_string(errors).expect("the standard error is read");
    assert!(!errors.contains("panicked"), "{errors}");
}
