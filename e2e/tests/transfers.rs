//! Every way of an image in and out, against registries and tools of others.
//!
//! Two registries stand in: the distribution's package and the newer one that `hack/tools`
//! builds. skopeo reads and writes the archives; what arrives is compared by digest, which is
//! byte for byte.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Packing, Tree};
use e2e::node::{Node, Settings, binary};
use e2e::process::output;
use e2e::registry::{Access, Edition, PASSWORD, Registry, USER};
use serde_json::{Value, json};
use tempfile::TempDir;

const EDITIONS: [Edition; 2] = [Edition::Packaged, Edition::Distribution];

/// Layers of both packings, with a link, a whiteout and a file that is not compressible.
fn image() -> Result<Image> {
    let noise: Vec<u8> =
        (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let first = Tree::new()
        .dir("etc", 0o755)
        .file("etc/motd", 0o644, "hello\n")
        .file("noise", 0o600, noise)
        .hardlink("etc/again", "etc/motd")
        .symlink("link", "etc/motd");
    let second =
        Tree::new().dir("etc", 0o755).file("etc/.wh.again", 0o644, "").file("new", 0o755, "new");
    let layers = vec![first.pack(Packing::Gzip)?, second.pack(Packing::Tar)?];
    Image::new(layers, &json!({ "Cmd": ["/new"] }))
}

/// A daemon, with more lines in its configuration.
async fn node(more: &str) -> Result<Node> {
    Node::start(Settings { more: more.to_owned(), ..Settings::default() }).await
}

/// The manifest and its digest, as skopeo reads them.
fn inspect(reference: &str) -> Result<Value> {
    let raw = output("skopeo", &["inspect", "--tls-verify=false", "--raw", reference])?;
    Ok(serde_json::from_str(&raw)?)
}

fn manifest_digest(reference: &str) -> Result<String> {
    let asked = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", reference];
    Ok(output("skopeo", &asked)?.trim().to_owned())
}

/// Copies with skopeo, which verifies every digest on the way.
fn skopeo(from: &str, to: &str) -> Result<()> {
    let policy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    output("skopeo", &[&policy[..], &[from, to]].concat()).map(drop)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Every destination from the store, and back into another store.
#[tokio::test(flavor = "multi_thread")]
async fn root_what_was_kept_goes_out_as_it_came() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let image = image()?;
    let mut source = Registry::start(&directory.path().join("source"))?;
    source.push("team/app", &["1"], &image)?;
    let origin = format!("{}/team/app:1", source.address());
    let node = node("[images]\nkeep_blobs = true\n").await?;
    node.orlop(&["image", "pull", &origin])?;
    for edition in EDITIONS {
        let other = Registry::start_as(
            &directory.path().join(format!("{edition:?}")),
            edition,
            Access::Open,
        )?;
        let there = format!("{}/copy:2", other.address());
        node.orlop(&["image", "push", &origin, &there])?;
        let docker = format!("docker://{there}");
        assert_eq!(manifest_digest(&docker)?, image.digest(), "{edition:?}");
        skopeo(&docker, &format!("dir:{}", text(&directory.path().join("out"))))?;
        let mirror = format!("{}/mirrored:3", other.address());
        node.orlop(&["image", "mirror", &origin, &mirror])?;
        assert_eq!(manifest_digest(&format!("docker://{mirror}"))?, image.digest(), "{edition:?}");
        skopeo(
            &format!("docker://{mirror}"),
            &format!("dir:{}", text(&directory.path().join("out2"))),
        )?;
    }
    let archive = directory.path().join("oci.tar");
    node.orlop(&["image", "export", &origin, &text(&archive)])?;
    let oci = format!("oci-archive:{}", text(&archive));
    assert_eq!(manifest_digest(&oci)?, image.digest());
    let layout = directory.path().join("layout");
    skopeo(&oci, &format!("oci:{}:1", text(&layout)))?;
    let bundle = directory.path().join("bundle");
    output("umoci", &["unpack", "--image", &format!("{}:1", text(&layout)), &text(&bundle)])?;
    assert_eq!(fs::read(bundle.join("rootfs/etc/motd"))?, b"hello\n");
    ensure!(!bundle.join("rootfs/etc/again").exists(), "the whiteout is kept");
    Ok(())
}

/// The blobs are gone; the archives come out of the directories again.
#[tokio::test(flavor = "multi_thread")]
async fn root_what_was_dropped_is_made_again() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let image = image()?;
    let mut source = Registry::start(&directory.path().join("source"))?;
    source.push("team/app", &["1"], &image)?;
    let origin = format!("{}/team/app:1", source.address());
    let node = node("").await?;
    node.orlop(&["image", "pull", &origin])?;
    // To the registry that it came from: mounted, not sent.
    let beside = format!("{}/team/other:1", source.address());
    node.orlop(&["image", "push", &origin, &beside])?;
    assert_eq!(manifest_digest(&format!("docker://{beside}"))?, image.digest());
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    for edition in EDITIONS {
        let other = Registry::start_as(
            &directory.path().join(format!("{edition:?}")),
            edition,
            Access::Open,
        )?;
        let there = format!("{}/copy:2", other.address());
        node.orlop(&["image", "push", &origin, &there])?;
        let manifest = inspect(&format!("docker://{there}"))?;
        assert_eq!(manifest["config"]["digest"], image.id(), "{edition:?}");
        let second = e2e::layer::digest(&image.layers[1].blob);
        assert_eq!(manifest["layers"][1]["digest"], second, "an uncompressed layer is the same");
        let next = self::node("").await?;
        let pulled = next.orlop(&["image", "pull", &there])?;
        assert_eq!(pulled, format!("{there} {}\n", image.id()));
    }
    for format in ["oci", "docker"] {
        let archive = directory.path().join(format!("{format}.tar"));
        node.orlop(&["image", "export", "--format", format, &origin, &text(&archive)])?;
        let copied = directory.path().join(format!("{format}-copied"));
        skopeo(&format!("{format}-archive:{}", text(&archive)), &format!("dir:{}", text(&copied)))?;
        let next = self::node("").await?;
        let imported = next.orlop(&["image", "import", &text(&archive)])?;
        assert_eq!(imported, format!("{origin} {}\n", image.id()), "{format}");
        next.orlop(&["image", "verify", &origin])?;
    }
    for diff_id in &diff_ids {
        let tar = directory.path().join("layer.tar");
        node.orlop(&["layer", "diff", diff_id, &text(&tar)])?;
        assert_eq!(e2e::layer::digest(&fs::read(&tar)?), *diff_id);
        let unpacked = node.orlop(&["layer", "unpack", &text(&tar), "scratch"])?;
        assert_eq!(unpacked, format!("{diff_id}\n"));
        node.orlop(&["layer", "diff", "scratch", "/dev/null"])?;
        node.orlop(&["snapshot", "rm", "scratch"])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_registry_with_a_password_gets_it_and_the_log_does_not() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let node = node("").await?;
    let archive = directory.path().join("image.tar");
    image()?.write_archive(&archive, "localhost/app:1")?;
    node.orlop(&["image", "import", &text(&archive)])?;
    for edition in EDITIONS {
        let locked = Registry::start_as(
            &directory.path().join(format!("{edition:?}")),
            edition,
            Access::Password,
        )?;
        let there = format!("{}/app:1", locked.address());
        let none = directory.path().join("none.json");
        fs::write(&none, "{}")?;
        let refused =
            node.orlop(&["image", "push", "--authfile", &text(&none), "localhost/app:1", &there]);
        let said = format!("{:#}", refused.err().context("pushed without a password")?);
        ensure!(said.contains("cannot push"), "{said}");
        let creds = format!("{USER}:{PASSWORD}");
        node.orlop(&["image", "push", "--creds", &creds, "localhost/app:1", &there])?;
        let file = directory.path().join("auth.json");
        let entry = json!({ "auths": { locked.address().to_string(): { "username": USER, "password": PASSWORD } } });
        fs::write(&file, entry.to_string())?;
        let file = text(&file);
        node.orlop(&[
            "image",
            "push",
            "--authfile",
            &file,
            "localhost/app:1",
            &format!("{there}-again"),
        ])?;
        node.orlop(&["image", "pull", "--authfile", &file, &there])?;
        let told = node.orlop(&["registry", "explain", "--authfile", &file, &there])?;
        for words in
            ["401 Unauthorized, asks for Basic", "with user and password: 200", "= sha256:"]
        {
            ensure!(told.contains(words), "{words} is not in: {told}");
        }
        ensure!(!told.contains(PASSWORD), "{told}");
        let told = node.orlop(&["registry", "explain", "--authfile", &text(&none), &there]);
        let told = format!("{:#}", told.err().context("explained without a password")?);
        ensure!(told.contains("no host gives"), "{told}");
    }
    ensure!(!fs::read_to_string(node.log())?.contains(PASSWORD), "the password is in the log");
    Ok(())
}

/// What another tool compresses for lazy pulling is an ordinary layer here.
#[tokio::test(flavor = "multi_thread")]
async fn root_zstd_chunked_layers_come_like_others() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    registry.push("team/app", &["1"], &image()?)?;
    let plain = format!("docker://{}/team/app:1", registry.address());
    // Another registry, because skopeo would use the blobs that are there.
    let other = Registry::start(&directory.path().join("other"))?;
    let chunked = format!("{}/team/app:chunked", other.address());
    output(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--dest-compress-format=zstd:chunked",
            &plain,
            &format!("docker://{chunked}"),
        ],
    )?;
    let manifest = inspect(&format!("docker://{chunked}"))?.to_string();
    ensure!(manifest.contains("zstd-chunked"), "skopeo made something else: {manifest}");
    let node = node("").await?;
    node.orlop(&["image", "pull", &chunked])?;
    let verified = node.orlop(&["image", "verify", &chunked])?;
    ensure!(!verified.contains("DAMAGED") && !verified.contains("unproven"), "{verified}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_damaged_file_is_named_and_the_store_explains_itself() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let image = image()?;
    let node = node("").await?;
    let archive = directory.path().join("image.tar");
    image.write_archive(&archive, "localhost/app:1")?;
    node.orlop(&["image", "import", &text(&archive)])?;
    node.orlop(&["image", "tag", "localhost/app:1", "localhost/other:2"])?;
    let inspected: Value =
        serde_json::from_str(&node.orlop(&["image", "inspect", "localhost/other:2"])?)?;
    assert_eq!(inspected["id"], image.id());
    assert_eq!(inspected["config"]["config"]["Cmd"], json!(["/new"]));
    let why = node.orlop(&["content", "why", &image.id()])?;
    ensure!(why.contains("configuration of image localhost/app:1, localhost/other:2"), "{why}");
    let refused = node.orlop(&["content", "rm", &image.id()]);
    ensure!(format!("{:#}", refused.err().context("removed")?).contains("in use"));
    let got = directory.path().join("config");
    node.orlop(&["content", "get", &image.id(), &text(&got)])?;
    assert_eq!(fs::read(&got)?, image.config);
    ensure!(node.orlop(&["snapshot", "ls"])?.contains(&image.layers[0].diff_id));
    ensure!(node.orlop(&["snapshot", "usage"])?.contains("layers  2"));
    node.orlop(&["image", "verify", "localhost/app:1"])?;
    let layers = fs::read_dir(node.root().join("snapshots/layers"))?;
    let motd = layers
        .filter_map(|layer| Some(layer.ok()?.path().join("etc/motd")))
        .find(|path| path.exists())
        .context("no etc/motd")?;
    fs::write(&motd, "hullo\n")?;
    let mut command = std::process::Command::new(binary()?);
    let socket = text(&node.socket());
    command.args(["image", "verify", "localhost/app:1", "--address", &socket]);
    let said = command.output()?;
    let words = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.status.code(), Some(1), "{words}");
    ensure!(words.contains("DAMAGED") && words.contains("/etc/"), "{words}");
    // It came from no registry that could give it again; then it does.
    let refused = node.orlop(&["image", "verify", "--repair", "localhost/app:1"]);
    let refused = format!("{:#}", refused.err().context("repaired from nowhere")?);
    ensure!(refused.contains("localhost/app:1"), "{refused}");
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    registry.push("team/app", &["1"], &image)?;
    let name = format!("{}/team/app:1", registry.address());
    node.orlop(&["image", "pull", &name])?;
    ensure!(node.orlop(&["image", "verify", &name]).is_err(), "a pull does not look at layers");
    let repaired = node.orlop(&["image", "verify", "--repair", &name])?;
    ensure!(repaired.matches("intact").count() >= 2 && !repaired.contains("DAMAGED"), "{repaired}");
    node.orlop(&["image", "verify", "localhost/app:1"])?;
    Ok(())
}

