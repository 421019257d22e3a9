//! File trees that become image layers, the same bytes on every run.
//!
//! Order is by path, times are zero, and hard links come after everything else, so
//! that a link never precedes its target. Digests depend on the content alone.
//!
//! # References
//! - [OCI image-spec, layer](https://github.com/opencontainers/image-spec/blob/main/layer.md)

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::host::paths_below;

/// `sha256:` and the hexadecimal digest of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// What a path of a [`Tree`] is.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory.
    Dir,
    /// A regular file with its content.
    File(Vec<u8>),
    /// A symbolic link and what it says.
    Symlink(String),
    /// A hard link to another path of the same tree.
    Hardlink(String),
}

#[derive(Clone, Debug)]
struct Entry {
    mode: u32,
    node: Node,
}

/// A directory tree, owned by root, that becomes one layer.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<String, Entry>);

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// A plain tar archive: its digest does not depend on any compressor.
    Tar,
    /// A gzip stream.
    Gzip,
}

/// A packed layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its media type in a manifest.
    pub media_type: &'static str,
    /// The bytes that a registry stores.
    pub blob: Vec<u8>,
    /// The digest of the tar archive.
    pub diff_id: String,
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn insert(mut self, path: &str, mode: u32, node: Node) -> Self {
        self.0.insert(path.trim_matches('/').to_owned(), Entry { mode, node });
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.insert(path, mode, Node::Dir)
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.insert(path, mode, Node::File(content.into()))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.insert(path, 0o777, Node::Symlink(target.to_owned()))
    }

    /// Adds a hard link to `target`, a path of this tree.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.insert(path, 0o755, Node::Hardlink(target.to_owned()))
    }

    /// The content of a file.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match &self.0.get(path)?.node {
            Node::File(content) => Some(content),
            Node::Dir | Node::Symlink(_) | Node::Hardlink(_) => None,
        }
    }

    /// Whether `path` is in the tree.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Adds the entries of a tar archive for which `keep` says yes.
    ///
    /// # Errors
    /// If the archive cannot be read.
    pub fn extend_from_tar(
        mut self,
        archive: impl Read,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().context("read package")? {
            let mut entry = entry.context("read package")?;
            let path = entry
                .path()?
                .to_string_lossy()
                .trim_start_matches("./")
                .trim_matches('/')
                .to_owned();
            let mode = entry.header().mode()? & 0o7777;
            let target = entry.link_name()?.map(|name| name.to_string_lossy().into_owned());
            if path.is_empty() || !keep(&path) {
                continue;
            }
            self = match (entry.header().entry_type(), target) {
                (EntryType::Directory, _) => self.dir(&path, mode),
                (EntryType::Symlink, Some(target)) => self.symlink(&path, &target),
                (EntryType::Link, Some(target)) => {
                    self.hardlink(&path, target.trim_start_matches("./"))
                }
                (EntryType::Regular, _) => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.file(&path, mode, content)
                }
                _ => self,
            };
        }
        Ok(self)
    }

    /// All of the tree in one number, to be compared with [`fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let lines = self.0.iter().map(|(path, entry)| {
            let linked = match &entry.node {
                Node::Hardlink(target) => self.0.get(target.trim_matches('/')),
                Node::Dir | Node::File(_) | Node::Symlink(_) => None,
            };
            let Entry { mode, node } = linked.unwrap_or(entry);
            line(path, *mode, node)
        });
        digest(lines.collect::<String>().as_bytes())
    }

    /// Packs the tree into a layer.
    ///
    /// # Errors
    /// If a path does not fit into a tar header.
    pub fn pack(&self, packing: Packing) -> Result<Layer> {
        let mut archive = tar::Builder::new(Vec::new());
        let is_link = |entry: &Entry| matches!(entry.node, Node::Hardlink(_));
        let (links, rest): (Vec<_>, Vec<_>) = self.0.iter().partition(|(_, entry)| is_link(entry));
        for (path, entry) in rest.into_iter().chain(links) {
            append(&mut archive, path, entry).with_context(|| format!("pack {path}"))?;
        }
        let tar = archive.into_inner()?;
        let diff_id = digest(&tar);
        Ok(match packing {
            Packing::Tar => {
                Layer { media_type: "application/vnd.oci.image.layer.v1.tar", blob: tar, diff_id }
            }
            Packing::Gzip => {
                let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
                Layer { media_type, blob: gzip(&tar)?, diff_id }
            }
        })
    }
}

/// What [`Tree::fingerprint`] says of a tree that lies in `directory` as it was packed, without
/// whiteouts.
///
/// # Errors
/// If something cannot be read.
pub fn fingerprint(directory: &Path) -> Result<String> {
    let mut lines = BTreeMap::new();
    for path in paths_below(directory)? {
        let name = path.strip_prefix(directory)?.to_string_lossy().into_owned();
        let metadata = fs::symlink_metadata(&path)?;
        let node = if metadata.is_symlink() {
            Node::Symlink(fs::read_link(&path)?.to_string_lossy().into_owned())
        } else if metadata.is_dir() {
            Node::Dir
        } else {
            Node::File(fs::read(&path).with_context(|| format!("read {}", path.display()))?)
        };
        let text = line(&name, metadata.permissions().mode() & 0o7777, &node);
        lines.insert(name, text);
    }
    Ok(digest(lines.into_values().collect::<String>().as_bytes()))
}

fn line(path: &str, mode: u32, node: &Node) -> String {
    match node {
        Node::Dir => format!("{path} {mode:o} directory\n"),
        Node::File(content) => format!("{path} {mode:o} {}\n", digest(content)),
        Node::Symlink(target) | Node::Hardlink(target) => format!("{path} -> {target}\n"),
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match &entry.node {
        Node::Dir => {
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Node::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice())?;
        }
        Node::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            archive.append_link(&mut header, path, target)?;
        }
        Node::Hardlink(target) => {
            header.set_entry_type(EntryType::Link);
            archive.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_packs_to_the_same_bytes_in_any_order() {
        let one = Tree::new().dir("a", 0o755).file("a/b", 0o644, "x").hardlink("a/a", "a/b");
        let other = Tree::new().hardlink("a/a", "a/b").file("a/b", 0o644, "x").dir("a", 0o755);
        let (one, other) = (one.pack(Packing::Gzip).unwrap(), other.pack(Packing::Gzip).unwrap());
        assert_eq!(one.blob, other.blob);
    }

    #[test]
    fn a_hard_link_follows_its_target() {
        let layer =
            Tree::new().hardlink("a", "z").file("z", 0o644, "x").pack(Packing::Tar).unwrap();
        let mut archive = tar::Archive::new(layer.blob.as_slice());
        let paths: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(paths, [std::path::Path::new("z"), std::path::Path::new("a")]);
    }
}
