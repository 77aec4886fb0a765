//! The corpus of malformed HTTP, sent directly to the server.

use futures_util::StreamExt as _;

use super::corpus::{self, Fate, Nonsense};
use crate::support::http::Connection;
use crate::support::watched::{self, Received, exchange};

/// The number of concurrent connections.
const AT_ONCE: usize = 16;

/// Returns how the outcome differs from the expected one.
fn fault(nonsense: &Nonsense, received: &Received) -> Option<String> {
    let Received { text, statuses } = received;
    let first = statuses.first().copied();
    let fault = match nonsense.fate {
        // What is not implemented, and another version of HTTP, are refusals.
        _ if statuses.iter().any(|status| *status >= 500 && ![501, 505].contains(status)) => "a fault of the server's",
        Fate::Refused if first.is_some_and(|status| status < 400) => "not refused",
        Fate::Refused | Fate::Either if statuses.len() > 1 => "answered more than once",
        Fate::Served(times) if statuses.len() != times || statuses.iter().any(|status| *status >= 400) => "not served",
        _ => return None,
    };
    let text: String = text.chars().take(600).collect();
    Some(format!("{}: {fault}: {statuses:?}: {text}", nonsense.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_and_smuggle_none() {
    let (server, errors) = watched::watched(&watched::IMPATIENT);
    let corpus = corpus::all();
    let faults: Vec<Option<String>> = futures_util::stream::iter(&corpus)
        .map(async |nonsense| fault(nonsense, &exchange(server.address(), nonsense.name, &nonsense.bytes).await))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), corpus.len(), faults.join("\n"));
    assert_eq!(watched::smuggled(&server).await, [""; 0], "requests that were hidden in others");
    watched::check_unharmed(&server, &errors).await;
}

/// The smuggled request is valid: properly pipelined behind another request, it is served.
#[tokio::test]
async fn the_smuggled_request_is_valid_by_itself() {
    let (server, errors) = watched::watched(&watched::IMPATIENT);
    let plain = corpus::pipelined();
    let received = exchange(server.address(), "two requests", plain.as_bytes()).await;
    assert_eq!(received.statuses, [201, 201], "{}", received.text);
    assert_eq!(watched::smuggled(&server).await, ["smuggled.pipelined"]);
    watched::check_unharmed(&server, &errors).await;
}

/// A request split at any byte, into pieces that arrive separately, has the same outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_hide_nothing_either() {
    let (server, errors) = watched::watched(&watched::IMPATIENT);
    let whole = corpus::pipelined();
    let cuts: Vec<usize> = (1..whole.len()).collect();
    futures_util::stream::iter(cuts)
        .for_each_concurrent(AT_ONCE, async |cut| {
            let mut connection = Connection::open(server.address()).await.expect("connected");
            let (first, second) = whole.as_bytes().split_at(cut);
            connection.send(first).await.expect("sent");
            // The second half is sent once the first has left as a TCP segment of its own.
            tokio::task::yield_now().await;
            connection.send(second).await.expect("sent");
            for answer in 0..2 {
                let answered = super::within("an answer", connection.answer()).await.expect("an answer");
                assert_eq!(answered.status(), 201, "{answer} of a request cut at {cut}: {}", answered.text());
            }
        })
        .await;
    watched::check_unharmed(&server, &errors).await;
}