/// What keeps a layer is told one thing after the other, until nothing does and it is collected.
#[tokio::test(flavor = "multi_thread")]
async fn root_the_store_says_what_keeps_a_layer_and_what_it_collects() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let image = image()?;
    let node = node("").await?;
    let archive = directory.path().join("image.tar");
    image.write_archive(&archive, "localhost/app:1")?;
    node.orlop(&["image", "import", &text(&archive)])?;
    let listed = node.orlop(&["content", "ls"])?;
    let line = listed.lines().find(|line| line.contains(&image.id())).context("no config")?;
    let numbers: Vec<&str> = line.split_whitespace().skip(1).collect();
    assert_eq!(numbers, [image.config.len().to_string().as_str(), "1", "0"]);
    let (change, diff_id) = (directory.path().join("change.tar"), &image.layers[0].diff_id);
    fs::write(&change, Tree::new().file("more", 0o644, "more").pack(Packing::Tar)?.blob)?;
    let base = ["layer", "unpack", "--base", "localhost/app:1", &text(&change), "mine"];
    node.orlop(&base)?;
    let why = node.orlop(&["content", "why", diff_id])?;
    ensure!(why.contains("layer of image localhost/app:1"), "{why}");
    ensure!(why.contains("layer below snapshot mine"), "{why}");
    node.orlop(&["image", "rm", "localhost/app:1"])?;
    assert_eq!(node.orlop(&["content", "why", diff_id])?, "layer below snapshot mine\n");
    ensure!(!node.orlop(&["content", "gc"])?.contains("layer"), "a layer that is in use is gone");
    node.orlop(&["snapshot", "rm", "mine"])?;
    ensure!(node.orlop(&["content", "why", diff_id])?.contains("nothing keeps it"));
    let collected = node.orlop(&["content", "gc"])?;
    for layer in &image.layers {
        ensure!(collected.contains(&layer.diff_id), "{collected}");
    }
    ensure!(node.orlop(&["content", "why", diff_id]).is_err(), "the layer is still there");
    Ok(())
}

