//! Fuzzing of tokens and tickets: mutated ones, and properly signed random claims, wherever a credential is accepted.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::inputs::{damaged, json};
use super::{Sent, check, run, send};
use crate::support::http::Answer;
use crate::support::jwt::Signer;
use crate::support::watched;

const SECRET: &str = "a secret of enough random bytes, 32+";

/// The places where a credential is accepted.
#[derive(Clone, Copy, Debug)]
enum Place {
    Header,
    Cookie,
    Protocol,
    Parameter,
    Ticket,
}

const PLACES: [Place; 5] = [Place::Header, Place::Cookie, Place::Protocol, Place::Parameter, Place::Ticket];

fn exchange(address: &str, place: Place, credential: &[u8]) -> Result<Answer, TestCaseError> {
    // Text that is invalid in a header is covered by another test.
    let text: Vec<u8> = credential.iter().copied().filter(|byte| !matches!(byte, 0..0x20 | 0x7f)).collect();
    let encoded = utf8_percent_encode(&String::from_utf8_lossy(credential), NON_ALPHANUMERIC).to_string();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: switchback.v1, switchback.token.";
    let (target, header) = match place {
        Place::Header => ("/v1/poll?topic=a".to_owned(), "Authorization: Bearer "),
        Place::Cookie => ("/v1/poll?topic=a".to_owned(), "Cookie: x=y; switchback_token="),
        Place::Protocol => ("/v1/ws?topic=a".to_owned(), upgrade),
        Place::Parameter => (format!("/v1/poll?topic=a&token={encoded}"), ""),
        Place::Ticket => (format!("/v1/poll?topic=a&ticket={encoded}"), ""),
    };
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    if !header.is_empty() {
        request.extend_from_slice(header.as_bytes());
        request.extend_from_slice(&text);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    send(address, &request, Sent::Request)?.ok_or_else(|| TestCaseError::fail("no answer"))
}

#[test]
fn credentials() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&secret, SECRET).expect("a secret");
    let (server, errors) =
        watched::watched(&["--store", "memory", "--jwt-secret-file", secret.path().to_str().expect("a path")]);
    let address = server.address();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time after 1970").as_secs();
    let rights = json!({ "exp": now + 3600, "sub": "somebody", "subscribe": [">"], "publish": [">"] });
    let signer = Signer::secret(SECRET);
    let good = signer.sign(&rights);
    for place in [Place::Header, Place::Cookie, Place::Protocol, Place::Parameter] {
        let answer = exchange(address, place, good.as_bytes()).expect("an answer");
        assert!(answer.status() < 300, "{place:?}: {}", answer.status());
    }
    let unsigned = format!("{}.", good.rsplit_once('.').expect("three parts").0);
    let bases = vec![good.clone().into_bytes(), unsigned.into_bytes(), b"a.b.c".to_vec(), b"..".to_vec()];
    let places = || prop::sample::select(PLACES.to_vec());

    run("damaged tokens", 800, &(places(), damaged(bases, 4)), |(place, credential)| {
        let answer = exchange(address, place, &credential)?;
        // Characters that are invalid in a header, and surrounding spaces, are removed.
        let same =
            String::from_utf8_lossy(&credential).replace(|letter: char| letter <= ' ' || letter == '\x7f', "") == good;
        prop_assert!((400..500).contains(&answer.status()) || same, "{}", answer.status());
        Ok(())
    });

    let claims = (prop::collection::vec(0_usize..8, 0..8), json(), json()).prop_map(move |(which, one, other)| {
        let mut claims = rights.clone();
        for at in which {
            let name = ["exp", "nbf", "iat", "sub", "subscribe", "publish", "admin", "jti"][at];
            claims[name] = if at % 2 == 0 { one.clone() } else { other.clone() };
        }
        claims
    });
    let claims = prop_oneof![4 => claims, 1 => json()];
    let head = prop_oneof![3 => Just(json!({ "alg": "HS256" })), 1 => json(), 1 => json().prop_map(|kid: Value| json!({ "alg": "HS256", "kid": kid }))];
    run("signed nonsense", 800, &(places(), head, claims), |(place, head, claims)| {
        let token = signer.sign_as(&head, &claims.to_string());
        let answer = exchange(address, place, token.as_bytes())?;
        prop_assert!(answer.status() < 500, "{}", answer.status());
        Ok(())
    });

    let bodies = vec![br#"{"transport":"sse"}"#.to_vec(), b"{}".to_vec()];
    let bodies = prop_oneof![damaged(bodies, 4), json().prop_map(|body| body.to_string().into_bytes())];
    run("questions for tickets", 400, &bodies, |body| {
        let head =
            "POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let length = body.len();
        let head = format!("{head}Authorization: Bearer {good}\r\nContent-Length: {length}\r\n\r\n");
        let answer = send(address, &[head.as_bytes(), &body].concat(), Sent::LastRequest)?;
        check(&answer.ok_or_else(|| TestCaseError::fail("no answer"))?)
    });

    assert_eq!(
        exchange(address, Place::Header, good.as_bytes()).expect("an answer").status(),
        200,
        "the server still serves"
    );
    let errors = std::fs::read_to_string(&errors).expect("the standard error is read");
    assert!(!errors.contains("panicked"), "{errors}");
}
