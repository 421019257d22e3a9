//! Images as builders make them: compression, forms, indexes, platforms, shared layers.

use std::sync::Arc;

use orlop::transfer::{
    Config, LayerBlobs, Platform, Progress, PullError, PullFailure, Reference, Stage, Urgency,
};
use serde_json::json;

use crate::image::{
    self, Compression, DOCKER_INDEX, DOCKER_MANIFEST, Layer, OCI_INDEX, OCI_MANIFEST, architecture,
    serve, serve_as,
};
use crate::registry::{Fault, Registry, digest};
use crate::{Node, chain, config};

fn layers() -> Vec<Layer> {
    vec![
        Layer::file("plain", b"one", Compression::Plain),
        Layer::file("gzip", b"two", Compression::Gzip),
        Layer::file("zstd", b"three", Compression::Zstd),
    ]
}

#[tokio::test]
async fn root_a_tag_gives_verified_layers_in_order() {
    let (registry, node) = (Registry::start().await, Node::new());
    let manifest = serve(&registry, Some("v1"), &layers());
    let name = format!("{}/team/app:v1", registry.authority());
    let pulled = node.pull(&name).await.unwrap();

    assert_eq!(pulled.reference.to_string(), name);
    assert_eq!(pulled.target.digest.to_string(), manifest["digest"].as_str().unwrap());
    assert_eq!(pulled.target, pulled.manifest);
    assert_eq!(pulled.target.media_type, OCI_MANIFEST);
    assert_eq!(pulled.id().to_string(), digest(&pulled.config_bytes));
    let files = ["plain", "gzip", "zstd"];
    for ((layer, file), made) in pulled.layers.iter().zip(files).zip(layers()) {
        assert_eq!(layer.name.to_string(), made.diff_id);
        assert!(layer.lease.path().join(file).is_file(), "{file}");
    }
    assert_eq!(registry.count("/blobs/"), 4);
    assert!(node.content.blob(&pulled.layers[0].descriptor.digest).is_none());
    drop(pulled);
    node.assert_nothing_left().await;
}

#[tokio::test]
async fn root_layers_that_are_here_are_not_fetched() {
    let (registry, node) = (Registry::start().await, Node::new());
    let made = layers();
    serve(&registry, Some("v1"), &made[..2]);
    serve(&registry, Some("v2"), &made);
    let first = node.pull(&format!("{}/team/app:v1", registry.authority())).await.unwrap();
    let progress = Arc::new(Progress::default());
    let reference = format!("{}/team/app:v2", registry.authority());
    let reference = Reference::parse(&reference).unwrap();
    let (platform, urgent) = (Platform::host(), Urgency::urgent());
    let second = node.transfer.pull(&reference, None, &platform, &progress, &urgent).await.unwrap();
    assert_eq!(second.layers.len(), 3);
    for layer in &made {
        assert_eq!(registry.count(&layer.digest()), 1);
    }
    let stages: Vec<_> = progress.layers().unwrap().iter().map(|layer| layer.stage()).collect();
    assert_eq!(stages, [Stage::Present, Stage::Present, Stage::Done]);
    let totals = progress.totals();
    assert_eq!((totals.layers, totals.layers_done), (3, 3));
    assert_eq!(totals.received_bytes, made[2].blob.len() as u64);
    assert_eq!(
        (totals.total_bytes, totals.unpacked_bytes),
        (totals.received_bytes, totals.received_bytes)
    );
    drop(first);
}

#[tokio::test]
async fn root_pulls_at_once_fetch_a_layer_once() {
    let (registry, node) = (Registry::start().await, Node::new());
    let made = Layer::noise("noise", 300_000);
    // The same layer twice in one image as well.
    serve(&registry, Some("v1"), &[made.clone(), made.clone()]);
    let name = format!("{}/team/app:v1", registry.authority());
    let pulls = [node.pull(&name), node.pull(&name), node.pull(&name)];
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().layers.len(), 2);
    }
    assert_eq!(registry.count(&made.digest()), 1);
    node.assert_nothing_left().await;
}

