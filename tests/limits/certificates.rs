//! Test certificates, and clients that trust them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A self-signed certificate, and its key.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let names = ["localhost", "127.0.0.1", "127.0.0.2"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self { pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    /// Writes the certificate and the key to the server's files.
    pub(crate) fn write(&self, files: &Files) {
        std::fs::write(&files.certificate, &self.pem).expect("written");
        std::fs::write(&files.key, &self.key_pem).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&files.key, private).expect("the mode is set to 600");
    }

    /// A connection that trusts only this certificate, and offers an ALPN protocol.
    pub(crate) async fn connect(&self, address: &str, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.over(stream, protocol).await
    }

    pub(crate) async fn over(&self, stream: TcpStream, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// The paths of a server's certificate and key.
pub(crate) struct Files {
    _directory: tempfile::TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        Self { _directory: directory, certificate, key }
    }

    /// The flags with these paths.
    pub(crate) fn flags(&self) -> [&str; 4] {
        ["--tls-cert", text(&self.certificate), "--tls-key", text(&self.key)]
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// A server with TLS, its certificate, and the certificate's files.
pub(crate) fn server(flags: &[&str]) -> (crate::support::Server, Certificate, Files) {
    let (certificate, files) = (Certificate::new(), Files::new());
    certificate.write(&files);
    let all: Vec<&str> = files.flags().into_iter().chain(flags.iter().copied()).collect();
    (crate::support::Server::start(&all), certificate, files)
}
