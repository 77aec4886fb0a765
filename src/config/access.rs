//! The flags of authentication and authorization, and the options that they make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::ConfigError;
use super::values::duration;
use crate::auth::{Keys, Rules};
use crate::http::AccessOptions;
use crate::keyring::{KeyRing, KeySource, SecretSource};
use crate::secret_file::{self, Readable};
use crate::topic::Pattern;

/// The variable with the secret itself. There is no flag for it: every process of a machine can read the flags of the others.
pub(crate) const SECRET_VARIABLE: &str = "SWITCHBACK_JWT_SECRET";

/// The source of the secret for HS256: for the server, and for `token`, which signs with it.
#[derive(Args, Clone, Debug, Default)]
pub struct SecretArgs {
    /// Require tokens signed by HS256 with the secret in this file, which has at least 32 bytes; a line break at its
    /// end does not count. The server reloads the file when it changes. The variable SWITCHBACK_JWT_SECRET may hold the
    /// secret itself instead
    #[arg(long, env = "SWITCHBACK_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
}

/// The flags of authentication and authorization.
#[derive(Args, Clone, Debug)]
pub struct AccessArgs {
    /// The secret.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Accept tokens signed with the secret in this file, too: the former one, during a rotation. The file is
    /// reloaded when it changes; an empty file holds no secret
    #[arg(long, env = "SWITCHBACK_JWT_PREVIOUS_SECRET_FILE", value_name = "FILE")]
    pub jwt_previous_secret_file: Option<PathBuf>,
    /// Require tokens signed by RS256, ES256 or EdDSA with a key of the JWK set in this file, which is reloaded when it
    /// changes. When a key is removed, the streams of its tokens end; with an empty set every token is refused
    #[arg(long, env = "SWITCHBACK_JWKS", value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// Refuse tokens that are not for this audience (aud); repeat it, or separate with commas [default: not checked]
    #[arg(long, env = "SWITCHBACK_JWT_AUDIENCE", value_name = "NAME", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,
    /// Refuse tokens that are not of this issuer (iss); repeat it, or separate with commas [default: not checked]
    #[arg(long, env = "SWITCHBACK_JWT_ISSUER", value_name = "NAME", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,
    /// Longest age of a token since its iat, whatever its exp says; a token without iat is refused [default: only exp counts]
    #[arg(long, env = "SWITCHBACK_MAX_TOKEN_AGE", value_name = "DURATION", value_parser = token_age)]
    pub max_token_age: Option<Duration>,
    /// Refuse secret files that other users than their owner may read, instead of logging a warning
    #[arg(long, env = "SWITCHBACK_STRICT_PERMISSIONS")]
    pub strict_permissions: bool,
    /// Let clients without a token subscribe to this, though a key is configured; repeat it, or separate with commas
    #[arg(long, env = "SWITCHBACK_PUBLIC_SUBSCRIBE", value_name = "PATTERN", value_delimiter = ',')]
    pub public_subscribe: Vec<Pattern>,
    /// How long an unused ticket is valid (1s to 5m)
    #[arg(long, env = "SWITCHBACK_TICKET_TTL", value_name = "DURATION", default_value = "30s", value_parser = ticket_ttl)]
    pub ticket_ttl: Duration,
    /// Accept only requests whose Host is this, or a loopback name or address; repeat it, or separate with commas
    /// [default: any Host; without a key on loopback only loopback's]
    #[arg(long, env = "SWITCHBACK_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// Serve all clients without a token: listen on other addresses than loopback, and behind proxies, without a key
    #[arg(long, env = "SWITCHBACK_ALLOW_ANONYMOUS")]
    pub allow_anonymous: bool,
}

fn ticket_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(300);
    if range.contains(&ttl) { Ok(ttl) } else { Err("a ticket's lifetime must be 1s to 5m".into()) }
}

/// The longest age of a token.
fn token_age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if age >= Duration::from_secs(1) { Ok(age) } else { Err("a token's age must be at least 1s".into()) }
}

