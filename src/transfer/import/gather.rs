//! The files of an archive into the content store, whatever their order.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::ImportError;
use crate::content::{Algorithm, Blob, ContentStore, Digest};
use crate::transfer::unpack::{Archive, ArchiveError, Kind, read_archive};

/// More files than an archive of images has: a few hundred images of many layers each.
const FILES_MAX: usize = 20_000;
/// Links to links do not occur; two steps are generous.
const LINKS_MAX: usize = 2;

/// The files of an archive by their names, each leased.
#[derive(Debug, Default)]
pub(super) struct Files {
    blobs: HashMap<String, Blob>,
    /// Older archives link the layers that several images share.
    links: HashMap<String, String>,
}

impl Files {
    pub(super) fn has(&self, name: &str) -> bool {
        self.digest(name).is_some()
    }

    pub(super) fn digest(&self, name: &str) -> Option<&Digest> {
        self.blob(name).map(Blob::digest)
    }

    pub(super) fn blob(&self, name: &str) -> Option<&Blob> {
        let mut name = normalised(name);
        for _ in 0..LINKS_MAX {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        self.blobs.get(&name)
    }

    fn len(&self) -> usize {
        self.blobs.len() + self.links.len()
    }
}

/// Stores every file. One that is named by a digest must have it.
pub(super) fn gather(
    source: impl Read + Send,
    content: &ContentStore,
) -> Result<Files, ImportError> {
    read_archive(source, |archive| {
        let mut files = Files::default();
        while let Some(entry) = archive.next_entry().map_err(ImportError::Archive)? {
            let name = normalised(&String::from_utf8_lossy(&entry.path));
            match &entry.kind {
                Kind::Regular { .. } => {
                    let blob = store(archive, &name, content)?;
                    files.blobs.insert(name, blob);
                }
                Kind::Symlink { target } => {
                    let target = String::from_utf8_lossy(target);
                    files.links.insert(name.clone(), beside(&name, &target));
                }
                Kind::HardLink { target } => {
                    let target = normalised(&String::from_utf8_lossy(target));
                    files.links.insert(name, target);
                }
                // Directories say nothing, and nothing else belongs into such an archive.
                _ => {}
            }
            if files.len() > FILES_MAX {
                return Err(ImportError::TooManyFiles(FILES_MAX));
            }
        }
        Ok(files)
    })
}

fn store<R: BufRead>(
    archive: &mut Archive<R>,
    name: &str,
    content: &ContentStore,
) -> Result<Blob, ImportError> {
    let failed = |source| ImportError::Store { name: name.to_owned(), source };
    let expected = named_digest(name);
    let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let mut ingest = content.ingest(algorithm).map_err(failed)?;
    let mut source = archive.content();
    loop {
        let read = source.fill_buf();
        let buffer = read.map_err(|error| ImportError::Archive(ArchiveError::Read(error)))?;
        if buffer.is_empty() {
            return ingest.commit(expected.as_ref()).map_err(failed);
        }
        ingest.append(buffer).map_err(failed)?;
        let step = buffer.len();
        source.consume(step);
    }
}

/// The digest that `blobs/<algorithm>/<hex>` promises.
fn named_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Without what means nothing. Names are only compared, never used as paths.
fn normalised(name: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(names.pop()),
            part => names.push(part),
        }
    }
    names.join("/")
}

/// Where a link beside `name` leads.
fn beside(name: &str, target: &str) -> String {
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    if target.starts_with('/') {
        normalised(target)
    } else {
        normalised(&format!("{directory}/{target}"))
    }
}
