//! Clock skew between nodes: it is reported, and tokens, tickets and bans expire on all nodes at the same time.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Query};
use crate::support::http::Request;
use crate::support::jwt::Signer;
use crate::support::nats::Nats;
use crate::support::preload::Faults;

const SECRET: &str = "a secret that all nodes have, 32+";

/// The skew of the node that is ahead: longer than a ticket's lifetime.
const AHEAD_MS: i64 = 120_000;

/// NATS, a node with the right clock, and a node with a wrong clock.
struct Skewed {
    right: Server,
    wrong: Server,
    _faults: Faults,
    _secret: tempfile::NamedTempFile,
    _nats: Nats,
}

impl Skewed {
    fn start(ahead_ms: i64) -> Self {
        tokio::task::block_in_place(|| {
            let secret = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(&secret, SECRET).expect("a secret");
            let nats = Nats::single();
            let (url, path) = (nats.url(), secret.path().to_str().expect("a path"));
            let flags = ["--store", &url, "--jwt-secret-file", path, "--workers", "1", "--log", "warn"];
            let right = Server::start(&flags);
            let (faults, wrong) = Faults::start_ahead(ahead_ms, &flags);
            Self { right, wrong, _faults: faults, _secret: secret, _nats: nats }
        })
    }
}

/// A token that is valid by both clocks.
fn bearer(mut claims: Value) -> String {
    claims["exp"] = json!(switchback::clock::wall_ms() / 1000 + 3600);
    format!("Bearer {}", Signer::secret(SECRET).sign(&claims))
}

async fn ticket(node: &Server) -> String {
    let request = Request::post("/v1/tickets", "application/json", json!({ "transport": "poll" }).to_string());
    let request = request.header("Authorization", bearer(json!({ "subscribe": ["a"] })));
    request.send(node.address()).await.created().await["ticket"].as_str().expect("a ticket").to_owned()
}

async fn status_by(ticket: &str, node: &Server) -> u16 {
    Query::topic("a").with("ticket", ticket).request(Kind::Poll).send(node.address()).await.status
}

async fn skew_of(node: &Server) -> Value {
    Request::get("/readyz").send(node.address()).await.json().await["clock_skew"].clone()
}

fn is_near(ms: &Value, expected_ms: i64) -> bool {
    ms.as_i64().is_some_and(|ms| ms.abs_diff(expected_ms) < 3000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_and_bans_expire_at_the_same_time_on_every_node() {
    for ahead_ms in [AHEAD_MS, -AHEAD_MS] {
        let nodes = Skewed::start(ahead_ms);
        let (right, wrong) = (&nodes.right, &nodes.wrong);
        let (first, second) = (ticket(right).await, ticket(wrong).await);
        assert_eq!(
            status_by(&first, wrong).await,
            200,
            "a ticket of the right clock, on the node that is {ahead_ms} ms ahead"
        );
        assert_eq!(status_by(&second, right).await, 200, "a ticket of the clock that is {ahead_ms} ms ahead");
        // A ban that is shorter than the skew.
        for (banning, other) in [(right, wrong), (wrong, right)] {
            let client = uuid::Uuid::new_v4().to_string();
            let request = Request::new("DELETE", format!("/v1/clients/{client}?ban=60"));
            let administrator = bearer(json!({ "admin": true, "sub": "the administrator" }));
            let answer = request.header("Authorization", administrator).send(banning.address()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let query = Query::topic("a").with("client", &client);
            let query = query.header("Authorization", bearer(json!({ "subscribe": ["a"] })));
            super::until("the client is banned at the other node", async || {
                query.request(Kind::Poll).send(other.address()).await.status == 403
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reports_the_skew_of_its_clock() {
    let nodes = Skewed::start(AHEAD_MS);
    super::until("the node with the wrong clock reports the skew", async || {
        let skew = skew_of(&nodes.wrong).await;
        is_near(&skew["nats_ms"], -AHEAD_MS) && is_near(&skew["nodes_ms"], -AHEAD_MS)
    })
    .await;
    super::until("the other node reports the skew", async || {
        is_near(&skew_of(&nodes.right).await["nodes_ms"], AHEAD_MS)
    })
    .await;
    assert!(is_near(&skew_of(&nodes.right).await["nats_ms"], 0), "the right clock agrees with NATS");
    for node in [&nodes.wrong, &nodes.right] {
        super::until("the skew is logged", async || node.log().contains("differ by more than 5 seconds")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_agree_are_not_spoken_of() {
    let nodes = Skewed::start(0);
    for node in [&nodes.right, &nodes.wrong] {
        let answer = Request::get("/readyz").send(node.address()).await.json().await;
        assert_eq!(answer, json!({ "status": "ready" }));
    }
}
