//! Encrypted layers: what skopeo encrypted is pulled by a node whose key provider has the key, and
//! by no other; `programs/keyprovider` is the provider of both.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Layer, Packing, Tree, digest};
use e2e::node::{Node, Settings};
use e2e::process::output;
use e2e::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Status};

const PROVIDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/keyprovider");
const KEYS: &str = "org.opencontainers.image.enc.keys.provider.vault";
const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Everything that encrypts, and what it encrypted.
struct Rig {
    directory: TempDir,
    registry: Registry,
    image: Image,
}

impl Rig {
    fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        let registry = Registry::start(&directory.path().join("registry"))?;
        let noise: Vec<u8> =
            (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let first = Tree::new().dir("etc", 0o755).file("etc/secret", 0o600, "of one tenant\n");
        let first = first.file("noise", 0o644, noise).pack(Packing::Tar)?;
        let second = Tree::new().file("more", 0o755, "more").pack(Packing::Tar)?;
        let image = Image::new(vec![first, second], &json!({ "Cmd": ["/more"] }))?;
        let rig = Self { directory, registry, image };
        fs::write(rig.path("password"), "the vault's own")?;
        fs::write(rig.path("other"), "of somebody else")?;
        rig.image.write_archive(&rig.path("plain.tar"), "localhost/plain:1")?;
        rig.provide("password")?;
        Ok(rig)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Lets the node's key provider know this password.
    fn provide(&self, password: &str) -> Result<()> {
        self.providers(&json!({ "cmd": { "path": PROVIDER, "args": [self.path(password)] } }))
    }

    fn providers(&self, vault: &Value) -> Result<()> {
        let text = json!({ "key-providers": { "vault": vault } }).to_string();
        Ok(fs::write(self.path("ocicrypt.json"), text)?)
    }

    /// Lets the node's key provider be a script.
    fn script(&self, script: &str) -> Result<()> {
        let path = self.path("script");
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        self.providers(&json!({ "cmd": { "path": path } }))
    }

    async fn node(&self, more: &str) -> Result<Node> {
        let config = text(&self.path("ocicrypt.json"));
        let more = format!(
            "[registry]\nkey_providers = {config:?}\nkey_provider_timeout = \"1s\"\n\n[log]\nlevel = \"trace\"\n\n{more}"
        );
        Node::start(Settings { more, ..Settings::default() }).await
    }

    fn name(&self, repository: &str) -> String {
        format!("{}/{repository}:1", self.registry.address())
    }

    fn docker(&self, repository: &str) -> String {
        format!("docker://{}", self.name(repository))
    }

    /// Copies with skopeo; the distribution's may be too old to know key providers.
    fn skopeo(&self, options: &[&str], from: &str, to: &str) -> Result<()> {
        let skopeo = std::env::var_os("ORLOP_SKOPEO").unwrap_or_else(|| "skopeo".into());
        let mut command = Command::new(skopeo);
        command.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
        command.arg("--dest-tls-verify=false").args(options).args([from, to]);
        command.env("OCICRYPT_KEYPROVIDER_CONFIG", self.path("ocicrypt.json"));
        let said = command.output().context("start skopeo")?;
        let words = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "skopeo (1.10 or newer, see hack/tools): {words}");
        Ok(())
    }

    fn manifest(&self, repository: &str) -> Result<Value> {
        let docker = self.docker(repository);
        let raw = output("skopeo", &["inspect", "--tls-verify=false", "--raw", &docker])?;
        Ok(serde_json::from_str(&raw)?)
    }

    /// The image with both layers encrypted for the vault.
    fn encrypt(&self, repository: &str) -> Result<Value> {
        let from = format!("oci-archive:{}", text(&self.path("plain.tar")));
        self.skopeo(&["--encryption-key", "provider:vault:k"], &from, &self.docker(repository))?;
        self.manifest(repository)
    }
}

async fn pull(node: &Node, image: &str) -> Result<std::result::Result<String, Status>> {
    let mut cri = node.connect().await?;
    let image = v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() };
    let request = v1::PullImageRequest { image: Some(image), ..v1::PullImageRequest::default() };
    Ok(cri.images.pull_image(request).await.map(|answer| answer.into_inner().image_ref))
}

/// The pull fails so, and says which image, which layer and why.
async fn refused(node: &Node, name: &str, code: Code, words: &[&str]) -> Result<()> {
    let refused = pull(node, name).await?;
    let refused = refused.err().with_context(|| format!("{name} is pulled, not {words:?}"))?;
    let message = refused.message();
    assert_eq!(refused.code(), code, "{message}");
    for word in [&[name, "sha256:", "cannot decrypt the layer"], words].concat() {
        ensure!(message.contains(word), "not {word:?} in {message}");
    }
    Ok(())
}