/// After a power cut the layer that it damaged is fetched again, it alone; nothing of it is ever
/// served. When only the daemon was killed, nothing is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn root_after_a_power_cut_what_was_written_last_is_verified() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let image = image()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    registry.push("team/app", &["1"], &image)?;
    let name = format!("{}/team/app:1", registry.address());
    let mut node = node("").await?;
    let settled = node.root().join("settled");
    node.orlop(&["image", "pull", &name])?;
    node.kill()?;
    let layers = node.root().join("snapshots/layers");
    let file = fs::read_dir(&layers)?
        .filter_map(|layer| Some(layer.ok()?.path().join("noise")))
        .find(|path| path.exists())
        .context("no noise")?;
    let mut bytes = fs::read(&file)?;
    bytes[1000] ^= 1;
    fs::write(&file, bytes)?;
    node.begin().await?;
    ensure!(node.orlop(&["image", "ls"])?.contains("team/app"), "the same boot: nothing is lost");
    node.kill()?;
    // The kernel makes the id of a boot; another one stands for another boot.
    let mut mark: Value = serde_json::from_slice(&fs::read(&settled)?)?;
    mark["boot_id"] = json!("of an earlier boot");
    fs::write(&settled, mark.to_string())?;
    node.begin().await?;
    ensure!(!node.orlop(&["image", "ls"])?.contains("team/app"), "a damaged image is served");
    let why = node.orlop(&["content", "why", &image.layers[1].diff_id])?;
    ensure!(why.contains("1 lease"), "the intact layer waits for the pull: {why}");
    ensure!(node.orlop(&["content", "why", &image.layers[0].diff_id]).is_err(), "still found");
    // The intact layer is not there to be fetched.
    fs::remove_file(registry.blob_path(&e2e::layer::digest(&image.layers[1].blob)))?;
    node.orlop(&["image", "pull", &name])?;
    let verified = node.orlop(&["image", "verify", &name])?;
    ensure!(!verified.contains("DAMAGED") && !verified.contains("unproven"), "{verified}");
    node.stop()?;
    ensure!(!settled.exists(), "an end in good order leaves nothing to look at");
    Ok(())
}

