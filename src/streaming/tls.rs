//! The server's certificate and key.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why they are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// They do not belong together, or are of a kind that is not understood.
    #[error("use {} with {}", .tls.certificate.display(), .tls.key.display())]
    Use {
        /// The files.
        tls: Tls,
        /// What is wrong with them.
        #[source]
        source: rustls::Error,
    },
}

pub(super) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let read = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(read(&tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(read(&tls.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|source| TlsError::Use { tls: tls.clone(), source })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
