//! Where a token is accepted: header, cookie, query parameter or WebSocket subprotocol.

use serde_json::json;

use super::keyed::{Keyed, bearer};
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::over;
use crate::support::http::Request;
use crate::support::refusal::refusal;

over!(every: a_token_may_stand_in_three_places, there_is_one_credential, without_keys_a_token_is_not_verified);

async fn a_token_may_stand_in_three_places(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let token = keyed.token(json!({ "subscribe": ["a"] }));
    let jsonp = matches!(kind, Kind::Jsonp | Kind::JsonpPoll);
    keyed.serves(kind, &Query::topic("a").header("Authorization", bearer(&token)), "a header").await;
    keyed.serves(kind, &Query::topic("a").with("token", &token), "the URL").await;
    let cookie = Query::topic("a").header("Cookie", format!("x=y; switchback_token={token}"));
    if jsonp {
        // Any page could load the script, and the browser would attach the cookie.
        keyed.refuses(kind, &cookie, 401, "never by cookie").await;
    } else {
        keyed.serves(kind, &cookie, "a cookie").await;
        // For a cross-origin page the cookie is ignored.
        let foreign = cookie.header("Origin", "https://evil.example");
        let status = if kind == Kind::Ws { 403 } else { 401 };
        let response = foreign.request(kind).send(keyed.address()).await;
        let code = if kind == Kind::Ws { "origin_not_allowed" } else { "unauthorized" };
        assert_eq!(refusal(kind, None, response, status).await.0, code);
    }
    let stale = Query::topic("a").header("Cookie", "switchback_token=stale");
    let both = stale.with("token", &token);
    keyed.serves(kind, &both, "the page's token takes precedence over the cookie").await;
}

#[tokio::test]
async fn a_socket_may_have_it_in_its_subprotocols() {
    let keyed = Keyed::start(&[]);
    let token = keyed.token(json!({ "subscribe": ["a"] }));
    let exchange = async |protocols: String| {
        let request = Request::get("/v1/ws?topic=a").upgrade().header("Sec-WebSocket-Protocol", protocols);
        request.send(keyed.address()).await
    };
    let response = exchange(format!("switchback.v1, switchback.token.{token}")).await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, Some("switchback.v1")));
    let response = exchange(format!("switchback.token.{token}, switchback.v1")).await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, Some("switchback.v1")));
    // A subprotocol with a token is never echoed, since the token is a secret.
    let response = exchange(format!("switchback.token.{token}")).await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, None));
    assert_eq!(exchange("switchback.v1, switchback.token.x".into()).await.status, 401);
}

async fn there_is_one_credential(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let token = keyed.token(json!({ "subscribe": ["a"] }));
    let header = Query::topic("a").header("Authorization", bearer(&token));
    for query in [
        header.clone().with("token", &token),
        header.clone().with("ticket", "x"),
        header.header("Authorization", bearer(&token)),
        Query::topic("a").with("token", &token).with("ticket", "x"),
    ] {
        let response = query.request(kind).send(keyed.address()).await;
        assert_eq!(refusal(kind, None, response, 400).await.0, "bad_credentials", "{kind}: {query:?}");
    }
    let twice = Query::topic("a").with("token", &token).with("token", &token);
    let response = twice.request(kind).send(keyed.address()).await;
    assert_eq!(refusal(kind, None, response, 400).await.0, "bad_parameter");
}

async fn without_keys_a_token_is_not_verified(kind: Kind) {
    let server = crate::support::fixture::shared();
    let query = Query::topic("a").set("wait", 0).with("token", "x").header("Authorization", "Bearer y");
    let mut link = Link::to(server.address(), kind, &query).await;
    if kind.streams() {
        assert_eq!(link.item().await.event, "$hello");
    } else {
        assert!(link.batch().await.cursor.is_some());
    }
}
