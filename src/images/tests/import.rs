//! Archives as the tools of the field write them, and broken ones, which leave nothing.

use std::io::Write;

use serde_json::{Value, json};

use super::super::*;
use super::Fixture;
use crate::content::{Algorithm, Digest, Hasher};

/// Files of an archive under construction, in order.
#[derive(Default, Clone)]
struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    fn add(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.0.push((name.to_owned(), content.into()));
    }

    /// Adds a blob and gives its descriptor.
    fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = Hasher::digest(Algorithm::Sha256, content);
        self.add(&format!("blobs/sha256/{}", digest.hex()), content);
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn edit(&self, part: &str, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Self {
        let files = self.0.iter().filter_map(|(name, content)| {
            let changed = if name.contains(part) { change(content) } else { Some(content.clone()) };
            Some((name.clone(), changed?))
        });
        Self(files.collect())
    }
}

fn layer(name: &str) -> Vec<u8> {
    let mut files = Files::default();
    files.add(&format!("from-{name}"), name);
    files.tar()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(name: &str, architecture: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> =
        layers.iter().map(|layer| Hasher::digest(Algorithm::Sha256, layer)).collect();
    json!({
        "architecture": architecture, "os": "linux", "author": name, "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

fn here() -> String {
    crate::transfer::Platform::host().architecture
}

fn elsewhere() -> &'static str {
    if here() == "s390x" { "amd64" } else { "s390x" }
}

/// An image for one platform, its layers compressed; gives its manifest's descriptor.
fn oci_image(files: &mut Files, name: &str, architecture: &str) -> Value {
    let layers = [layer("base"), layer(name)];
    let config = config(name, architecture, &layers);
    let config = files.blob("application/vnd.oci.image.config.v1+json", &config);
    let layers = layers
        .map(|layer| files.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&layer)));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    let mut descriptor =
        files.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
    descriptor
}

fn annotated(mut descriptor: Value, key: &str, name: &str) -> Value {
    descriptor["annotations"] = json!({ key: name });
    descriptor
}

fn oci_archive(entries: impl FnOnce(&mut Files) -> Vec<Value>) -> Files {
    let mut files = Files::default();
    files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let entries = entries(&mut files);
    files.add("index.json", json!({ "schemaVersion": 2, "manifests": entries }).to_string());
    files
}

fn simple() -> Files {
    oci_archive(|files| {
        let image = oci_image(files, "app", &here());
        vec![annotated(image, "io.containerd.image.name", "docker.io/library/app:1")]
    })
}

async fn import(fixture: &Fixture, files: &Files) -> Result<Vec<Arc<Image>>, ImportError> {
    fixture.images.import(std::io::Cursor::new(files.tar())).await
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn root_oci_archives() {
    let fixture = Fixture::new();
    let files = oci_archive(|files| {
        let other = oci_image(files, "other", elsewhere());
        let ours = oci_image(files, "multi", &here());
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [other.clone(), ours],
        });
        let index =
            files.blob("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes());
        let plain = oci_image(files, "plain", &here());
        let nameless = oci_image(files, "nameless", &here());
        vec![
            annotated(other, "io.containerd.image.name", "r.example/wrong:1"),
            annotated(index, "io.containerd.image.name", "r.example/multi:1"),
            annotated(plain, "org.opencontainers.image.ref.name", "r.example/plain:2"),
            annotated(nameless, "org.opencontainers.image.ref.name", "latest"),
        ]
    });
    let images = import(&fixture, &files).await.unwrap();
    let tags: Vec<_> = images.iter().map(|image| image.tags.clone()).collect();
    assert_eq!(
        tags,
        [vec!["r.example/multi:1".to_owned()], vec!["r.example/plain:2".to_owned()], vec![]]
    );
    assert!(images[0].digests[0].starts_with("r.example/multi@sha256:"));
    assert!(!images[0].digests[0].ends_with(images[0].manifest.hex()), "the index's digest");
    assert_eq!(
        fixture.images.find("r.example/wrong:1").unwrap().map(|image| image.id.clone()),
        None
    );
    // One base and three tops; of the blobs only the documents are kept.
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (4, 7));
    let snapshots = &fixture.images.0.snapshots;
    let key = crate::snapshots::SnapshotKey::parse("k").unwrap();
    let active = snapshots.prepare(&key, &images[0].layers).unwrap();
    assert_eq!(std::fs::read(active.lower[0].join("from-multi")).unwrap(), b"multi");
    assert_eq!(std::fs::read(active.lower[1].join("from-base")).unwrap(), b"base");
    // Again: nothing changes.
    let again = import(&fixture, &files).await.unwrap();
    assert!(Arc::ptr_eq(&images[1], &again[1]));
    let fixture = fixture.reopen();
    assert_eq!(fixture.images.list().len(), 3);
}

