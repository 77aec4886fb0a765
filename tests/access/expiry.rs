//! Token expiry: a stream ends with its token, a held request completes by then, and the client resumes with a fresh token
//! without loss.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::keyed::{Keyed, bearer, now_s};
use crate::support::client::{Failure, Kind, Link, Query, Subscriber};
use crate::support::fixture::{over, uuid};
use crate::support::wire::Item;
use crate::support::within;

over!(streams: ends_with_its_token, no_drain_keeps_it);
over!(held: completes_with_its_token);
over!(every: goes_on_with_a_fresh_token);

/// The lifetime of the tokens of these tests, in seconds; only the server's simulated clock reaches their end.
const GOOD_S: u64 = 600;

/// A stream whose token expires in this number of seconds.
async fn stream(keyed: &Keyed, kind: Kind, seconds: u64) -> Link {
    let query = keyed.query("a", json!({ "subscribe": ["a"], "exp": keyed.now_s() + seconds }));
    let mut link = Link::to(keyed.address(), kind, &query.with("cursor", "now")).await;
    assert_eq!(link.item().await.event, "$hello");
    link
}

/// Asserts that the stream ends with its token: without `retry`, since the client must not reconnect with the same token.
async fn ends(link: &mut Link) {
    let bye = link.telling().await;
    assert_eq!((bye.event.as_str(), bye.value()), ("$bye", json!({ "reason": "expired" })));
}

async fn ends_with_its_token(kind: Kind) {
    let keyed = Keyed::start_with_clock(&[]);
    let mut link = stream(&keyed, kind, GOOD_S).await;
    let mut shorter = stream(&keyed, Kind::Sse, GOOD_S / 2).await;
    keyed.pass(GOOD_S - 60);
    // The server has checked its clock, and has not ended the other stream early.
    ends(&mut shorter).await;
    keyed.publish("a", 1).await;
    assert_eq!(link.telling().await.value(), 1);
    keyed.pass(61);
    ends(&mut link).await;
    assert_eq!(link.end().await, (kind == Kind::Ws).then(|| (1008, "expired".to_owned())));
}

