//! Registries that stall, break, lie or refuse: one clear error, or none because it was mended;
//! never a partial image.

use std::time::Duration;

use bytes::Bytes;
use orlop::transfer::{Config, PullFailure};
use serde_json::{Value, json};

use crate::image::{Compression, Layer, OCI_INDEX, OCI_MANIFEST, gzip, manifest, serve};
use crate::registry::{Fault, Registry};
use crate::{Node, chain, config};

/// A registry with one image of one layer of noise.
async fn one_layer(size: usize) -> (Registry, Layer, String) {
    let registry = Registry::start().await;
    let layer = Layer::noise("noise", size);
    serve(&registry, Some("v1"), std::slice::from_ref(&layer));
    let name = format!("{}/team/app:v1", registry.authority());
    (registry, layer, name)
}

#[tokio::test]
async fn root_a_broken_blob_is_resumed_where_it_broke() {
    let (registry, layer, name) = one_layer(900_000).await;
    registry.fault(&layer.digest(), 1, Fault::Truncate(300_000));
    registry.fault(&layer.digest(), 1, Fault::Stall(200_000));
    Node::new().pull(&name).await.unwrap();
    let ranges: Vec<_> = registry
        .seen()
        .iter()
        .filter(|seen| seen.path.contains(&layer.digest()))
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    let expected = [None, Some("bytes=300000-".to_owned()), Some("bytes=500000-".to_owned())];
    assert_eq!(ranges, expected);
}

#[tokio::test]
async fn root_a_host_without_ranges_sends_it_all_again() {
    let (registry, layer, name) = one_layer(900_000).await;
    registry.fault(&layer.digest(), 1, Fault::Truncate(300_000));
    registry.fault(&layer.digest(), 1, Fault::NoRanges);
    Node::new().pull(&name).await.unwrap();
}

#[tokio::test]
async fn root_a_blob_that_breaks_far_and_often_still_comes() {
    // More breaks than attempts, each after enough bytes.
    let (registry, layer, name) = one_layer(9_000_000).await;
    registry.fault(&layer.digest(), 5, Fault::Truncate(1_500_000));
    Node::new().pull(&name).await.unwrap();
    assert_eq!(registry.count(&layer.digest()), 6);
}

#[tokio::test]
async fn root_errors_that_pass_are_waited_for() {
    let (registry, layer, name) = one_layer(1000).await;
    let wait = vec![("retry-after", "0".to_owned())];
    registry.fault("HEAD", 2, Fault::Status(500, vec![]));
    registry.fault("GET /v2/team/app/manifests", 2, Fault::Status(503, vec![]));
    registry.fault(&layer.digest(), 2, Fault::Status(429, wait));
    Node::new().pull(&name).await.unwrap();
    assert_eq!(registry.count(&layer.digest()), 3);
}

#[tokio::test]
async fn errors_that_stay_end_the_pull() {
    let (registry, _, name) = one_layer(1000).await;
    registry.fault("HEAD", 99, Fault::Status(502, vec![]));
    let error = Node::new().fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    let message = chain(&error);
    assert!(message.contains("resolve") && message.contains("status 502"), "{message}");
    assert!(message.contains(&registry.authority()), "{message}");
    assert_eq!(registry.count("HEAD"), 3);
}

