//! OCI image layouts: `index.json`, and manifests by digest.

use std::collections::HashMap;

use serde::Deserialize;

use super::{ImportError, Parts, Reader};
use crate::content::Digest;
use crate::transfer::manifest::{self, Descriptor, IndexEntry, Manifest, ManifestError, OCI_INDEX};
use crate::transfer::reference::Reference;

pub(super) const INDEX: &str = "index.json";
/// A full name, as containerd and BuildKit write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// A tag, or a whole reference.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// As for pulls.
const DEPTH_MAX: usize = 8;

#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    manifests: Vec<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

impl Reader {
    pub(super) fn oci_images(&self) -> Result<Vec<Parts>, ImportError> {
        let bytes = self.document(INDEX)?;
        let digest = || self.files.digest(INDEX).cloned();
        let invalid = |source| match digest() {
            Some(digest) => ImportError::Manifest { digest, source },
            None => ImportError::Missing(INDEX.to_owned()),
        };
        let entries = match manifest::parse(&bytes, Some(OCI_INDEX)).map_err(invalid)? {
            Manifest::Index(entries) => entries,
            Manifest::Image(_) => {
                let text = "index.json is a manifest".to_owned();
                return Err(invalid(ManifestError::Ambiguous(text)));
            }
        };
        let annotated: Annotated = serde_json::from_slice(&bytes)
            .map_err(|source| ImportError::Document { name: INDEX.to_owned(), source })?;
        let mut images = Vec::new();
        for (entry, annotations) in entries.into_iter().zip(annotated.manifests) {
            if !self.fits(&entry) {
                continue;
            }
            let references = references(&annotations.annotations.unwrap_or_default())?;
            images.push(self.oci_image(entry.descriptor, references)?);
        }
        if images.is_empty() {
            return Err(ImportError::NoPlatform(self.platform.clone()));
        }
        Ok(images)
    }

    fn fits(&self, entry: &IndexEntry) -> bool {
        let runs = |platform| self.platform.distance(platform).is_some();
        manifest::is_manifest(&entry.descriptor.media_type)
            && entry.platform.as_ref().is_none_or(runs)
    }

    fn oci_image(
        &self,
        target: Descriptor,
        references: Vec<Reference>,
    ) -> Result<Parts, ImportError> {
        let mut documents = Vec::new();
        let mut current = target.clone();
        for _ in 0..DEPTH_MAX {
            let blob = self.blob(&current.digest)?;
            if blob.bytes() != current.size {
                let text =
                    format!("it has {} bytes, and its index says {}", blob.bytes(), current.size);
                return Err(invalid(&current.digest, ManifestError::Ambiguous(text)));
            }
            documents.push(blob);
            let bytes = self.read(&current.digest, self.limits.manifest_bytes)?;
            let parsed = manifest::parse(&bytes, Some(&current.media_type))
                .map_err(|source| invalid(&current.digest, source))?;
            match parsed {
                Manifest::Image(parts) => {
                    return Ok(Parts {
                        references,
                        target: Some(target.digest),
                        manifest: current.digest,
                        config: parts.config.digest,
                        layers: parts.layers,
                        documents,
                    });
                }
                Manifest::Index(entries) => current = self.best(entries)?,
            }
        }
        let text = format!("more than {DEPTH_MAX} indexes inside each other");
        Err(invalid(&target.digest, ManifestError::Ambiguous(text)))
    }

    /// The entry that fits best; of equals the first.
    fn best(&self, entries: Vec<IndexEntry>) -> Result<Descriptor, ImportError> {
        let rank = |entry: &IndexEntry| match &entry.platform {
            Some(platform) => self.platform.distance(platform),
            None => Some(u32::MAX),
        };
        let fitting = entries.into_iter().filter(|entry| self.fits(entry));
        let best = fitting.min_by_key(|entry| rank(entry));
        let best = best.ok_or_else(|| ImportError::NoPlatform(self.platform.clone()))?;
        Ok(best.descriptor)
    }
}

fn invalid(digest: &Digest, source: ManifestError) -> ImportError {
    ImportError::Manifest { digest: digest.clone(), source }
}

/// A full name is meant as one and must be valid. A `ref.name` may be anything; one that is a
/// bare tag names no repository.
fn references(annotations: &HashMap<String, String>) -> Result<Vec<Reference>, ImportError> {
    if let Some(name) = annotations.get(FULL_NAME) {
        let parsed = Reference::parse(name)
            .map_err(|source| ImportError::Name { name: name.clone(), source })?;
        return Ok(vec![parsed]);
    }
    let whole = annotations.get(REF_NAME).filter(|name| name.contains(['/', ':', '@']));
    Ok(whole.and_then(|name| Reference::parse(name).ok()).into_iter().collect())
}
