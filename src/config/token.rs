//! The flags of `token`, and of the commands that present a token.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::SecretArgs;
use super::values::duration;
use crate::auth::EVENT_RATE_MAX;
use crate::topic::Pattern;

/// The flags of `token`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// The secret.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Grant subscribing to this pattern; repeat it, or separate with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub subscribe: Vec<Pattern>,
    /// Grant publishing to this pattern; repeat it, or separate with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub publish: Vec<Pattern>,
    /// Grant erasing the topics of this pattern; repeat it, or separate with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub erase: Vec<Pattern>,
    /// How long the token is valid
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
    /// The token's subject (sub), which then owns the client ids that are used with the token
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// The token's audience (aud), if the server requires one
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// The token's issuer (iss), if the server requires one
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Grant the rights of an administrator
    #[arg(long)]
    pub admin: bool,
    /// Events a second that may be published with the token (1 to 1000000), instead of the address's limit
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    pub rate: Option<NonZeroU32>,
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text.parse().ok().filter(|rate| *rate <= EVENT_RATE_MAX);
    rate.ok_or_else(|| format!("the rate must be 1 to {EVENT_RATE_MAX} events a second"))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(10 * 365 * 24 * 3600);
    if range.contains(&ttl) { Ok(ttl) } else { Err("a token's lifetime must be 1s to ten years".into()) }
}

/// A token for the server, which is never printed or logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The token itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The token that a command presents.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// A token, if the server requires one. Every user that can list this machine's processes can read it here: prefer
    /// the variable, or a file
    #[arg(long, env = "SWITCHBACK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<Secret>,
    /// A file with the token, which is reloaded for each connection
    #[arg(long, env = "SWITCHBACK_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
}
