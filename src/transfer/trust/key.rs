//! Public keys of signers, and what they have signed.
//!
//! A key is that of cosign and its like: a `PUBLIC KEY` in PEM, of ECDSA on P-256 or P-384, of
//! Ed25519 or of RSA; what is hashed is hashed with SHA-256. The `sigstore` crate was weighed and
//! left: with keys alone it would bring its own clients of registries and logs, and a second
//! implementation of every algorithm that is in TLS here already.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::{RawPublicKeyEntity, ring};

static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P384_SHA256,
    ring::ED25519,
    ring::RSA_PKCS1_2048_8192_SHA256,
];

/// A signer's public key.
#[derive(Debug)]
pub(super) struct Key(SubjectPublicKeyInfoDer<'static>);

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not base64.
    #[error("a key is not base64")]
    Base64(#[source] base64::DecodeError),
    /// It is not PEM.
    #[error("a key is not a PUBLIC KEY in PEM")]
    Pem(#[source] pem::Error),
    /// It is PEM and not a key.
    #[error("a key is malformed")]
    Malformed(#[source] webpki::Error),
}

impl Key {
    pub(super) fn read(path: &Path) -> Result<Self, KeyError> {
        let pem =
            fs::read(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::parse(&pem)
    }

    pub(super) fn parse(pem: &[u8]) -> Result<Self, KeyError> {
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(KeyError::Pem)?;
        RawPublicKeyEntity::try_from(&key).map_err(KeyError::Malformed)?;
        Ok(Self(key))
    }

    /// Whether the owner of this key has signed `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        // An algorithm of another kind of key than this one refuses.
        RawPublicKeyEntity::try_from(&self.0).is_ok_and(|key| {
            let is_valid = |algorithm| key.verify_signature(algorithm, message, signature).is_ok();
            ALGORITHMS.iter().any(|algorithm| is_valid(*algorithm))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn openssl(directory: &Path, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let ended = command.args(arguments).current_dir(directory).output().unwrap();
        assert!(
            ended.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }

    #[test]
    fn what_openssl_signs_is_signed() {
        let kinds: [&[&str]; 4] = [
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            &["ED25519"],
        ];
        for kind in kinds {
            let directory = tempfile::tempdir().unwrap();
            let at = directory.path();
            fs::write(at.join("message"), "hello").unwrap();
            let generate = [&["genpkey", "-out", "key", "-algorithm"], kind].concat();
            openssl(at, &generate);
            openssl(at, &["pkey", "-in", "key", "-pubout", "-out", "public"]);
            if kind == ["ED25519"] {
                let sign = ["pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", "message"];
                openssl(at, &[&sign[..], &["-out", "signature"]].concat());
            } else {
                let sign = ["dgst", "-sha256", "-sign", "key", "-out", "signature", "message"];
                openssl(at, &sign);
            }
            let key = Key::read(&at.join("public")).unwrap();
            let mut signature = fs::read(at.join("signature")).unwrap();
            assert!(key.has_signed(b"hello", &signature), "{kind:?}");
            assert!(!key.has_signed(b"hullo", &signature), "{kind:?}");
            assert!(!key.has_signed(b"hello", b""), "{kind:?}");
            signature[20] ^= 1;
            assert!(!key.has_signed(b"hello", &signature), "{kind:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        let certificate = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let nonsense = "-----BEGIN PUBLIC KEY-----\naGVsbG8=\n-----END PUBLIC KEY-----\n";
        for pem in ["", "hello", certificate, nonsense] {
            assert!(Key::parse(pem.as_bytes()).is_err(), "{pem}");
        }
    }
}
