//! Images that are on the node before anybody asks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop::images::{self, Images, Pinning, Prefetch, Prefetching};
use orlop::metadata::Metadata;
use orlop::snapshots::Snapshots;
use orlop::transfer::{Pipeline, Reference};
use serde_json::json;
use tempfile::TempDir;

use crate::config;
use crate::image::{Compression, Layer, serve};
use crate::registry::{Fault, Registry, digest};

const PATIENCE: Duration = Duration::from_secs(600);

fn open(root: &Path, prefetch: Prefetch) -> Images {
    let metadata = Arc::new(Metadata::open(root).unwrap());
    let content = orlop::content::ContentStore::open(&root.join("content")).unwrap();
    let snapshots = Snapshots::open(&root.join("snapshots"), Arc::clone(&metadata)).unwrap();
    let transfer = Arc::new(Pipeline::new(config(), content.clone(), snapshots.clone()));
    let settings = images::Config { prefetch, ..images::Config::default() };
    Images::open(settings, metadata, content, snapshots, transfer).unwrap()
}

fn pinned(images: &Images) -> Vec<String> {
    let pinned = images.list().into_iter().filter(|image| image.pinned == Pinning::Pinned);
    let mut names: Vec<String> = pinned.flat_map(|image| image.tags.clone()).collect();
    names.sort();
    names
}

/// What `docker save` writes, of one layer.
fn archive(path: &Path, name: &str) {
    let layer = Layer::file("file", name.as_bytes(), Compression::Plain);
    let config =
        crate::image::config("linux", &crate::image::architecture(), std::slice::from_ref(&layer));
    let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
    let manifest =
        json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in [
        (config_name.as_str(), config.as_slice()),
        ("layer.tar", &layer.blob),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.finish().unwrap();
}

#[tokio::test]
async fn root_what_is_listed_is_pulled_once_and_pinned() {
    let registry = Registry::start().await;
    serve(&registry, Some("v1"), &[Layer::noise("a", 1000)]);
    let name = format!("{}/team/app:v1", registry.authority());
    let reference = Reference::parse(&name).unwrap();
    let root = tempfile::tempdir().unwrap();
    let prefetch =
        Prefetch { images: vec![reference], gate: Some(PATIENCE), ..Prefetch::default() };
    let images = open(root.path(), prefetch.clone());
    assert_eq!(images.readiness(), Err(Prefetching { tried: 0, all: 1 }));
    images.prefetch().await;
    assert_eq!((images.readiness(), pinned(&images)), (Ok(()), vec![name.clone()]));
    let asked = registry.seen().len();
    drop(images);
    let images = open(root.path(), prefetch);
    images.prefetch().await;
    assert_eq!(registry.seen().len(), asked, "asked for what is there");
    drop(images);
    // No more in the list, no more pinned.
    let images = open(root.path(), Prefetch::default());
    assert_eq!((images.readiness(), pinned(&images)), (Ok(()), Vec::new()));
    assert_eq!(images.list().len(), 1);
}

#[tokio::test]
async fn root_archives_pin_their_images_as_long_as_they_are_there() {
    let (root, archives) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| archives.path().join(name);
    archive(&at("a.tar"), "r.example/a:1");
    archive(&at("b.tar"), "r.example/b:1");
    archive(&at(".c.tar"), "r.example/c:1");
    let directory =
        |of: &TempDir| Prefetch { archives: Some(of.path().to_owned()), ..Prefetch::default() };
    let images = open(root.path(), directory(&archives));
    images.prefetch().await;
    assert_eq!(pinned(&images), ["r.example/a:1", "r.example/b:1"]);
    drop(images);
    std::fs::remove_file(at("a.tar")).unwrap();
    let images = open(root.path(), directory(&archives));
    // Until the archives are read, nothing is taken away.
    assert_eq!(pinned(&images), ["r.example/a:1", "r.example/b:1"]);
    images.prefetch().await;
    assert_eq!(pinned(&images), ["r.example/b:1"]);
    assert_eq!(images.list().len(), 2);
    drop(images);
    let images = open(root.path(), directory(&archives));
    assert_eq!(pinned(&images), ["r.example/b:1"], "what was unpinned is so on disk too");
}

#[tokio::test]
async fn root_what_fails_holds_the_node_no_longer_than_the_rest_takes() {
    let registry = Registry::start().await;
    serve(&registry, Some("v1"), &[Layer::noise("a", 1000)]);
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.authority());
    let list = ["gone", "v1"].map(|tag| Reference::parse(&name(tag)).unwrap());
    let root = tempfile::tempdir().unwrap();
    let prefetch = Prefetch { images: list.to_vec(), gate: Some(PATIENCE), ..Prefetch::default() };
    let images = open(root.path(), prefetch);
    let ready = async {
        while images.readiness().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // It is tried again and again, so it does not end.
    tokio::select! {
        () = images.prefetch() => panic!("what is not there was prefetched"),
        () = ready => {}
    }
    assert_eq!(pinned(&images), [name("v1")]);
}

#[tokio::test]
async fn root_the_node_is_not_held_for_ever() {
    let registry = Registry::start().await;
    let layer = Layer::noise("a", 1000);
    serve(&registry, Some("v1"), std::slice::from_ref(&layer));
    registry.fault("manifests", usize::MAX, Fault::Silence);
    let reference = Reference::parse(&format!("{}/a:v1", registry.authority())).unwrap();
    let root = tempfile::tempdir().unwrap();
    let gate = Some(Duration::from_millis(300));
    let images =
        open(root.path(), Prefetch { images: vec![reference], gate, ..Prefetch::default() });
    assert!(images.readiness().is_err());
    let ready = async {
        while images.readiness().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = images.prefetch() => panic!("what never answers was prefetched"),
        () = ready => {}
    }
}
