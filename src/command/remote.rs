//! The HTTP client of the commands: URLs, TLS roots, the token, and errors.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use crate::config::{RemoteArgs, ShowArgs};
use crate::secret_file::{self, Readable, SecretFileError};

/// Timeout of a response's head, in addition to a long poll's wait.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of the response to an erasure, which the server gives up to a minute.
pub(super) const ERASE_TIMEOUT: Duration = Duration::from_secs(90);

/// Longest response that is buffered, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Every character that is not unreserved in a URL (RFC 3986 §2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    /// The server could not be reached.
    #[error("cannot reach {server}: {reason}; check that the server is running, and --server")]
    Unreachable {
        /// The server's URL.
        server: String,
        /// The error.
        reason: String,
    },
    /// The trusted certificates cannot be read.
    #[error("--ca {}: {reason}; the file must have one or more certificates, as PEM", .file.display())]
    Ca {
        /// The file.
        file: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// The server refused the request.
    #[error("the server refused the request ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The server ended the subscription with a `$bye` that allows no reconnect.
    #[error("the server ended the subscription: {0}")]
    Ended(String),
    /// The response is not one of a Switchback server.
    #[error("the response is not valid: {0}")]
    Strange(String),
    /// The token's file cannot be read, or other users may have written it.
    #[error("--token-file {0}")]
    Token(#[from] SecretFileError),
    /// Standard input or output failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl RemoteError {
    /// Whether a retry can help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 502..=504),
            Self::Ended(_) | Self::Ca { .. } | Self::Strange(_) | Self::Token(_) | Self::Io(_) => false,
        }
    }
}

/// A server, and the token to present to it.
pub(super) struct Remote {
    pub(super) client: awc::Client,
    server: String,
    show: ShowArgs,
}

impl Remote {
    /// # Errors
    /// [`RemoteError::Ca`] where the trusted certificates cannot be read.
    pub(super) fn new(arguments: RemoteArgs) -> Result<Self, RemoteError> {
        // The client needs the process's default provider even for plain HTTP. That one is installed already is no error.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = awc::Client::builder().timeout(ANSWER_TIMEOUT);
        let client = match &arguments.ca {
            None => client.finish(),
            Some(file) => client.connector(awc::Connector::new().rustls_0_23(believing(file)?)).finish(),
        };
        let server = arguments.server.trim_end_matches('/').to_owned();
        Ok(Self { client, server, show: arguments.show })
    }

    /// The URL of a path with query parameters.
    pub(super) fn url(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        let mut url = format!("{}{path}", self.server);
        for (index, (name, value)) in parameters.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        url
    }

    /// The URL of a topic.
    pub(super) fn topic_url(&self, topic: &str) -> String {
        format!("{}/v1/topics/{}", self.server, utf8_percent_encode(topic, QUERY))
    }

    /// The `Authorization` header, if there is a token.
    pub(super) fn authorization(&self) -> Result<Option<(&'static str, String)>, RemoteError> {
        let token = match (&self.show.token, &self.show.token_file) {
            (Some(token), _) => token.reveal().to_owned(),
            (None, Some(path)) => {
                let bytes = secret_file::read_again(path, Readable::Warned)?;
                // A file that is not UTF-8 has no valid token: the server refuses it.
                String::from_utf8_lossy(&bytes).trim().to_owned()
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(("Authorization", format!("Bearer {token}"))))
    }

    /// The body of a successful response to `GET path`.
    ///
    /// # Errors
    /// Where the server cannot be reached or refuses, or its response breaks off or is too long.
    pub(super) async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Bytes, RemoteError> {
        let mut request = self.client.get(self.url(path, parameters));
        if let Some(authorization) = self.authorization()? {
            request = request.insert_header(authorization);
        }
        let mut answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let body =
            answer.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| RemoteError::Broken(error.to_string()))?;
        let status = answer.status();
        if status.is_success() { Ok(body) } else { Err(refused(status.as_u16(), &body)) }
    }

    /// Whether the token may have been replaced by now.
    pub(super) fn may_renew(&self) -> bool {
        self.show.token_file.is_some()
    }

    pub(super) fn unreachable(&self, reason: impl std::fmt::Display) -> RemoteError {
        RemoteError::Unreachable { server: self.server.clone(), reason: reason.to_string() }
    }
}

/// A TLS configuration that trusts the certificates in a file, and no others.
fn believing(file: &Path) -> Result<Arc<ClientConfig>, RemoteError> {
    let broken = |reason: String| RemoteError::Ca { file: file.to_owned(), reason };
    let pem = std::fs::read(file).map_err(|error| broken(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.map_err(|error| broken(error.to_string())).map(|certificate| roots.add(certificate));
        added?.map_err(|error| broken(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(broken("the file has no certificate".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| broken(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The error of a response that is not a success.
pub(super) fn refused(status: u16, body: &[u8]) -> RemoteError {
    let object: Option<Value> = serde_json::from_slice(body).ok();
    let message = object.as_ref().and_then(|object| object["error"]["message"].as_str());
    RemoteError::Refused { status, message: message.unwrap_or("it gives no reason").to_owned() }
}