impl SecretArgs {
    /// The secret, from the file or the variable; `None` where there is neither.
    ///
    /// # Errors
    /// [`ConfigError::Key`] where the secret is invalid, or both are given.
    pub fn keys(&self) -> Result<Option<Keys>, ConfigError> {
        match self.source()? {
            Some(SecretSource::File(path)) => {
                let wrong = |reason: String| ConfigError::Key(format!("--jwt-secret-file: {reason}"));
                let bytes = secret_file::read(&path, Readable::Warned).map_err(|error| wrong(error.to_string()))?;
                Keys::secret(&bytes).map(Some).map_err(|error| wrong(format!("{}: {error}", path.display())))
            }
            Some(SecretSource::Text(text)) => {
                let wrong = |error| ConfigError::Key(format!("{SECRET_VARIABLE}: {error}"));
                Keys::secret(&text).map(Some).map_err(wrong)
            }
            None => Ok(None),
        }
    }

    fn source(&self) -> Result<Option<SecretSource>, ConfigError> {
        let variable = std::env::var_os(SECRET_VARIABLE).filter(|value| !value.is_empty());
        match (&self.jwt_secret_file, variable) {
            (Some(_), Some(_)) => {
                let both = format!("--jwt-secret-file and {SECRET_VARIABLE} are both given: leave one of them out");
                Err(ConfigError::Key(both))
            }
            (Some(path), None) => Ok(Some(SecretSource::File(path.clone()))),
            (None, Some(secret)) => Ok(Some(SecretSource::Text(secret.into_encoded_bytes()))),
            (None, None) => Ok(None),
        }
    }
}

impl AccessArgs {
    /// How to treat secret files that other users may read.
    pub(super) fn readable(&self) -> Readable {
        if self.strict_permissions { Readable::Refused } else { Readable::Warned }
    }

    /// The options for the routes.
    ///
    /// # Errors
    /// [`ConfigError::Key`] where a key is invalid, or both kinds of keys are given.
    pub(super) fn options(self) -> Result<AccessOptions, ConfigError> {
        let keys = match self.key_source()? {
            Some(source) => {
                let rules =
                    Rules { audience: self.jwt_audience, issuer: self.jwt_issuer, token_age_max: self.max_token_age };
                let flag = match &source {
                    KeySource::Set(_) => "--jwks",
                    KeySource::Secrets { current: SecretSource::File(_), .. } => "--jwt-secret-file",
                    KeySource::Secrets { current: SecretSource::Text(_), .. } => SECRET_VARIABLE,
                };
                let ring = KeyRing::follow(source, rules);
                Some(ring.map_err(|error| ConfigError::Key(format!("{flag}: {error}")))?)
            }
            None => {
                let idle = [
                    ("jwt-audience", !self.jwt_audience.is_empty()),
                    ("jwt-issuer", !self.jwt_issuer.is_empty()),
                    ("max-token-age", self.max_token_age.is_some()),
                    ("public-subscribe", !self.public_subscribe.is_empty()),
                ];
                // Without a key the server is open to all, which is not what these flags are meant for.
                if let Some((flag, _)) = idle.into_iter().find(|(_, given)| *given) {
                    let alone = format!("--{flag} has no effect without a key: add --jwt-secret-file or --jwks");
                    return Err(ConfigError::Key(alone));
                }
                None
            }
        };
        Ok(AccessOptions {
            keys,
            public_subscribe: Arc::from(self.public_subscribe),
            ticket_ttl: self.ticket_ttl,
            allow_anonymous: self.allow_anonymous,
            allowed_hosts: self.allow_host.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
        })
    }

    fn key_source(&self) -> Result<Option<KeySource>, ConfigError> {
        let previous = self.jwt_previous_secret_file.clone();
        match (self.secret.source()?, &self.jwks, previous) {
            (Some(_), Some(_), _) => {
                let both = "a secret and --jwks are both given: leave one of them out";
                Err(ConfigError::Key(both.into()))
            }
            (None, _, Some(_)) => {
                let alone = "--jwt-previous-secret-file needs a present secret as well: add --jwt-secret-file";
                Err(ConfigError::Key(alone.into()))
            }
            (Some(current), None, previous) => {
                Ok(Some(KeySource::Secrets { current, previous, readable: self.readable() }))
            }
            (None, Some(path), None) => Ok(Some(KeySource::Set(path.clone()))),
            (None, None, None) => Ok(None),
        }
    }
}
