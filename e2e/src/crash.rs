//! What must be true of a store whose daemon, or whose machine, died in the middle of pulls.
//!
//! An image is whole or it is not there. Whole is not only what orlop says of itself: the archives
//! that it gives out have the digests of those that were pushed, and the directories that containers
//! would stand on have what was packed, read without orlop. Nothing else is left once it has
//! collected, and what is missing can be pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use serde_json::json;

use crate::chance::Chance;
use crate::host::paths_below;
use crate::image::Image;
use crate::layer::{Packing, Tree, digest, fingerprint};
use crate::node::{Node, binary};
use crate::process::Owned;
use crate::registry::Registry;

/// How long the store may take to delete what it has put into its trash.
const TRASH: Duration = Duration::from_secs(20);
/// How long a pull may take that nobody disturbs.
const PULL: Duration = Duration::from_secs(60);

/// Images that share layers, in a registry.
#[derive(Debug)]
pub struct Images {
    registry: Registry,
    /// By name.
    images: BTreeMap<String, Image>,
    /// By diffID: what a layer's directory must have.
    fingerprints: BTreeMap<String, String>,
}

/// Pulls that go on.
#[derive(Debug)]
pub struct Pulls(Vec<Owned>);

/// What was found whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// The images that are there.
    pub images: Vec<String>,
    /// How many layers they have.
    pub layers: usize,
}

impl Images {
    /// Makes so many images and serves them; `directory` is the registry's.
    ///
    /// # Errors
    /// If there is no registry.
    pub fn serve(count: usize, chance: &mut Chance, directory: &Path) -> Result<Self> {
        let mut registry = Registry::start(directory)?;
        let (mut layers, mut fingerprints) = (Vec::new(), BTreeMap::new());
        for number in 0..=count {
            let tree = tree(number, chance);
            let packing = if number % 2 == 0 { Packing::Gzip } else { Packing::Tar };
            let layer = tree.pack(packing)?;
            fingerprints.insert(layer.diff_id.clone(), tree.fingerprint());
            layers.push(layer);
        }
        let mut images = BTreeMap::new();
        for number in 0..count {
            // The lowest is everybody's, each other one is in two images.
            let own = [0, number, number + 1].into_iter().collect::<BTreeSet<_>>();
            let own = own.into_iter().map(|number| layers[number].clone()).collect();
            let image = Image::new(own, &json!({ "Cmd": [format!("/{number}")] }))?;
            let repository = format!("crash/image{number}");
            registry.push(&repository, &["1"], &image)?;
            images.insert(format!("{}/{repository}:1", registry.address()), image);
        }
        Ok(Self { registry, images, fingerprints })
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.images.keys().map(String::as_str).collect()
    }

    /// Some of them, in any order.
    #[must_use]
    pub fn some(&self, chance: &mut Chance) -> Vec<&str> {
        let mut names = self.names();
        names.sort_by_cached_key(|_| chance.number());
        names.truncate(usize::try_from(1 + chance.below(names.len() as u64)).unwrap_or(1));
        names
    }

    /// Begins to pull these, all at once.
    ///
    /// # Errors
    /// If a client cannot be started.
    pub fn begin(&self, node: &Node, names: &[&str]) -> Result<Pulls> {
        let clients = names.iter().map(|name| {
            let mut command = Command::new(binary()?);
            command.args(["image", "pull", name, "--address"]).arg(node.socket());
            Owned::start(command, &node.directory().join("pulls.log"))
        });
        clients.collect::<Result<_>>().map(Pulls)
    }

    /// Pulls these to the end.
    ///
    /// # Errors
    /// If one fails.
    pub fn pull(&self, node: &Node, names: &[&str]) -> Result<()> {
        let mut pulls = self.begin(node, names)?;
        for client in &mut pulls.0 {
            let status = client.wait(PULL)?;
            ensure!(status.success(), "a pull that nobody disturbs fails: {}", node.end_of_log());
        }
        Ok(())
    }

