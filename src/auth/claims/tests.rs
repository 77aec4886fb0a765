use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[allow(dead_code, unreachable_pub)] // Shared with the tests from outside.
#[path = "../../../tests/support/jwt.rs"]
mod jwt;

use jwt::{Signer, jwks};

const SECRET: &[u8] = b"a secret of thirty-two bytes, OK";
const NOW_S: u64 = 1_763_750_000;
const NOW_MS: u64 = NOW_S * 1000;

fn keys() -> Keys {
    Keys::secret(SECRET).unwrap()
}

fn claims(more: Value) -> Value {
    let mut claims = json!({ "exp": NOW_S + 60 });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn verify(token: &str) -> Result<Grant, TokenError> {
    Rules::default().verify(&keys(), token, NOW_MS)
}

fn signed(more: Value) -> Result<Grant, TokenError> {
    verify(&Signer::secret(SECRET).sign(&claims(more)))
}

#[test]
fn grants_exactly_its_claims() {
    let grant = signed(json!({
        "sub": "li", "jti": "t1", "iat": NOW_S - 1, "subscribe": ["orders.*", "news.>"], "publish": ["orders.42"], "erase": ["orders.>"], "admin": true,
        "rate": 5000, "other": { "subscribe": [">"] },
    }));
    let expected = Grant {
        subscribe: vec!["orders.*".parse().unwrap(), "news.>".parse().unwrap()],
        publish: vec!["orders.42".parse().unwrap()],
        erase: vec!["orders.>".parse().unwrap()],
        subject: Some("li".into()),
        id: Some("t1".into()),
        issued_ms: Some(NOW_MS - 1000),
        expires_ms: NOW_MS + 60_000,
        admin: true,
        event_rate: NonZeroU32::new(5000),
        key: Some(keys().candidates(Algorithm::HS256, None)[0].fingerprint),
    };
    assert_eq!(grant, Ok(expected));
    // Absent claims grant nothing.
    let grant = signed(json!({})).unwrap();
    assert!(
        grant.subscribe.is_empty()
            && grant.publish.is_empty()
            && grant.erase.is_empty()
            && grant.subject.is_none()
            && !grant.admin
    );
    assert_eq!(grant.event_rate, None);
}

#[test]
fn own_tokens_are_accepted() {
    let grant = signed(json!({ "sub": "li", "jti": "t1", "iat": NOW_S, "subscribe": ["a.>"], "admin": true })).unwrap();
    let token = sign(&keys(), &grant, Some("us"), Some("me")).unwrap();
    let rules = Rules { audience: vec!["us".into()], issuer: vec!["me".into()], ..Rules::default() };
    assert_eq!(rules.verify(&keys(), &token, NOW_MS), Ok(grant.clone()));
    let (set, _) = Keys::set(jwks(&[&Signer::ed_dsa()]).as_bytes()).unwrap();
    assert_eq!(sign(&set, &grant, None, None), None);
}

/// However far its `exp` is, a token expires at the maximum age.
#[test]
fn a_token_ends_at_an_age() {
    let rules = Rules { token_age_max: Some(std::time::Duration::from_secs(3600)), ..Rules::default() };
    let far = 4_102_444_800_u64;
    let at = |more: Value| rules.verify(&keys(), &Signer::secret(SECRET).sign(&claims(more)), NOW_MS);
    let grant = at(json!({ "iat": NOW_S - 60, "exp": far })).unwrap();
    assert_eq!(grant.expires_ms, NOW_MS + 3540 * 1000);
    let grant = at(json!({ "iat": NOW_S - 60, "exp": NOW_S + 5 })).unwrap();
    assert_eq!(grant.expires_ms, NOW_MS + 5000, "no later than its `exp`");
    assert_eq!(at(json!({ "iat": NOW_S - 3600, "exp": far })), Err(TokenError::Expired));
    assert!(at(json!({ "iat": NOW_S + 5, "exp": far })).is_ok(), "clocks differ a little");
    assert_eq!(at(json!({ "iat": NOW_S + 6, "exp": far })), Err(TokenError::NotYet), "it would exceed the maximum age");
    assert!(matches!(at(json!({ "exp": far })), Err(TokenError::Claims(_))));
}

/// It would survive a revocation of its subject.
#[test]
fn a_token_is_not_issued_in_the_future() {
    assert!(signed(json!({ "iat": NOW_S + 60 })).is_ok(), "clocks differ");
    assert_eq!(signed(json!({ "iat": NOW_S + 61 })), Err(TokenError::NotYet));
}

#[test]
fn times_count() {
    assert_eq!(signed(json!({ "exp": NOW_S })), Err(TokenError::Expired));
    assert_eq!(signed(json!({ "exp": 0 })), Err(TokenError::Expired));
    assert!(signed(json!({ "exp": NOW_S as f64 + 0.5 })).is_ok(), "fractions of seconds count");
    assert!(signed(json!({ "exp": 95_617_584_000_u64 })).is_ok(), "the year 5000");
    // Milliseconds, as `Date.now()` has them.
    for claims in [json!({ "exp": NOW_MS + 60_000 }), json!({ "nbf": NOW_MS }), json!({ "iat": NOW_MS })] {
        let outcome = signed(claims.clone());
        let names_the_unit =
            matches!(&outcome, Err(TokenError::Claims(message)) if message.contains("seconds since 1970"));
        assert!(names_the_unit, "{claims}: {outcome:?}");
    }
    assert!(signed(json!({ "nbf": NOW_S + 5 })).is_ok(), "clocks differ a little");
    assert_eq!(signed(json!({ "nbf": NOW_S + 6 })), Err(TokenError::NotYet));
    for wrong in [json!(null), json!("1763750060"), json!(-1), json!([NOW_S + 60]), json!(true)] {
        let outcome = signed(json!({ "exp": wrong }));
        assert!(matches!(outcome, Err(TokenError::Claims(_))), "{wrong}: {outcome:?}");
    }
    // Required.
    assert!(matches!(verify(&Signer::secret(SECRET).sign(&json!({ "sub": "li" }))), Err(TokenError::Claims(_))));
}

#[test]
fn audience_and_issuer_count_where_they_are_configured() {
    let rules = Rules {
        audience: vec!["us".into(), "we".into()],
        issuer: vec!["https://login.test".into()],
        ..Rules::default()
    };
    let verify = |more| rules.verify(&keys(), &Signer::secret(SECRET).sign(&claims(more)), NOW_MS);
    let iss = "https://login.test";
    assert!(verify(json!({ "aud": "us", "iss": iss })).is_ok());
    assert!(verify(json!({ "aud": ["them", "we"], "iss": iss })).is_ok());
    assert_eq!(verify(json!({ "aud": "them", "iss": iss })), Err(TokenError::Audience));
    assert_eq!(verify(json!({ "iss": iss })), Err(TokenError::Audience));
    assert_eq!(verify(json!({ "aud": [], "iss": iss })), Err(TokenError::Audience));
    assert_eq!(verify(json!({ "aud": "us", "iss": "https://evil.test" })), Err(TokenError::Issuer));
    assert_eq!(verify(json!({ "aud": "us" })), Err(TokenError::Issuer));
    assert!(signed(json!({ "aud": "them", "iss": "anybody" })).is_ok(), "not checked");
}

#[test]
fn claims_make_sense_or_are_refused() {
    for wrong in [
        json!({ "subscribe": "a.>" }),
        json!({ "subscribe": ["a..b"] }),
        json!({ "subscribe": [7] }),
        json!({ "publish": ["a b"] }),
        json!({ "admin": "true" }),
        json!({ "sub": 7 }),
        json!({ "sub": "" }),
        json!({ "sub": "x".repeat(251) }),
        json!({ "jti": "x".repeat(251) }),
        json!({ "iat": "then" }),
    ] {
        assert!(matches!(signed(wrong.clone()), Err(TokenError::Claims(_))), "{wrong}");
    }
    let signer = Signer::secret(SECRET);
    let head = json!({ "alg": "HS256" });
    let twice = format!(r#"{{"exp":{0},"admin":false,"admin":true}}"#, NOW_S + 60);
    for body in [&twice, "", "7", "[]", "null", "{", "\u{feff}{}"] {
        assert!(verify(&signer.sign_as(&head, body)).is_err(), "{body}");
    }
    assert_eq!(verify(&signer.sign(&claims(json!({ "x": "x".repeat(17_000) })))), Err(TokenError::TooLong));
}

#[test]
fn forged_tokens_are_refused() {
    let good = Signer::secret(SECRET).sign(&claims(json!({})));
    assert!(verify(&good).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    assert_eq!(
        verify(&Signer::secret("another secret of thirty-two byte").sign(&claims(json!({})))),
        Err(TokenError::Signature)
    );
    assert_eq!(verify(&format!("{message}.")), Err(TokenError::Signature));
    let other = Signer::secret(SECRET).sign(&claims(json!({ "admin": true })));
    let other_body = other.split('.').nth(1).unwrap();
    assert_eq!(verify(&format!("{head}.{other_body}.{signature}")), Err(TokenError::Signature));
    for text in ["", ".", "..", "...", "a.b.c", message, &format!("{good}.x"), &format!(" {good}"), &format!("{good}=")]
    {
        assert!(verify(text).is_err(), "{text:?}");
    }
    // Each character counts, except unused bits of the last one (which base64url without padding refuses).
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(verify(std::str::from_utf8(&bytes).unwrap()).is_err(), "{at}");
    }
    assert_eq!(body.len() + head.len() + 1, message.len());
}

#[test]
fn a_key_determines_its_algorithm() {
    let all = [Signer::rs256(), Signer::es256(), Signer::ed_dsa()];
    let (set, left_out) = Keys::set(jwks(&[&all[0], &all[1], &all[2]]).as_bytes()).unwrap();
    assert_eq!(left_out, Vec::<String>::new());
    let verify = |token: &str| Rules::default().verify(&set, token, NOW_MS);
    let claims = claims(json!({ "sub": "li" }));
    for (index, signer) in all.iter().enumerate() {
        assert!(verify(&signer.sign(&claims)).is_ok(), "{}: tried with every key that fits", signer.algorithm());
        assert!(verify(&signer.sign_named(&index.to_string(), &claims)).is_ok());
        // The key with that `kid` is for another algorithm, or no key has that `kid`.
        for kid in ["0", "1", "2", "3", ""].iter().filter(|kid| **kid != index.to_string()) {
            assert_eq!(verify(&signer.sign_named(kid, &claims)), Err(TokenError::Key), "{kid}");
        }
        // Its header names another algorithm.
        for alg in
            ["none", "None", "HS256", "HS512", "RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA", "", "ES256K"]
        {
            if alg != signer.algorithm() {
                let token = signer.sign_as(&json!({ "alg": alg }), &claims.to_string());
                let outcome = verify(&token);
                assert!(outcome.is_err(), "{alg} by {}", signer.algorithm());
            }
        }
        // The same kind of key, but not one of this server's.
        let stranger = [Signer::rs256, Signer::es256, Signer::ed_dsa][index]();
        assert_eq!(verify(&stranger.sign(&claims)), Err(TokenError::Signature));
        // A key in the token's own header is ignored (RFC 8725 §3.10).
        let head = json!({ "alg": stranger.algorithm(), "jwk": stranger.jwk("0"), "jku": "http://evil.test/keys" });
        assert_eq!(verify(&stranger.sign_as(&head, &claims.to_string())), Err(TokenError::Signature));
    }
    // The public key, which is known to attackers, as an HMAC secret: the classic attack (RFC 8725 §2.1).
    for signer in &all {
        let public = signer.jwk("0");
        for text in [public.to_string(), jwks(&[signer]), public["n"].as_str().unwrap_or_default().to_owned()] {
            let head = json!({ "alg": "HS256", "kid": "0" });
            assert_eq!(verify(&Signer::secret(&text).sign_as(&head, &claims.to_string())), Err(TokenError::Key));
        }
    }
    // With a configured secret only HS256 is accepted.
    for signer in &all {
        assert_eq!(super::tests::verify(&signer.sign(&claims)), Err(TokenError::Key));
    }
}

#[test]
fn heads_that_demand_more_are_refused() {
    let signer = Signer::secret(SECRET);
    let body = claims(json!({})).to_string();
    assert!(verify(&signer.sign_as(&json!({ "alg": "HS256", "kid": "whatever", "x": 1 }), &body)).is_ok());
    let crit = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
    assert_eq!(verify(&signer.sign_as(&crit, &body)), Err(TokenError::Critical));
    for head in [json!({}), json!({ "alg": "none" }), json!({ "alg": 7 }), json!([]), json!("HS256")] {
        assert_eq!(verify(&signer.sign_as(&head, &body)), Err(TokenError::Malformed), "{head}");
    }
}

proptest! {
    #[test]
    fn never_panics(token in "[A-Za-z0-9_.=\\-\\PC]{0,300}") {
        prop_assert!(verify(&token).is_err());
    }

    /// Whatever the claims are: a grant that is still valid, or a refusal.
    #[test]
    fn any_claims_are_a_grant_or_a_refusal(
        exp in prop_oneof![any::<f64>().prop_map(|n| json!(n)), any::<i64>().prop_map(|n| json!(n)), Just(json!("x"))],
        nbf in proptest::option::of(any::<f64>()),
        subscribe in proptest::collection::vec("[ab.*> ]{0,6}", 0..4),
        sub in proptest::option::of("\\PC{0,5}"),
    ) {
        let claims = json!({ "exp": exp, "nbf": nbf, "subscribe": subscribe, "sub": sub });
        if let Ok(grant) = verify(&Signer::secret(SECRET).sign(&claims)) {
            prop_assert!(grant.expires_ms > NOW_MS);
            let texts: Vec<&str> = grant.subscribe.iter().map(Pattern::as_str).collect();
            prop_assert_eq!(texts, subscribe);
        }
    }
}
