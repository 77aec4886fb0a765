//! Invalid tokens: forged, expired, with a wrong algorithm, for another audience.

use serde_json::{Value, json};

use super::keyed::{Keyed, SECRET, bearer, claims, now_s};
use crate::support::client::{Kind, Query};
use crate::support::fixture::over;
use crate::support::jwt::Signer;

over!(every: are_refused, audience_and_issuer, public_topics_are_no_excuse);

async fn are_refused(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let grants = |more: Value| {
        let mut all = json!({ "subscribe": ["a"] });
        for (name, value) in more.as_object().expect("claims") {
            all[name] = value.clone();
        }
        claims(all)
    };
    let good = keyed.signer.sign(&grants(json!({})));
    let query = |token: &str| Query::topic("a").header("Authorization", bearer(token));
    keyed.serves(kind, &query(&good), "a good one").await;
    let body = grants(json!({})).to_string();
    let (message, _) = good.rsplit_once('.').expect("a signature");
    let public = Signer::rs256();
    for (token, why) in [
        (String::new(), "nothing"),
        ("x".to_owned(), "not a token"),
        (message.to_owned(), "no signature"),
        (format!("{message}."), "an empty signature"),
        (format!("{good}x"), "a changed signature"),
        (Signer::secret("another secret of enough random bytes").sign(&grants(json!({}))), "forged"),
        (keyed.signer.sign_as(&json!({ "alg": "none" }), &body), "none"),
        (keyed.signer.sign_as(&json!({ "alg": "HS512" }), &body), "another hash"),
        (public.sign(&grants(json!({}))), "another kind of key"),
        (keyed.signer.sign_as(&json!({ "alg": "HS256", "crit": ["exp"] }), &body), "demands more"),
        (keyed.signer.sign(&grants(json!({ "exp": now_s() - 1 }))), "expired"),
        (keyed.signer.sign(&json!({ "subscribe": ["a"] })), "without an end"),
        (keyed.signer.sign(&grants(json!({ "nbf": now_s() + 3600 }))), "not valid yet"),
        (keyed.signer.sign(&grants(json!({ "subscribe": ["a..b"] }))), "grants what is no pattern"),
        (keyed.signer.sign(&grants(json!({ "x": "x".repeat(17_000) }))), "too long"),
    ] {
        keyed.refuses(kind, &query(&token), 401, why).await;
    }
    keyed.refuses(kind, &Query::topic("a"), 401, "no token at all").await;
    keyed.refuses(kind, &Query::topic("a").header("Authorization", "Basic eDp5"), 401, "another scheme").await;
    // The algorithm of the signature cannot be read.
    let response = query("x").request(kind).send(keyed.address()).await;
    assert!(!format!("{:?}", response.headers).contains(SECRET));
}

async fn audience_and_issuer(kind: Kind) {
    let keyed = Keyed::start(&["--jwt-audience", "us,we", "--jwt-issuer", "https://login.test"]);
    let query = |more: Value| {
        let mut all = json!({ "subscribe": ["a"], "aud": "us", "iss": "https://login.test" });
        for (name, value) in more.as_object().expect("claims") {
            all[name] = value.clone();
        }
        keyed.query("a", all)
    };
    keyed.serves(kind, &query(json!({})), "for us").await;
    keyed.serves(kind, &query(json!({ "aud": ["them", "we"] })), "for us, too").await;
    for (more, why) in [
        (json!({ "aud": "them" }), "for others"),
        (json!({ "aud": null }), "without an audience"),
        (json!({ "iss": "https://evil.test" }), "of another issuer"),
        (json!({ "iss": null }), "of no issuer"),
    ] {
        keyed.refuses(kind, &query(more), 401, why).await;
    }
}

/// An invalid token is refused even where no token is needed, so that the page learns of its error.
async fn public_topics_are_no_excuse(kind: Kind) {
    let keyed = Keyed::start(&["--public-subscribe", "news.>"]);
    keyed.serves(kind, &Query::topic("news.a"), "public").await;
    keyed.refuses(kind, &Query::topic("news.a").header("Authorization", "Bearer x"), 401, "no good").await;
}
