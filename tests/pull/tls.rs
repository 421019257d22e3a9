//! TLS: private authorities, client certificates, unverified hosts.

use std::path::Path;
use std::sync::Arc;

use orlop::transfer::{Config, PullFailure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::image::serve;
use crate::registry::Registry;
use crate::{Node, chain, config};

/// An authority and what it signs.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `name` and its key, in PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }
}

enum Clients {
    Anyone,
    SignedBy(CertificateDer<'static>),
}

fn server(authority: &Authority, name: &str, clients: Clients) -> ServerConfig {
    use rustls::pki_types::pem::PemObject;
    let (certificate, key) = authority.issue(name);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Clients::Anyone => builder.with_no_client_auth(),
        Clients::SignedBy(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    builder.with_single_cert(chain, key).unwrap()
}

/// A node whose `registry.example` is `registry`, with these keys.
fn node(directory: &Path, registry: &Registry, keys: &str) -> Node {
    let path = directory.join("registry.example");
    std::fs::create_dir_all(&path).unwrap();
    let text = format!("server = {:?}\n{keys}", registry.url());
    std::fs::write(path.join("hosts.toml"), text).unwrap();
    Node::with(Config { hosts_dir: Some(directory.to_owned()), ..config() })
}

const IMAGE: &str = "registry.example/a:v1";

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let authority = Authority::new();
    let registry = Registry::start_tls(server(&authority, "127.0.0.1", Clients::Anyone)).await;
    serve(&registry, Some("v1"), &[]);
    let directory = tempfile::tempdir().unwrap();
    let untrusting = node(directory.path(), &registry, "");
    let error = untrusting.fail(IMAGE).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert!(chain(&error).contains("invalid peer certificate"), "{}", chain(&error));

    let trusting = node(directory.path(), &registry, "ca = 'ca.pem'");
    std::fs::write(directory.path().join("registry.example/ca.pem"), authority.pem()).unwrap();
    trusting.pull(IMAGE).await.unwrap();
    // Trust does not make another name right.
    let other = Registry::start_tls(server(&authority, "other.example", Clients::Anyone)).await;
    let error = node(directory.path(), &other, "ca = 'ca.pem'").fail(IMAGE).await;
    assert!(chain(&error).contains("not valid for name"), "{}", chain(&error));
    node(directory.path(), &other, "skip_verify = true").fail(IMAGE).await;
    assert!(other.count("HEAD") > 0);
}

#[tokio::test]
async fn a_client_certificate_opens_the_door() {
    let authority = Authority::new();
    let clients = Clients::SignedBy(authority.0.der().clone());
    let registry = Registry::start_tls(server(&authority, "127.0.0.1", clients)).await;
    serve(&registry, Some("v1"), &[]);
    let directory = tempfile::tempdir().unwrap();
    let keys = "ca = 'ca.pem'\nclient = [['me.cert', 'me.key']]";
    let with = node(directory.path(), &registry, keys);
    let path = directory.path().join("registry.example");
    let (certificate, key) = authority.issue("node.example");
    for (name, text) in [("ca.pem", authority.pem()), ("me.cert", certificate), ("me.key", key)] {
        std::fs::write(path.join(name), text).unwrap();
    }
    with.pull(IMAGE).await.unwrap();
    node(directory.path(), &registry, "ca = 'ca.pem'").fail(IMAGE).await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_named() {
    let registry = Registry::start().await;
    let directory = tempfile::tempdir().unwrap();
    for (text, words) in [(None, "ca.pem"), (Some("nonsense"), "no certificate")] {
        let node = node(directory.path(), &registry, "ca = 'ca.pem'");
        if let Some(text) = text {
            std::fs::write(directory.path().join("registry.example/ca.pem"), text).unwrap();
        }
        let error = node.fail(IMAGE).await;
        assert_eq!(error.failure(), PullFailure::Local);
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
}

#[tokio::test]
async fn this_machine_may_speak_tls_or_not() {
    let authority = Authority::new();
    let tls = Registry::start_tls(server(&authority, "whatever.example", Clients::Anyone)).await;
    let plain = Registry::start().await;
    for registry in [&tls, &plain] {
        serve(registry, Some("v1"), &[]);
        Node::new().pull(&format!("{}/a:v1", registry.authority())).await.unwrap();
    }
}
