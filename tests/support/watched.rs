//! Bytes sent as they are, and whatever is said to them until the peer hangs up.

use super::Server;
use super::raw::{self, Connection};

/// A server's flags with which it waits for nobody for long, so that every connection ends.
pub(crate) const IMPATIENT: [&str; 7] =
    ["--allow-anonymous", "--header-timeout", "2s", "--body-timeout", "1s", "--keep-alive", "2s"];

/// What a peer said before it hung up.
pub(crate) struct Said {
    pub(crate) text: String,
    /// The statuses of its answers, in their order.
    pub(crate) statuses: Vec<u16>,
}

/// Sends bytes and reads until the peer hangs up, which its deadlines make it do.
pub(crate) async fn say(address: &str, name: &str, bytes: &[u8]) -> Said {
    let mut connection = Connection::open(address).await.expect("connected");
    // It may hang up before all was taken.
    let _ = connection.send(bytes).await;
    let said = super::within(&format!("the end of {name}"), connection.closed()).await;
    let text = String::from_utf8_lossy(&said).into_owned();
    let mut statuses: Vec<u16> = Vec::new();
    for (at, _) in text.match_indices("HTTP/1.") {
        statuses.extend(text.get(at + 9..at + 12).and_then(|digits| digits.parse::<u16>().ok()));
    }
    Said { text, statuses }
}

/// The topics of events that were published to `smuggled.>`: none of them was asked for.
pub(crate) async fn smuggled(server: &Server) -> Vec<String> {
    let events = raw::history(server.address(), "smuggled.%3E").await;
    events.iter().map(|event| event["topic"].as_str().expect("a topic").to_owned()).collect()
}

/// A server whose standard error goes to a file, so that a panic can be found there.
pub(crate) fn watched(flags: &[&str]) -> (Server, std::path::PathBuf) {
    let directory = std::sync::Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let errors = directory.path().join("errors");
    let wrapper = ["sh", "-c", "exec \"$@\" 2>\"$0\"", errors.to_str().expect("a path in UTF-8")];
    (Server::start_under(&wrapper, directory, flags), errors)
}

/// It has not panicked, and serves on.
pub(crate) async fn check_unharmed(server: &Server, errors: &std::path::Path) {
    let published = server.publish(&serde_json::json!({ "topic": "alive", "data": 1 })).await;
    let (_, events) = raw::poll(server.address(), "/v1/poll?topic=alive&last=1").await.expect("a batch");
    assert_eq!(events[0]["cursor"], published["cursor"]);
    let errors = std::fs::read_to_string(errors).expect("what it said");
    assert!(!errors.contains("panicked"), "{errors}");
}
