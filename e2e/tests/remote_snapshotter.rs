//! Layers that the stargz snapshotter serves (`ORLOP_STARGZ`, which `hack/test` builds): they come
//! when they are read, are nobody else's, and nothing is left with the snapshotter.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::chance::Chance;
use e2e::client::container;
use e2e::fixtures;
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Layer, Packing, Tree, digest};
use e2e::node::{Node, Settings};
use e2e::process::{Owned, output};
use e2e::registry::Registry;
use flate2::read::MultiGzDecoder;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
const PATIENCE: Duration = Duration::from_secs(30);
const NOISE_BYTES: usize = 48 << 20;
const KILLS: u32 = 8;

/// A registry and, while it runs, the snapshotter.
struct Rig {
    directory: TempDir,
    registry: Registry,
    snapshotter: Option<Owned>,
}

fn stargz() -> Result<PathBuf> {
    let program = std::env::var_os("ORLOP_STARGZ").map(PathBuf::from);
    program.context("no stargz snapshotter: set ORLOP_STARGZ, as hack/test does")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Rig {
    fn new() -> Result<Self> {
        host::require_root()?;
        let directory = TempDir::new()?;
        let registry = Registry::start(&directory.path().join("registry"))?;
        Ok(Self { directory, registry, snapshotter: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("stargz.sock")
    }

    fn start_snapshotter(&mut self) -> Result<()> {
        let mut command = Command::new(stargz()?);
        command.arg("serve").args([self.path("stargz"), self.socket()]);
        self.snapshotter = Some(Owned::start(command, &self.path("stargz.log"))?);
        let begun = Instant::now();
        while !self.socket().exists() {
            ensure!(begun.elapsed() < PATIENCE, "the snapshotter does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What the snapshotter has of layers: their mounts.
    fn mounts(&self) -> Result<usize> {
        Ok(host::mounts_below(&self.path("stargz"))?.len())
    }

    async fn node(&self, timeout: &str) -> Result<Node> {
        let socket = self.socket();
        let more = format!(
            "[images]\nremote_snapshotter = {socket:?}\nremote_snapshotter_timeout = {timeout:?}\n"
        );
        Node::start(Settings { more, ..Settings::default() }).await
    }

    fn name(&self, repository: &str) -> String {
        format!("{}/{repository}:1", self.registry.address())
    }

    /// The layer in eStargz, and the digest of its table of contents.
    fn convert(&self, layer: &Layer) -> Result<(Layer, String)> {
        let mut tar = Vec::new();
        MultiGzDecoder::new(layer.blob.as_slice()).read_to_end(&mut tar)?;
        let (from, to) = (self.path("layer.tar"), self.path("layer.esgz"));
        fs::write(&from, tar)?;
        let arguments = [OsStr::new("convert"), from.as_os_str(), to.as_os_str()];
        let toc = output(stargz()?, &arguments)?.trim().to_owned();
        let blob = fs::read(to)?;
        let mut tar = Vec::new();
        MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut tar)?;
        Ok((Layer { media_type: layer.media_type, blob, diff_id: digest(&tar) }, toc))
    }

    /// The image with its layers in eStargz.
    fn lazy(&self, image: &Image, settings: &Value) -> Result<Image> {
        let (layers, tocs) = self.convert_all(&image.layers)?;
        annotated(Image::new(layers, settings)?, &tocs)
    }

    fn convert_all(&self, layers: &[Layer]) -> Result<(Vec<Layer>, Vec<String>)> {
        let converted = layers.iter().map(|layer| self.convert(layer));
        Ok(converted.collect::<Result<Vec<_>>>()?.into_iter().unzip())
    }

    /// Waits until neither side has anything of layers.
    fn expect_nothing(&self, node: &Node) -> Result<()> {
        let begun = Instant::now();
        loop {
            let records = fs::read_dir(node.root().join("snapshots/remote"))?.count();
            let (mounts, snapshots) = (self.mounts()?, self.snapshots()?);
            if (records, mounts, snapshots) == (0, 0, 0) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "left: {records} records, {mounts} mounts, {snapshots} snapshots\n{}",
                node.end_of_log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many directories of snapshots the snapshotter keeps.
    fn snapshots(&self) -> Result<usize> {
        Ok(fs::read_dir(self.path("stargz/snapshotter/snapshots"))?.count())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.snapshotter.take());
        // It leaves its mounts when it is killed.
        for mount in host::mounts_below(&self.path("stargz")).unwrap_or_default() {
            let _gone_already = unmount(mount, UnmountFlags::DETACH);
        }
    }
}

/// The image with these words for snapshotters in its manifest.
fn annotated(mut image: Image, tocs: &[String]) -> Result<Image> {
    let mut manifest: Value = serde_json::from_slice(&image.manifest)?;
    let layers = manifest.get_mut("layers").and_then(Value::as_array_mut).context("no layers")?;
    for (layer, toc) in layers.iter_mut().zip(tocs) {
        let layer = layer.as_object_mut().context("no layer")?;
        layer.insert("annotations".to_owned(), json!({ TOC: toc }));
    }
    image.manifest = serde_json::to_vec(&manifest)?;
    Ok(image)
}

fn noise() -> Vec<u8> {
    let words = (0..u32::try_from(NOISE_BYTES / 4).unwrap_or(u32::MAX)).map(|n| {
        let n = (n ^ (n >> 15)).wrapping_mul(0x2c1b_3c6d);
        (n ^ (n >> 12)).wrapping_mul(0x297a_2d39).to_le_bytes()
    });
    words.flatten().collect()
}

/// A shell, and a layer of much that nobody reads.
fn large() -> Result<Image> {
    let mut layers = fixtures::busybox()?.layers;
    let above = Tree::new().dir("opt", 0o755).file("opt/noise", 0o644, noise());
    let above = above.file("opt/word", 0o644, "read\n").file("etc/motd", 0o600, "hello\n");
    layers.push(above.pack(Packing::Gzip)?);
    Image::new(layers, &settings())
}

fn settings() -> Value {
    json!({ "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sleep", "600"] })
}

fn disk_bytes(directory: &Path) -> Result<u64> {
    let sizes = host::paths_below(directory)?.into_iter().filter_map(|path| {
        let status = fs::symlink_metadata(path).ok()?;
        Some(std::os::unix::fs::MetadataExt::blocks(&status) * 512)
    });
    Ok(sizes.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_layers_come_when_they_are_read_and_go_with_the_image() -> Result<()> {
    let mut rig = Rig::new()?;
    let image = rig.lazy(&large()?, &settings())?;
    rig.registry.push("large", &["1"], &image)?;
    rig.start_snapshotter()?;
    let mut node = rig.node("30s").await?;
    let name = rig.name("large");
    node.orlop(&["image", "pull", &name])?;
    ensure!(rig.mounts()? == 2, "two layers are mounted: {}", node.end_of_log());
    let cache = rig.path("stargz/stargz");
    let fetched = disk_bytes(&node.root())? + disk_bytes(&cache)?;
    ensure!(fetched < NOISE_BYTES as u64 / 2, "{fetched} bytes came before they were read");

    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("lazy"), "").await?;
    let id = cri.launch(&pod, &container("lazy", &name, &["sleep", "600"])).await?;
    let said = cri.exec(&id, &["cat", "/opt/word", "/etc/motd"]).await?;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "read\nhello\n");
    let said = cri.exec(&id, &["sha256sum", "/opt/noise"]).await?;
    let sum = String::from_utf8_lossy(&said.stdout).into_owned();
    let wanted = digest(&noise()).replace("sha256:", "");
    ensure!(sum.starts_with(&wanted), "{sum} is not {wanted}");
    ensure!(disk_bytes(&cache)? > NOISE_BYTES as u64 / 2, "what was read is not in its cache");
    ensure!(disk_bytes(&node.root())? < NOISE_BYTES as u64 / 2, "orlop stores what is served");

    // Another daemon finds all as it was.
    node.kill()?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    let id = cri.launch(&pod, &container("again", &name, &["sleep", "600"])).await?;
    let said = cri.exec(&id, &["cat", "/opt/word"]).await?;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "read\n");

    // What is not here in full is said to be so.
    let proof = node.orlop(&["image", "verify", &name])?;
    ensure!(proof.contains("served by a remote snapshotter"), "{proof}");
    let archive = text(&rig.path("out.tar"));
    let refused = node.orlop(&["image", "export", &name, &archive]);
    let refused = format!("{:#}", refused.err().context("it is exported")?);
    ensure!(refused.contains("served by a remote snapshotter"), "{refused}");

    cri.remove_all().await?;
    node.orlop(&["image", "rm", &name])?;
    rig.expect_nothing(&node)?;
    Ok(())
}

/// An image says of its layer that it is another image's, and nobody checks what is served.
#[tokio::test(flavor = "multi_thread")]
async fn root_what_is_served_is_no_other_images_layer() -> Result<()> {
    let mut rig = Rig::new()?;
    let mut layers = fixtures::busybox()?.layers;
    let honest = Tree::new().dir("opt", 0o755).file("opt/word", 0o644, "honest\n");
    layers.push(honest.pack(Packing::Gzip)?);
    let honest = Image::new(layers, &settings())?;
    let mut layers = honest.layers.clone();
    let forged = Tree::new().dir("opt", 0o755).file("opt/word", 0o644, "forged\n");
    if let Some(top) = layers.last_mut() {
        *top = forged.pack(Packing::Gzip)?;
    }
    let (mut layers, tocs) = rig.convert_all(&layers)?;
    for (layer, claimed) in layers.iter_mut().zip(&honest.layers) {
        layer.diff_id.clone_from(&claimed.diff_id);
    }
    let lying = annotated(Image::new(layers, &json!({ "User": "0" }))?, &tocs)?;
    rig.registry.push("lying", &["1"], &lying)?;
    rig.registry.push("honest", &["1"], &honest)?;
    rig.start_snapshotter()?;
    let node = rig.node("30s").await?;
    let mut cri = node.connect().await?;
    for (repository, word) in [("lying", "forged\n"), ("honest", "honest\n")] {
        let name = rig.name(repository);
        node.orlop(&["image", "pull", &name])?;
        let pod = cri.run_pod(node.pod(repository), "").await?;
        let id = cri.launch(&pod, &container("word", &name, &["sleep", "600"])).await?;
        let said = cri.exec(&id, &["cat", "/opt/word"]).await?;
        assert_eq!(String::from_utf8_lossy(&said.stdout), word, "{repository}");
    }
    ensure!(rig.mounts()? == 2, "the lying image's layers are served");
    cri.remove_all().await?;
    for repository in ["lying", "honest"] {
        node.orlop(&["image", "rm", &rig.name(repository)])?;
    }
    rig.expect_nothing(&node)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_without_an_answer_layers_are_fetched() -> Result<()> {
    let mut rig = Rig::new()?;
    let image = large()?;
    rig.registry.push("plain", &["1"], &image)?;
    let name = rig.name("plain");
    let node = rig.node("500ms").await?;
    let pulled = |why: &str| -> Result<()> {
        node.orlop(&["image", "pull", &name]).with_context(|| why.to_owned())?;
        node.orlop(&["image", "verify", &name])?;
        node.orlop(&["image", "rm", &name]).map(drop)
    };
    pulled("nobody serves the socket")?;
    rig.start_snapshotter()?;
    pulled("the snapshotter cannot serve such layers")?;
    rig.expect_nothing(&node)?;
    let snapshotter = rig.snapshotter.as_ref().context("it runs")?;
    snapshotter.signal(Signal::STOP);
    pulled("the snapshotter is silent")?;
    snapshotter.signal(Signal::CONT);
    rig.expect_nothing(&node)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_daemon_killed_at_any_moment_leaves_nothing_with_the_snapshotter() -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    let mut rig = Rig::new()?;
    let image = rig.lazy(&large()?, &settings())?;
    rig.registry.push("large", &["1"], &image)?;
    rig.start_snapshotter()?;
    let mut node = rig.node("30s").await?;
    let name = rig.name("large");
    let begun = Instant::now();
    node.orlop(&["image", "pull", &name])?;
    let span = u64::try_from(begun.elapsed().as_micros())? * 3 / 2;
    node.orlop(&["image", "rm", &name])?;
    for kill in 1..=KILLS {
        let mut command = Command::new(e2e::node::binary()?);
        command.args(["image", "pull", &name, "--address"]).arg(node.socket());
        let client = Owned::start(command, &node.directory().join("pulls.log"))?;
        let after = Duration::from_micros(chance.below(span));
        std::thread::sleep(after);
        node.kill()?;
        drop(client);
        node.begin().await?;
        let there = node.orlop(&["image", "ls"])?.contains("large");
        if there {
            node.orlop(&["image", "rm", &name])?;
        }
        rig.expect_nothing(&node).with_context(|| format!("kill {kill}, {after:?}, {there}"))?;
    }
    Ok(())
}
