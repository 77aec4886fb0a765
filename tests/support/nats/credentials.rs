//! Credentials files in the format of NATS's own tools: the operator signs the account's JWT, the account signs the user's JWT
//! (with nkeys).

use std::path::Path;

use base64::Engine as _;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Writes `user.creds` for a user of an account with all permissions. Returns the section for the servers' configuration.
pub(crate) fn write(directory: &Path) -> String {
    let [operator, system, account, user] =
        [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user()];
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let system_limits = json!({ "subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "wildcards": true });
    let of_account = |limits: Value| json!({ "limits": limits, "type": "account", "version": 2 });
    let of_user = json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });

    let operator_token = token(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    let system_token = token(&operator, &system, of_account(system_limits));
    let account_token = token(&operator, &account, of_account(unlimited));
    let user_token = token(&account, &user, of_user);

    let seed = user.seed().expect("a pair has a seed");
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(directory.join("user.creds"), credentials).expect("a file is written");
    let (system, account) = (system.public_key(), account.public_key());
    format!(
        "operator: {operator_token}\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload: {{ {system}: {system_token}, {account}: {account_token} }}"
    )
}

fn token(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let (issued_by, about) = (issuer.public_key(), subject.public_key());
    let claims =
        json!({ "jti": about, "iat": 1_700_000_000, "iss": issued_by, "name": "test", "sub": about, "nats": nats });
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).expect("a pair signs");
    format!("{signed}.{}", encode(&signature))
}
