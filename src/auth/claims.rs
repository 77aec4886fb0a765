//! From a token to what it grants.

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

/// How far ahead the issuer's clock may be, in milliseconds: `nbf` is taken to be so much earlier (RFC 7519 §4.1.5), since
/// a page comes the moment its token was issued. `exp` is taken as it is: a stream ends when it comes, and what is a
/// moment too old to go on is too old to begin. A revocation of a subject covers what such a clock issued, too.
pub const ISSUER_AHEAD_MS: u64 = 5000;

/// The latest time that a claim may name, in seconds since 1970: the year 5000.
pub const NUMERIC_DATE_MAX_S: f64 = 95_617_584_000.0;

/// The greatest `rate`, in events a second.
pub const EVENT_RATE_MAX: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// What is asked of a token besides its signature and its times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `aud` has to name one of these (RFC 7519 §4.1.3); it is not looked at where there are none.
    pub audience: Vec<String>,
    /// `iss` has to be one of these (RFC 7519 §4.1.1); it is not looked at where there are none.
    pub issuer: Vec<String>,
    /// A token ends so long after its `iat` at the latest, whatever its `exp` says; where this is set, `iat` is required.
    pub token_age_max: Option<Duration>,
}

/// A token is not accepted. The message is for whoever presented it: it says what is wrong, and nothing of the keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over [`TOKEN_MAX_BYTES`].
    #[error("the token is longer than 16384 bytes")]
    TooLong,
    /// Not a JWT, or signed in a way that is not known here.
    #[error("the token is not a JWT signed with HS256, RS256, ES256 or EdDSA")]
    Malformed,
    /// The head demands something that is not known here (RFC 7515 §4.1.11).
    #[error("the token demands an extension that is not understood here (crit)")]
    Critical,
    /// No key is for this algorithm, or none has this `kid`.
    #[error("no key of this server is for the token's alg and kid")]
    Key,
    /// Signed with another key, or changed since.
    #[error("the token's signature is not one of this server's keys'")]
    Signature,
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// Not yet.
    #[error("the token is not valid yet (nbf, iat): the issuer's clock may be at most 5 seconds ahead")]
    NotYet,
    /// It was good when it was shown.
    #[error("the key that signed the token was withdrawn: get a new token")]
    Withdrawn,
    /// For others.
    #[error("the token's audience (aud) is not this server's")]
    Audience,
    /// Of others.
    #[error("the token's issuer (iss) is not one that this server trusts")]
    Issuer,
    /// A claim is missing or makes no sense.
    #[error("the token's claims: {0}")]
    Claims(String),
}

/// The claims that matter here (RFC 7519 §4.1, and this server's own). A claim that stands twice is refused.
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
    admin: bool,
    rate: Option<u32>,
}

impl Rules {
    /// What `token` grants at `now_ms`.
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
            // Another key may have signed it; what is wrong besides is wrong with every key.
            if error != TokenError::Signature {
                break;
            }
        }
        Err(error)
    }

    fn grant(&self, claims: Claims, key: Fingerprint, now_ms: u64) -> Result<Grant, TokenError> {
        let issued_ms = claims.iat.map(|iat| millis("iat", iat)).transpose()?;
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
                return Err(TokenError::Claims(format!("{name} has 1 to {SUBJECT_MAX_BYTES} bytes")));
            }
        }
        Ok(Grant {
            subscribe: patterns("subscribe", &claims.subscribe)?,
            publish: patterns("publish", &claims.publish)?,
            subject: claims.sub,
            id: claims.jti,
            issued_ms,
            expires_ms,
            admin: claims.admin,
            event_rate: claims.rate.map(event_rate).transpose()?,
            key: Some(key),
        })
    }

    /// When a token ends, in milliseconds: when it says so, or when it is too old.
    fn expiry(&self, stated_ms: u64, issued_ms: Option<u64>, now_ms: u64) -> Result<u64, TokenError> {
        let Some(age_max) = self.token_age_max else { return Ok(stated_ms) };
        let Some(issued_ms) = issued_ms else {
            return Err(TokenError::Claims("iat is missing, and this server looks at a token's age".into()));
        };
        // A token that was issued in the future would live longer than it may.
        if issued_ms > now_ms.saturating_add(ISSUER_AHEAD_MS) {
            return Err(TokenError::NotYet);
        }
        let age_max_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        Ok(stated_ms.min(issued_ms.saturating_add(age_max_ms)))
    }

    /// The library's part. Its times come from the clock; here the time is an argument, so those are checked apart.
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
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Claims(format!("{claim} is missing or not of its type")),
        // Only what a good signature covers comes this far, so its sender may hear what the parser says of it.
        ErrorKind::Json(error) => TokenError::Claims(shorten_quotes(&error.to_string())),
        _ => TokenError::Malformed,
    }
}

fn event_rate(per_second: u32) -> Result<NonZeroU32, TokenError> {
    let in_range = NonZeroU32::new(per_second).filter(|rate| *rate <= EVENT_RATE_MAX);
    in_range.ok_or_else(|| TokenError::Claims(format!("rate is 1 to {EVENT_RATE_MAX} events a second")))
}

/// A NumericDate (RFC 7519 §2): seconds, of which there may be parts. One that is far in the future is taken for
/// milliseconds, which `Date.now()` has: a token that was meant to last for a minute would be good for 50,000 years.
fn millis(name: &str, seconds: f64) -> Result<u64, TokenError> {
    if !(0.0..=NUMERIC_DATE_MAX_S).contains(&seconds) {
        let message = format!("{name} is a time in seconds since 1970, before the year 5000; are these milliseconds?");
        return Err(TokenError::Claims(message));
    }
    Ok((seconds * 1000.0) as u64)
}

fn patterns(name: &str, texts: &[String]) -> Result<Vec<Pattern>, TokenError> {
    let parsed = texts.iter().map(|text| {
        check_habits(text).and_then(|()| text.parse()).map_err(|error| {
            TokenError::Claims(format!("{name} holds {:?}, which is no pattern: {error}", excerpt(text)))
        })
    });
    parsed.collect()
}

/// Signs a token that grants `grant`, and `None` where `keys` hold no secret to sign with. For trying out: an application
/// signs its own.
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
        admin: grant.admin,
        rate: grant.event_rate,
    };
    encode(&Header::new(Algorithm::HS256), &claims, &keys.signing()?).ok()
}

#[cfg(test)]
mod tests;
