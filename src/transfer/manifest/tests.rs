//! Documents that are one thing, and documents that could be two.

use serde_json::{Value, json};

use super::{DOCKER_INDEX, DOCKER_MANIFEST, Manifest, ManifestError, OCI_INDEX, OCI_MANIFEST};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": DIGEST, "size": 3})
}

fn image(layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer)],
    })
}

fn index() -> Value {
    let mut entry = descriptor(OCI_MANIFEST);
    entry["platform"] = json!({"os": "linux", "architecture": "arm", "variant": "v6"});
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
}

fn parse(document: &Value, announced: Option<&str>) -> Result<Manifest, ManifestError> {
    super::parse(document.to_string().as_bytes(), announced)
}

fn with(mut document: Value, key: &str, value: Value) -> Value {
    document[key] = value;
    document
}

fn without(mut document: Value, key: &str) -> Value {
    document.as_object_mut().unwrap().remove(key);
    document
}

#[test]
fn reads_both_kinds_with_and_without_their_names() {
    for announced in [None, Some(OCI_MANIFEST), Some("application/json")] {
        assert!(matches!(parse(&image(GZIP), announced), Ok(Manifest::Image(_))));
        let unnamed = without(image(GZIP), "mediaType");
        assert!(matches!(parse(&unnamed, announced), Ok(Manifest::Image(_))));
    }
    for announced in [None, Some(OCI_INDEX), Some(DOCKER_INDEX)] {
        let unnamed = without(index(), "mediaType");
        let Ok(Manifest::Index(entries)) = parse(&unnamed, announced) else { panic!() };
        assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/arm/v6");
    }
}

#[test]
fn refuses_what_can_be_read_in_two_ways() {
    let ambiguous = [
        (with(image(GZIP), "manifests", json!([])), None),
        (with(index(), "layers", json!([])), None),
        (with(index(), "config", descriptor("x")), None),
        (image(GZIP), Some(OCI_INDEX)),
        (image(GZIP), Some(DOCKER_MANIFEST)),
        (index(), Some(OCI_MANIFEST)),
        (with(image(GZIP), "mediaType", json!(OCI_INDEX)), None),
        (with(index(), "mediaType", json!(OCI_MANIFEST)), None),
        (without(index(), "mediaType"), Some(OCI_MANIFEST)),
    ];
    for (document, announced) in ambiguous {
        let parsed = parse(&document, announced);
        assert!(matches!(parsed, Err(ManifestError::Ambiguous(_))), "{document}: {parsed:?}");
    }
}

#[test]
fn refuses_a_key_that_comes_twice() {
    let text = image(GZIP).to_string().replacen('{', r#"{"layers":[],"#, 1);
    assert!(matches!(super::parse(text.as_bytes(), None), Err(ManifestError::Parse(_))));
}

#[test]
fn says_what_cannot_be_used() {
    let schema1 = json!({"schemaVersion": 1, "fsLayers": [], "history": []});
    assert!(matches!(parse(&schema1, None), Err(ManifestError::Schema1)));
    let chart = with(image(GZIP), "config", descriptor("application/vnd.cncf.helm.config.v1+json"));
    assert!(matches!(parse(&chart, None), Err(ManifestError::NotAnImage(_))));
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let parsed = parse(&image(media_type), None);
        assert!(matches!(parsed, Err(ManifestError::NonDistributable { .. })), "{media_type}");
    }
    for media_type in [
        "application/vnd.oci.image.layer.v1.tar+lzma",
        "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
    ] {
        let parsed = parse(&image(media_type), None);
        assert!(matches!(parsed, Err(ManifestError::LayerMediaType { .. })), "{media_type}");
    }
    assert!(matches!(parse(&json!({"hello": 1}), None), Err(ManifestError::MediaType(_))));
    let many = with(image(GZIP), "layers", json!(vec![descriptor(GZIP); 501]));
    assert!(matches!(parse(&many, None), Err(ManifestError::TooManyLayers(501))));
}
