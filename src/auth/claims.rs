//! Verifies a token and its claims, and turns the claims into a [`Grant`].

use std::num::NonZeroU32;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};

use super::{Fingerprint, Grant, Keys};
use crate::excerpt::{excerpt, shorten_quotes};
use crate::topic::{Pattern, check_habits};

/// Longest token, in bytes.
pub const TOKEN_MAX_BYTES: usize = 16 << 10;

/// Longest `sub` and longest `jti`, in bytes.
pub const SUBJECT_MAX_BYTES: usize = 250;

/// How far ahead the issuer's clock may be, in milliseconds. `nbf` has this leeway (RFC 7519 §4.1.5), since
/// a page connects the moment its token was issued. `exp` has none: a stream ends at `exp`, and a token that is
/// too old to continue a stream is too old to begin one. A revocation of a subject covers tokens of such a clock, too.
pub const ISSUER_AHEAD_MS: u64 = 5000;

/// How far ahead an `iat` may be, in milliseconds, where no maximum age depends on it. RFC 7519 §4.1.6 has no rule for one in the
/// future; but such a token would survive every revocation of its subject until then.
const ISSUED_AHEAD_MS: u64 = 60_000;

/// The latest time that a claim may name, in seconds since 1970: the year 5000.
pub const NUMERIC_DATE_MAX_S: f64 = 95_617_584_000.0;

/// The greatest `rate`, in events a second.
pub const EVENT_RATE_MAX: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// What a token has to satisfy besides its signature and its times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `aud` has to name one of these (RFC 7519 §4.1.3); it is not checked where there are none.
    pub audience: Vec<String>,
    /// `iss` has to be one of these (RFC 7519 §4.1.1); it is not checked where there are none.
    pub issuer: Vec<String>,
    /// A token expires this long after its `iat` at the latest, whatever its `exp` says; where this is set, `iat` is required.
    pub token_age_max: Option<Duration>,
}

/// Why a token is refused. The message is for the client that presented it: it discloses nothing about the keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TOKEN_MAX_BYTES`].
    #[error("the token is longer than 16384 bytes")]
    TooLong,
    /// Not a JWT, or signed with an unsupported algorithm.
    #[error("the token is not a JWT signed with HS256, RS256, ES256 or EdDSA")]
    Malformed,
    /// The header requires an extension (RFC 7515 §4.1.11).
    #[error("the token requires an extension that this server does not support (`crit`)")]
    Critical,
    /// No key has this algorithm and this `kid`.
    #[error("this server has no key for the token's `alg` and `kid`")]
    Key,
    /// Signed with another key, or altered since.
    #[error("the token's signature is not valid for any key of this server")]
    Signature,
    /// Past its `exp`.
    #[error("the token has expired")]
    Expired,
    /// Before its `nbf`, or issued in the future.
    #[error("the token is not valid yet (`nbf`, `iat`): is the issuer's clock ahead?")]
    NotYet,
    /// The key was removed after the token was accepted.
    #[error("the key that signed the token was withdrawn: get a new token")]
    Withdrawn,
    /// For another audience.
    #[error("the token's audience (`aud`) is not this server's")]
    Audience,
    /// Of another issuer.
    #[error("the token's issuer (`iss`) is not one that this server trusts")]
    Issuer,
    /// A claim is missing or invalid.
    #[error("the token's claims are invalid: {0}")]
    Claims(String),
}

/// The claims that this server reads (RFC 7519 §4.1, and its own). A duplicate claim is refused.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    sub: Option<String>,
    jti: Option<String>,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    erase: Vec<String>,
    #[serde(default)]
    admin: bool,
    rate: Option<u32>,
}

