//! Damaged layers: found, fetched again, they alone, and never taken from under a container.

use std::path::PathBuf;

use arc_swap::ArcSwap;
use orlop::images::{Layered, Progress, Verdict};
use orlop::snapshots::SnapshotKey;
use orlop::transfer::Reference;

use crate::flights::Library;
use crate::image::{Layer, serve};
use crate::registry::{Fault, Registry};
use crate::{chain, config};

/// An image of two layers, pulled; the second one's file is damaged.
struct Damaged {
    registry: Registry,
    layers: [Layer; 2],
    name: String,
    root: tempfile::TempDir,
    library: Library,
}

impl Damaged {
    async fn new() -> Self {
        let registry = Registry::start().await;
        let layers = [Layer::noise("good", 10_000), Layer::noise("bad", 10_000)];
        serve(&registry, Some("v1"), &layers);
        let name = format!("{}/team/app:v1", registry.authority());
        let root = tempfile::tempdir().unwrap();
        let library = Self::open(&root);
        library.images.pull(&Reference::parse(&name).unwrap(), None).await.unwrap();
        let damaged = Self { registry, layers, name, root, library };
        let path = damaged.layer_of_the_second().join("bad");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        damaged
    }

    fn open(root: &tempfile::TempDir) -> Library {
        let (content, snapshots) = (root.path().join("content"), root.path().join("snapshots"));
        Library::open(root.path(), &content, &snapshots, config())
    }

    fn layer_of_the_second(&self) -> PathBuf {
        let diff_id = self.layers[1].diff_id.parse().unwrap();
        self.library.snapshots.lease(&diff_id).unwrap().path()
    }

    async fn verify(&self) -> Vec<Layered> {
        let progress = ArcSwap::from_pointee(Progress::default());
        self.library.images.verify(&self.name, &progress).await.unwrap()
    }

    async fn repair(&self) -> Result<Vec<Layered>, orlop::images::TransferError> {
        let progress = ArcSwap::from_pointee(Progress::default());
        self.library.images.repair(&self.name, None, &progress).await
    }
}

fn damaged(verified: &[Layered]) -> Vec<String> {
    let is_damaged = |layered: &&Layered| matches!(layered.verdict, Verdict::Damaged(_));
    verified.iter().filter(is_damaged).map(|layered| layered.digest.to_string()).collect()
}

#[tokio::test]
async fn root_the_damaged_layer_alone_comes_again() {
    let image = Damaged::new().await;
    assert_eq!(damaged(&image.verify().await), [image.layers[1].diff_id.clone()]);
    let key = SnapshotKey::parse("container").unwrap();
    let images = image.library.images.list();
    let running = image.library.snapshots.prepare(&key, &images[0].layers).unwrap();
    let old = image.layer_of_the_second();
    assert!(running.lower.contains(&old));

    assert_eq!(damaged(&image.repair().await.unwrap()), Vec::<String>::new());
    assert_eq!(damaged(&image.verify().await), Vec::<String>::new());
    assert_eq!(image.registry.count(&image.layers[0].digest()), 1);
    assert_eq!(image.registry.count(&image.layers[1].digest()), 2);

    // The container keeps what it stands on, the next one gets the new layer.
    let new = image.layer_of_the_second();
    assert!(old != new && old.exists() && new.exists());
    let next = SnapshotKey::parse("next").unwrap();
    let after = image.library.snapshots.prepare(&next, &images[0].layers).unwrap();
    assert!(after.lower.contains(&new) && !after.lower.contains(&old));
    image.library.snapshots.remove(&key).unwrap();
    image.library.images.collect().unwrap();
    image.library.snapshots.wait_until_removed();
    assert!(!old.exists() && new.exists());
    // Nothing is damaged, so nothing is fetched.
    image.repair().await.unwrap();
    assert_eq!(image.registry.count(&image.layers[1].digest()), 2);
}

#[tokio::test]
async fn root_a_repair_outlives_a_restart_with_its_container() {
    let mut image = Damaged::new().await;
    let key = SnapshotKey::parse("container").unwrap();
    let images = image.library.images.list();
    image.library.snapshots.prepare(&key, &images[0].layers).unwrap();
    let old = image.layer_of_the_second();
    image.repair().await.unwrap();
    let new = image.layer_of_the_second();
    image.library.images.close().await;
    drop(image.library);
    image.library = Damaged::open(&image.root);
    assert_eq!(image.layer_of_the_second(), new);
    assert!(old.exists());
    image.library.snapshots.remove(&key).unwrap();
    image.library.images.collect().unwrap();
    image.library.snapshots.wait_until_removed();
    assert!(!old.exists() && new.exists());
    assert_eq!(damaged(&image.verify().await), Vec::<String>::new());
}

#[tokio::test]
async fn root_a_repair_that_fails_changes_nothing() {
    let image = Damaged::new().await;
    let old = image.layer_of_the_second();
    let digest = image.layers[1].digest();
    image.registry.fault(&digest, usize::MAX, Fault::Truncate(1000));
    let error = image.repair().await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("cannot repair") && text.contains(&image.layers[1].diff_id), "{text}");
    assert_eq!(image.layer_of_the_second(), old);
    image.library.snapshots.wait_until_removed();
    let layers = std::fs::read_dir(image.library.snapshots.directory().join("layers"));
    assert_eq!(layers.unwrap().count(), 2);
}
