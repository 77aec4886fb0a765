//! The keys that tokens are signed with: secrets for HS256, and public keys from a JWK set.

use aws_lc_rs::{digest, hmac};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Shortest secret, in bytes: a key for HS256 has to be at least as long as the hash (RFC 7518 §3.2).
pub const SECRET_MIN_BYTES: usize = 32;

/// Most keys of a set; a token without a `kid` is tried with each.
const KEYS_MAX: usize = 64;

/// Shortest modulus of an RSA key, in bytes (RFC 7518 §3.3).
const MODULUS_MIN_BYTES: usize = 256;

/// The keys in force. Each is for one algorithm, whatever a token's header says (RFC 8725 §3.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    /// New tokens are signed with the first.
    Secrets(Vec<Secret>),
    Public(Vec<Key>),
}

/// A secret for HS256.
#[derive(Clone, PartialEq, Eq)]
struct Secret {
    bytes: Box<[u8]>,
    fingerprint: Fingerprint,
}

/// One key of a set.
#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    fingerprint: Fingerprint,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.fingerprint == other.fingerprint
    }
}

impl Eq for Key {}

/// Identifies a key whatever its `kid` is; the same on every node. It discloses no more of a secret than a token that is signed
/// with the secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The hash of a public key's algorithm and numbers.
    fn of_public(algorithm: Algorithm, numbers: &[&[u8]]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(format!("{algorithm:?}").as_bytes());
        for number in numbers {
            hash.update(b".");
            hash.update(number);
        }
        Self::cut(hash.finish().as_ref())
    }

    /// A secret's signature of a text that is no token.
    fn of_secret(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self::cut(hmac::sign(&key, b"switchback: the fingerprint of this secret").as_ref())
    }

    fn cut(hash: &[u8]) -> Self {
        let mut cut = [0; 16];
        cut.copy_from_slice(&hash[..16]);
        Self(cut)
    }

    /// The form in which a ticket stores it.
    pub(super) fn to_number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// From the form in which a ticket stores it.
    pub(super) fn from_number(number: u128) -> Self {
        Self(number.to_be_bytes())
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({:032x})", self.to_number())
    }
}

impl Keys {
    /// One secret, for HS256. A trailing line break is not part of it.
    ///
    /// # Errors
    /// [`KeyError::Short`].
    pub fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < SECRET_MIN_BYTES {
            return Err(KeyError::Short(secret.len()));
        }
        let secret = Secret { bytes: secret.into(), fingerprint: Fingerprint::of_secret(secret) };
        Ok(Self(Kind::Secrets(vec![secret])))
    }

    /// Adds the secret that older tokens were signed with: during a rotation both secrets are valid.
    ///
    /// # Errors
    /// [`KeyError::Short`], and [`KeyError::Mixed`] where these are public keys.
    pub fn and_secret(self, secret: &[u8]) -> Result<Self, KeyError> {
        match (self.0, Self::secret(secret)?.0) {
            (Kind::Secrets(first), Kind::Secrets(second)) => Ok(Self(Kind::Secrets([first, second].concat()))),
            _ => Err(KeyError::Mixed),
        }
    }

    /// No key: every token is refused.
    #[must_use]
    pub fn none() -> Self {
        Self(Kind::Public(Vec::new()))
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Kind::Secrets(secrets) => secrets.is_empty(),
            Kind::Public(keys) => keys.is_empty(),
        }
    }

    /// Whether one of the keys has this fingerprint.
    #[must_use]
    pub fn hold(&self, fingerprint: Fingerprint) -> bool {
        match &self.0 {
            Kind::Secrets(secrets) => secrets.iter().any(|secret| secret.fingerprint == fingerprint),
            Kind::Public(keys) => keys.iter().any(|key| key.fingerprint == fingerprint),
        }
    }

    /// The public keys of a JWK set (RFC 7517 §5), for RS256, ES256 and EdDSA. Keys for other uses and algorithms are
    /// ignored, as §5 requires; the reasons are returned beside the keys. A set may be empty: that withdraws all keys.
    ///
    /// # Errors
    /// [`KeyError`] where the text is no set, or the set has a secret, or keys of which none is usable.
    pub fn set(text: &[u8]) -> Result<(Self, Vec<String>), KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| KeyError::NoSet(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (index, value) in set.keys.into_iter().enumerate() {
            // A set is usually published: a secret in it would let every reader sign tokens.
            if value["kty"] == "oct" {
                return Err(KeyError::Secret(index));
            }
            match key(value) {
                Ok(key) => keys.push(key),
                Err(reason) => left_out.push(format!("key {index}: {reason}")),
            }
        }
        if keys.is_empty() && !left_out.is_empty() {
            return Err(KeyError::NoKey(left_out.join("; ")));
        }
        Ok((Self(Kind::Public(keys)), left_out))
    }

    /// The keys that a token with this header may have been signed with, each with its one algorithm.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<Candidate> {
        match &self.0 {
            Kind::Secrets(secrets) => {
                let candidate = |secret: &Secret| Candidate {
                    algorithm: Algorithm::HS256,
                    key: DecodingKey::from_secret(&secret.bytes),
                    fingerprint: secret.fingerprint,
                };
                secrets.iter().map(candidate).collect()
            }
            Kind::Public(keys) => {
                let named = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
                let fitting = keys.iter().filter(|key| key.algorithm == algorithm).filter(named);
                let candidate = |key: &Key| Candidate {
                    algorithm: key.algorithm,
                    key: key.key.clone(),
                    fingerprint: key.fingerprint,
                };
                fitting.map(candidate).collect()
            }
        }
    }

    /// The key to sign with; `None` for public keys.
    pub(super) fn signing(&self) -> Option<EncodingKey> {
        match &self.0 {
            Kind::Secrets(secrets) => secrets.first().map(|secret| EncodingKey::from_secret(&secret.bytes)),
            Kind::Public(_) => None,
        }
    }
}

