//! Pulls that the operator's verifiers let in, and pulls that they do not.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use orlop::transfer::{Config, PullFailure, TrustConfig};
use tempfile::TempDir;

use crate::image::{Layer, OCI_INDEX, index, serve};
use crate::registry::Registry;
use crate::{Node, chain, config};

/// A registry with an image, and a directory of verifiers.
struct Judged {
    registry: Registry,
    layer: Layer,
    name: String,
    verifiers: TempDir,
}

impl Judged {
    async fn new() -> Self {
        let registry = Registry::start().await;
        let layer = Layer::noise("file", 1000);
        serve(&registry, Some("v1"), std::slice::from_ref(&layer));
        let name = format!("{}/team/app:v1", registry.authority());
        Self { registry, layer, name, verifiers: tempfile::tempdir().unwrap() }
    }

    fn verifier(&self, name: &str, script: &str) {
        write(&self.verifiers.path().join(name), &format!("#!/bin/sh\n{script}\n"));
    }

    fn node(&self) -> Node {
        self.node_with(|trust| trust)
    }

    fn node_with(&self, change: impl Fn(TrustConfig) -> TrustConfig) -> Node {
        let verifier_dir = Some(self.verifiers.path().to_owned());
        let trust = TrustConfig { verifier_dir, ..TrustConfig::default() };
        Node::with(Config { trust: change(trust), ..config() })
    }

    /// The error of a pull that is blocked, checked to have fetched no layer.
    async fn blocked(&self, node: &Node) -> String {
        let error = node.fail(&self.name).await;
        assert_eq!(error.failure(), PullFailure::Blocked);
        assert_eq!(self.registry.count(&self.layer.digest()), 0);
        chain(&error)
    }
}

/// Another process writes it: a file that a fork of this one has open cannot be started.
fn write(path: &Path, script: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn root_a_verifier_gets_the_reference_the_digest_and_the_descriptor() {
    let judged = Judged::new().await;
    let manifest = serve(&judged.registry, None, std::slice::from_ref(&judged.layer));
    let platform = format!("linux/{}", crate::image::architecture());
    let document = index(OCI_INDEX, &[(manifest, &platform)]).to_string();
    let target = judged.registry.put_manifest(Some("v1"), OCI_INDEX, document.as_bytes());
    let heard = tempfile::NamedTempFile::new().unwrap();
    let path = heard.path().display();
    judged.verifier("one", &format!("printf '%s\\n' \"$@\" > {path}; cat >> {path}"));
    judged.node().pull(&judged.name).await.unwrap();
    let said = std::fs::read_to_string(heard.path()).unwrap();
    let digest = target["digest"].as_str().unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], ["-name", &judged.name, "-digest", digest]);
    assert_eq!(lines[4..6], ["-stdin-media-type", "application/vnd.oci.descriptor.v1+json"]);
    let descriptor: serde_json::Value = serde_json::from_str(lines[6]).unwrap();
    assert_eq!(descriptor, target);
}

#[tokio::test]
async fn one_who_says_no_is_enough_and_its_reason_is_told() {
    let judged = Judged::new().await;
    judged.verifier("a", "echo fine");
    judged.verifier("b", "echo 'no such thing here'; echo hush >&2; exit 7");
    let said = judged.blocked(&judged.node()).await;
    assert!(said.contains("verifier b rejected image (exit code 7): no such thing here"), "{said}");
    assert!(said.contains(&judged.name) && said.contains("blocked pull of"), "{said}");
    assert!(!said.contains("hush"), "{said}");
}

#[tokio::test]
async fn who_gives_no_judgement_blocks() {
    let judged = Judged::new().await;
    let quick = |trust| TrustConfig { verifier_timeout: Duration::from_millis(200), ..trust };
    for (script, fault) in [
        // The grandchild goes too, and nobody waits for it.
        ("sleep 1000 & sleep 1000", "did not end in 0.2 s and was killed"),
        ("kill -9 $$", "ended by signal: 9"),
    ] {
        judged.verifier("v", script);
        let said = judged.blocked(&judged.node_with(quick)).await;
        assert!(said.contains("failed to call verifier v") && said.contains(fault), "{said}");
    }
    let path = judged.verifiers.path().join("v");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = judged.blocked(&judged.node()).await;
    assert!(said.contains("failed to call verifier v: Permission denied"), "{said}");
}

#[tokio::test]
async fn a_long_reason_is_cut() {
    let judged = Judged::new().await;
    judged.verifier("v", "head -c 100000 /dev/zero | tr '\\0' x; exit 1");
    let said = judged.blocked(&judged.node()).await;
    assert!(said.ends_with("xxx (truncated)") && said.len() < 5000, "{}", said.len());
}

#[tokio::test]
async fn root_no_more_are_asked_than_may_be_and_none_where_there_are_none() {
    let judged = Judged::new().await;
    judged.verifier("a", "exit 0");
    judged.verifier("b", "exit 1");
    judged.blocked(&judged.node()).await;
    judged.blocked(&judged.node_with(|trust| TrustConfig { max_verifiers: 0, ..trust })).await;
    let one = |trust| TrustConfig { max_verifiers: 1, ..trust };
    judged.node_with(one).pull(&judged.name).await.unwrap();
    let gone = |trust| TrustConfig { verifier_dir: Some("/nonexistent/bin".into()), ..trust };
    judged.node_with(gone).pull(&judged.name).await.unwrap();
}

#[tokio::test]
async fn root_an_image_that_is_here_is_judged_again() {
    let judged = Judged::new().await;
    judged.verifier("v", "exit 0");
    let node = judged.node();
    let _pulled = node.pull(&judged.name).await.unwrap();
    judged.verifier("v", "exit 1");
    let error = node.pull(&judged.name).await.unwrap_err();
    assert_eq!(error.failure(), PullFailure::Blocked);
}
