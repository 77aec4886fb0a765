//! The flags of those who make tokens, and of those who show them.

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
    /// Where the secret is.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Grant subscribing to this; repeat it, or separate with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub subscribe: Vec<Pattern>,
    /// Grant publishing to this; repeat it, or separate with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub publish: Vec<Pattern>,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
    /// Whose it is (sub): the client ids that it uses belong to this subject
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Whom it is for (aud), where the server asks
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// Who made it (iss), where the server asks
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Make it an administrator's
    #[arg(long)]
    pub admin: bool,
    /// Let it publish so many events a second (1 to 1000000), whatever its address may
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    pub rate: Option<NonZeroU32>,
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text.parse().ok().filter(|rate| *rate <= EVENT_RATE_MAX);
    rate.ok_or_else(|| format!("a rate is 1 to {EVENT_RATE_MAX} events a second"))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(10 * 365 * 24 * 3600);
    if range.contains(&ttl) { Ok(ttl) } else { Err("a token is good for 1s to ten years".into()) }
}

/// A token that is shown to a server, and to nobody else.
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

/// The token that a command shows.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// A token, where the server asks for one. Whoever may list this machine's processes sees it here: better put it into
    /// the variable, or a file
    #[arg(long, env = "SWITCHBACK_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<Secret>,
    /// A file with the token; it is read again for each connection
    #[arg(long, env = "SWITCHBACK_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
}
