//! Authorization: keys, tokens, the grants of tokens, and whether a grant covers a request. Pure: the time is an argument.
//!
//! A token is a JWT (RFC 7519) in its compact form, signed with HS256, RS256, ES256 or EdDSA. As RFC 8725 requires, the
//! key decides on the algorithm, never the token: a key's algorithm is fixed when the key is configured, and a
//! token that names another, or `none`, is refused before any of its claims is used.

mod claims;
mod cover;
mod grant;
mod keys;
mod ticket;

pub use claims::{
    EVENT_RATE_MAX, ISSUER_AHEAD_MS, NUMERIC_DATE_MAX_S, Rules, SUBJECT_MAX_BYTES, TOKEN_MAX_BYTES, TokenError, sign,
};
pub use cover::covers;
pub use grant::{Grant, Rights};
pub use keys::{Fingerprint, KeyError, Keys, SECRET_MIN_BYTES};
pub use ticket::Ticket;
