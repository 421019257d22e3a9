//! Images as their users see them: names, removal, and what a crash leaves.

mod import;

use std::collections::BTreeSet;

use super::*;
use crate::content::{Algorithm, Blob, Digest, Hasher};
use crate::metadata::Pinning;
use crate::snapshots::{LayerContents, LayerLease, LayerSlot};
use pull::Arrived;

/// A root directory with everything opened in it.
struct Fixture {
    root: tempfile::TempDir,
    images: Images,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let images = open(root.path());
        Self { root, images }
    }

    /// As after the death of the daemon.
    fn reopen(self) -> Self {
        let Self { root, images } = self;
        drop(images);
        let images = open(root.path());
        Self { root, images }
    }

    fn layer(&self, content: &str) -> (Digest, LayerLease) {
        let diff_id = sha256(content);
        let lease = match self.images.0.snapshots.try_layer(&diff_id).unwrap() {
            LayerSlot::Ready(lease) => lease,
            LayerSlot::Absent(writer) => {
                writer.create().unwrap();
                std::fs::write(writer.path().join("file"), content).unwrap();
                let usage = Usage { bytes: 4096, inodes: 2 };
                writer.finish(LayerContents { usage, implied: Vec::new() })
            }
        };
        (diff_id, lease)
    }

    fn blob(&self, content: &str) -> Blob {
        self.images.0.content.put(content.as_bytes(), &sha256(content)).unwrap()
    }

    fn arrived(&self, name: &str, layers: &[&str], tags: &[&str]) -> Arrived {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","author":"{name}","config":{{"User":"1002:7"}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let manifest = format!("manifest of {name}");
        let (layers, leases) = layers.iter().map(|layer| self.layer(layer)).unzip();
        let names: BTreeSet<String> =
            tags.iter().map(|tag| Reference::parse(tag).unwrap().name()).collect();
        Arrived {
            id: sha256(&config),
            manifest: sha256(&manifest),
            layers,
            leases,
            blobs: vec![self.blob(&config), self.blob(&manifest)],
            config: config.into_bytes(),
            tags: tags.iter().map(|tag| Reference::parse(tag).unwrap().tagged().unwrap()).collect(),
            digests: names.iter().map(|name| format!("{name}@{}", sha256(&manifest))).collect(),
        }
    }

    fn commit(&self, name: &str, layers: &[&str], tags: &[&str]) -> Arc<Image> {
        self.images.0.commit_now(self.arrived(name, layers, tags)).unwrap()
    }

    fn find(&self, name: &str) -> Option<Digest> {
        self.images.find(name).unwrap().map(|image| image.id.clone())
    }

    fn layers_on_disk(&self) -> usize {
        self.images.0.snapshots.wait_until_removed();
        std::fs::read_dir(self.root.path().join("snapshots/layers")).unwrap().count()
    }

    fn blobs(&self) -> usize {
        self.images.0.content.list().len()
    }
}

fn open(root: &Path) -> Images {
    let metadata = Arc::new(Metadata::open(root).unwrap());
    let content = ContentStore::open(&root.join("content")).unwrap();
    let snapshots = Snapshots::open(&root.join("snapshots"), Arc::clone(&metadata)).unwrap();
    let transfer =
        Pipeline::new(crate::transfer::Config::default(), content.clone(), snapshots.clone());
    let pinned_images = vec!["docker.io/library/pinned*".to_owned()];
    let config = Config { pinned_images, ..Config::default() };
    Images::open(config, metadata, content, snapshots, Arc::new(transfer)).unwrap()
}

fn sha256(text: &str) -> Digest {
    Hasher::digest(Algorithm::Sha256, text.as_bytes())
}

#[test]
fn an_image_is_found_by_all_its_names() {
    let fixture = Fixture::new();
    let image = fixture.commit("a", &["base", "top"], &["busybox", "r.example/x/y:2"]);
    let other = fixture.commit("b", &["base"], &["other"]);
    let id = Some(image.id.clone());
    assert_eq!(image.tags, ["docker.io/library/busybox:latest", "r.example/x/y:2"]);
    for name in [
        image.id.to_string().as_str(),
        image.id.hex(),
        &image.id.hex()[..12],
        &format!("sha256:{}", &image.id.hex()[..12]),
        "busybox",
        "busybox:latest",
        "library/busybox",
        "docker.io/library/busybox:latest",
        "r.example/x/y:2",
        &format!("busybox@{}", image.manifest),
        &format!("busybox:ignored@{}", image.manifest),
        &format!("r.example/x/y@{}", image.manifest),
    ] {
        assert_eq!(fixture.find(name), id, "{name}");
    }
    for name in [
        "",
        "nothing",
        "busybox:1",
        "r.example/x/y",
        "\u{0}",
        "sha256:",
        &other.id.hex()[..63].replace('0', "1").replace('a', "b"),
    ] {
        assert_ne!(fixture.find(name), id, "{name}");
    }
    let fixture = fixture.reopen();
    let found = fixture.images.find("busybox").unwrap().unwrap();
    assert_eq!((&found.tags, &found.digests), (&image.tags, &image.digests));
    assert_eq!((found.size_bytes, found.user()), (image.size_bytes, ImageUser::Uid(1002)));
    assert!(found.size_bytes > 8192);
}

