//! Which images the kubelet's garbage collection must leave alone.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Config;

/// References that pin their images.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// As they are configured; a `*` at the end stands for anything.
    patterns: Vec<String>,
    /// Those that the archives of the configuration gave.
    archived: ArcSwap<HashSet<String>>,
}

impl Pins {
    pub(super) fn new(config: &Config) -> Self {
        let prefetched = config.prefetch.images.iter().filter_map(|image| image.tagged());
        let patterns = config.pinned_images.iter().cloned().chain(prefetched).collect();
        Self { patterns, archived: ArcSwap::default() }
    }

    pub(super) fn has(&self, reference: &String) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => reference.starts_with(start),
            None => reference == pattern,
        };
        self.patterns.iter().any(fits) || self.archived.load().contains(reference)
    }

    /// The references that archives gave.
    pub(super) fn archived(&self) -> HashSet<String> {
        HashSet::clone(&self.archived.load())
    }

    pub(super) fn set_archived(&self, references: HashSet<String>) {
        self.archived.store(Arc::new(references));
    }
}