#[tokio::test]
async fn root_the_index_gives_the_nearest_image() {
    let (registry, node) = (Registry::start().await, Node::new());
    let own = architecture();
    let right = serve(&registry, None, &layers());
    let wrong = serve_as(&registry, None, &layers(), DOCKER_MANIFEST, "s390x");
    let attestation = json!({"mediaType": OCI_MANIFEST, "digest": digest(b"none"), "size": 4});
    for (tag, media_type) in [("oci", OCI_INDEX), ("docker", DOCKER_INDEX)] {
        let entries = [
            (attestation.clone(), "unknown/unknown"),
            (wrong.clone(), "linux/s390x"),
            (right.clone(), &format!("linux/{own}")),
            (wrong.clone(), &format!("windows/{own}")),
        ];
        let document = image::index(media_type, &entries).to_string();
        let inner = registry.put_manifest(Some(tag), media_type, document.as_bytes());
        // And an index inside an index, which says nothing of platforms.
        let outer = image::index(OCI_INDEX, &[(inner.clone(), "")]).to_string();
        let outer_tag = format!("nested-{tag}");
        let outer = registry.put_manifest(Some(&outer_tag), OCI_INDEX, outer.as_bytes());
        for (tag, target) in [(tag, &inner), (&outer_tag, &outer)] {
            let pulled = node.pull(&format!("{}/a:{tag}", registry.authority())).await.unwrap();
            assert_eq!(pulled.target.digest.to_string(), target["digest"].as_str().unwrap());
            assert_eq!(pulled.manifest.digest.to_string(), right["digest"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn another_platform_is_refused_and_what_there_is_is_named() {
    let registry = Registry::start().await;
    let manifest = serve_as(&registry, Some("single"), &[], OCI_MANIFEST, "s390x");
    let document = image::index(OCI_INDEX, &[(manifest, "linux/s390x")]).to_string();
    registry.put_manifest(Some("index"), OCI_INDEX, document.as_bytes());
    for tag in ["single", "index"] {
        let node = Node::new();
        let error = node.fail(&format!("{}/a:{tag}", registry.authority())).await;
        assert_eq!(error.failure(), PullFailure::Unusable);
        let message = chain(&error);
        assert!(message.contains("it has linux/s390x"), "{message}");
        assert!(matches!(error, PullError::NoPlatform { .. }));
    }
}

#[tokio::test]
async fn a_digest_is_not_resolved_but_the_caller_is_checked() {
    let (registry, node) = (Registry::start().await, Node::new());
    let manifest = serve(&registry, None, &[]);
    let digest = manifest["digest"].as_str().unwrap();
    let name = format!("{}/a@{digest}", registry.authority());
    let first = node.pull(&name).await.unwrap();
    assert_eq!((registry.count("HEAD"), registry.count("GET /v2/a/manifests")), (0, 1));
    // The second caller is asked for its right, though all is here.
    let second = node.pull(&name).await.unwrap();
    assert_eq!((registry.count("HEAD"), registry.count("GET /v2/a/manifests")), (1, 1));
    assert_eq!(first.id(), second.id());
    registry.fault("HEAD", 1, Fault::Status(403, vec![]));
    let refused = node.pull(&name).await.unwrap_err();
    assert_eq!(refused.failure(), PullFailure::Unauthorized);
}

#[tokio::test]
async fn root_compressed_layers_are_kept_when_asked() {
    let (registry, node) =
        (Registry::start().await, Node::with(Config { layer_blobs: LayerBlobs::Keep, ..config() }));
    let made = layers();
    serve(&registry, Some("v1"), &made);
    let pulled = node.pull(&format!("{}/a:v1", registry.authority())).await.unwrap();
    for (layer, made) in pulled.layers.iter().zip(&made) {
        let kept = node.content.read(&layer.descriptor.digest, 1 << 20).unwrap();
        assert_eq!(kept, made.blob);
    }
    assert_eq!(pulled.blobs.len(), 5);
}

#[tokio::test]
async fn root_docker_images_and_empty_images() {
    let (registry, node) = (Registry::start().await, Node::new());
    let one = [Layer::file("gzip", b"two", Compression::Gzip)];
    serve_as(&registry, Some("docker"), &one, DOCKER_MANIFEST, &architecture());
    serve(&registry, Some("empty"), &[]);
    let docker = node.pull(&format!("{}/a:docker", registry.authority())).await.unwrap();
    assert_eq!(docker.target.media_type, DOCKER_MANIFEST);
    let empty = node.pull(&format!("{}/a:empty", registry.authority())).await.unwrap();
    assert_eq!(empty.layers.len(), 0);
}

/// Builders mix the words of both worlds; what a layer is, its bytes say.
#[tokio::test]
async fn root_mixed_media_types_are_one_image() {
    let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let docker_config = "application/vnd.docker.container.image.v1+json";
    let oci_config = "application/vnd.oci.image.config.v1+json";
    for (media_type, config_type) in [
        (OCI_MANIFEST, docker_config),
        (DOCKER_MANIFEST, oci_config),
        (OCI_MANIFEST, "application/octet-stream"),
    ] {
        let registry = Registry::start().await;
        let layers = [
            Layer::file("gzip", b"1", Compression::Gzip),
            Layer::file("zstd", b"2", Compression::Zstd),
            Layer { media_type: docker_layer.into(), ..Layer::file("a", b"3", Compression::Plain) },
        ];
        let config = image::config("linux", &architecture(), &layers);
        let config = registry.put_blob(config_type, &config);
        let put = |layer: &Layer| registry.put_blob(&layer.media_type, &layer.blob);
        let descriptors: Vec<_> = layers.iter().map(put).collect();
        let document = image::manifest(media_type, &config, &descriptors).to_string();
        let manifest = registry.put_manifest(None, media_type, document.as_bytes());
        // In an index of the other kind.
        let other = if media_type == OCI_MANIFEST { DOCKER_INDEX } else { OCI_INDEX };
        let platform = format!("linux/{}", architecture());
        let index = image::index(other, &[(manifest, &platform)]).to_string();
        registry.put_manifest(Some("v1"), other, index.as_bytes());
        let node = Node::new();
        let pulled = node.pull(&format!("{}/a:v1", registry.authority())).await.unwrap();
        let contents = pulled.layers.iter().zip(["gzip", "zstd", "a"]);
        let contents = contents
            .map(|(layer, name)| std::fs::read_to_string(layer.lease.path().join(name)).unwrap());
        assert_eq!(contents.collect::<String>(), "123", "{media_type} {config_type}");
    }
}
