//! The flags of who may come, and what they make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::ConfigError;
use super::values::duration;
use crate::auth::{Keys, Rules};
use crate::http::AccessOptions;
use crate::keyring::{self, KeyRing};
use crate::topic::Pattern;

/// Holds the secret itself. There is no flag for it: every process of the machine may see the flags of every other.
pub(crate) const SECRET_VARIABLE: &str = "SWITCHBACK_JWT_SECRET";

/// Where the secret of HS256 is: for the server, and for whoever signs a token to try it out.
#[derive(Args, Clone, Debug, Default)]
pub struct SecretArgs {
    /// Ask for tokens signed with the secret in this file, by HS256; it has at least 32 bytes, and a line break at its
    /// end does not count. The variable SWITCHBACK_JWT_SECRET may hold the secret itself instead
    #[arg(long, env = "SWITCHBACK_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
}

/// Who may come.
#[derive(Args, Clone, Debug)]
pub struct AccessArgs {
    /// Where the secret is.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Ask for tokens signed with a key of the JWK set in this file, by RS256, ES256 or EdDSA; it is read again when it
    /// changes
    #[arg(long, env = "SWITCHBACK_JWKS", value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// Refuse tokens that are not for this audience (aud); repeat it, or separate with commas [default: not looked at]
    #[arg(long, env = "SWITCHBACK_JWT_AUDIENCE", value_name = "NAME", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,
    /// Refuse tokens that are not of this issuer (iss); repeat it, or separate with commas [default: not looked at]
    #[arg(long, env = "SWITCHBACK_JWT_ISSUER", value_name = "NAME", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,
    /// Let everybody subscribe to this, with a key configured; repeat it, or separate with commas
    #[arg(long, env = "SWITCHBACK_PUBLIC_SUBSCRIBE", value_name = "PATTERN", value_delimiter = ',')]
    pub public_subscribe: Vec<Pattern>,
    /// How long a ticket may wait to be used (1s to 5m)
    #[arg(long, env = "SWITCHBACK_TICKET_TTL", value_name = "DURATION", default_value = "30s", value_parser = ticket_ttl)]
    pub ticket_ttl: Duration,
    /// Without a key, on loopback: a name besides localhost and loopback addresses that Host may have; repeat it, or
    /// separate with commas
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

impl SecretArgs {
    /// The secret, from the file or the variable; `None` where there is neither.
    ///
    /// # Errors
    /// [`ConfigError::Key`] where it cannot be used, or both are there.
    pub fn keys(&self) -> Result<Option<Keys>, ConfigError> {
        let variable = std::env::var_os(SECRET_VARIABLE).filter(|value| !value.is_empty());
        match (&self.jwt_secret_file, variable) {
            (Some(_), Some(_)) => {
                let both = format!("--jwt-secret-file and {SECRET_VARIABLE} are both given: leave one of them out");
                Err(ConfigError::Key(both))
            }
            (Some(path), None) => {
                let keys = keyring::secret(path);
                keys.map(Some).map_err(|error| ConfigError::Key(format!("--jwt-secret-file {error}")))
            }
            (None, Some(secret)) => {
                let keys = Keys::secret(secret.as_encoded_bytes());
                keys.map(Some).map_err(|error| ConfigError::Key(format!("{SECRET_VARIABLE}: {error}")))
            }
            (None, None) => Ok(None),
        }
    }
}

impl AccessArgs {
    /// What the routes are told.
    ///
    /// # Errors
    /// [`ConfigError::Key`] where a key cannot be used, or there are two kinds.
    pub(super) fn options(self) -> Result<AccessOptions, ConfigError> {
        let rules = Rules { audience: self.jwt_audience, issuer: self.jwt_issuer };
        let secret = self.secret.keys()?;
        let keys = match (secret, self.jwks) {
            (Some(_), Some(_)) => {
                let both = "a secret and --jwks are both given: tokens are signed one way, so leave one of them out";
                return Err(ConfigError::Key(both.into()));
            }
            (Some(secret), None) => Some(KeyRing::new(secret, rules)),
            (None, Some(path)) => {
                let ring = KeyRing::follow_set(&path, rules);
                Some(ring.map_err(|error| ConfigError::Key(format!("--jwks {error}")))?)
            }
            (None, None) => {
                let idle = [
                    ("jwt-audience", !rules.audience.is_empty()),
                    ("jwt-issuer", !rules.issuer.is_empty()),
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
}
