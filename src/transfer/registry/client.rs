//! The HTTP client for one host: TLS roots, client certificates, proxy, names.
//!
//! Invariants: HTTP/1.1 only, so that each blob has a connection of its own and a stalled one
//! holds up nothing else; no redirect is followed here, since only the caller knows which
//! headers may go on; bodies are never decoded, since digests are about the bytes as sent.
//! Certificates are verified unless the operator, or a loopback address, says otherwise.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::hosts::{Host, is_loopback};
use super::resolver::{ResolveError, Resolver};

/// What the registry sees of us.
const USER_AGENT: &str = concat!("orlop/", env!("CARGO_PKG_VERSION"));

/// The settings of a host cannot be turned into a connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A certificate or key file cannot be read or parsed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The file has no certificate.
    #[error("{} has no certificate in PEM form", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refuses a certificate or a key.
    #[error("cannot use {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refuses the settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP library refuses the settings, the proxy's address for instance.
    #[error("cannot set up HTTP")]
    Http(#[source] reqwest::Error),
    /// No name can be resolved.
    #[error(transparent)]
    Names(#[from] ResolveError),
}

/// The system's certificate authorities, read once when TLS is first needed.
#[derive(Debug, Default)]
pub(in crate::transfer) struct SystemRoots(OnceLock<Arc<RootCertStore>>);

impl SystemRoots {
    /// What the system trusts; certificates that cannot be parsed are left out, as everywhere.
    fn load(&self) -> Arc<RootCertStore> {
        let read = || {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(store)
        };
        Arc::clone(self.0.get_or_init(read))
    }
}

/// The clients for one host.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// For the host itself.
    pub(super) own: reqwest::Client,
    /// For the hosts it redirects to: the same trust, but no client certificate.
    pub(super) other: reqwest::Client,
}

/// Builds the clients for `host`. Reads files, so it blocks.
///
/// # Errors
/// [`ClientError`] naming the file that cannot be used.
pub(super) fn build(
    host: &Host,
    roots: &SystemRoots,
    connect_timeout: Duration,
) -> Result<Clients, ClientError> {
    let connect_timeout = host.dial_timeout.unwrap_or(connect_timeout);
    let resolver = Arc::new(Resolver::of_the_system()?);
    let client = |tls| http_client(host, tls, connect_timeout, Arc::clone(&resolver));
    let other = client(tls_config(host, roots, None)?)?;
    let identity = client_identity(host)?;
    let own = match identity {
        None => other.clone(),
        Some(identity) => client(tls_config(host, roots, Some(identity))?)?,
    };
    Ok(Clients { own, other })
}

fn http_client(
    host: &Host,
    tls: ClientConfig,
    connect_timeout: Duration,
    resolver: Arc<Resolver>,
) -> Result<reqwest::Client, ClientError> {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect_timeout)
        .dns_resolver(resolver)
        .tls_backend_preconfigured(tls);
    let builder = match &host.proxy {
        Some(proxy) => {
            builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(ClientError::Http)?)
        }
        // A proxy of the environment is for what lies beyond this machine.
        None if is_loopback(&host.authority) => builder.no_proxy(),
        None => builder,
    };
    builder.build().map_err(ClientError::Http)
}

/// A certificate chain, its key, and the file they come from.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, PathBuf);

fn tls_config(
    host: &Host,
    roots: &SystemRoots,
    identity: Option<Identity>,
) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    let builder = if host.tls.skip_verify == Some(true) {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        builder.with_root_certificates(roots_of(host, roots)?)
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key, path)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|source| ClientError::Unusable { path, source }),
    }
}

fn roots_of(host: &Host, roots: &SystemRoots) -> Result<Arc<RootCertStore>, ClientError> {
    let system = roots.load();
    if host.tls.ca.is_empty() {
        return Ok(system);
    }
    let mut store = RootCertStore::clone(&system);
    for path in &host.tls.ca {
        for certificate in certificates(path)? {
            store
                .add(certificate)
                .map_err(|source| ClientError::Unusable { path: path.clone(), source })?;
        }
    }
    Ok(Arc::new(store))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = |source| ClientError::Read { path: path.to_owned(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if found.is_empty() {
        return Err(ClientError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

/// The first client certificate; TLS libraries choose among several by the server's wish, but
/// all peers of a registry use one.
fn client_identity(host: &Host) -> Result<Option<Identity>, ClientError> {
    let Some((path, key_path)) = host.tls.client.first() else { return Ok(None) };
    let key_path = key_path.as_ref().unwrap_or(path);
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|source| ClientError::Read { path: key_path.clone(), source })?;
    Ok(Some((certificates(path)?, key, path.clone())))
}

/// `skip_verify`: any certificate will do, but the handshake must be signed with its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