/// A key that may have signed a token.
pub(super) struct Candidate {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    pub(super) fingerprint: Fingerprint,
}

fn key(value: Value) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is not a JWK")?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err("its `use` is not `sig`");
    }
    if jwk.common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("its `key_ops` does not include `verify`");
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(point) if point.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return Err("its type is not RSA, EC with P-256, or OKP with Ed25519"),
    };
    if jwk.common.key_algorithm.is_some_and(|stated| stated != KeyAlgorithm::from(algorithm)) {
        return Err("its `alg` is not the one of its type: RS256, ES256 or EdDSA");
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "its numbers are not base64url")?;
    let length = key.try_get_as_bytes().map(<[u8]>::len).unwrap_or_default();
    let whole = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::RSA(numbers), _) => {
            // Four characters of base64url are three bytes.
            numbers.n.len() * 3 / 4 >= MODULUS_MIN_BYTES
        }
        (_, Algorithm::ES256) => length == 65,
        _ => length == 32,
    };
    if !whole {
        return Err("its numbers have the wrong length (RSA needs at least 2048 bits)");
    }
    let fingerprint = match &jwk.algorithm {
        AlgorithmParameters::RSA(numbers) => {
            Fingerprint::of_public(algorithm, &[numbers.n.as_bytes(), numbers.e.as_bytes()])
        }
        _ => Fingerprint::of_public(algorithm, &[key.try_get_as_bytes().unwrap_or_default()]),
    };
    Ok(Key { id: jwk.common.key_id, algorithm, key, fingerprint })
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Kind::Secrets(secrets) => write!(f, "Keys({} for HS256)", secrets.len()),
            Kind::Public(keys) => {
                f.write_str("Keys")?;
                f.debug_list().entries(keys.iter().map(|key| (key.algorithm, &key.id))).finish()
            }
        }
    }
}

