//! The same against a registry that others wrote: Debian's `docker-registry`.
//!
//! The program comes with the package of this name. It is started on a free port of the loopback address with its storage in a temporary
//! directory, and filled over its own API.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orlop::transfer::PullFailure;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::Value;

use crate::image::{self, Compression, Layer, OCI_INDEX, OCI_MANIFEST, architecture};
use crate::registry::digest;
use crate::{Node, chain, login};

/// A running registry; it is killed when dropped.
struct DebianRegistry {
    process: Child,
    authority: String,
    client: reqwest::Client,
    user: Option<(&'static str, &'static str)>,
    _directory: tempfile::TempDir,
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl DebianRegistry {
    /// Starts one; with `htpasswd` it wants basic authentication of `alice` and `secret`.
    async fn start(htpasswd: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    \
             rootdirectory: {path}/data\n"
        );
        if let Some(text) = htpasswd {
            std::fs::write(directory.path().join("htpasswd"), text).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}/htpasswd\n");
        }
        let user = htpasswd.map(|_| ("alice", "secret"));
        // Needed to make a client, though this one never speaks TLS.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        // The port is free until somebody else takes it, in which case the next one is tried.
        for _ in 0..10 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let authority = free.local_addr().unwrap().to_string();
            drop(free);
            let file = directory.path().join("config.yml");
            std::fs::write(&file, format!("{config}http:\n  addr: {authority}\n")).unwrap();
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if answers(&client, &authority, &mut process).await {
                return Self { process, authority, client, user, _directory: directory };
            }
        }
        panic!("docker-registry does not start");
    }

    async fn put(&self, url: String, media_type: &str, body: Vec<u8>) {
        let request = self.client.put(url).header(CONTENT_TYPE, media_type).body(body);
        let status = self.signed(request).send().await.unwrap().status();
        assert!(status.is_success(), "{status}");
    }

    fn signed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.user {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    async fn push_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let start = format!("http://{}/v2/team/app/blobs/uploads/", self.authority);
        let started = self.signed(self.client.post(start)).send().await.unwrap();
        let location = started.headers()[LOCATION].to_str().unwrap();
        let mut url = started.url().join(location).unwrap();
        url.query_pairs_mut().append_pair("digest", &digest);
        self.put(url.into(), "application/octet-stream", bytes.to_vec()).await;
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    async fn push_manifest(&self, tag: &str, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let url = format!("http://{}/v2/team/app/manifests/{tag}", self.authority);
        let descriptor = serde_json::json!({
            "mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()
        });
        self.put(url, media_type, bytes).await;
        descriptor
    }

    /// Pushes an image and an index of it.
    async fn push(&self, layers: &[Layer]) {
        let config = image::config("linux", &architecture(), layers);
        let config_type = "application/vnd.oci.image.config.v1+json";
        let config = self.push_blob(config_type, &config).await;
        let mut descriptors = Vec::new();
        for layer in layers {
            descriptors.push(self.push_blob(&layer.media_type, &layer.blob).await);
        }
        let manifest = image::manifest(OCI_MANIFEST, &config, &descriptors);
        let manifest = self.push_manifest("single", OCI_MANIFEST, &manifest).await;
        let platform = format!("linux/{}", architecture());
        let index = image::index(OCI_INDEX, &[(manifest, &platform)]);
        self.push_manifest("index", OCI_INDEX, &index).await;
    }
}

/// Waits until the process answers on its port, or ends.
async fn answers(client: &reqwest::Client, authority: &str, process: &mut Child) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end && process.try_wait().unwrap().is_none() {
        if client.get(format!("http://{authority}/v2/")).send().await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.kill().ok();
    process.wait().ok();
    false
}

fn layers() -> Vec<Layer> {
    vec![
        Layer::noise("noise", 3_000_000),
        Layer::file("plain", b"one", Compression::Plain),
        Layer::file("zstd", b"two", Compression::Zstd),
    ]
}

#[tokio::test]
async fn root_pulls_from_it() {
    let registry = DebianRegistry::start(None).await;
    registry.push(&layers()).await;
    let node = Node::new();
    for tag in ["single", "index"] {
        let pulled = node.pull(&format!("{}/team/app:{tag}", registry.authority)).await.unwrap();
        assert!(pulled.layers[2].lease.path().join("zstd").is_file());
        let digest = &pulled.target.digest;
        let by_digest = format!("{}/team/app@{digest}", registry.authority);
        assert_eq!(node.pull(&by_digest).await.unwrap().id(), pulled.id());
    }
    let missing = node.fail(&format!("{}/team/app:none", registry.authority)).await;
    assert_eq!(missing.failure(), PullFailure::NotFound, "{}", chain(&missing));
}

#[tokio::test]
async fn root_pulls_from_it_with_a_password() {
    // bcrypt of "secret".
    let htpasswd = "alice:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
    let registry = DebianRegistry::start(Some(htpasswd)).await;
    registry.push(&layers()).await;
    let name = format!("{}/team/app:index", registry.authority);
    Node::new().pull_with(&name, login("alice", "secret")).await.unwrap();
    let error = Node::new().fail_with(&name, login("alice", "guess")).await;
    assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
}
