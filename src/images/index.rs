//! The images in memory: by id and by reference.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::record::Image;
use crate::metadata::{Algorithm, Digest};
use crate::transfer::Reference;

/// One consistent state of all images.
#[derive(Debug, Default, Clone)]
pub(super) struct Index {
    images: BTreeMap<Digest, Arc<Image>>,
    references: HashMap<String, Digest>,
}

/// A name fits several images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image id {prefix:?} is ambiguous: {} images begin with it", candidates.len())]
pub struct FindError {
    /// What was asked for.
    pub prefix: String,
    /// The ids that begin so.
    pub candidates: Vec<Digest>,
}

impl Index {
    pub(super) fn insert(&mut self, image: Arc<Image>) {
        for reference in image.references() {
            self.references.insert(reference.clone(), image.id.clone());
        }
        self.images.insert(image.id.clone(), image);
    }

    pub(super) fn remove(&mut self, id: &Digest) {
        self.images.remove(id);
        self.references.retain(|_, image| image != id);
    }

    pub(super) fn get(&self, id: &Digest) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    /// The images that have a reference of `image` and are not it.
    pub(super) fn rivals(&self, image: &Image) -> Vec<Arc<Image>> {
        let owners = image.references().filter_map(|reference| self.references.get(reference));
        let mut ids: Vec<&Digest> = owners.filter(|id| **id != image.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(|id| self.images.get(id)).cloned().collect()
    }

    pub(super) fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Image>>, FindError> {
        if let Some(image) = self.by_reference(name) {
            return Ok(Some(image));
        }
        self.by_id(name)
    }

    fn by_reference(&self, name: &str) -> Option<Arc<Image>> {
        let reference = Reference::parse(name).ok()?;
        let full = match reference.digest() {
            Some(digest) => reference.digested(digest),
            None => reference.tagged()?,
        };
        self.references.get(&full).and_then(|id| self.images.get(id)).cloned()
    }

    /// Whole ids and beginnings of ids.
    fn by_id(&self, name: &str) -> Result<Option<Arc<Image>>, FindError> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.is_empty() || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(name.parse().ok().and_then(|id: Digest| self.images.get(&id)).cloned());
        }
        if let Ok(id) = Digest::from_hex(Algorithm::Sha256, hex) {
            return Ok(self.images.get(&id).cloned());
        }
        let Some(filled) = first_with_prefix(hex) else { return Ok(None) };
        let fitting: Vec<&Arc<Image>> = self
            .images
            .range((Bound::Included(filled), Bound::Unbounded))
            .take_while(|(id, _)| id.algorithm() == Algorithm::Sha256 && id.hex().starts_with(hex))
            .map(|(_, image)| image)
            .collect();
        match fitting.as_slice() {
            [] => Ok(None),
            [image] => Ok(Some(Arc::clone(image))),
            several => Err(FindError {
                prefix: name.to_owned(),
                candidates: several.iter().map(|image| image.id.clone()).collect(),
            }),
        }
    }
}

/// The lowest id that begins with `hex`.
fn first_with_prefix(hex: &str) -> Option<Digest> {
    let filled = format!("{hex:0<width$}", width = Algorithm::Sha256.hex_len());
    Digest::from_hex(Algorithm::Sha256, &filled).ok()
}
