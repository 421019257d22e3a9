//! Signatures of images: where they are found, and which of them will do.
//!
//! A signature is a small blob beside the image that says which digest is signed, and as what;
//! the signer's own signature of that blob is an annotation. cosign and skopeo put it under a tag
//! made of the digest, or name the image as its subject, so that the registry lists it among the
//! image's referrers. Invariant: nothing of a signature is believed before a key that the policy
//! names has verified it; a signature of the index vouches for all that the index names by digest.
//!
//! Specification: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>,
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers>

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::policy::{self, PolicyError, Requirement};
use crate::content::Digest;
use crate::transfer::reference::Reference;
use crate::transfer::registry::{HostsFailed, RequestFailure, Session};
use crate::transfer::tasks::{Lost, Tasks};

const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// What newer signers write; it names no repository, and its log is not verified here.
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CLAIM: &str = "cosign container image signature";
/// Real ones have a few hundred bytes.
const PAYLOAD_BYTES_MAX: u64 = 64 << 10;
/// Most signatures of one image that are looked at.
const SIGNATURES_MAX: usize = 64;

/// The signature policy does not let an image in, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The policy cannot be used.
    #[error("cannot use the signature policy")]
    Policy(#[source] PolicyError),
    /// Nothing is let in from there.
    #[error("the signature policy for {scope:?} rejects {name}")]
    Rejected {
        /// The reference.
        name: String,
        /// The scope of the policy.
        scope: String,
    },
    /// The policy asks for more than is known here.
    #[error("the signature policy for {scope:?} asks for {what}, which cannot be verified")]
    Unsupported {
        /// The scope of the policy.
        scope: String,
        /// What it asks for.
        what: String,
    },
    /// There is no signature.
    #[error("{name} has to be signed, and there is no signature of {digest}")]
    Unsigned {
        /// The reference.
        name: String,
        /// What it was resolved to.
        digest: Digest,
    },
    /// There are signatures that will not do.
    #[error("no signature of {digest} is acceptable for {name}: {}", reasons.join("; "))]
    Unacceptable {
        /// The reference.
        name: String,
        /// What it was resolved to.
        digest: Digest,
        /// What is wrong with each.
        reasons: Vec<String>,
    },
    /// The registry does not say whether there are signatures.
    #[error("cannot fetch the signatures of {digest}")]
    Fetch {
        /// The image.
        digest: Digest,
        /// What the hosts said.
        #[source]
        source: HostsFailed,
    },
    /// The thread that did the work is gone.
    #[error("cannot wait for the work")]
    Task(#[source] Lost),
}

/// A signature as it was found, not verified yet.
#[derive(Debug)]
struct Found {
    /// What it must be about.
    digest: Digest,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// All that refers to an image as a signature.
#[derive(Debug, Default)]
struct Signatures {
    found: Vec<Found>,
    /// Why some that are there are of no use.
    unusable: Vec<String>,
}

/// A document that may hold signatures.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What refers to an image.
#[derive(Deserialize)]
struct Referrers {
    #[serde(default)]
    manifests: Vec<Referrer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    artifact_type: Option<String>,
    digest: Digest,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    r#type: String,
    image: SignedImage,
    identity: SignedIdentity,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

#[derive(Deserialize)]
struct SignedIdentity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// Asks the policy in `file` about an image, and looks for the signatures that it demands.
/// `digests` are what the reference was resolved to, and the manifest for the platform.
///
/// # Errors
/// [`SignatureError`] when the image must not be pulled.
pub(in crate::transfer) async fn demand(
    session: &Session,
    tasks: &Tasks,
    file: &Path,
    reference: &Reference,
    digests: [&Digest; 2],
) -> Result<(), SignatureError> {
    let (path, wanted) = (file.to_owned(), reference.clone());
    let demands = tasks.run_blocking(move || policy::demands(&path, &wanted)).await;
    let demands = demands.map_err(SignatureError::Task)?.map_err(SignatureError::Policy)?;
    let mut found = None;
    for requirement in demands.requirements {
        match requirement {
            Requirement::Accept => {}
            Requirement::Reject => {
                let (name, scope) = (reference.to_string(), demands.scope);
                return Err(SignatureError::Rejected { name, scope });
            }
            Requirement::Unsupported(what) => {
                return Err(SignatureError::Unsupported { scope: demands.scope, what });
            }
            Requirement::Signed { keys, identity } => {
                let known = match found.take() {
                    Some(known) => known,
                    None => find(session, digests).await?,
                };
                let Signatures { found: signatures, unusable } = found.insert(known);
                let mut reasons = unusable.clone();
                let judge = |signature: &Found| {
                    if !keys
                        .iter()
                        .any(|key| key.has_signed(&signature.payload, &signature.signature))
                    {
                        return Err("it is not by a key of the policy".to_owned());
                    }
                    let signed = signature.claim()?;
                    if identity.fits(reference, &signed) {
                        Ok(())
                    } else {
                        Err(format!("it is signed as {signed:?}"))
                    }
                };
                let accepted = signatures.iter().any(|signature| {
                    judge(signature).map_err(|reason| reasons.push(reason)).is_ok()
                });
                let [target, _] = digests;
                let (name, digest) = (reference.to_string(), target.clone());
                if !accepted && reasons.is_empty() {
                    return Err(SignatureError::Unsigned { name, digest });
                }
                if !accepted {
                    reasons.sort();
                    reasons.dedup();
                    return Err(SignatureError::Unacceptable { name, digest, reasons });
                }
            }
        }
    }
    Ok(())
}

impl Found {
    /// What the image is signed as, once the signature is verified.
    fn claim(&self) -> Result<String, String> {
        let Payload { critical } = serde_json::from_slice(&self.payload)
            .map_err(|error| format!("it cannot be read: {error}"))?;
        if critical.r#type != CLAIM {
            return Err(format!("it is a {:?}", critical.r#type));
        }
        if critical.image.digest != self.digest {
            return Err(format!("it is a signature of {}", critical.image.digest));
        }
        Ok(critical.identity.reference)
    }
}

/// All signatures of any of the digests.
async fn find(session: &Session, digests: [&Digest; 2]) -> Result<Signatures, SignatureError> {
    let [target, manifest] = digests;
    let Signatures { mut found, mut unusable } = Signatures::default();
    for digest in [Some(target), Some(manifest).filter(|it| *it != target)].into_iter().flatten() {
        let failed = |source| SignatureError::Fetch { digest: digest.clone(), source };
        let tag = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
        let tagged = session.tagged(&format!("{tag}.sig")).await;
        let mut documents: Vec<Vec<u8>> = there(tagged).map_err(failed)?.into_iter().collect();
        let mut referrers = there(session.referrers(digest).await);
        if matches!(referrers, Ok(None)) {
            // Where the registry does not list them, who writes them does.
            referrers = there(session.tagged(&tag).await);
        }
        let referrers = match referrers {
            // The others may do.
            Err(_) if !documents.is_empty() => None,
            referrers => referrers.map_err(failed)?,
        };
        let referrers = referrers.and_then(|it| serde_json::from_slice::<Referrers>(&it).ok());
        let referrers = referrers.map(|it| it.manifests).unwrap_or_default();
        let is_of = |it: &Referrer, kind: &str| {
            it.artifact_type.as_deref().is_some_and(|it| it.starts_with(kind))
        };
        if referrers.iter().any(|it| is_of(it, BUNDLE_TYPE)) {
            let reason = "it is a sigstore bundle, which is not known here: cosign writes another \
                          form with --new-bundle-format=false";
            unusable.push(reason.to_owned());
        }
        let of_us = referrers.into_iter().filter(|it| is_of(it, ARTIFACT_TYPE));
        for referrer in of_us.take(SIGNATURES_MAX) {
            let document = session.manifest(&referrer.digest).await.map(|it| it.bytes);
            documents.extend(there(document).map_err(failed)?);
        }
        for document in documents {
            // What is not understood is no signature.
            let Ok(Manifest { layers }) = serde_json::from_slice(&document) else { continue };
            let layers = layers.into_iter().filter(|layer| layer.media_type == PAYLOAD_TYPE);
            for layer in layers {
                let signature = layer.annotations.get(SIGNATURE);
                let signature = signature.and_then(|text| STANDARD.decode(text).ok());
                let Some(signature) = signature else { continue };
                if layer.size > PAYLOAD_BYTES_MAX || found.len() == SIGNATURES_MAX {
                    continue;
                }
                let payload = session.small_blob(&layer.digest, layer.size).await;
                let payload = there(payload.map(|it| it.bytes)).map_err(failed)?;
                let digest = digest.clone();
                found.extend(payload.map(|payload| Found { digest, payload, signature }));
            }
        }
    }
    Ok(Signatures { found, unusable })
}

/// What a registry gives; `None` when it says that it has no such thing, or does not know such
/// things.
fn there<T>(answer: Result<T, HostsFailed>) -> Result<Option<T>, HostsFailed> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failed) => match failed.failure() {
            RequestFailure::NotFound | RequestFailure::Refused => Ok(None),
            _ => Err(failed),
        },
    }
}
