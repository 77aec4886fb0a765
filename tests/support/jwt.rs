//! JWTs, signed without the library that the server verifies with, so that a token can be invalid in every way.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A signing key.
pub enum Signer {
    Hs256(Vec<u8>),
    Rs256(rsa::KeyPair),
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    pub fn secret(secret: impl AsRef<[u8]>) -> Self {
        Self::Hs256(secret.as_ref().to_vec())
    }

    pub fn rs256() -> Self {
        Self::Rs256(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("an RSA key"))
    }

    pub fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key"))
    }

    pub fn ed_dsa() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().expect("an Ed25519 key"))
    }

    /// Its `alg`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The public key as a JWK.
    pub fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Hs256(secret) => json!({ "kty": "oct", "kid": kid, "k": text(secret) }),
            Self::Rs256(pair) => {
                let public = pair.public_key();
                let n = public.modulus().big_endian_without_leading_zero();
                let e = public.exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "kid": kid, "n": text(n), "e": text(e), "alg": "RS256", "use": "sig" })
            }
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
            Self::EdDsa(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(pair.public_key().as_ref()) })
            }
        }
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({ "typ": "JWT", "alg": self.algorithm() }), &claims.to_string())
    }

    /// As [`Self::sign`], with a `kid`.
    pub fn sign_named(&self, kid: &str, claims: &Value) -> String {
        self.sign_as(&json!({ "alg": self.algorithm(), "kid": kid }), &claims.to_string())
    }

    /// Signs any header and any claims, valid or not.
    pub fn sign_as(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let bytes = message.as_bytes();
        let signature = match self {
            Self::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), bytes).as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).expect("a signature");
                signature
            }
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), bytes).expect("a signature").as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A JWK set whose key ids are the indexes "0", "1", and so on.
pub fn jwks(keys: &[&Signer]) -> String {
    let keys: Vec<Value> = keys.iter().enumerate().map(|(index, key)| key.jwk(&index.to_string())).collect();
    json!({ "keys": keys }).to_string()
}
