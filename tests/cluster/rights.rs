//! Access control in a cluster: a ticket used on one node is used up on all, the ownership of clients is shared, and bans and
//! revocations on one node apply to all.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::nodes::Nodes;
use crate::support::client::{Kind, Link, Query};
use crate::support::http::{Request, Response};
use crate::support::jwt::Signer;
use crate::support::nats::Nats;

const SECRET: &str = "a secret that all nodes have, 32+";

/// Three nodes with one secret.
struct Keyed {
    nodes: Nodes,
    _nats: Nats,
    _secret: tempfile::NamedTempFile,
}

impl Keyed {
    fn start() -> Self {
        tokio::task::block_in_place(|| {
            let secret = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(&secret, SECRET).expect("a secret");
            let nats = Nats::single();
            let path = secret.path().to_str().expect("a path");
            let nodes = Nodes::over(&nats, 3, &["--jwt-secret-file", path]);
            Self { nodes, _nats: nats, _secret: secret }
        })
    }

    fn at(&self, node: usize) -> &str {
        self.nodes.address(node)
    }

    async fn administer(&self, node: usize, request: Request) -> Response {
        let token = bearer(json!({ "admin": true, "sub": "the administrator" }));
        request.header("Authorization", token).send(self.at(node)).await
    }

    /// A stream at a node, after its `$hello`.
    async fn stream(&self, node: usize, kind: Kind, query: &Query) -> Link {
        let mut link = Link::to(self.at(node), kind, query).await;
        assert_eq!(link.item().await.event, "$hello");
        link
    }

    async fn status(&self, node: usize, query: &Query) -> u16 {
        query.request(Kind::Poll).send(self.at(node)).await.status
    }
}

fn bearer(mut claims: Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    claims["exp"] = json!(now + 600);
    format!("Bearer {}", Signer::secret(SECRET).sign(&claims))
}

fn by(claims: Value) -> Query {
    Query::topic("a").header("Authorization", bearer(claims))
}

async fn ticket(keyed: &Keyed, node: usize, transport: &str) -> Query {
    let request = Request::post("/v1/tickets", "application/json", json!({ "transport": transport }).to_string());
    let request = request.header("Authorization", bearer(json!({ "subscribe": ["a"] })));
    let answer = request.send(keyed.at(node)).await.created().await;
    Query::topic("a").with("ticket", answer["ticket"].as_str().expect("a ticket"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_good_once_on_any_node() {
    let keyed = Keyed::start();
    for (turn, kind) in Kind::ALL.into_iter().enumerate() {
        let ticket = ticket(&keyed, turn % 3, kind.transport()).await.with("wait", 0);
        let mut link = Link::to(keyed.at((turn + 1) % 3), kind, &ticket).await;
        if kind.streams() {
            assert_eq!(link.item().await.event, "$hello", "{kind}");
        } else {
            assert!(link.batch().await.cursor.is_some(), "{kind}");
        }
        // Used up everywhere. A JSONP response reports this with status 200.
        for node in (0..3).filter(|_| kind.transport() != "jsonp") {
            assert_eq!(ticket.request(kind).send(keyed.at(node)).await.status, 401, "{kind} at {node}");
        }
    }
    // Of many concurrent uses of a ticket, on all nodes, one is accepted.
    for _ in 0..5 {
        let ticket = ticket(&keyed, 0, "poll").await;
        let requests = (0..9).map(|turn| {
            let (request, node) = (ticket.request(Kind::Poll), keyed.at(turn % 3).to_owned());
            tokio::spawn(async move { request.send(&node).await.status })
        });
        let mut statuses = Vec::new();
        for one in requests.collect::<Vec<_>>() {
            statuses.push(one.await.expect("an answer"));
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401, 401, 401, 401, 401, 401, 401, 401]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_its_owner_on_every_node() {
    let keyed = Keyed::start();
    let client = uuid::Uuid::new_v4();
    let of = |sub: &str| by(json!({ "sub": sub, "subscribe": ["a"] })).with("client", client);
    assert_eq!(keyed.status(0, &of("li")).await, 200);
    for node in 0..3 {
        assert_eq!(keyed.status(node, &of("wu")).await, 403, "at {node}");
        assert_eq!(keyed.status(node, &of("li")).await, 200, "at {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_or_revocation_disconnects_on_every_node() {
    let keyed = Keyed::start();
    let client = uuid::Uuid::new_v4();
    let named = by(json!({ "sub": "li", "jti": "t1", "subscribe": ["a"] })).with("client", client);
    let other = by(json!({ "sub": "wu", "jti": "t2", "subscribe": ["a"] }));
    let mut banned = Vec::new();
    let mut revoked = Vec::new();
    for (node, kind) in [(1, Kind::Ws), (1, Kind::Sse), (2, Kind::Stream), (2, Kind::Iframe)] {
        banned.push(keyed.stream(node, kind, &named).await);
        revoked.push(keyed.stream(node, kind, &other).await);
    }
    let ban = Request::new("DELETE", format!("/v1/clients/{client}?ban=600"));
    assert_eq!(keyed.administer(0, ban).await.status, 200);
    for link in &mut banned {
        let bye = link.telling().await;
        assert_eq!((bye.event.as_str(), bye.value()), ("$bye", json!({ "reason": "kicked" })));
    }
    for node in 0..3 {
        super::until("the client is banned", async || keyed.status(node, &named).await == 403).await;
        assert_eq!(keyed.status(node, &other).await, 200, "at {node}: another client is not banned");
    }
    let revocation = Request::post("/v1/revocations", "application/json", json!({ "jti": "t2" }).to_string());
    assert_eq!(keyed.administer(2, revocation).await.status, 201);
    for link in &mut revoked {
        let bye = link.telling().await;
        assert_eq!((bye.event.as_str(), bye.value()), ("$bye", json!({ "reason": "kicked" })));
    }
    for node in 0..3 {
        super::until("the token is revoked", async || keyed.status(node, &other).await == 401).await;
    }
}
