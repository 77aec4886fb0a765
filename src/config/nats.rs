//! The flags of the NATS store.

use std::path::{Path, PathBuf};

use clap::Args;

use super::ConfigError;
use crate::secret_file::{self, Readable};
use crate::store::{JetStreamOptions, parse_servers};

/// The variable that holds the password. There is no such flag: what is on a command line can be read by everyone on the
/// machine.
pub(super) const PASSWORD_VARIABLE: &str = "SWITCHBACK_NATS_PASSWORD";

/// How NATS is reached, and what Switchback is called there. They matter with `--store nats://…` only.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Copies that NATS keeps of each event [default: 3 in a cluster, else 1]
    #[arg(long, env = "SWITCHBACK_REPLICAS", value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: Option<u8>,
    /// What the names of stream, buckets and subjects in NATS begin with, so that several installations share one
    #[arg(long, env = "SWITCHBACK_NATS_PREFIX", value_name = "NAME", default_value = "switchback")]
    pub nats_prefix: String,
    /// User; the password comes from the variable SWITCHBACK_NATS_PASSWORD, or from a file
    #[arg(long, env = "SWITCHBACK_NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// A file that holds the password
    #[arg(long, env = "SWITCHBACK_NATS_PASSWORD_FILE", value_name = "FILE", requires = "nats_user")]
    pub nats_password_file: Option<PathBuf>,
    /// A credentials file (JWT and seed, as nsc writes it)
    #[arg(long, env = "SWITCHBACK_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// Authorities to trust besides the system's, in PEM
    #[arg(long, env = "SWITCHBACK_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Our own certificate, in PEM, where NATS asks for one
    #[arg(long, env = "SWITCHBACK_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, env = "SWITCHBACK_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
    /// Change the stream and the buckets that are there to what the flags say, instead of refusing to start
    #[arg(long, env = "SWITCHBACK_NATS_RECONFIGURE")]
    pub nats_reconfigure: bool,
}

impl NatsArgs {
    /// What the flags and the store's URL say together.
    ///
    /// # Errors
    /// [`ConfigError::Nats`]; it shows neither the URL, which may hold a password, nor what is in a file.
    pub(super) fn into_options(self, url: &str, readable: Readable) -> Result<JetStreamOptions, ConfigError> {
        let wrong = |flag, reason: String| ConfigError::Nats { flag, reason };
        // The library opens these by itself; what is asked here is who may have written them.
        for (flag, file) in [("nats-credentials", &self.nats_credentials), ("nats-key", &self.nats_key)] {
            if let Some(file) = file {
                secret_file::read(file, readable).map_err(|error| wrong(flag, error.to_string()))?;
            }
        }
        let (servers, in_url) = parse_servers(url).map_err(|error| wrong("store", error.to_string()))?;
        let login = match (self.nats_user, in_url) {
            (None, in_url) => in_url,
            (Some(_), Some(_)) => {
                return Err(wrong("nats-user", "is in the URL of --store already: say it once".into()));
            }
            (Some(user), None) => Some((user, password(self.nats_password_file.as_deref(), readable)?)),
        };
        if login.is_some() && self.nats_credentials.is_some() {
            let reason = "stands for a user and a password: give one or the other".into();
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