impl Rules {
    /// Verifies `token`, and returns what it grants at `now_ms`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, keys: &Keys, token: &str, now_ms: u64) -> Result<Grant, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let mut error = TokenError::Key;
        for candidate in keys.candidates(header.alg, header.kid.as_deref()) {
            match decode::<Claims>(token, &candidate.key, &self.validation(candidate.algorithm)) {
                Ok(token) => return self.grant(token.claims, candidate.fingerprint, now_ms),
                Err(other) => error = refused(other.into_kind()),
            }
            // Another key may have signed it; any other error is independent of the key.
            if error != TokenError::Signature {
                break;
            }
        }
        Err(error)
    }

    fn grant(&self, claims: Claims, key: Fingerprint, now_ms: u64) -> Result<Grant, TokenError> {
        let issued_ms = claims.iat.map(|iat| millis("iat", iat)).transpose()?;
        if issued_ms.is_some_and(|issued_ms| issued_ms > now_ms.saturating_add(ISSUED_AHEAD_MS)) {
            return Err(TokenError::NotYet);
        }
        let expires_ms = self.expiry(millis("exp", claims.exp)?, issued_ms, now_ms)?;
        if now_ms >= expires_ms {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = claims.nbf
            && millis("nbf", nbf)? > now_ms.saturating_add(ISSUER_AHEAD_MS)
        {
            return Err(TokenError::NotYet);
        }
        for (name, text) in [("sub", &claims.sub), ("jti", &claims.jti)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > SUBJECT_MAX_BYTES) {
                return Err(TokenError::Claims(format!("`{name}` must have 1 to {SUBJECT_MAX_BYTES} bytes")));
            }
        }
        Ok(Grant {
            subscribe: patterns("subscribe", &claims.subscribe)?,
            publish: patterns("publish", &claims.publish)?,
            erase: patterns("erase", &claims.erase)?,
            subject: claims.sub,
            id: claims.jti,
            issued_ms,
            expires_ms,
            admin: claims.admin,
            event_rate: claims.rate.map(event_rate).transpose()?,
            key: Some(key),
        })
    }

    /// When a token expires, in milliseconds: at its `exp`, or at its maximum age.
    fn expiry(&self, stated_ms: u64, issued_ms: Option<u64>, now_ms: u64) -> Result<u64, TokenError> {
        let Some(age_max) = self.token_age_max else { return Ok(stated_ms) };
        let Some(issued_ms) = issued_ms else {
            return Err(TokenError::Claims("`iat` is missing, which this server requires".into()));
        };
        // A token that was issued in the future would be valid for longer than the maximum age.
        if issued_ms > now_ms.saturating_add(ISSUER_AHEAD_MS) {
            return Err(TokenError::NotYet);
        }
        let age_max_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        Ok(stated_ms.min(issued_ms.saturating_add(age_max_ms)))
    }

    /// What the library checks. It would take the time from the system clock; here the time is an argument, so the times are
    /// checked apart.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp"];
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = !self.audience.is_empty();
        if !self.audience.is_empty() {
            validation.set_audience(&self.audience);
            required.push("aud");
        }
        if !self.issuer.is_empty() {
            validation.set_issuer(&self.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

fn refused(kind: ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidAlgorithm => TokenError::Key,
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Claims(format!("`{claim}` is missing or invalid")),
        // The signature is valid by now, so the client may see the parser's message.
        ErrorKind::Json(error) => TokenError::Claims(shorten_quotes(&error.to_string())),
        _ => TokenError::Malformed,
    }
}

fn event_rate(per_second: u32) -> Result<NonZeroU32, TokenError> {
    let in_range = NonZeroU32::new(per_second).filter(|rate| *rate <= EVENT_RATE_MAX);
    in_range.ok_or_else(|| TokenError::Claims(format!("`rate` must be 1 to {EVENT_RATE_MAX} events a second")))
}

/// A NumericDate (RFC 7519 §2): seconds, possibly with a fraction. One that is far in the future is refused: it is probably
/// `Date.now()`, in milliseconds, and a token that was meant to last a minute would be valid for 50,000 years.
fn millis(name: &str, seconds: f64) -> Result<u64, TokenError> {
    if !(0.0..=NUMERIC_DATE_MAX_S).contains(&seconds) {
        let message = format!("`{name}` must be in seconds since 1970, before the year 5000: is it in milliseconds?");
        return Err(TokenError::Claims(message));
    }
    Ok((seconds * 1000.0) as u64)
}

fn patterns(name: &str, texts: &[String]) -> Result<Vec<Pattern>, TokenError> {
    let parsed = texts.iter().map(|text| {
        check_habits(text).and_then(|()| text.parse()).map_err(|error| {
            TokenError::Claims(format!("`{name}` has an invalid pattern, {:?}: {error}", excerpt(text)))
        })
    });
    parsed.collect()
}

/// Signs a token that grants `grant`; `None` where `keys` hold no secret to sign with. For trials: an application signs its
/// own tokens.
#[must_use]
pub fn sign(keys: &Keys, grant: &Grant, audience: Option<&str>, issuer: Option<&str>) -> Option<String> {
    #[derive(Serialize)]
    struct Signed<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        iss: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        aud: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sub: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jti: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        iat: Option<u64>,
        exp: u64,
        subscribe: &'a [Pattern],
        publish: &'a [Pattern],
        #[serde(skip_serializing_if = "<[Pattern]>::is_empty")]
        erase: &'a [Pattern],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        admin: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        rate: Option<NonZeroU32>,
    }
    let seconds = |ms: u64| ms / 1000;
    let claims = Signed {
        iss: issuer,
        aud: audience,
        sub: grant.subject.as_deref(),
        jti: grant.id.as_deref(),
        iat: grant.issued_ms.map(seconds),
        exp: seconds(grant.expires_ms),
        subscribe: &grant.subscribe,
        publish: &grant.publish,
        erase: &grant.erase,
        admin: grant.admin,
        rate: grant.event_rate,
    };
    encode(&Header::new(Algorithm::HS256), &claims, &keys.signing()?).ok()
}

#[cfg(test)]
mod tests;