    /// Proves the images that the daemon shows, and that nothing else is in its store.
    ///
    /// # Errors
    /// Something is damaged or left; the error says what.
    pub async fn check(&self, node: &Node) -> Result<Whole> {
        let mut cri = node.connect().await?;
        let listed = cri.images.list_images(v1::ListImagesRequest::default()).await?.into_inner();
        let names: Vec<_> = listed.images.into_iter().flat_map(|image| image.repo_tags).collect();
        let (mut layers, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        for name in &names {
            let image = self.images.get(name).with_context(|| format!("{name} is not ours"))?;
            let verified = node.orlop(&["image", "verify", name])?;
            ensure!(!verified.contains("unproven"), "{name}: {verified}");
            layers.extend(image.layers.iter().map(|layer| layer.diff_id.as_str()));
            blobs.extend([digest(&image.config), digest(&image.manifest)]);
            blobs.extend(image.layers.iter().map(|layer| digest(&layer.blob)));
        }
        let archive = node.directory().join("layer.tar");
        for diff_id in &layers {
            node.orlop(&["layer", "diff", diff_id, &archive.to_string_lossy()])?;
            let given = digest(&fs::read(&archive)?);
            ensure!(given == *diff_id, "layer {diff_id} is given out as {given}");
            fs::remove_file(&archive)?;
        }
        node.orlop(&["content", "gc"])?;
        let deadline = Instant::now() + TRASH;
        while let Err(error) = self.check_files(&node.root(), &layers, &blobs) {
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(Duration::from_millis(20));
        }
        Ok(Whole { images: names, layers: layers.len() })
    }

    /// The files of the store are those of these layers and some of these blobs.
    fn check_files(
        &self,
        root: &Path,
        layers: &BTreeSet<&str>,
        blobs: &BTreeSet<String>,
    ) -> Result<()> {
        let snapshots = root.join("snapshots");
        let mut wanted: Vec<_> =
            layers.iter().filter_map(|layer| self.fingerprints.get(*layer)).cloned().collect();
        let directories = children(&snapshots.join("layers"))?;
        let mut found = Vec::new();
        for directory in &directories {
            found.push(fingerprint(&snapshots.join("layers").join(directory))?);
        }
        wanted.sort();
        found.sort();
        ensure!(
            found == wanted,
            "{} directories of layers in place of {}, or not with the files that were packed: {found:?}, not {wanted:?}",
            found.len(),
            wanted.len()
        );
        let records = children(&snapshots.join("records"))?;
        ensure!(records == directories, "records {records:?} of layers {directories:?}");
        for place in ["snapshots/trash", "snapshots/active", "content/ingest"] {
            let left = children(&root.join(place))?;
            ensure!(left.is_empty(), "left in {place}: {left:?}");
        }
        for blob in children(&root.join("content/blobs/sha256"))? {
            ensure!(blobs.contains(&format!("sha256:{blob}")), "nothing refers to blob {blob}");
        }
        Ok(())
    }

    /// Changes one byte of one layer's file, which [`Self::check`] must find.
    ///
    /// # Errors
    /// If there is none.
    pub fn damage(&self, node: &Node) -> Result<()> {
        for path in paths_below(&node.root().join("snapshots/layers"))? {
            if fs::symlink_metadata(&path)?.is_file()
                && let mut bytes = fs::read(&path)?
                && let Some(byte) = bytes.last_mut()
            {
                *byte ^= 1;
                return fs::write(&path, bytes).context("damage a file");
            }
        }
        bail!("no layer has a file")
    }

    /// The registry that has them.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// The sorted names of what is in a directory; none if it is not there.
fn children(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Many small files, a big one, and links: what is written in many pieces and in one.
fn tree(number: usize, chance: &mut Chance) -> Tree {
    let top = format!("layer{number}");
    let mut tree = Tree::new().dir(&top, 0o755).dir(&format!("{top}/bin"), 0o711);
    for file in 0..100 {
        let bytes = chance.below(20_000);
        let mode = if file % 3 == 0 { 0o755 } else { 0o640 };
        tree = tree.file(&format!("{top}/bin/{file}"), mode, chance.noise(bytes));
    }
    let big = 500_000 + chance.below(2_000_000);
    tree.file(&format!("{top}/big"), 0o4755, chance.noise(big))
        .hardlink(&format!("{top}/same"), &format!("{top}/big"))
        .symlink(&format!("{top}/there"), "bin/1")
}
