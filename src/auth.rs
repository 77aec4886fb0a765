//! Who may do what: keys, tokens, what they grant, and whether that covers what is asked. Pure: the time is an argument.
//!
//! A token is a JWT (RFC 7519) in its compact form, signed with HS256, RS256, ES256 or EdDSA. What RFC 8725 asks for is
//! decided by the key, never by the token: which algorithm a key is good for is fixed when it is configured, and a
//! token that names another, or `none`, is refused before anything of it is believed.

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