/// Why a key cannot be used. The message says what would be right, and discloses nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is too short.
    #[error("the secret has {0} bytes, but needs at least 32 (RFC 7518 §3.2); make one with: openssl rand -base64 32")]
    Short(usize),
    /// Not a set.
    #[error("the file is not a JWK set, {{\"keys\":[…]}}: {0}")]
    NoSet(String),
    /// The set has a secret.
    #[error("key {0} is a secret (`kty` is `oct`): a JWK set has public keys only; secrets go into --jwt-secret-file")]
    Secret(usize),
    /// No key of the set is usable.
    #[error("the set has no key for RS256, ES256 or EdDSA ({0})")]
    NoKey(String),
    /// Over 64.
    #[error("the set has more than 64 keys")]
    TooMany,
    /// A secret beside public keys.
    #[error("a secret and public keys cannot be combined")]
    Mixed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        assert_eq!(Keys::secret(&[b'x'; 31]).unwrap_err(), KeyError::Short(31));
        let mut file = [b'x'; 33];
        file[32] = b'\n';
        assert!(Keys::secret(&file).is_ok());
        file[31] = b'\r';
        assert_eq!(Keys::secret(&file).unwrap_err(), KeyError::Short(31));
        assert!(!format!("{:?}", Keys::secret(&[b'x'; 32])).contains("xx"));
    }

    #[test]
    fn a_set_holds_public_keys_for_the_three_algorithms() {
        let n = "w".repeat(342);
        let short = "w".repeat(171);
        let (x, y) = ("w".repeat(43), "w".repeat(43));
        let rsa = format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB""#);
        for (key, good) in [
            (format!("{rsa}}}"), true),
            (format!(r#"{rsa},"alg":"RS256","use":"sig","kid":"1"}}"#), true),
            (format!(r#"{rsa},"key_ops":["verify"]}}"#), true),
            (format!(r#"{rsa},"alg":"RS512"}}"#), false),
            (format!(r#"{rsa},"alg":"PS256"}}"#), false),
            (format!(r#"{rsa},"alg":"HS256"}}"#), false),
            (format!(r#"{rsa},"use":"enc"}}"#), false),
            (format!(r#"{rsa},"key_ops":["encrypt"]}}"#), false),
            (format!(r#"{{"kty":"RSA","n":"{short}","e":"AQAB"}}"#), false),
            (format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#), true),
            (format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"yyyy"}}"#), false),
            (format!(r#"{{"kty":"EC","crv":"P-384","x":"{x}","y":"{y}"}}"#), false),
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#), true),
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","alg":"ES256"}}"#), false),
            (r#"{"kty":"OKP","crv":"X25519","x":"xx"}"#.to_owned(), false),
            ("7".to_owned(), false),
        ] {
            let found = Keys::set(format!(r#"{{"keys":[{key}]}}"#).as_bytes());
            assert_eq!(found.is_ok(), good, "{key}: {found:?}");
            // Beside a usable key, an unusable one is ignored.
            let (keys, left_out) = Keys::set(format!(r#"{{"keys":[{rsa}}},{key}]}}"#).as_bytes()).unwrap();
            assert_eq!(left_out.is_empty(), good);
            assert_eq!(keys.candidates(Algorithm::HS256, None).len(), 0);
        }
        let secret = format!(r#"{{"keys":[{rsa}}},{{"kty":"oct","k":"{x}"}}]}}"#);
        assert_eq!(Keys::set(secret.as_bytes()).unwrap_err(), KeyError::Secret(1));
        for text in ["", "{}", "[]", "{\"keys\":7}", "\u{feff}{\"keys\":[]}"] {
            assert!(Keys::set(text.as_bytes()).is_err(), "{text}");
        }
        let (none, left_out) = Keys::set(br#"{"keys":[]}"#).unwrap();
        assert!(none.is_empty() && none == Keys::none() && left_out.is_empty());
        assert_eq!(none.candidates(Algorithm::HS256, None).len(), 0);
    }

    #[test]
    fn a_fingerprint_depends_on_the_key_not_on_its_id() {
        let key = |kid: &str, x: &str| {
            let text = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}]}}"#);
            Keys::set(text.as_bytes()).unwrap().0
        };
        let fingerprint = |keys: &Keys| keys.candidates(Algorithm::EdDSA, None)[0].fingerprint;
        let (one, other) = (key("1", &"w".repeat(43)), key("1", &"A".repeat(43)));
        let renamed = key("2", &"w".repeat(43));
        assert!(renamed.hold(fingerprint(&one)) && renamed != one);
        assert!(!other.hold(fingerprint(&one)) && !Keys::none().hold(fingerprint(&one)));
        let both = Keys::secret(&[b'x'; 32]).unwrap().and_secret(&[b'y'; 32]).unwrap();
        for secret in [[b'x'; 32], [b'y'; 32]] {
            let alone = Keys::secret(&secret).unwrap();
            let fingerprint = alone.candidates(Algorithm::HS256, None)[0].fingerprint;
            assert!(both.hold(fingerprint) && !one.hold(fingerprint));
            assert_eq!(Fingerprint::from_number(fingerprint.to_number()), fingerprint);
        }
        assert_eq!(both.candidates(Algorithm::HS256, Some("any")).len(), 2);
        assert_eq!(one.and_secret(&[b'y'; 32]).unwrap_err(), KeyError::Mixed);
    }
}
