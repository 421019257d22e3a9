//! Tokens as token servers sign them: JWT by ES256, with the certificate of the key.
//!
//! # References
//! - [Token authentication](https://distribution.github.io/distribution/spec/auth/jwt/)
//! - [RFC 7515](https://www.rfc-editor.org/rfc/rfc7515), `x5c`

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::tls::Authority;

/// Who the tokens are from, and for.
pub(crate) const ISSUER: &str = "orlop-tests";
pub(crate) const SERVICE: &str = "registry.test";

/// A key, its certificate, and the authority of that.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
    authority: String,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.issue("token-server");
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        Self {
            key: EcdsaKeyPair::from_pkcs8(algorithm, key.secret_der(), &SystemRandom::new())
                .unwrap(),
            certificate: STANDARD.encode(certificate),
            authority: authority.pem(),
        }
    }

    /// What a registry has to trust, in PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// A token for these actions on `team/app`.
    pub(crate) fn token(&self, actions: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": "", "jti": now.to_string(),
            "iat": now, "nbf": now - 60, "exp": now + 600,
            "access": [{"type": "repository", "name": "team/app", "actions": actions}],
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
