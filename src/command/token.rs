//! `switchback token`: signs a token for trials.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::auth::{Grant, sign};
use crate::config::{ConfigError, TokenArgs};

/// Signs a token with the secret.
///
/// # Errors
/// [`ConfigError::Key`] where there is no secret.
pub(super) fn token(arguments: TokenArgs) -> Result<String, ConfigError> {
    let missing = || {
        let message = "there is no secret to sign with: give its file with --jwt-secret-file, or put it into \
             SWITCHBACK_JWT_SECRET; tokens for a server with --jwks have to be signed with the private key elsewhere";
        ConfigError::Key(message.into())
    };
    let keys = arguments.secret.keys()?.ok_or_else(missing)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let grant = Grant {
        subscribe: arguments.subscribe,
        publish: arguments.publish,
        erase: arguments.erase,
        subject: arguments.subject,
        // An id lets an administrator revoke this token alone.
        id: Some(uuid::Uuid::new_v4().to_string()),
        issued_ms: Some(millis(now)),
        expires_ms: millis(now + arguments.ttl),
        admin: arguments.admin,
        event_rate: arguments.rate,
        key: None,
    };
    let token = sign(&keys, &grant, arguments.audience.as_deref(), arguments.issuer.as_deref());
    token.ok_or_else(missing)
}
