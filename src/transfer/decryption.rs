//! Encrypted layers: who has their keys, and opening them while they are unpacked.
//!
//! ```text
//! manifest: Envelope (wrapped keys) ──> key provider ──> Opening: MAC and key stream, in the pass
//! ```
//! Each layer has a key of its own, wrapped for those who may have it. Key providers of the node
//! unwrap it, programs that ocicrypt's configuration file names. Invariants: a provider is asked at
//! each pull, for layers that are here already too, so an image is pulled only while the node may
//! have it; nothing that is decrypted can be found before its MAC and its diffID were right; a key is in
//! no message, in no log and on no disk, and its memory is overwritten when it is not needed any more.
//!
//! Specification: <https://github.com/containers/ocicrypt/blob/main/docs/keyprovider.md>,
//! <https://github.com/containers/ocicrypt/blob/main/spec/spec.md>

mod envelope;
mod opening;
mod provider;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::error::PullFailure;
use super::tasks::{Lost, Tasks};

pub use envelope::Envelope;
pub(super) use envelope::plain;
pub(super) use opening::{Opened, Opening};
pub use provider::ProviderError;

/// Who has keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecryptionConfig {
    /// The configuration file of ocicrypt, which names key providers. `None`: encrypted layers
    /// cannot be pulled.
    pub key_providers: Option<PathBuf>,
    /// How long a provider may take for one key.
    pub provider_timeout: Duration,
}

impl Default for DecryptionConfig {
    fn default() -> Self {
        Self { key_providers: None, provider_timeout: Duration::from_secs(10) }
    }
}

/// A layer cannot be decrypted. No message has anything that a key provider said.
#[derive(Debug, thiserror::Error)]
pub enum DecryptError {
    /// The manifest says that it is encrypted, and not how.
    #[error("the layer is encrypted and its annotation {annotation:?} {fault}")]
    Envelope {
        /// The annotation.
        annotation: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The node has no key providers.
    #[error(
        "the layer is encrypted, its key is wrapped for {recipients}, and no key providers are \
         configured (`key_providers` in [registry])"
    )]
    Unconfigured {
        /// Key providers and other schemes that the key is wrapped for.
        recipients: String,
    },
    /// None of the node's key providers is one that the key is wrapped for.
    #[error(
        "the layer's key is wrapped for {recipients}, and {} names none of them as a key provider",
        file.display()
    )]
    NoProvider {
        /// Key providers and other schemes that the key is wrapped for.
        recipients: String,
        /// Where the node's are named.
        file: PathBuf,
    },
    /// A provider that is asked for the key does not give it, nor does any later one.
    #[error(transparent)]
    Provider(ProviderError),
    /// The bytes are not those that were encrypted with this key.
    #[error("the layer's HMAC is wrong: it was changed, or is encrypted with another key")]
    Mac,
    /// The thread that asked is gone.
    #[error("cannot wait for a key provider")]
    Task(#[source] Lost),
}

impl DecryptError {
    /// What the error means.
    pub(super) fn failure(&self) -> PullFailure {
        match self {
            Self::Envelope { .. } | Self::Unconfigured { .. } | Self::NoProvider { .. } => {
                PullFailure::Unusable
            }
            Self::Provider(ProviderError::Refused { .. }) => PullFailure::Blocked,
            Self::Provider(_) | Self::Task(_) => PullFailure::Local,
            Self::Mac => PullFailure::Corrupt,
        }
    }
}

/// What one transfer asks for keys. It asks for one at a time.
#[derive(Debug)]
pub(super) struct Keys {
    config: Arc<Config>,
    tasks: Tasks,
    turn: tokio::sync::Mutex<()>,
}