/// The node is not ready before its images were tried; then they are there, and pinned.
#[tokio::test(flavor = "multi_thread")]
async fn root_the_node_waits_for_what_is_to_be_there_first() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let image = image()?;
    let archives = directory.path().join("archives");
    fs::create_dir(&archives)?;
    image.write_archive(&archives.join("app.tar"), "localhost/app:1")?;
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let more = format!(
        "[prefetch]\narchives = {:?}\nimages = [\"{}/never:1\"]\ngate = \"3s\"\n",
        text(&archives),
        silent.local_addr()?
    );
    let node = node(&more).await?;
    let mut cri = node.connect().await?;
    let mut reasons = Vec::new();
    loop {
        let status = cri.runtime.status(v1::StatusRequest::default()).await?.into_inner();
        let conditions = status.status.context("no status")?.conditions;
        let ready = conditions.into_iter().find(|it| it.r#type == "RuntimeReady");
        let ready = ready.context("no RuntimeReady")?;
        if ready.status {
            break;
        }
        reasons.push(ready.reason);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    ensure!(reasons.iter().all(|reason| reason == "Prefetching"), "{reasons:?}");
    ensure!(!reasons.is_empty(), "it was ready at once");
    let listed = cri.images.list_images(v1::ListImagesRequest::default()).await?.into_inner();
    let pinned: Vec<_> = listed.images.into_iter().filter(|image| image.pinned).collect();
    let names: Vec<_> = pinned.iter().flat_map(|image| &image.repo_tags).collect();
    assert_eq!(names, ["localhost/app:1"]);
    Ok(())
}