#[tokio::test]
async fn a_registry_that_asks_to_wait_too_long_is_not_waited_for() {
    let (registry, _, name) = one_layer(1000).await;
    let wait = vec![("retry-after", "86400".to_owned())];
    registry.fault("HEAD", 99, Fault::Status(429, wait));
    let error = Node::new().fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert_eq!(registry.count("HEAD"), 1);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let name = {
        let (_registry, _, name) = one_layer(10).await;
        name
    };
    let error = Node::new().fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert!(chain(&error).contains("connect"), "{}", chain(&error));
    let error = Node::new().fail("registry.invalid/a:b").await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert!(chain(&error).contains("registry.invalid"), "{}", chain(&error));
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up() {
    let (registry, _, name) = one_layer(10).await;
    registry.fault("HEAD", 99, Fault::Silence);
    let quick = Duration::from_millis(50);
    let node = Node::with(Config { connect_timeout: quick, stall_timeout: quick, ..config() });
    let error = node.fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert!(chain(&error).contains("no byte for"), "{}", chain(&error));
}

#[tokio::test]
async fn root_a_blob_that_always_stalls_is_given_up() {
    let (registry, layer, name) = one_layer(100_000).await;
    registry.fault(&layer.digest(), 99, Fault::Stall(1000));
    let stall_timeout = Duration::from_millis(50);
    let error = Node::with(Config { stall_timeout, ..config() }).fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    let message = chain(&error);
    assert!(message.contains(&layer.digest()) && message.contains("no byte for"), "{message}");
}

#[tokio::test]
async fn root_a_drip_is_no_progress() {
    let (registry, layer, name) = one_layer(100_000).await;
    registry.fault(&layer.digest(), 99, Fault::Drip(Duration::from_millis(20)));
    let no_progress_timeout = Duration::from_millis(300);
    let error = Node::with(Config { no_progress_timeout, ..config() }).fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert!(chain(&error).contains("no progress"), "{}", chain(&error));
}

#[tokio::test]
async fn root_a_truncated_blob_is_an_error() {
    let (registry, layer, name) = one_layer(100_000).await;
    registry.fault(&layer.digest(), 99, Fault::Truncate(1000));
    let error = Node::new().fail(&name).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    assert!(chain(&error).contains("after 3000 bytes"), "{}", chain(&error));
}

#[tokio::test]
async fn root_lies_about_a_layer_are_errors() {
    let other = Layer::noise("other", 90_000).blob;
    let (_, layer, _) = one_layer(100_000).await;
    let mut same_size = layer.blob.clone();
    let middle = same_size.len() / 2;
    same_size[middle] ^= 1;
    let garbage = vec![7; layer.blob.len()];
    for (lie, words) in [
        (Fault::Replace(Bytes::from(same_size)), "not sha256:"),
        (Fault::Replace(Bytes::from(garbage)), "not sha256:"),
        (Fault::Replace(Bytes::from(other)), "bytes, not"),
        (Fault::Replace(Bytes::from_static(b"short")), "has 5 bytes, not"),
        (Fault::Append(Bytes::from_static(b"more")), "bytes, not"),
    ] {
        let registry = Registry::start().await;
        serve(&registry, Some("v1"), std::slice::from_ref(&layer));
        registry.fault(&layer.digest(), 99, lie);
        let error = Node::new().fail(&format!("{}/a:v1", registry.authority())).await;
        let message = chain(&error);
        assert_eq!(error.failure(), PullFailure::Corrupt, "{message}");
        assert!(message.contains(words) && message.contains(&layer.digest()), "{message}");
    }
}

#[tokio::test]
async fn root_layers_that_are_not_what_the_config_says() {
    let good = Layer::file("a", b"a", Compression::Gzip);
    let wrong_diff_id = Layer { diff_id: Layer::noise("b", 9).diff_id, ..good.clone() };
    let no_archive = gzip(b"this is no tar archive, but it is long enough to be taken for one");
    let no_archive = Layer { blob: no_archive, ..good.clone() };
    let mut cut = good.blob.clone();
    cut.truncate(cut.len() / 2);
    let cut = Layer { blob: cut, ..good.clone() };
    let below = Layer::file("below", b"b", Compression::Gzip);
    for (layer, failure) in [
        (wrong_diff_id, PullFailure::Corrupt),
        (no_archive, PullFailure::Unusable),
        (cut, PullFailure::Unusable),
    ] {
        let registry = Registry::start().await;
        serve(&registry, Some("v1"), &[below.clone(), layer.clone()]);
        let error = Node::new().fail(&format!("{}/a:v1", registry.authority())).await;
        assert_eq!(error.failure(), failure, "{}", chain(&error));
        assert!(chain(&error).contains(&layer.digest()), "{}", chain(&error));
    }
}

#[tokio::test]
async fn lies_about_a_manifest_are_errors() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let huge = vec![b' '; 5 << 20];
    for (part, lie, failure) in [
        ("GET", Fault::Replace(Bytes::from_static(b"{}")), PullFailure::Corrupt),
        ("HEAD", Fault::Header("docker-content-digest", digest.clone()), PullFailure::NotFound),
        ("HEAD", Fault::Header("docker-content-digest", "md5:00".into()), PullFailure::Unusable),
        ("GET", Fault::Header("docker-content-digest", digest), PullFailure::Corrupt),
        ("GET", Fault::Replace(Bytes::from(huge)), PullFailure::Corrupt),
        ("GET", Fault::Header("content-type", OCI_INDEX.into()), PullFailure::Unusable),
    ] {
        let (registry, _, name) = one_layer(10).await;
        registry.fault(&format!("{part} /v2/team/app/manifests"), 99, lie.clone());
        let error = Node::new().fail(&name).await;
        assert_eq!(error.failure(), failure, "{lie:?}: {}", chain(&error));
    }
}

