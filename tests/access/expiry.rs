//! A token's end: streams do not outlive it, held requests complete by it, and a fresh one goes on without loss.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::keyed::{Keyed, bearer, now_s};
use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{numbers, over};
use crate::support::wire::Item;

over!(streams: ends_with_its_token, no_drain_keeps_it);
over!(held: completes_with_its_token);
over!(every: goes_on_with_a_fresh_token);

async fn ends_with_its_token(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let exp = now_s() + 2;
    let query = keyed.query("a", json!({ "subscribe": ["a"], "exp": exp }));
    let mut link = Link::to(keyed.address(), kind, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    keyed.publish("a", 1).await;
    assert_eq!(link.telling().await.value(), 1);
    let bye = link.telling().await;
    // Without `retry`: not to come back as one was.
    assert_eq!((bye.event.as_str(), bye.value()), ("$bye", json!({ "reason": "expired" })));
    assert!(now_s() >= exp, "not a moment before");
    assert_eq!(link.end().await, (kind == Kind::Ws).then(|| (1008, "expired".to_owned())));
}

/// The server is stopping, and would let the stream live for a while.
async fn no_drain_keeps_it(kind: Kind) {
    let keyed = Keyed::start(&["--drain", "60s"]);
    let mut query = keyed.query("a", json!({ "subscribe": ["a"], "exp": now_s() + 2 }));
    query = query.with("cursor", "now");
    let mut link = Link::to(keyed.address(), kind, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    keyed.server.signal(nix::sys::signal::Signal::SIGTERM);
    let bye = link.telling().await;
    assert_eq!(bye.event, "$bye");
    // One in thirty or so is told to go before its token ends.
    let reason = bye.value()["reason"].as_str().expect("a reason").to_owned();
    assert!(reason == "expired" || reason == "shutdown", "{reason}");
}

async fn completes_with_its_token(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let query = keyed.query("a", json!({ "subscribe": ["a"], "exp": now_s() + 2 })).with("wait", 60);
    let batch = Link::to(keyed.address(), kind, &query).await.batch().await;
    assert_eq!(batch.events.len(), 1, "{batch:?}");
    assert_eq!(batch.events[0].value(), json!({ "reason": "expired" }));
    assert!(batch.cursor.is_some(), "from here it goes on");
}

/// Token after token ends while events come; each time the client goes on at its cursor with the next.
async fn goes_on_with_a_fresh_token(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let fresh = |exp| bearer(&keyed.token(json!({ "subscribe": ["a"], "exp": exp })));
    let query = |exp| Query::topic("a").header("Authorization", fresh(exp));
    let mut subscriber = Subscriber::start(keyed.address(), kind, query(now_s() + 2)).await;
    let mut heard = Vec::new();
    let mut ends = 0;
    for n in 0..30 {
        keyed.publish("a", n).await;
        while heard.len() <= n as usize {
            let item = match subscriber.try_item().await {
                Ok(item) => item,
                Err(crate::support::client::Failure::Refused(_)) => {
                    subscriber.cut();
                    subscriber.query = query(now_s() + 2);
                    ends += 1;
                    continue;
                }
                Err(error) => panic!("{kind}: {error:?}"),
            };
            match item.event.as_str() {
                "$bye" | "$error" => {
                    subscriber.cut();
                    subscriber.query = query(now_s() + 2);
                    ends += 1;
                }
                _ => heard.push(item.value()),
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    assert_eq!(heard, numbers(0..30));
    assert!(ends > 0, "{kind}: no token ended in all that time");
}

#[tokio::test]
async fn a_socket_is_renewed_in_place() {
    let keyed = Keyed::start(&[]);
    let exp = now_s() + 3;
    let query = keyed.query("a", json!({ "subscribe": ["a"], "sub": "li", "exp": exp }));
    let mut link = Link::to(keyed.address(), Kind::Ws, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    let auth = |more| json!({ "type": "auth", "token": keyed.token(more) });
    // What would not do as well changes nothing.
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
    // What the new one grants, it grants at once.
    assert_eq!(link.ask(json!({ "type": "subscribe", "topics": ["b"] })).await["ok"], true);
    assert_eq!(link.ask(json!({ "type": "publish", "topic": "a", "data": 1 })).await["ok"], true);
    assert_eq!(link.telling().await.value(), 1);
    // Past the first one's end it lives on: a heartbeat comes every second.
    while now_s() <= exp + 1 {
        assert_eq!(link.item().await.event, "$beat");
    }
    // A shorter one may follow a longer one, and ends it.
    let reply = link.ask(auth(json!({ "subscribe": [">"], "sub": "li", "exp": now_s() + 2 }))).await;
    assert_eq!(reply["ok"], true, "{reply}");
    assert_eq!(link.telling().await.value(), json!({ "reason": "expired" }));
    assert_eq!(link.end().await, Some((1008, "expired".into())));
}

/// Each verifies a signature. So they have the pace of those who connect, by the subject whose the socket is.
#[tokio::test]
async fn renewing_has_a_pace() {
    let keyed = Keyed::start(&["--connect-rate-per-subject", "1", "--connect-burst", "3"]);
    let li = json!({ "subscribe": ["a"], "sub": "li" });
    let mut link = Link::to(keyed.address(), Kind::Ws, &keyed.query("a", li.clone())).await;
    assert_eq!(link.item().await.event, "$hello");
    // To connect was the first of three; at one a second, some of thirty have to come too soon.
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
    // The others have a pace of their own.
    let wu = json!({ "subscribe": ["a"], "sub": "wu" });
    let mut other = Link::to(keyed.address(), Kind::Ws, &keyed.query("a", wu.clone())).await;
    assert_eq!(other.item().await.event, "$hello");
    assert_eq!(other.ask(json!({ "type": "auth", "token": keyed.token(wu) })).await["ok"], true);
    // Whoever does not listen is closed; what was no token counts, too.
    let message = json!({ "type": "auth", "token": "x" }).to_string();
    let frame = [&[0x81, 0x80 | message.len() as u8, 0, 0, 0, 0], message.as_bytes()].concat();
    // It may be closed in the middle of it.
    let _ = link.socket().write_all(&frame.repeat(500)).await;
    let told = |item: &Item| matches!(item.event.as_str(), "$reply" | "$beat");
    assert_eq!(link.end_after(told).await, Some((1013, "too fast".into())));
}

#[tokio::test]
async fn without_keys_there_is_nothing_to_renew() {
    let server = crate::support::fixture::shared();
    let mut link = Link::to(server.address(), Kind::Ws, &Query::topic("a")).await;
    assert_eq!(link.item().await.event, "$hello");
    let reply = link.ask(json!({ "type": "auth", "token": "x" })).await;
    assert_eq!(reply["error"]["code"], "not_supported");
}
