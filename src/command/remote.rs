//! Speaking to a server from the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use crate::config::{RemoteArgs, ShowArgs};
use crate::secret_file::{self, Readable, SecretFileError};

/// How long a server may take to begin its answer, besides what it was asked to wait.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer that is read whole, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Everything that is not plain in a query (RFC 3986 §2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It could not be reached.
    #[error("cannot reach {server}: {reason}; is it running, and is --server right?")]
    Unreachable {
        /// Which server.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The certificates to be believed cannot be read.
    #[error("--ca {}: {reason}; it is one or more certificates, as PEM", .file.display())]
    Ca {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It refused; the text is the server's.
    #[error("the server refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's own words.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It ended the subscription and does not want it back as it was.
    #[error("the server ended the subscription: {0}")]
    Ended(String),
    /// What came is not what a server of this kind sends.
    #[error("the answer is not understood: {0}")]
    Strange(String),
    /// The token's file cannot be read, or others may have written it.
    #[error("--token-file {0}")]
    Token(#[from] SecretFileError),
    /// Standard input or output failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl RemoteError {
    /// Whether trying again can help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 502..=504),
            Self::Ended(_) | Self::Ca { .. } | Self::Strange(_) | Self::Token(_) | Self::Io(_) => false,
        }
    }
}

/// A server, and how to show who one is.
pub(super) struct Remote {
    pub(super) client: awc::Client,
    server: String,
    show: ShowArgs,
}

impl Remote {
    /// # Errors
    /// Where the certificates to be believed cannot be read.
    pub(super) fn new(arguments: RemoteArgs) -> Result<Self, RemoteError> {
        // The client asks for the process's provider even where the server speaks plain HTTP. That one is there
        // already is no error.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = awc::Client::builder().timeout(ANSWER_TIMEOUT);
        let client = match &arguments.ca {
            None => client.finish(),
            Some(file) => client.connector(awc::Connector::new().rustls_0_23(believing(file)?)).finish(),
        };
        let server = arguments.server.trim_end_matches('/').to_owned();
        Ok(Self { client, server, show: arguments.show })
    }

    /// The URL of a path with parameters.
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

    /// The `Authorization` header, where there is a token.
    pub(super) fn authorization(&self) -> Result<Option<(&'static str, String)>, RemoteError> {
        let token = match (&self.show.token, &self.show.token_file) {
            (Some(token), _) => token.reveal().to_owned(),
            (None, Some(path)) => {
                let bytes = secret_file::read_again(path, Readable::Warned)?;
                // What is not text is no token, which the server says.
                String::from_utf8_lossy(&bytes).trim().to_owned()
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(("Authorization", format!("Bearer {token}"))))
    }

    /// Whether the next token may be another one.
    pub(super) fn may_renew(&self) -> bool {
        self.show.token_file.is_some()
    }

    pub(super) fn unreachable(&self, reason: impl std::fmt::Display) -> RemoteError {
        RemoteError::Unreachable { server: self.server.clone(), reason: reason.to_string() }
    }
}

/// What a connection needs that believes the certificates in a file, and no others.
fn believing(file: &Path) -> Result<Arc<ClientConfig>, RemoteError> {
    let broken = |reason: String| RemoteError::Ca { file: file.to_owned(), reason };
    let pem = std::fs::read(file).map_err(|error| broken(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.map_err(|error| broken(error.to_string())).map(|certificate| roots.add(certificate));
        added?.map_err(|error| broken(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(broken("there is no certificate in it".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| broken(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// What the server says in an answer that is not a success.
pub(super) fn refused(status: u16, body: &[u8]) -> RemoteError {
    let object: Option<Value> = serde_json::from_slice(body).ok();
    let message = object.as_ref().and_then(|object| object["error"]["message"].as_str());
    RemoteError::Refused { status, message: message.unwrap_or("it does not say why").to_owned() }
}