#[tokio::test]
async fn a_host_without_digests_or_without_head_is_asked_for_the_manifest() {
    for fault in [Fault::Without("docker-content-digest"), Fault::Status(405, vec![])] {
        let registry = Registry::start().await;
        serve(&registry, Some("v1"), &[]);
        registry.fault("HEAD", 99, fault);
        Node::new().pull(&format!("{}/a:v1", registry.authority())).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (registry, layer, _) = one_layer(10).await;
    let error = Node::new().fail(&format!("{}/team/app:v2", registry.authority())).await;
    assert_eq!(error.failure(), PullFailure::NotFound);
    registry.fault(&layer.digest(), 99, Fault::Status(404, vec![]));
    let error = Node::new().fail(&format!("{}/team/app:v1", registry.authority())).await;
    assert_eq!(error.failure(), PullFailure::NotFound, "{}", chain(&error));
}

#[tokio::test]
async fn manifests_that_no_image_can_be_made_of() {
    let config = |registry: &Registry, bytes: &[u8]| {
        registry.put_blob("application/vnd.oci.image.config.v1+json", bytes)
    };
    let layer = |registry: &Registry, media_type: &str| registry.put_blob(media_type, b"x");
    let plain = br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#;
    type Make<'a> = &'a dyn Fn(&Registry) -> Value;
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let cases: [(&str, Make<'_>); 6] = [
        ("schema 1", &|_| json!({"schemaVersion": 1, "fsLayers": []})),
        ("non-distributable", &|registry| {
            let layers = [layer(registry, foreign)];
            manifest(OCI_MANIFEST, &config(registry, plain), &layers)
        }),
        ("unsupported media type", &|registry| {
            let layers = [layer(registry, "application/x-layer")];
            manifest(OCI_MANIFEST, &config(registry, plain), &layers)
        }),
        ("not one of a container image", &|registry| {
            let config = registry.put_blob("application/vnd.cncf.helm.config.v1+json", b"{}");
            manifest(OCI_MANIFEST, &config, &[])
        }),
        ("ambiguous", &|registry| {
            let mut document = manifest(OCI_MANIFEST, &config(registry, plain), &[]);
            document["manifests"] = json!([]);
            document
        }),
        ("0 diffIDs, the manifest has 1 layers", &|registry| {
            let layers = [layer(registry, "application/vnd.oci.image.layer.v1.tar")];
            manifest(OCI_MANIFEST, &config(registry, plain), &layers)
        }),
    ];
    for (words, make) in cases {
        let registry = Registry::start().await;
        let document = make(&registry).to_string();
        registry.put_manifest(Some("v1"), OCI_MANIFEST, document.as_bytes());
        let error = Node::new().fail(&format!("{}/a:v1", registry.authority())).await;
        assert_eq!(error.failure(), PullFailure::Unusable, "{words}");
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
}

#[tokio::test]
async fn an_index_that_leads_nowhere_ends() {
    let registry = Registry::start().await;
    let mut inner = serve(&registry, None, &[]);
    for _ in 0..10 {
        let document = crate::image::index(OCI_INDEX, &[(inner, "")]).to_string();
        inner = registry.put_manifest(Some("v1"), OCI_INDEX, document.as_bytes());
    }
    let error = Node::new().fail(&format!("{}/a:v1", registry.authority())).await;
    assert!(chain(&error).contains("indexes inside each other"), "{}", chain(&error));
}

#[tokio::test]
async fn root_a_dropped_pull_leaves_nothing() {
    let (registry, layer, name) = one_layer(2_000_000).await;
    registry.fault(&layer.digest(), 99, Fault::Stall(500_000));
    let node = Node::with(Config { stall_timeout: Duration::from_secs(60), ..config() });
    {
        let pull = std::pin::pin!(node.pull(&name));
        let begun = async {
            while registry.count(&layer.digest()) == 0 || node.layers().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = pull => panic!("the pull ended"),
            () = begun => {}
        }
    }
    node.assert_nothing_left().await;
}

/// Names the directory in which the test below, run again in a mount namespace of its own, finds
/// a small file system.
const SMALL_DISK: &str = "PULL_TEST_SMALL_DISK";

#[tokio::test]
async fn root_a_full_disk_is_named_and_left_as_it_was() {
    let Ok(disk) = std::env::var(SMALL_DISK) else {
        let disk = tempfile::tempdir().unwrap();
        let test = "faults::root_a_full_disk_is_named_and_left_as_it_was";
        let script = r#"mount -t tmpfs -o size=4m tmpfs "$2" && exec "$1" --exact "$3""#;
        let run = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"])
            .args([&std::env::current_exe().unwrap(), disk.path(), test.as_ref()])
            .env(SMALL_DISK, disk.path())
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && output.contains("1 passed"), "{output}");
        return;
    };
    let (_registry, layer, name) = one_layer(8_000_000).await;
    let node = Node::on(tempfile::tempdir_in(disk).unwrap(), config());
    let error = node.fail(&name).await;
    assert_eq!(error.failure(), PullFailure::DiskFull, "{}", chain(&error));
    let message = chain(&error);
    assert!(message.contains("No space left") && message.contains(&layer.digest()), "{message}");
}

#[tokio::test]
async fn redirects_that_lead_nowhere_are_errors() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (loops, _, _) = one_layer(10).await;
    for (to, failure, words) in [
        (format!("{}/", loops.url()), PullFailure::Unusable, "redirect"),
        (format!("http://{nobody}/"), PullFailure::RegistryUnavailable, "connect"),
    ] {
        let (registry, layer, name) = one_layer(1000).await;
        registry.fault(&layer.digest(), usize::MAX, Fault::Redirect(to.clone()));
        loops.fault(&layer.digest(), usize::MAX, Fault::Redirect(to));
        let error = Node::new().fail(&name).await;
        let message = chain(&error);
        assert_eq!(error.failure(), failure, "{message}");
        assert!(message.contains(words) && message.contains(&layer.digest()), "{message}");
        assert!(loops.count(&layer.digest()) < 30, "{}", loops.count(&layer.digest()));
    }
}
