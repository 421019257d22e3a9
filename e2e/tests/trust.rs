//! Images that the operator lets in, and those that it does not.
//!
//! `golden/cosign` is what cosign 2.4.3 pushed when it signed the image of these tests, with
//! `--tlog-upload=false --sign-container-identity r.example/team/app` and a key of which the
//! public half is there. The image's bytes are the same on every run, on amd64.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Packing, Tree};
use e2e::node::{Node, Settings};
use e2e::process::output;
use e2e::registry::{Access, Edition, Registry};
use serde_json::json;
use tempfile::TempDir;
use tonic::{Code, Status};

const COSIGN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/cosign");

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn image(content: &str) -> Result<Image> {
    let layer = Tree::new().file("file", 0o644, content).pack(Packing::Gzip)?;
    Image::new(vec![layer], &json!({ "Cmd": ["/file"] }))
}

async fn pull(node: &Node, image: &str) -> Result<std::result::Result<String, Status>> {
    let mut cri = node.connect().await?;
    let image = v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() };
    let request = v1::PullImageRequest { image: Some(image), ..v1::PullImageRequest::default() };
    Ok(cri.images.pull_image(request).await.map(|answer| answer.into_inner().image_ref))
}

/// A policy that asks for the signature of `key` on what is in `scope`.
fn policy(directory: &Path, scope: &str, key: &Path) -> Result<String> {
    let path = directory.join("policy.json");
    let identity = json!({"type": "exactRepository", "dockerRepository": "r.example/team/app"});
    let demand = json!([{"type": "sigstoreSigned", "keyPath": key, "signedIdentity": identity}]);
    let policy = json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {scope: demand}},
    });
    fs::write(&path, policy.to_string())?;
    Ok(format!("[trust]\nsignature_policy = {:?}\n", text(&path)))
}

async fn refused(node: &Node, name: &str, reason: &str) -> Result<()> {
    let refused = pull(node, name).await?;
    let refused = refused.err().with_context(|| format!("{name} is let in"))?;
    assert_eq!(refused.code(), Code::Unknown, "{refused}");
    let message = refused.message();
    ensure!(message.starts_with("SignatureValidationFailed: "), "{message}");
    ensure!(message.contains(reason), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_cosign_signed_is_let_in_and_nothing_else_of_its_namespace() -> Result<()> {
    host::require_root()?;
    let golden = Path::new(COSIGN);
    let read = |name: &str| fs::read(golden.join(name));
    let (payload, config, signature) =
        (read("payload.json")?, read("config.json")?, read("manifest.json")?);
    let signed = image("signed")?;
    for edition in [Edition::Packaged, Edition::Distribution] {
        let directory = TempDir::new()?;
        let place = directory.path().join("registry");
        let mut registry = Registry::start_as(&place, edition, Access::Open)?;
        registry.push("team/app", &["1"], &signed)?;
        registry.push("team/app", &["other"], &image("never signed")?)?;
        registry.push("free/app", &["1"], &image("never signed")?)?;
        let host = registry.address();
        let (app, other) = (format!("{host}/team/app:1"), format!("{host}/team/app:other"));
        let more = policy(directory.path(), &format!("{host}/team"), &golden.join("cosign.pub"))?;
        let node = Node::start(Settings { more, ..Settings::default() }).await?;
        pull(&node, &format!("{host}/free/app:1")).await??;
        refused(&node, &app, "there is no signature of").await?;
        let tag = format!("{}.sig", signed.digest().replace(':', "-"));
        registry.push_parts("team/app", &[&tag], &[&payload, &config], &signature)?;
        pull(&node, &app).await??;
        pull(&node, &format!("{host}/team/app@{}", signed.digest())).await??;
        refused(&node, &other, "there is no signature of").await?;
        // The signature of one image beside another.
        let tag = format!("{}.sig", image("never signed")?.digest().replace(':', "-"));
        registry.push_parts("team/app", &[&tag], &[], &signature)?;
        refused(&node, &other, "it is a signature of").await?;
        // The same policy with another key; it is read anew.
        let key = directory.path().join("key");
        let pem = directory.path().join("key.pub");
        let (key, pem) = (text(&key), text(&pem));
        let kind = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        output("openssl", &[&["genpkey", "-out", &key], &kind[..]].concat())?;
        output("openssl", &["pkey", "-in", &key, "-pubout", "-out", &pem])?;
        policy(directory.path(), &format!("{host}/team"), Path::new(&pem))?;
        refused(&node, &app, "it is not by a key of the policy").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_verifier_blocks_a_pull_with_its_reason() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    registry.push("good/app", &["1"], &image("good")?)?;
    registry.push("bad/app", &["1"], &image("bad")?)?;
    let verifiers = directory.path().join("verifiers");
    fs::create_dir(&verifiers)?;
    let verifier = verifiers.join("names");
    fs::write(&verifier, "#!/bin/sh\ncase $2 in */bad/*) echo not this one; exit 3;; esac\n")?;
    fs::set_permissions(&verifier, fs::Permissions::from_mode(0o755))?;
    let more = format!("[trust]\nverifier_dir = {:?}\n", text(&verifiers));
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    pull(&node, &format!("{}/good/app:1", registry.address())).await??;
    let refused = pull(&node, &format!("{}/bad/app:1", registry.address())).await?;
    let refused = refused.err().context("a blocked image is let in")?;
    assert_eq!(refused.code(), Code::PermissionDenied);
    let message = refused.message();
    ensure!(message.contains("rejected image (exit code 3): not this one"), "{message}");
    Ok(())
}