#[test]
fn an_ambiguous_id_is_an_error() {
    let fixture = Fixture::new();
    let mut firsts = std::collections::HashMap::new();
    // Of 17 ids two begin with the same digit.
    let twice = (0..17).find_map(|number| {
        let image = fixture.commit(&number.to_string(), &[], &[]);
        let first = image.id.hex()[..1].to_owned();
        firsts.insert(first.clone(), ()).map(|()| first)
    });
    let prefix = twice.unwrap();
    let refused = fixture.images.find(&prefix).unwrap_err();
    assert_eq!((refused.prefix.as_str(), refused.candidates.len()), (prefix.as_str(), 2));
    assert!(refused.candidates.iter().all(|id| id.hex().starts_with(&prefix)));
}

#[test]
fn a_tag_moves_and_the_image_stays() {
    let fixture = Fixture::new();
    let old = fixture.commit("old", &["base"], &["app:1", "app:latest"]);
    let new = fixture.commit("new", &["base"], &["app:latest"]);
    let check = |fixture: &Fixture| {
        assert_eq!(fixture.find("app:latest"), Some(new.id.clone()));
        assert_eq!(fixture.find("app:1"), Some(old.id.clone()));
        let left = fixture.images.find(old.id.hex()).unwrap().unwrap();
        assert_eq!(left.tags, ["docker.io/library/app:1"]);
    };
    check(&fixture);
    check(&fixture.reopen());
}

#[test]
fn committing_again_adds_names() {
    let fixture = Fixture::new();
    fixture.commit("a", &["base"], &["b:1"]);
    let image = fixture.commit("a", &["base"], &["a:1", "b:1"]);
    assert_eq!(image.tags, ["docker.io/library/a:1", "docker.io/library/b:1"]);
    assert_eq!(fixture.images.list().len(), 1);
    let same = fixture.commit("a", &["base"], &["a:1"]);
    assert!(Arc::ptr_eq(&image, &same));
}

#[test]
fn pinned_images_are_said_to_be() {
    let fixture = Fixture::new();
    assert_eq!(fixture.commit("a", &[], &["pinned:3"]).pinned, Pinning::Pinned);
    assert_eq!(fixture.commit("b", &[], &["unpinned:3"]).pinned, Pinning::Unpinned);
    assert_eq!(fixture.commit("b", &[], &["pinned-too"]).pinned, Pinning::Pinned);
}

#[tokio::test]
async fn removing_takes_all_names_and_what_nobody_needs() {
    let fixture = Fixture::new();
    fixture.commit("a", &["base", "mine"], &["x/a:1", "y/a:1"]);
    fixture.commit("b", &["base"], &["b"]);
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (2, 4));
    fixture.images.remove("x/a:1").await.unwrap();
    assert_eq!((fixture.find("y/a:1"), fixture.images.list().len()), (None, 1));
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (1, 2));
    fixture.images.remove("x/a:1").await.unwrap();
    fixture.images.remove("never there").await.unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.images.list().len(), 1);
    fixture.images.remove("b").await.unwrap();
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (0, 0));
    // The database alone is left.
    let left = fixture.images.fs_usage().images;
    assert!(left.bytes > 0 && (1..=3).contains(&left.inodes), "{left:?}");
}

#[tokio::test]
async fn a_collection_says_what_it_took() {
    let fixture = Fixture::new();
    let image = fixture.commit("a", &["base", "top"], &["a"]);
    assert_eq!(fixture.images.collect().unwrap(), Collected::default());
    let (config, stray) = (fixture.images.0.content.blob(&image.id), fixture.blob("stray"));
    fixture.images.0.metadata.delete_image(&image.id).unwrap();
    fixture.images.0.index.store(Arc::default());
    let (collected, usage) = (fixture.images.collect().unwrap(), Usage { bytes: 4096, inodes: 2 });
    // What is leased stays: the configuration and a blob of a transfer under way.
    assert_eq!(collected.blobs, [(image.manifest.clone(), "manifest of a".len() as u64)]);
    let mut layers = collected.layers;
    layers.sort();
    let mut expected = ["base", "top"].map(|layer| (sha256(layer).to_string(), usage));
    expected.sort();
    assert_eq!(layers, expected);
    let listed = fixture.images.blobs().into_iter().map(|blob| (blob.leases, blob.images));
    assert_eq!(listed.collect::<Vec<_>>(), [(1, 0), (1, 0)]);
    drop((config, stray));
    assert_eq!(fixture.images.sweep().await.unwrap().blobs.len(), 2);
}