impl Keys {
    pub(super) fn new(config: Arc<Config>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self { config, tasks, turn: tokio::sync::Mutex::default() })
    }

    /// Has the layer's key unwrapped. It takes as long as the providers may take.
    ///
    /// # Errors
    /// [`DecryptError`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the waiting; the provider that is being asked is waited for.
    pub(super) async fn unwrap(&self, envelope: &Envelope) -> Result<Opening, DecryptError> {
        let _turn = self.turn.lock().await;
        let (config, envelope) = (Arc::clone(&self.config), envelope.clone());
        let ask = move || envelope.unwrap(&config.decryption);
        self.tasks.run_blocking(ask).await.map_err(DecryptError::Task)?
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{self, Read as _};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const TYPE: &str = "application/vnd.oci.image.layer.v1.tar+encrypted";
    /// NIST SP 800-38A, F.5.5, the first two blocks.
    const KEY: &str = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    const NONCE: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
    const ENCRYPTED: &str = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5";
    const OPEN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
    /// What `openssl dgst -sha256 -mac HMAC` says of `ENCRYPTED` with `KEY`.
    const MAC: &str = "b586da5ad8ca7965b263d8e78154e99bf5b193e32d0dc8b40918a3b3fe443a5a";

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    fn opened(encrypted: &[u8]) -> (Vec<u8>, Result<(), DecryptError>) {
        let opening = Opening::new(&bytes(KEY), &bytes(NONCE), bytes(MAC)).unwrap();
        assert_eq!(format!("{opening:?}"), "Opening");
        let mut opened = Opened::new(encrypted, Some(opening));
        let mut plain = Vec::new();
        let mut piece = [0; 5];
        while let Ok(count @ 1..) = opened.read(&mut piece) {
            plain.extend_from_slice(&piece[..count]);
        }
        (plain, opened.verify())
    }

    #[test]
    fn a_known_answer_is_opened_and_nothing_else() {
        let (plain, verdict) = opened(&bytes(ENCRYPTED));
        assert_eq!(plain, bytes(OPEN));
        verdict.unwrap();
        for position in 0..32 {
            let mut changed = bytes(ENCRYPTED);
            changed[position] ^= 1;
            assert!(matches!(opened(&changed).1, Err(DecryptError::Mac)));
        }
        assert!(matches!(opened(&bytes(ENCRYPTED)[..31]).1, Err(DecryptError::Mac)));
        assert!(Opening::new(&bytes(NONCE), &bytes(NONCE), bytes(MAC)).is_none());
        assert!(Opening::new(&bytes(KEY), &bytes(KEY), bytes(MAC)).is_none());
    }

    #[test]
    fn what_is_not_encrypted_passes() {
        let mut opened = Opened::new(&b"plain"[..], None);
        assert_eq!(io::read_to_string(&mut opened).unwrap(), "plain");
        opened.verify().unwrap();
    }

    #[test]
    fn annotations_that_lead_nowhere_are_named() {
        let keys = "org.opencontainers.image.enc.keys.provider.vault";
        let public = "org.opencontainers.image.enc.pubopts";
        let good = STANDARD
            .encode(r#"{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"","cipheroptions":null}"#);
        let other = STANDARD.encode(r#"{"cipher":"ROT13","hmac":""}"#);
        for (annotations, words) in [
            (vec![], "pubopts\" is missing"),
            (vec![(public, "%"), (keys, "a2V5")], "pubopts\" is not base64"),
            (vec![(public, "e30="), (keys, "a2V5")], "pubopts\" cannot be read"),
            (vec![(public, other.as_str()), (keys, "a2V5")], "names a cipher other than"),
            (vec![(public, good.as_str())], "enc.keys.*\" is missing"),
            (vec![(public, good.as_str()), (keys, "a2V5")], "wrapped for \"vault\", and no key"),
        ] {
            let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let annotations: BTreeMap<_, _> = annotations.into_iter().map(owned).collect();
            assert_eq!(Envelope::of(plain(TYPE), &annotations), None);
            let envelope = Envelope::of(TYPE, &annotations).unwrap();
            let error = envelope.unwrap(&DecryptionConfig::default()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.failure(), PullFailure::Unusable);
        }
    }
}