/// Without a clock change: a timer ends the stream.
#[tokio::test]
async fn a_timer_ends_a_stream_with_its_token() {
    let keyed = Keyed::start(&[]);
    let exp = now_s() + 5;
    let query = keyed.query("a", json!({ "subscribe": ["a"], "exp": exp }));
    let mut link = Link::to(keyed.address(), Kind::Sse, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    ends(&mut link).await;
    assert!(now_s() >= exp, "the stream does not end before the token");
}

/// The server drains, with a grace period of an hour for the stream.
async fn no_drain_keeps_it(kind: Kind) {
    let keyed = Keyed::start_with_clock(&["--drain", "1h"]);
    let mut link = stream(&keyed, kind, GOOD_S).await;
    keyed.server.signal(nix::sys::signal::Signal::SIGTERM);
    keyed.pass(GOOD_S + 1);
    let bye = link.telling().await;
    assert_eq!(bye.event, "$bye");
    // Ends are spread over an hour: one stream in a thousand ends in the moment before the server checks its clock.
    let reason = bye.value()["reason"].as_str().expect("a reason").to_owned();
    assert!(reason == "expired" || reason == "shutdown", "{reason}");
}

async fn completes_with_its_token(kind: Kind) {
    let keyed = Keyed::start_with_clock(&[]);
    let client = uuid();
    let query = keyed.query("a", json!({ "subscribe": ["a"], "exp": keyed.now_s() + GOOD_S }));
    let query = query.with("wait", 60).with("client", &client);
    let address = keyed.address().to_owned();
    let held = tokio::spawn(async move { Link::to(&address, kind, &query).await.batch().await });
    keyed.connected(&client).await;
    keyed.pass(GOOD_S + 1);
    let batch = held.await.expect("a batch");
    assert_eq!(batch.events.len(), 1, "{batch:?}");
    assert_eq!(batch.events[0].value(), json!({ "reason": "expired" }));
    assert!(batch.cursor.is_some(), "the batch has the cursor to resume at");
}

/// Token after token expires between events; each time the client resumes at its cursor with the next token.
async fn goes_on_with_a_fresh_token(kind: Kind) {
    let keyed = Keyed::start_with_clock(&[]);
    let fresh = || {
        let exp = keyed.now_s() + GOOD_S;
        Query::topic("a").header("Authorization", bearer(&keyed.token(json!({ "subscribe": ["a"], "exp": exp }))))
    };
    let mut subscriber = Subscriber::start(keyed.address(), kind, fresh()).await;
    for n in 0..12 {
        keyed.publish("a", n).await;
        assert_eq!(subscriber.item().await.value(), n);
        if n % 3 != 2 {
            continue;
        }
        keyed.pass(GOOD_S + 1);
        match within("the token's end", subscriber.try_item()).await {
            Ok(item) => assert!(matches!(item.event.as_str(), "$bye" | "$error"), "{kind}: {item:?}"),
            Err(Failure::Refused(response)) => assert_eq!(response.status, 401, "{kind}"),
            Err(Failure::Broken(error)) => panic!("{kind}: {error}"),
        }
        subscriber.cut();
        subscriber.query = fresh();
    }
}

#[tokio::test]
async fn a_socket_is_renewed_in_place() {
    let keyed = Keyed::start_with_clock(&[]);
    let query = keyed.query("a", json!({ "subscribe": ["a"], "sub": "li", "exp": keyed.now_s() + 60 }));
    let mut link = Link::to(keyed.address(), Kind::Ws, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    let auth = |more| json!({ "type": "auth", "token": keyed.token(more) });
    // A token that would not be sufficient is refused, and changes nothing.
    for (message, code, why) in [
        (auth(json!({ "subscribe": ["b"], "sub": "li" })), "forbidden", "it has to cover what is subscribed"),
        (auth(json!({ "subscribe": ["a"], "sub": "wu" })), "forbidden", "another subject"),
        (auth(json!({ "subscribe": ["a"] })), "forbidden", "no subject"),
        (auth(json!({ "subscribe": ["a"], "sub": "li", "exp": 1 })), "unauthorized", "expired"),
        (json!({ "type": "auth", "token": "x" }), "unauthorized", "no token"),
        (json!({ "type": "auth" }), "bad_message", "nothing"),
    ] {
        let reply = link.ask(message).await;
        assert_eq!((&reply["ok"], &reply["error"]["code"]), (&json!(false), &json!(code)), "{why}");
    }
    let reply = link.ask(auth(json!({ "subscribe": ["a", "b"], "publish": ["a"], "sub": "li" }))).await;
    assert_eq!(reply["ok"], true, "{reply}");
    assert!(reply["expires_in"].as_u64().is_some_and(|left| left > 500), "{reply}");
    // The rights of the new token apply at once.
    assert_eq!(link.ask(json!({ "type": "subscribe", "topics": ["b"] })).await["ok"], true);
    assert_eq!(link.ask(json!({ "type": "publish", "topic": "a", "data": 1 })).await["ok"], true);
    assert_eq!(link.telling().await.value(), 1);
    // The renewed stream outlives the first token; a stream without a renewal does not.
    let mut other = stream(&keyed, Kind::Sse, 60).await;
    keyed.pass(120);
    ends(&mut other).await;
    assert_eq!(link.ask(json!({ "type": "publish", "topic": "a", "data": 2 })).await["ok"], true);
    assert_eq!(link.telling().await.value(), 2);
    // A renewal with an earlier expiry is accepted, and ends the stream earlier.
    let reply = link.ask(auth(json!({ "subscribe": [">"], "sub": "li", "exp": keyed.now_s() + 60 }))).await;
    assert_eq!(reply["ok"], true, "{reply}");
    keyed.pass(120);
    ends(&mut link).await;
    assert_eq!(link.end().await, Some((1008, "expired".into())));
}

/// Each renewal verifies a signature, so renewals count towards the connection rate of the socket's subject.
#[tokio::test]
async fn renewing_has_a_pace() {
    let keyed = Keyed::start(&["--connect-rate-per-subject", "1", "--connect-burst", "3"]);
    let li = json!({ "subscribe": ["a"], "sub": "li" });
    let mut link = Link::to(keyed.address(), Kind::Ws, &keyed.query("a", li.clone())).await;
    assert_eq!(link.item().await.event, "$hello");
    // The connection was the first of three; at one a second, some of thirty renewals exceed the rate.
    let mut refused = 0;
    for number in 0..30 {
        let reply = link.ask(json!({ "type": "auth", "token": keyed.token(li.clone()) })).await;
        if reply["ok"] != true {
            assert!(number >= 2, "{reply}");
            assert_eq!(reply["error"]["code"], "too_fast");
            refused += 1;
        }
    }
    assert!(refused > 0);
    // Other subjects have rates of their own.
    let wu = json!({ "subscribe": ["a"], "sub": "wu" });
    let mut other = Link::to(keyed.address(), Kind::Ws, &keyed.query("a", wu.clone())).await;
    assert_eq!(other.item().await.event, "$hello");
    assert_eq!(other.ask(json!({ "type": "auth", "token": keyed.token(wu) })).await["ok"], true);
    // A client that ignores the refusals is closed; invalid tokens count, too.
    let message = json!({ "type": "auth", "token": "x" }).to_string();
    let frame = [&[0x81, 0x80 | message.len() as u8, 0, 0, 0, 0], message.as_bytes()].concat();
    // The server may close the connection while the client still sends.
    let _ = link.socket().write_all(&frame.repeat(500)).await;
    let is_expected = |item: &Item| matches!(item.event.as_str(), "$reply" | "$beat" | "$live");
    assert_eq!(link.end_after(is_expected).await, Some((1013, "too fast".into())));
}

#[tokio::test]
async fn without_keys_there_is_nothing_to_renew() {
    let server = crate::support::fixture::shared();
    let mut link = Link::to(server.address(), Kind::Ws, &Query::topic("a")).await;
    assert_eq!(link.item().await.event, "$hello");
    let reply = link.ask(json!({ "type": "auth", "token": "x" })).await;
    assert_eq!(reply["error"]["code"], "not_supported");
}
