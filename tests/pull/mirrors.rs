//! `hosts.toml`: who is asked, in which order, for what, with which headers and secrets.

use std::path::Path;

use orlop::transfer::{AuthFields, Config, PullFailure};

use crate::image::{Layer, serve};
use crate::registry::{Auth, Fault, Registry};
use crate::{Node, chain, config, credentials, login};

/// A node that reads `hosts.toml` for `registry.example`.
fn node(hosts: &Path, text: &str) -> Node {
    let directory = hosts.join("registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
    Node::with(Config { hosts_dir: Some(hosts.to_owned()), ..config() })
}

struct Hosts {
    mirror: Registry,
    upstream: Registry,
    layer: Layer,
    directory: tempfile::TempDir,
}

impl Hosts {
    /// Both have the image.
    async fn new() -> Self {
        let (mirror, upstream) = (Registry::start().await, Registry::start().await);
        let layer = Layer::noise("noise", 300_000);
        serve(&upstream, Some("v1"), std::slice::from_ref(&layer));
        mirror.copy_from(&upstream);
        Self { mirror, upstream, layer, directory: tempfile::tempdir().unwrap() }
    }

    /// The mirror with these keys, then the upstream as server.
    fn node(&self, keys: &str) -> Node {
        let (server, mirror) = (self.upstream.url(), self.mirror.url());
        let text = format!("server = {server:?}\n[host.{mirror:?}]\n{keys}\n");
        node(self.directory.path(), &text)
    }

    /// As [`Self::node`], with other limits.
    fn node_with(&self, keys: &str, limits: impl Fn(Config) -> Config) -> Node {
        drop(self.node(keys));
        Node::with(limits(Config { hosts_dir: Some(self.directory.path().to_owned()), ..config() }))
    }
}

const IMAGE: &str = "registry.example/team/app:v1";

#[tokio::test]
async fn root_the_mirror_serves_and_the_name_stays() {
    let hosts = Hosts::new().await;
    let pulled = hosts.node("header = { x-who = 'node' }").pull(IMAGE).await.unwrap();
    assert_eq!(pulled.reference.to_string(), IMAGE);
    assert!(hosts.upstream.seen().is_empty());
    for seen in hosts.mirror.seen() {
        assert_eq!(seen.query, "ns=registry.example");
        assert_eq!(seen.header("x-who"), Some("node"));
    }
}

#[tokio::test]
async fn root_a_mirror_that_must_not_resolve_only_pulls() {
    let hosts = Hosts::new().await;
    hosts.node("capabilities = ['pull']").pull(IMAGE).await.unwrap();
    assert_eq!(hosts.mirror.count("v1"), 0);
    assert_eq!(hosts.mirror.count("GET"), 3);
    assert_eq!(hosts.upstream.seen().len(), 1);
}

#[tokio::test]
async fn root_what_a_mirror_lacks_comes_from_the_server() {
    let hosts = Hosts::new().await;
    hosts.mirror.fault("/", usize::MAX, Fault::Status(404, vec![]));
    hosts.node("").pull(IMAGE).await.unwrap();
    assert!(hosts.upstream.count("GET") == 3 && hosts.mirror.count("/") > 0);
}

#[tokio::test]
async fn root_a_blob_that_breaks_at_the_mirror_goes_on_at_the_server() {
    let hosts = Hosts::new().await;
    let digest = hosts.layer.digest();
    hosts.mirror.fault(&digest, 1, Fault::Truncate(100_000));
    hosts.mirror.fault(&digest, usize::MAX, Fault::Status(404, vec![]));
    hosts.node("").pull(IMAGE).await.unwrap();
    let resumed = hosts.upstream.seen();
    assert_eq!(resumed[0].header("range"), Some("bytes=100000-"));
}

#[tokio::test]
async fn root_a_mirror_that_lies_is_left_for_the_server() {
    let hosts = Hosts::new().await;
    let mut lie = hosts.layer.blob.clone();
    lie[150_000] ^= 1;
    hosts.mirror.fault(&hosts.layer.digest(), usize::MAX, Fault::Replace(lie.into()));
    let lie = bytes::Bytes::from_static(b"{}");
    hosts.mirror.fault("GET /v2/team/app/manifests", usize::MAX, Fault::Replace(lie));
    let node = hosts.node("");
    let pulled = node.pull(IMAGE).await.unwrap();
    assert_eq!(hosts.upstream.count("GET"), 2);
    drop(pulled);
    node.assert_nothing_left().await;
}

#[tokio::test]
async fn root_a_mirror_that_drips_is_left_for_the_server() {
    let hosts = Hosts::new().await;
    let drip = Fault::Drip(std::time::Duration::from_millis(20));
    hosts.mirror.fault(&hosts.layer.digest(), usize::MAX, drip);
    let node = hosts.node_with("", |config| Config {
        stall_timeout: std::time::Duration::from_millis(300),
        min_bytes_per_second: 10_000,
        ..config
    });
    node.pull(IMAGE).await.unwrap();
    assert_eq!(hosts.mirror.count(&hosts.layer.digest()), 3);
    // What the mirror sent is not asked for again.
    let seen = hosts.upstream.seen();
    let range = seen.iter().find_map(|seen| seen.header("range"));
    assert!(range.is_some_and(|range| range.starts_with("bytes=") && range != "bytes=0-"));
}

#[tokio::test]
async fn root_a_slow_host_is_named_with_its_rate() {
    let hosts = Hosts::new().await;
    for registry in [&hosts.mirror, &hosts.upstream] {
        let drip = Fault::Drip(std::time::Duration::from_millis(20));
        registry.fault(&hosts.layer.digest(), usize::MAX, drip);
    }
    let node = hosts.node_with("", |config| Config {
        stall_timeout: std::time::Duration::from_millis(100),
        min_bytes_per_second: 10_000,
        ..config
    });
    let error = node.fail(IMAGE).await;
    assert_eq!(error.failure(), PullFailure::RegistryUnavailable);
    let message = chain(&error);
    for registry in [&hosts.mirror, &hosts.upstream] {
        let words = format!("{}: too slow: ", registry.authority());
        assert!(
            message.contains(&words) && message.contains("less than 10000 bytes/s"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn every_host_is_in_the_error() {
    let hosts = Hosts::new().await;
    hosts.mirror.fault("/", usize::MAX, Fault::Status(503, vec![]));
    hosts.upstream.fault("/", usize::MAX, Fault::Status(404, vec![]));
    let error = hosts.node("").fail(IMAGE).await;
    assert_eq!(error.failure(), PullFailure::NotFound);
    let message = chain(&error);
    assert!(message.contains(&format!("{}: status 503", hosts.mirror.authority())), "{message}");
    assert!(
        message.contains(&format!("{}: 404 not found", hosts.upstream.authority())),
        "{message}"
    );
}

#[tokio::test]
async fn root_secrets_for_the_registry_do_not_reach_the_mirror() {
    let hosts = Hosts::new().await;
    hosts.mirror.require(Auth::Basic("alice", "secret"));
    hosts.upstream.require(Auth::Basic("alice", "secret"));
    hosts.node("").pull_with(IMAGE, login("alice", "secret")).await.unwrap();
    assert!(hosts.mirror.authorizations().is_empty());
    assert!(!hosts.upstream.authorizations().is_empty());

    // Those that are for the mirror do, and go nowhere else.
    let hosts = Hosts::new().await;
    hosts.mirror.require(Auth::Basic("alice", "secret"));
    hosts.upstream.require(Auth::Basic("alice", "secret"));
    let server_address = hosts.mirror.url();
    let fields = AuthFields {
        username: "alice",
        password: "secret",
        server_address: &server_address,
        ..AuthFields::default()
    };
    hosts.node("").pull_with(IMAGE, credentials(fields)).await.unwrap();
    assert!(hosts.upstream.authorizations().is_empty());
}

#[tokio::test]
async fn root_headers_stay_with_their_host() {
    let hosts = Hosts::new().await;
    let digest = hosts.layer.digest();
    let elsewhere = format!("{}/", hosts.upstream.url());
    hosts.mirror.fault(&digest, usize::MAX, Fault::Redirect(elsewhere));
    let keys = "header = { authorization = 'Basic c2VjcmV0', x-key = 'secret' }";
    hosts.node(keys).pull(IMAGE).await.unwrap();
    assert_eq!(hosts.mirror.authorizations().len(), 1);
    for seen in hosts.upstream.seen() {
        assert_eq!((seen.header("authorization"), seen.header("x-key")), (None, None));
    }
}

#[tokio::test]
async fn a_broken_file_fails_the_pull() {
    let directory = tempfile::tempdir().unwrap();
    let error = node(directory.path(), "sever = 'https://x'").fail(IMAGE).await;
    assert_eq!(error.failure(), PullFailure::Local);
    assert!(chain(&error).contains("hosts.toml: line 1"), "{}", chain(&error));
}

#[tokio::test]
async fn root_a_change_of_the_file_needs_no_restart() {
    let hosts = Hosts::new().await;
    let node = hosts.node("");
    node.pull(IMAGE).await.unwrap();
    let asked = hosts.mirror.seen().len();
    let text = format!("server = {:?}", hosts.upstream.url());
    std::fs::write(hosts.directory.path().join("registry.example/hosts.toml"), text).unwrap();
    node.pull(IMAGE).await.unwrap();
    assert_eq!(hosts.mirror.seen().len(), asked);
}

#[tokio::test]
async fn root_a_proxy_of_the_file_is_used() {
    let proxy = Registry::start().await;
    serve(&proxy, Some("v1"), &[Layer::noise("noise", 1000)]);
    let directory = tempfile::tempdir().unwrap();
    let text = format!("server = 'http://nowhere.invalid'\nproxy = {:?}", proxy.url());
    node(directory.path(), &text).pull(IMAGE).await.unwrap();
    assert!(proxy.seen().iter().all(|seen| seen.header("host") == Some("nowhere.invalid")));
}