#[tokio::test]
async fn several_may_remove_at_once() {
    let fixture = Fixture::new();
    let image = fixture.commit("a", &["base"], &["a"]);
    let removals = (0..5).map(|_| {
        let (images, id) = (fixture.images.clone(), image.id.to_string());
        async move {
            images.remove(&id).await.unwrap();
            assert!(images.find(&id).unwrap().is_none());
        }
    });
    futures_util::future::join_all(removals).await;
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (0, 0));
}

#[tokio::test]
async fn snapshots_outlive_their_image() {
    let fixture = Fixture::new();
    let image = fixture.commit("a", &["base", "mine"], &["a"]);
    let key = crate::snapshots::SnapshotKey::parse("container").unwrap();
    let active = fixture.images.0.snapshots.prepare(&key, &image.layers).unwrap();
    fixture.images.remove("a").await.unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.images.0.snapshots.active(&key).unwrap(), active);
    assert_eq!(std::fs::read(active.lower[0].join("file")).unwrap(), b"mine");
    fixture.images.0.snapshots.remove(&key).unwrap();
    fixture.images.collect().unwrap();
    assert_eq!(fixture.layers_on_disk(), 0);
}

/// Wherever the daemon dies before the commit, the next one finds nothing.
#[test]
fn what_was_not_committed_is_gone() {
    let fixture = Fixture::new();
    let kept = fixture.commit("kept", &["base"], &["kept"]);
    std::mem::forget(fixture.arrived("lost", &["base", "lost"], &["lost"]));
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (2, 4));
    // A leaked lease keeps the store open, so what is on disk goes to another place.
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(fixture.root.path().join("."))
        .arg(copy.path())
        .status();
    assert!(copied.unwrap().success());
    let images = open(copy.path());
    let fixture = Fixture { root: copy, images };
    assert_eq!(fixture.images.list().len(), 1);
    assert_eq!(fixture.find("kept"), Some(kept.id.clone()));
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (1, 2));
}

#[test]
fn an_image_without_its_layers_is_forgotten() {
    let fixture = Fixture::new();
    let image = fixture.commit("a", &["base"], &["a"]);
    let key = crate::snapshots::SnapshotKey::parse("k").unwrap();
    let lower = fixture.images.0.snapshots.prepare(&key, &image.layers).unwrap().lower;
    fixture.images.0.snapshots.remove(&key).unwrap();
    std::fs::remove_dir_all(&lower[0]).unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.images.list().is_empty());
    fixture.commit("a", &["base"], &["a"]);
    assert_eq!(fixture.reopen().images.list().len(), 1);
}

#[test]
fn users_are_cut_from_groups() {
    for (text, user) in [
        ("", ImageUser::Unset),
        (":5", ImageUser::Unset),
        ("0", ImageUser::Uid(0)),
        ("1002:1002", ImageUser::Uid(1002)),
        ("www-data", ImageUser::Name("www-data".to_owned())),
        ("www-data:www-data", ImageUser::Name("www-data".to_owned())),
        ("4294967294", ImageUser::Uid(4_294_967_294)),
        ("4294967295", ImageUser::Name("4294967295".to_owned())),
        ("4294967296", ImageUser::Name("4294967296".to_owned())),
        ("18446744073709551616", ImageUser::Name("18446744073709551616".to_owned())),
        ("-1", ImageUser::Name("-1".to_owned())),
        ("+1", ImageUser::Name("+1".to_owned())),
    ] {
        assert_eq!(ImageUser::parse(text), user, "{text:?}");
    }
}

#[test]
fn configurations_of_careless_builders_are_read() {
    for text in [
        r#"{"config":null,"rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null,"Volumes":null,"ExposedPorts":{"80/tcp":{}},"Labels":null,"Healthcheck":{"Test":["NONE"]},"OnBuild":null,"ArgsEscaped":true},"container_config":{"Hostname":"x"},"docker_version":"1","rootfs":{"type":"layers","diff_ids":[]}}"#,
        "{}",
    ] {
        config::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    }
    assert!(config::parse(b"[]").is_err());
    assert!(config::parse(b"").is_err());
}
