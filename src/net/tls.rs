//! The TLS certificate, which can be exchanged while the server runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::secret_file::{self, Readable};
use crate::sync::lock;

/// The name of HTTP/2 in ALPN (RFC 9113 §3.2).
pub(super) const HTTP2: &[u8] = b"h2";

/// The files of the certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain up to its root, as PEM.
    pub certificate: PathBuf,
    /// The key, as PEM: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
    /// What to do about a key that other users may read.
    pub readable: Readable,
}

/// The certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's file.
    #[error("--tls-cert {}: {reason}; the file must be a certificate chain up to the root, as PEM", .file.display())]
    Certificate {
        /// The path.
        file: PathBuf,
        /// The error.
        reason: String,
    },
    /// The key's file.
    #[error("--tls-key {}: {reason}; the file must be a private key without a password, as PEM", .file.display())]
    Key {
        /// The path.
        file: PathBuf,
        /// The error.
        reason: String,
    },
    /// The key is not the certificate's.
    #[error("--tls-cert and --tls-key do not make a pair: {0}")]
    Pair(rustls::Error),
}

/// Each file's modification time and length when it was read.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// The certificate that is served now.
pub(crate) struct Certificates {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
    stamps: Mutex<Stamps>,
}

struct Stamps {
    served: Stamp,
    /// The state of the files that was last logged as an error, so that it is logged once.
    refused: Option<Stamp>,
}

impl Certificates {
    /// Reads the files for the first time.
    pub(crate) fn open(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let served = stamp(&files);
        let key = secret_file::read(&files.key, files.readable).map_err(|error| broken_key(&files, error.reason))?;
        let current = RwLock::new(Arc::new(load(&files, &key)?));
        Ok(Arc::new(Self { files, current, stamps: Mutex::new(Stamps { served, refused: None }) }))
    }

    /// The listener's configuration. Sessions are resumed by tickets, so that clients which reconnect after a network
    /// outage need no full handshake.
    pub(crate) fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.map_err(TlsError::Pair)?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Pair)?;
        Ok(Arc::new(config))
    }

    /// Reads the files again where they have changed. An invalid certificate is not served: the previous one stays
    /// until the files are valid, which they may be a moment later.
    pub(crate) fn refresh(&self) {
        let mut stamps = lock(&self.stamps);
        let now = stamp(&self.files);
        if now == stamps.served {
            return;
        }
        let key = secret_file::read_again(&self.files.key, self.files.readable);
        let key = key.map_err(|error| broken_key(&self.files, error.reason));
        match key.and_then(|key| load(&self.files, &key)) {
            Ok(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                *stamps = Stamps { served: now, refused: None };
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate has changed");
            }
            Err(error) if stamps.refused != Some(now) => {
                stamps.refused = Some(now);
                tracing::error!(%error, "the certificate has changed and cannot be served; the previous one stays in use");
            }
            Err(_) => {}
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    // Links are followed, since mounted secrets change by them.
    [&files.certificate, &files.key].map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(files: &TlsFiles, key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let broken = |reason: String| TlsError::Certificate { file: files.certificate.clone(), reason };
    let chain = std::fs::read(&files.certificate).map_err(|error| broken(error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|error| broken(error.to_string()))?;
    if chain.is_empty() {
        return Err(broken("there is no certificate in it".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| broken_key(files, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(TlsError::Pair)
}

fn broken_key(files: &TlsFiles, reason: String) -> TlsError {
    TlsError::Key { file: files.key.clone(), reason }
}
