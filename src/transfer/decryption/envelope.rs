//! What a manifest says of an encrypted layer: its key, wrapped for each who may have it, and how
//! the cipher was used.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::provider::{Providers, Unwrapped};
use super::{DecryptError, DecryptionConfig, Opening};

const SUFFIX: &str = "+encrypted";
const KEYS: &str = "org.opencontainers.image.enc.keys.";
const PROVIDER: &str = "provider.";
const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";
const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";

/// The annotations of an encrypted layer that are about its encryption. A clone is another handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope(Arc<Annotations>);

#[derive(Debug, PartialEq, Eq)]
struct Annotations {
    /// Wrapped keys by what comes after [`KEYS`]: `provider.<name>`, or another scheme.
    keys: BTreeMap<String, String>,
    public: Option<String>,
}

/// What is known of the cipher without a key.
#[derive(Debug, Deserialize)]
struct Public {
    cipher: String,
    hmac: String,
    /// `null` from Go where there are none.
    #[serde(default)]
    cipheroptions: Option<BTreeMap<String, String>>,
}

/// The media type without what says that it is encrypted.
pub(in crate::transfer) fn plain(media_type: &str) -> &str {
    media_type.strip_suffix(SUFFIX).unwrap_or(media_type)
}

impl Envelope {
    /// That of a layer with this media type and these annotations; `None` if it is not encrypted.
    pub(in crate::transfer) fn of(
        media_type: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Option<Self> {
        media_type.strip_suffix(SUFFIX)?;
        let keys = annotations.iter().filter_map(|(name, value)| {
            let recipient = name.strip_prefix(KEYS).filter(|_| !value.is_empty())?;
            Some((recipient.to_owned(), value.clone()))
        });
        let public = annotations.get(PUBLIC).cloned();
        Some(Self(Arc::new(Annotations { keys: keys.collect(), public })))
    }

    /// Asks the key providers of the node, each that the key is wrapped for and the node has, until
    /// one gives it. Blocks.
    ///
    /// # Errors
    /// [`DecryptError`]; of several providers that do not give it, what the first says.
    pub(super) fn unwrap(&self, config: &DecryptionConfig) -> Result<Opening, DecryptError> {
        let public = self.public()?;
        let recipients = self.recipients()?;
        let Some(file) = &config.key_providers else {
            return Err(DecryptError::Unconfigured { recipients });
        };
        let providers = Providers::read(file).map_err(DecryptError::Provider)?;
        let mut first = None;
        for (recipient, wrapped) in &self.0.keys {
            let name = recipient.strip_prefix(PROVIDER);
            let Some((name, provider)) = name.and_then(|name| Some((name, providers.get(name)?)))
            else {
                continue;
            };
            for wrapped in wrapped.split(',') {
                let key = STANDARD.decode(wrapped).map_err(|_not_base64| {
                    let annotation = format!("{KEYS}{recipient}");
                    DecryptError::Envelope { annotation, fault: "is not base64" }
                })?;
                match provider.unwrap(name, &key, config.provider_timeout) {
                    Ok(unwrapped) => return public.open(name, &unwrapped),
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
        }
        Err(first.map_or_else(
            || DecryptError::NoProvider { recipients, file: file.clone() },
            DecryptError::Provider,
        ))
    }

    fn public(&self) -> Result<Public, DecryptError> {
        let invalid = |fault| DecryptError::Envelope { annotation: PUBLIC.to_owned(), fault };
        let text = self.0.public.as_deref().ok_or_else(|| invalid("is missing"))?;
        let bytes = STANDARD.decode(text).map_err(|_not_base64| invalid("is not base64"))?;
        let public: Public =
            serde_json::from_slice(&bytes).map_err(|_not_json| invalid("cannot be read"))?;
        if public.cipher != CIPHER {
            return Err(invalid("names a cipher other than AES_256_CTR_HMAC_SHA256"));
        }
        Ok(public)
    }

    fn recipients(&self) -> Result<String, DecryptError> {
        let names = self.0.keys.keys().map(|it| it.strip_prefix(PROVIDER).unwrap_or(it));
        let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
        if names.is_empty() {
            let annotation = format!("{KEYS}*");
            return Err(DecryptError::Envelope { annotation, fault: "is missing" });
        }
        Ok(names.join(", "))
    }
}

impl Public {
    /// With the key that `provider` gave.
    fn open(&self, provider: &str, unwrapped: &Unwrapped) -> Result<Opening, DecryptError> {
        let invalid = |fault| DecryptError::Envelope { annotation: PUBLIC.to_owned(), fault };
        let mac = STANDARD
            .decode(&self.hmac)
            .map_err(|_not_base64| invalid("has an HMAC that is not base64"))?;
        let public = self.cipheroptions.as_ref().and_then(|options| options.get("nonce"));
        let private = unwrapped.nonce();
        let nonce =
            public.map(String::as_str).or(private).ok_or_else(|| invalid("leads to no nonce"))?;
        let nonce = STANDARD
            .decode(nonce)
            .map_err(|_not_base64| invalid("has a nonce that is not base64"))?;
        let key = unwrapped.key(provider).map_err(DecryptError::Provider)?;
        Opening::new(&key, &nonce, mac)
            .ok_or_else(|| invalid("leads to a nonce that is not of 16 bytes"))
    }
}
