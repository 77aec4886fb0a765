//! The flags of who may come, and what they make.

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

/// Holds the secret itself. There is no flag for it: every process of the machine may see the flags of every other.
pub(crate) const SECRET_VARIABLE: &str = "SWITCHBACK_JWT_SECRET";

/// Where the secret of HS256 is: for the server, and for whoever signs a token to try it out.
#[derive(Args, Clone, Debug, Default)]
pub struct SecretArgs {
    /// Ask for tokens signed with the secret in this file, by HS256; it has at least 32 bytes, and a line break at its
    /// end does not count. The server reads it again when it changes. The variable SWITCHBACK_JWT_SECRET may hold the
    /// secret itself instead
    #[arg(long, env = "SWITCHBACK_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
}

/// Who may come.
#[derive(Args, Clone, Debug)]
pub struct AccessArgs {
    /// Where the secret is.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Take tokens, too, that are signed with the secret in this file: the former one, while the secret is exchanged. It is
    /// read again when it changes; an empty file holds none
    #[arg(long, env = "SWITCHBACK_JWT_PREVIOUS_SECRET_FILE", value_name = "FILE")]
    pub jwt_previous_secret_file: Option<PathBuf>,
    /// Ask for tokens signed with a key of the JWK set in this file, by RS256, ES256 or EdDSA; it is read again when it
    /// changes. What a key has opened ends when the key is taken out; with a set that is empty every token is refused
    #[arg(long, env = "SWITCHBACK_JWKS", value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// Refuse tokens that are not for this audience (aud); repeat it, or separate with commas [default: not looked at]
    #[arg(long, env = "SWITCHBACK_JWT_AUDIENCE", value_name = "NAME", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,
    /// Refuse tokens that are not of this issuer (iss); repeat it, or separate with commas [default: not looked at]
    #[arg(long, env = "SWITCHBACK_JWT_ISSUER", value_name = "NAME", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,
    /// Take a token for so long from its iat on, whatever its exp says; one without iat is refused [default: as exp says]
    #[arg(long, env = "SWITCHBACK_MAX_TOKEN_AGE", value_name = "DURATION", value_parser = token_age)]
    pub max_token_age: Option<Duration>,
    /// Refuse files of secrets that others than their owner may read, instead of warning of them
    #[arg(long, env = "SWITCHBACK_STRICT_PERMISSIONS")]
    pub strict_permissions: bool,
    /// Let everybody subscribe to this, with a key configured; repeat it, or separate with commas
    #[arg(long, env = "SWITCHBACK_PUBLIC_SUBSCRIBE", value_name = "PATTERN", value_delimiter = ',')]
    pub public_subscribe: Vec<Pattern>,
    /// How long a ticket may wait to be used (1s to 5m)
    #[arg(long, env = "SWITCHBACK_TICKET_TTL", value_name = "DURATION", default_value = "30s", value_parser = ticket_ttl)]
    pub ticket_ttl: Duration,
    /// Answer only requests whose Host is this, or a loopback name or address; repeat it, or separate with commas
    /// [default: any Host, but without a key on loopback only loopback's]
    #[arg(long, env = "SWITCHBACK_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// Serve everybody: listen on other addresses than loopback, and behind proxies, without a key
    #[arg(long, env = "SWITCHBACK_ALLOW_ANONYMOUS")]
    pub allow_anonymous: bool,
}

fn ticket_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(300);
    if range.contains(&ttl) { Ok(ttl) } else { Err("a ticket waits 1s to 5m".into()) }
}

/// An age that a token may have.
fn token_age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if age >= Duration::from_secs(1) { Ok(age) } else { Err("a token's age is 1s or more".into()) }
}

impl SecretArgs {
    /// The secret, from the file or the variable; `None` where there is neither.
    ///
    /// # Errors
    /// [`ConfigError::Key`] where it cannot be used, or both are there.
    pub fn keys(&self) -> Result<Option<Keys>, ConfigError> {
        match self.source()? {
            Some(SecretSource::File(path)) => {
                let wrong = |reason: String| ConfigError::Key(format!("--jwt-secret-file {reason}"));
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
    /// What is done about files of secrets that others may read.
    pub(super) fn readable(&self) -> Readable {
        if self.strict_permissions { Readable::Refused } else { Readable::Warned }
    }

    /// What the routes are told.
    ///
    /// # Errors
    /// [`ConfigError::Key`] where a key cannot be used, or there are two kinds.
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
                Some(ring.map_err(|error| ConfigError::Key(format!("{flag} {error}")))?)
            }
            None => {
                let idle = [
                    ("jwt-audience", !self.jwt_audience.is_empty()),
                    ("jwt-issuer", !self.jwt_issuer.is_empty()),
                    ("max-token-age", self.max_token_age.is_some()),
                    ("public-subscribe", !self.public_subscribe.is_empty()),
                ];
                // Without a key everything is open: whoever gave these thinks otherwise.
                if let Some((flag, _)) = idle.into_iter().find(|(_, given)| *given) {
                    let alone = format!("--{flag} is for tokens, and there is no key: add --jwt-secret-file or --jwks");
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
                let both = "a secret and --jwks are both given: tokens are signed one way, so leave one of them out";
                Err(ConfigError::Key(both.into()))
            }
            (None, _, Some(_)) => {
                let alone = "--jwt-previous-secret-file is the former secret, and there is no present one: add --jwt-secret-file";
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
