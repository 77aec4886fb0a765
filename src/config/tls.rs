//! The flags of TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ConfigError;
use super::values::{address, duration};
use crate::net::tls::TlsFiles;
use crate::secret_file::Readable;

/// TLS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Serve HTTPS (HTTP/1.1 and HTTP/2) with the certificate chain in this file, as PEM. This file and the key's
    /// are reloaded when they change
    #[arg(long, env = "SWITCHBACK_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, as PEM
    #[arg(long, env = "SWITCHBACK_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Listen on this address with plain HTTP, too, and redirect every request to HTTPS (308)
    #[arg(long, env = "SWITCHBACK_HTTP_REDIRECT", value_name = "ADDRESS")]
    pub http_redirect: Option<String>,
    /// How long browsers have to use HTTPS only, for every port of this host (Strict-Transport-Security; 0s: not sent)
    #[arg(long, env = "SWITCHBACK_HSTS", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub hsts: Duration,
}

impl TlsArgs {
    pub(super) fn files(self, readable: Readable) -> Result<Option<TlsFiles>, ConfigError> {
        match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key, readable })),
            (Some(_), None) => Err(ConfigError::Alone { given: "tls-cert", missing: "tls-key" }),
            (None, Some(_)) => Err(ConfigError::Alone { given: "tls-key", missing: "tls-cert" }),
            (None, None) => Ok(None),
        }
    }

    pub(super) fn redirect(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = &self.http_redirect else { return Ok(None) };
        if self.tls_cert.is_none() && self.tls_key.is_none() {
            return Err(ConfigError::Alone { given: "http-redirect", missing: "tls-cert" });
        }
        address("http-redirect", text).map(Some)
    }
}