/// What is unpacked are the layers that were packed.
fn expect_layers(node: &Node, name: &str, layers: &[Layer]) -> Result<()> {
    node.orlop(&["image", "verify", name])?;
    for layer in layers {
        let out = node.directory().join("layer.tar");
        node.orlop(&["layer", "diff", &layer.diff_id, &text(&out)])?;
        assert_eq!(digest(&fs::read(&out)?), layer.diff_id);
    }
    Ok(())
}

/// Asks the provider itself, as a pull does.
fn symmetric_key(rig: &Rig, manifest: &Value) -> Result<String> {
    let wrapped = manifest["layers"][0]["annotations"][KEYS].as_str().context("no key")?;
    let question = json!({ "op": "keyunwrap", "keyunwrapparams": { "annotation": wrapped } });
    let ask = rig.path("question");
    fs::write(&ask, question.to_string())?;
    let mut command = Command::new(PROVIDER);
    command.arg(rig.path("password")).stdin(Stdio::from(fs::File::open(&ask)?));
    let answer: Value = serde_json::from_slice(&command.output()?.stdout)?;
    let options = answer["keyunwrapresults"]["optsdata"].as_str().context("no options")?;
    fs::write(&ask, options)?;
    let options: Value = serde_json::from_str(&output("base64", &["-d", &text(&ask)])?)?;
    Ok(options["symkey"].as_str().context("no symkey")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_skopeo_encrypted_is_pulled_with_the_key_in_every_packing() -> Result<()> {
    host::require_root()?;
    let rig = Rig::new()?;
    let plain = format!("oci-archive:{}", text(&rig.path("plain.tar")));
    let encrypt = ["--encryption-key", "provider:vault:k"];
    rig.encrypt("gzip")?;
    let zstd = ["--dest-compress-format", "zstd"];
    rig.skopeo(&zstd, &plain, &rig.docker("compressed"))?;
    rig.skopeo(&encrypt, &rig.docker("compressed"), &rig.docker("zstd"))?;
    let layout = format!("oci:{}:1", text(&rig.path("layout")));
    let accept = [&encrypt[..], &["--dest-oci-accept-uncompressed-layers"]].concat();
    rig.skopeo(&accept, &plain, &layout)?;
    rig.skopeo(&[], &layout, &rig.docker("tar"))?;
    for (repository, media_type) in [("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("tar", "tar")] {
        let manifest = rig.manifest(repository)?;
        let media_type = format!("application/vnd.oci.image.layer.v1.{media_type}+encrypted");
        assert_eq!(manifest["layers"][0]["mediaType"], media_type);
        let node = rig.node("").await?;
        let name = rig.name(repository);
        pull(&node, &name).await??;
        expect_layers(&node, &name, &rig.image.layers)?;
        let key = symmetric_key(&rig, &manifest)?;
        ensure!(key.len() == 44, "that is no key");
        let log = fs::read_to_string(node.log())?;
        ensure!(!log.contains(&key), "the key is in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_without_the_key_nothing_is_pulled_and_the_error_says_why() -> Result<()> {
    host::require_root()?;
    let mut rig = Rig::new()?;
    let manifest = rig.encrypt("secret")?;
    let name = rig.name("secret");
    let without = Node::start(Settings::default()).await?;
    refused(&without, &name, Code::FailedPrecondition, &["\"vault\"", "no key providers"]).await?;
    let node = rig.node("").await?;
    let precondition = Code::FailedPrecondition;
    fs::write(
        rig.path("ocicrypt.json"),
        r#"{"key-providers": {"another": {"cmd": {"path": "/bin/true"}}}}"#,
    )?;
    refused(&node, &name, precondition, &["\"vault\"", "names none of them"]).await?;
    fs::write(rig.path("ocicrypt.json"), "{")?;
    refused(&node, &name, Code::Internal, &["cannot parse the key providers in"]).await?;
    rig.providers(&json!({ "grpc": "127.0.0.1:1" }))?;
    refused(&node, &name, Code::Internal, &["\"vault\" has no `cmd`"]).await?;
    rig.providers(&json!({ "cmd": { "path": "/does/not/exist" } }))?;
    refused(&node, &name, Code::Internal, &["cannot start key provider \"vault\""]).await?;
    rig.provide("other")?;
    let no = "key provider \"vault\" does not unwrap the layer's key";
    refused(&node, &name, Code::PermissionDenied, &[no]).await?;
    rig.script("cat; echo hunter2")?;
    refused(&node, &name, Code::Internal, &["\"vault\" gives no answer that can be used"]).await?;
    let (begun, pid) = (Instant::now(), rig.path("pid"));
    rig.script(&format!("echo $$ >{}; exec sleep 1000", pid.display()))?;
    refused(&node, &name, Code::Internal, &["\"vault\" did not end in 1 s and was killed"]).await?;
    ensure!(begun.elapsed() < Duration::from_secs(20), "it was waited for");
    // The other layer's may have been asked just before the first one's was late.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let process = format!("/proc/{}", fs::read_to_string(pid)?.trim());
    ensure!(!Path::new(&process).exists(), "the provider lives");
    rig.provide("password")?;
    // A key that is not the layer's, and an HMAC that is not.
    let layers = [&manifest["layers"][0], &manifest["layers"][1]];
    for (annotation, repository) in [(KEYS, "key"), (PUBLIC, "hmac")] {
        let mut forged = manifest.clone();
        forged["layers"][0]["annotations"][annotation] =
            layers[1]["annotations"][annotation].clone();
        let blobs: Vec<_> = layers
            .iter()
            .map(|layer| fs::read(rig.registry.blob_path(layer["digest"].as_str().unwrap_or(""))))
            .chain([Ok(rig.image.config.clone())])
            .collect::<std::io::Result<_>>()?;
        let blobs: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
        rig.registry.push_parts(repository, &["1"], &blobs, forged.to_string().as_bytes())?;
        let words = ["the layer's HMAC is wrong"];
        refused(&node, &rig.name(repository), Code::DataLoss, &words).await?;
    }
    // Another scheme is not one of ours.
    let key = text(&rig.path("private.pem"));
    output("openssl", &["genrsa", "-out", &key, "2048"])?;
    let public = text(&rig.path("public.pem"));
    output("openssl", &["rsa", "-in", &key, "-pubout", "-out", &public])?;
    let plain = format!("oci-archive:{}", text(&rig.path("plain.tar")));
    rig.skopeo(&["--encryption-key", &format!("jwe:{public}")], &plain, &rig.docker("jwe"))?;
    refused(&node, &rig.name("jwe"), precondition, &["wrapped for \"jwe\""]).await?;
    let mut cri = node.connect().await?;
    let listed = cri.images.list_images(v1::ListImagesRequest::default()).await?.into_inner();
    ensure!(listed.images.is_empty(), "{:?}", listed.images);
    node.orlop(&["content", "gc"])?;
    ensure!(
        fs::read_dir(node.root().join("snapshots/layers"))?.next().is_none(),
        "layers are left"
    );
    ensure!(!fs::read_to_string(node.log())?.contains("hunter2"), "what it said is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_layer_that_is_here_needs_the_key_again_and_does_not_leave_unencrypted() -> Result<()>
{
    host::require_root()?;
    let rig = Rig::new()?;
    let manifest = rig.encrypt("secret")?;
    let (name, copy) = (rig.name("secret"), rig.name("copy"));
    let node = rig.node("").await?;
    pull(&node, &name).await??;
    rig.provide("other")?;
    let no = "does not unwrap the layer's key";
    refused(&node, &name, Code::PermissionDenied, &[no]).await?;
    ensure!(node.orlop(&["image", "ls"])?.contains("secret"), "what was pulled stays");
    rig.provide("password")?;
    // Its own repository has the blobs, so nothing has to go out.
    for (format, archive) in [("oci", "oci.tar"), ("docker", "docker.tar")] {
        let archive = text(&rig.path(archive));
        let said = node.orlop(&["image", "export", "--format", format, &name, &archive]);
        let said = format!("{:#}", said.err().context("it is exported")?);
        ensure!(said.contains("is encrypted and its blob was dropped"), "{said}");
    }
    for layer in manifest["layers"].as_array().context("no layers")? {
        let digest = layer["digest"].as_str().context("no digest")?;
        fs::remove_file(rig.registry.blob_path(digest))?;
    }
    let said =
        format!("{:#}", node.orlop(&["image", "push", &name, &copy]).err().context("pushed")?);
    ensure!(said.contains("is encrypted and its blob was dropped"), "{said}");
    // Where blobs are kept it goes out as it came, and comes in from an archive.
    rig.encrypt("kept")?;
    let (kept, copy) = (rig.name("kept"), rig.name("keptcopy"));
    let keeper = rig.node("[images]\nkeep_blobs = true\n").await?;
    pull(&keeper, &kept).await??;
    keeper.orlop(&["image", "push", &kept, &copy])?;
    assert_eq!(rig.manifest("keptcopy")?, rig.manifest("kept")?);
    let archive = text(&rig.path("kept.tar"));
    let docker = keeper.orlop(&["image", "export", "--format", "docker", &kept, &archive]);
    ensure!(docker.is_err(), "the archive has layers that nobody can read");
    keeper.orlop(&["image", "export", "--format", "oci", &kept, &archive])?;
    let importer = rig.node("").await?;
    rig.provide("other")?;
    let said = importer.orlop(&["image", "import", &archive]);
    let said = format!("{:#}", said.err().context("imported without the key")?);
    ensure!(said.contains("cannot decrypt layer") && said.contains(no), "{said}");
    rig.provide("password")?;
    importer.orlop(&["image", "import", &archive])?;
    expect_layers(&importer, &kept, &rig.image.layers)?;
    Ok(())
}
