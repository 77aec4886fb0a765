//! The flags of the NATS store.

use std::path::{Path, PathBuf};

use clap::Args;

use super::ConfigError;
use crate::secret_file::{self, Readable};
use crate::store::{JetStreamOptions, parse_servers};

/// The variable with the password. There is no flag for it: every user of a machine can read the command lines.
pub(super) const PASSWORD_VARIABLE: &str = "SWITCHBACK_NATS_PASSWORD";

/// The connection to NATS, and the names of Switchback's streams and buckets. Used only with `--store nats://…`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Replicas that NATS keeps of each event [default: 3 in a cluster, else 1]
    #[arg(long, env = "SWITCHBACK_REPLICAS", value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: Option<u8>,
    /// The prefix of the names of the stream, buckets and subjects in NATS, so that several installations can share one NATS
    #[arg(long, env = "SWITCHBACK_NATS_PREFIX", value_name = "NAME", default_value = "switchback")]
    pub nats_prefix: String,
    /// User; the password comes from the variable SWITCHBACK_NATS_PASSWORD, or from a file
    #[arg(long, env = "SWITCHBACK_NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// A file with the password
    #[arg(long, env = "SWITCHBACK_NATS_PASSWORD_FILE", value_name = "FILE", requires = "nats_user")]
    pub nats_password_file: Option<PathBuf>,
    /// A credentials file (JWT and seed, as written by nsc)
    #[arg(long, env = "SWITCHBACK_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// Certificate authorities to trust besides the system's, in PEM
    #[arg(long, env = "SWITCHBACK_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// This server's client certificate, in PEM, if NATS requires one
    #[arg(long, env = "SWITCHBACK_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, env = "SWITCHBACK_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
    /// Reconfigure an existing stream and its buckets as the flags say, instead of refusing to start
    #[arg(long, env = "SWITCHBACK_NATS_RECONFIGURE")]
    pub nats_reconfigure: bool,
}

impl NatsArgs {
    /// Combines the flags with the store's URL.
    ///
    /// # Errors
    /// [`ConfigError::Nats`]; it shows neither the URL, which may have a password, nor a file's content.
    pub(super) fn into_options(self, url: &str, readable: Readable) -> Result<JetStreamOptions, ConfigError> {
        let wrong = |flag, reason: String| ConfigError::Nats { flag, reason };
        // The library opens these files by itself; only their permissions are checked here.
        for (flag, file) in [("nats-credentials", &self.nats_credentials), ("nats-key", &self.nats_key)] {
            if let Some(file) = file {
                secret_file::read(file, readable).map_err(|error| wrong(flag, error.to_string()))?;
            }
        }
        let (servers, in_url) = parse_servers(url).map_err(|error| wrong("store", error.to_string()))?;
        let login = match (self.nats_user, in_url) {
            (None, in_url) => in_url,
            (Some(_), Some(_)) => {
                return Err(wrong("nats-user", "conflicts with the user in the URL of --store".into()));
            }
            (Some(user), None) => Some((user, password(self.nats_password_file.as_deref(), readable)?)),
        };
        if login.is_some() && self.nats_credentials.is_some() {
            let reason = "conflicts with a user and a password: give only one of them".into();
            return Err(wrong("nats-credentials", reason));
        }
        Ok(JetStreamOptions {
            prefix: self.nats_prefix,
            replicas: self.replicas,
            reconfigure: self.nats_reconfigure,
            login,
            credentials: self.nats_credentials,
            ca: self.nats_ca,
            client_certificate: self.nats_cert.zip(self.nats_key),
            ..JetStreamOptions::new(servers)
        })
    }
}

fn password(file: Option<&Path>, readable: Readable) -> Result<String, ConfigError> {
    let wrong = |flag, reason: String| ConfigError::Nats { flag, reason };
    match file {
        Some(file) => {
            let flag = "nats-password-file";
            let bytes = secret_file::read(file, readable).map_err(|error| wrong(flag, error.to_string()))?;
            let text =
                String::from_utf8(bytes).map_err(|_| wrong(flag, format!("{}: it is not UTF-8", file.display())))?;
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => std::env::var(PASSWORD_VARIABLE).map_err(|_| {
            wrong("nats-user", format!("needs a password: set {PASSWORD_VARIABLE}, or give --nats-password-file"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_given_once_and_its_password_by_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "s3cret\n").unwrap();
        let args = |user: bool| NatsArgs {
            nats_prefix: "p".into(),
            nats_user: user.then(|| "li".into()),
            nats_password_file: user.then(|| file.path().to_owned()),
            ..NatsArgs::default()
        };
        let login = |args: NatsArgs, url: &str| args.into_options(url, Readable::Warned).map(|options| options.login);
        let expected = Some(("li".to_owned(), "s3cret".to_owned()));
        assert_eq!(login(args(true), "nats://a").unwrap(), expected);
        assert_eq!(login(args(false), "nats://li:s3cret@a").unwrap(), expected);
        let twice = login(args(true), "nats://li:s3cret@a").unwrap_err().to_string();
        assert!(twice.contains("--nats-user") && !twice.contains("s3cret"), "{twice}");
        let wrong = login(args(false), "nats://li:s3cret@a b").unwrap_err().to_string();
        assert!(wrong.contains("--store") && !wrong.contains("s3cret"), "{wrong}");
    }
}