#[tokio::test]
async fn root_docker_archives() {
    let fixture = Fixture::new();
    let layers = [layer("base"), layer("top")];
    let config_json = config("saved", &here(), &layers);
    let mut files = Files::default();
    files.add("aaa/layer.tar", layers[0].clone());
    files.add("aaa/json", "{}");
    files.add("bbb/layer.tar", gzip(&layers[1]));
    files.add("cfg.json", config_json.clone());
    let saved = json!([{
        "Config": "cfg.json", "RepoTags": ["saved:1", "r.example/saved:2"],
        "Layers": ["ccc/layer.tar", "bbb/layer.tar"],
    }]);
    files.add("manifest.json", saved.to_string());
    // Older versions link layers that they have already written.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "ccc/layer.tar", "../aaa/layer.tar").unwrap();
    let link = builder.get_ref()[..512].to_vec();
    let archive = [link, files.tar()].concat();
    let images = fixture.images.import(std::io::Cursor::new(gzip(&archive))).await.unwrap();
    assert_eq!(images[0].tags, ["docker.io/library/saved:1", "r.example/saved:2"]);
    assert_eq!(images[0].id, Hasher::digest(Algorithm::Sha256, &config_json));
    assert!(images[0].digests.is_empty());
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (2, 2));
}

#[tokio::test]
async fn root_broken_archives_leave_nothing() {
    let good = simple();
    let set = |files: &Files, name: &str, change: &dyn Fn(&mut Value)| {
        files.edit(name, |content| {
            let mut value: Value = serde_json::from_slice(content).unwrap();
            change(&mut value);
            Some(value.to_string().into_bytes())
        })
    };
    let manifest = serde_json::from_slice::<Value>(&good.0.last().unwrap().1).unwrap();
    let manifest = manifest["manifests"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let cases: Vec<(&str, Files)> = vec![
        ("neither index.json", good.edit("index.json", |_| None)),
        ("parse", good.edit("index.json", |_| Some(b"{".to_vec()))),
        ("does not have sha256", good.edit(&manifest, |_| None)),
        ("content has digest", good.edit(&manifest, |_| Some(b"{}".to_vec()))),
        ("no image for", oci_archive(|files| vec![oci_image(files, "x", elsewhere())])),
        ("no image for", oci_archive(|_| Vec::new())),
        (
            "names an image",
            set(&good, "index.json", &|index| {
                index["manifests"][0]["annotations"]["io.containerd.image.name"] =
                    "Not A Name".into();
            }),
        ),
        (
            "its index says",
            set(&good, "index.json", &|index| {
                index["manifests"][0]["size"] = 7.into();
            }),
        ),
        // One document that is an index to one reader and a manifest to another.
        ("ambiguous", set(&good, "index.json", &|index| index["layers"] = json!([]))),
    ];
    for (expected, files) in cases {
        let fixture = Fixture::new();
        let error = chain(&import(&fixture, &files).await.unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!((fixture.images.list().len(), fixture.layers_on_disk()), (0, 0), "{expected}");
        assert_eq!(fixture.blobs(), 0, "{expected}");
    }
}

#[tokio::test]
async fn root_archives_that_break_off_leave_nothing() {
    let bytes = gzip(&simple().tar());
    for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 3] {
        let fixture = Fixture::new();
        let source = std::io::Cursor::new(bytes[..length].to_vec());
        fixture.images.import(source).await.unwrap_err();
        assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (0, 0), "{length}");
    }
}

/// A layer whose bytes are not what the configuration promises: the images before it stay.
#[tokio::test]
async fn root_a_wrong_layer_fails_its_image_alone() {
    let fixture = Fixture::new();
    let files = oci_archive(|files| {
        let good = oci_image(files, "good", &here());
        let config = config("bad", &here(), &[layer("promised")]);
        let config = files.blob("application/vnd.oci.image.config.v1+json", &config);
        let wrong = files.blob("application/vnd.oci.image.layer.v1.tar", &layer("delivered"));
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [wrong] });
        let bad = files
            .blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        vec![
            annotated(good, "io.containerd.image.name", "good:1"),
            annotated(bad, "io.containerd.image.name", "bad:1"),
        ]
    });
    let error = chain(&import(&fixture, &files).await.unwrap_err());
    assert!(error.contains("diffID"), "{error}");
    assert_eq!(fixture.images.list().len(), 1);
    assert!(fixture.images.find("good:1").unwrap().is_some());
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (2, 2));
}

/// Whoever drops the future finds nothing of it later.
#[tokio::test]
async fn root_an_abandoned_import_leaves_nothing() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 200 {
                return Err(std::io::Error::new(std::io::ErrorKind::BrokenPipe, "nobody sends"));
            }
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }
    use std::io::Read;
    let fixture = Fixture::new();
    let mut header = tar::Header::new_ustar();
    header.set_path("big").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let start = std::io::Cursor::new(header.as_bytes().to_vec());
    let import = fixture.images.import(start.chain(Endless(0)));
    let abandoned = futures_util::future::poll_immediate(Box::pin(import)).await;
    assert!(abandoned.is_none());
    fixture.images.close().await;
    assert_eq!((fixture.layers_on_disk(), fixture.blobs()), (0, 0));
}
