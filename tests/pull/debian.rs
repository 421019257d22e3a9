//! The same against a registry that others wrote: Debian's `docker-registry`.
//!
//! The program comes with the package of this name. It is started on a free port of the loopback address with its storage in a temporary
//! directory, and filled over its own API.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orlop::transfer::{AuthFields, PullFailure};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use serde_json::Value;
use tempfile::TempDir;

use crate::image::{self, Compression, Layer, OCI_INDEX, OCI_MANIFEST, architecture};
use crate::registry::{Auth, Registry, TokenServer, basic, digest};
use crate::signer::{ISSUER, SERVICE, Signer};
use crate::{Node, chain, credentials, login};

/// A running registry; it is killed when dropped.
struct DebianRegistry {
    process: Child,
    authority: String,
    client: reqwest::Client,
    authorization: Option<String>,
    _directory: TempDir,
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl DebianRegistry {
    /// Starts one in `directory`, which wants what the section `auth` of its configuration
    /// says; `authorization` is for pushing.
    async fn start(directory: TempDir, auth: &str, authorization: Option<String>) -> Self {
        let path = directory.path().display();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    \
             rootdirectory: {path}/data\n{auth}"
        );
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
                return Self { process, authority, client, authorization, _directory: directory };
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
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
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
    let registry = DebianRegistry::start(tempfile::tempdir().unwrap(), "", None).await;
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
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("htpasswd");
    std::fs::write(&file, htpasswd).unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
    let registry = DebianRegistry::start(directory, &auth, Some(basic("alice", "secret"))).await;
    registry.push(&layers()).await;
    let name = format!("{}/team/app:index", registry.authority);
    Node::new().pull_with(&name, login("alice", "secret")).await.unwrap();
    let error = Node::new().fail_with(&name, login("alice", "guess")).await;
    assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
}

/// Who gets a token.
const NOBODY: TokenServer = TokenServer { realm: None, user: None, identity: None, uses: 1000 };

/// One that takes the tokens of another server, whose tokens it can verify.
async fn with_tokens() -> (DebianRegistry, Registry, String) {
    let (tokens, signer) = (Registry::start().await, Signer::new());
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("authority.pem");
    std::fs::write(&bundle, signer.authority()).unwrap();
    let auth = format!(
        "auth:\n  token:\n    realm: {}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
         rootcertbundle: {}\n",
        tokens.url(),
        bundle.display()
    );
    let push = format!("Bearer {}", signer.token(&["pull", "push"]));
    let registry = DebianRegistry::start(directory, &auth, Some(push)).await;
    registry.push(&layers()).await;
    tokens.sign_with(signer);
    let name = format!("{}/team/app:index", registry.authority);
    (registry, tokens, name)
}

#[tokio::test]
async fn root_pulls_from_it_with_a_token_for_a_password() {
    let (_registry, tokens, name) = with_tokens().await;
    tokens.require(Auth::Token(TokenServer { user: Some(("alice", "secret")), ..NOBODY }));
    Node::new().pull_with(&name, login("alice", "secret")).await.unwrap();
    let seen = tokens.seen();
    assert_eq!(seen.len(), 1, "one token for all requests of a pull");
    let query = &seen[0].query;
    assert!(query.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{query}");
    assert!(query.contains(&format!("service={SERVICE}")), "{query}");
    for given in [login("alice", "guess"), None] {
        let error = Node::new().fail_with(&name, given).await;
        assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
        assert!(chain(&error).contains("get a token"), "{}", chain(&error));
        assert!(!chain(&error).contains("guess"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn root_pulls_from_it_with_a_token_for_nobody() {
    let (_registry, tokens, name) = with_tokens().await;
    tokens.require(Auth::Token(NOBODY));
    Node::new().pull(&name).await.unwrap();
    assert_eq!(tokens.seen().len(), 1);
}

#[tokio::test]
async fn root_pulls_from_it_with_a_token_for_an_identity() {
    let (_registry, tokens, name) = with_tokens().await;
    tokens.require(Auth::Token(TokenServer { identity: Some("refresh-me"), ..NOBODY }));
    let identity =
        |token| credentials(AuthFields { identity_token: token, ..AuthFields::default() });
    Node::new().pull_with(&name, identity("refresh-me")).await.unwrap();
    assert_eq!(tokens.count("POST /token"), 1);
    let error = Node::new().fail_with(&name, identity("another")).await;
    assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
}

#[tokio::test]
async fn root_it_refuses_a_token_that_another_signed() {
    let (_registry, tokens, name) = with_tokens().await;
    tokens.require(Auth::Token(NOBODY));
    tokens.sign_with(Signer::new());
    let error = Node::new().fail(&name).await;
    assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
}
