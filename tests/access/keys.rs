//! Public keys (JWKS): each algorithm, several keys, and key files that are reloaded while the server runs.

use std::fs;

use serde_json::json;

use super::keyed::{bearer, claims};
use crate::support::Server;
use crate::support::client::{Kind, Query};
use crate::support::http::Request;
use crate::support::jwt::{Signer, jwks};
use crate::support::until;

struct Publics {
    server: Server,
    file: tempfile::NamedTempFile,
}

impl Publics {
    fn start(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, text).expect("keys");
        let path = file.path().to_str().expect("a path");
        let server = Server::start(&["--workers", "1", "--jwks", path]);
        Self { server, file }
    }

    async fn status(&self, token: &str) -> u16 {
        let query = Query::topic("a").header("Authorization", bearer(token));
        query.request(Kind::Poll).send(self.server.address()).await.status
    }
}

fn granted() -> serde_json::Value {
    claims(json!({ "subscribe": ["a"] }))
}

#[tokio::test]
async fn every_algorithm_is_verified_with_the_keys_that_are_for_it() {
    let all = [Signer::rs256(), Signer::es256(), Signer::ed_dsa()];
    let publics = Publics::start(&jwks(&[&all[0], &all[1], &all[2]]));
    for (index, signer) in all.iter().enumerate() {
        assert_eq!(publics.status(&signer.sign(&granted())).await, 200, "{}", signer.algorithm());
        assert_eq!(publics.status(&signer.sign_named(&index.to_string(), &granted())).await, 200);
        let wrong = ((index + 1) % 3).to_string();
        assert_eq!(publics.status(&signer.sign_named(&wrong, &granted())).await, 401, "the `kid` of another key");
        // The public key used as an HMAC secret (algorithm confusion).
        for secret in [signer.jwk(&index.to_string()).to_string(), jwks(&[&all[0], &all[1], &all[2]])] {
            assert_eq!(
                publics.status(&Signer::secret(secret).sign(&granted())).await,
                401,
                "the algorithm does not fit the key"
            );
        }
        let stranger = [Signer::rs256, Signer::es256, Signer::ed_dsa][index]();
        assert_eq!(publics.status(&stranger.sign(&granted())).await, 401, "an unknown key");
    }
}

#[tokio::test]
async fn a_set_is_read_again_when_it_changes_and_kept_where_it_breaks() {
    let (old, new) = (Signer::ed_dsa(), Signer::es256());
    let publics = Publics::start(&jwks(&[&old]));
    let (by_old, by_new) = (old.sign(&granted()), new.sign(&granted()));
    assert_eq!((publics.status(&by_old).await, publics.status(&by_new).await), (200, 401));
    // Both keys for a while, as in a key rotation.
    fs::write(&publics.file, jwks(&[&old, &new])).expect("keys");
    until("the new key is known", || async { publics.status(&by_new).await == 200 }).await;
    assert_eq!(publics.status(&by_old).await, 200);
    fs::write(&publics.file, jwks(&[&new])).expect("keys");
    until("the old key is removed", || async { publics.status(&by_old).await == 401 }).await;
    // Invalid key files change nothing. The valid file afterwards shows that the invalid ones were read.
    let third = Signer::rs256();
    let by_third = third.sign(&granted());
    for broken in ["", "{", r#"{"keys":{}}"#, &Signer::secret("x".repeat(32)).jwk("0").to_string()] {
        fs::write(&publics.file, broken).expect("no keys");
        assert_eq!(publics.status(&by_new).await, 200, "{broken}");
    }
    fs::remove_file(publics.file.path()).expect("the key file is removed");
    assert_eq!(publics.status(&by_new).await, 200, "without a file");
    fs::write(publics.file.path(), jwks(&[&third])).expect("keys");
    until("the third key is known", || async { publics.status(&by_third).await == 200 }).await;
    assert_eq!(publics.status(&by_new).await, 401);
    // A key inside the token (`jwk`) is never trusted.
    let head = json!({ "alg": "RS256", "jwk": third.jwk("0"), "kid": "0" });
    assert_eq!(publics.status(&Signer::rs256().sign_as(&head, &granted().to_string())).await, 401);
    assert_eq!(Request::get("/healthz").send(publics.server.address()).await.status, 200);
}
