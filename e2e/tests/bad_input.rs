//! What a new user gets wrong, and what a hostile image or a broken machine does.
//!
//! Every case asks for the same: an error that names the thing, nothing left of the
//! attempt, and a daemon that goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use e2e::client::{container, refusal};
use e2e::fixtures::{self, DEMO, OWN_REGISTRY};
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Packing, Tree, digest};
use e2e::node::{Node, Settings, binary};
use e2e::registry::Registry;
use serde_json::json;
use tonic::Code;

/// A user that is nobody.
const NOBODY: u32 = 65534;

/// Runs `command` to its end, killed if it takes longer than a daemon may take to refuse.
fn refused(mut command: Command) -> Result<(Option<i32>, String)> {
    let mut limited = Command::new("timeout");
    limited.arg("20").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    command = limited;
    let Output { status, stderr, stdout } = command.output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
    Ok((status.code(), said))
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn root_an_unknown_key_is_refused_with_the_nearest_valid_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = Node::at(&directory.path().join("node"), Settings::default())?;
    fs::write(node.config(), "[network]\nconfdir = \"/x\"\n")?;
    let (code, said) = refused(node.command()?)?;
    assert_eq!(code, Some(64), "{said}");
    says(&said, &["confdir", "conf_dir"]);
    assert!(!node.root().exists() && !node.state().exists(), "something was touched");
    Ok(())
}

#[test]
fn root_a_value_of_the_wrong_kind_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = Node::at(&directory.path().join("node"), Settings::default())?;
    fs::write(node.config(), "[registry]\nparallel_layers = \"many\"\n")?;
    let (code, said) = refused(node.command()?)?;
    assert_eq!(code, Some(64), "{said}");
    says(&said, &["parallel_layers"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_socket_or_directory_in_use_is_refused() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let (code, said) = refused(node.command()?)?;
    assert_eq!(code, Some(1), "{said}");
    let directory = tempfile::tempdir()?;
    let other = Node::at(&directory.path().join("other"), Settings::default())?;
    let mut command = Command::new(binary()?);
    command.arg("daemon").arg("--config").arg(other.config()).arg("--listen").arg(node.socket());
    command.arg("--root").arg(other.root()).arg("--state").arg(other.state());
    let (code, said) = refused(command)?;
    assert_eq!(code, Some(1), "{said}");
    says(&said, &[&node.socket().to_string_lossy()]);
    node.connect().await?.pods().await.context("the first daemon still answers")?;
    Ok(())
}

#[test]
fn root_without_root_it_says_so() -> Result<()> {
    host::require_root()?;
    let directory =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o777)).tempdir()?;
    let program = directory.path().join("orlop");
    fs::copy(binary()?, &program)?;
    let mut command = Command::new(&program);
    command.arg("daemon").uid(NOBODY).gid(NOBODY);
    for (flag, name) in [("--root", "root"), ("--state", "state"), ("--listen", "socket")] {
        command.arg(flag).arg(directory.path().join(name));
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    says(&said.to_lowercase(), &["root"]);
    Ok(())
}

/// A node that pulls from a registry of its own.
async fn with_registry(directory: &Path) -> Result<(Node, Registry)> {
    host::require_root()?;
    let registry = Registry::start(&directory.join("registry"))?;
    let hosts = directory.join("hosts");
    registry.write_hosts(&hosts, &[OWN_REGISTRY])?;
    let node = Node::start(Settings { hosts_dir: Some(hosts), ..Settings::default() }).await?;
    Ok((node, registry))
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_unknown_image_is_not_found() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (node, _registry) = with_registry(directory.path()).await?;
    let mut cri = node.connect().await?;
    let name = format!("{OWN_REGISTRY}/no/such:1");
    let status = refusal(cri.pull(&name).await).context("the image does not exist")?;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    says(status.message(), &["no/such"]);
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let status = refusal(cri.create(&pod, &container("c", &name, &["true"])).await)
        .context("the image is not here")?;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let status = refusal(cri.pull("Not A Reference").await).context("this is no reference")?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_damaged_layer_is_refused_and_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (node, mut registry) = with_registry(directory.path()).await?;
    let layer = Tree::new().file("a", 0o644, "content of a").pack(Packing::Tar)?;
    let digest = digest(&layer.blob);
    let image = Image::new(vec![layer], &json!({ "Cmd": ["/a"] }))?;
    registry.push("damaged", &["1"], &image)?;
    let mut bytes = fs::read(registry.blob_path(&digest))?;
    let at = bytes
        .windows(7)
        .position(|seven| seven == b"content")
        .context("the content is in the layer")?;
    bytes.splice(at..at + 7, *b"CONTENT");
    fs::write(registry.blob_path(&digest), bytes)?;
    let mut cri = node.connect().await?;
    let name = format!("{OWN_REGISTRY}/damaged:1");
    let status = refusal(cri.pull(&name).await).context("the layer is not what its digest says")?;
    says(status.message(), &["digest"]);
    assert_eq!(cri.image(&name).await?, None);
    let left = host::paths_below(&node.root())?;
    let left: Vec<_> = left
        .iter()
        .filter(|path| {
            path.is_file() && fs::read(path).is_ok_and(|text| has(&text, b"CONTENT of a"))
        })
        .collect();
    assert!(left.is_empty(), "the damaged layer is kept: {left:?}");
    Ok(())
}

fn has(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_wrong_digest_in_the_reference_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (node, mut registry) = with_registry(directory.path()).await?;
    let image =
        Image::new(vec![Tree::new().file("a", 0o644, "a").pack(Packing::Gzip)?], &json!({}))?;
    registry.push("plain", &["1"], &image)?;
    let mut cri = node.connect().await?;
    let wrong = format!("{OWN_REGISTRY}/plain@{}", digest(b"something else"));
    let status = refusal(cri.pull(&wrong).await).context("no manifest has this digest")?;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let right = format!("{OWN_REGISTRY}/plain@{}", image.digest());
    assert_eq!(cri.pull(&right).await?, image.id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_malformed_archives_are_refused() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let archive = node.directory().join("archive.tar");
    let whole = node.directory().join("whole.tar");
    fixtures::busybox()?.write_archive(&whole, DEMO)?;
    let whole = fs::read(whole)?;
    let half = whole.get(..whole.len() / 2).unwrap_or_default().to_vec();
    let empty = Tree::new().file("hello", 0o644, "no image here").pack(Packing::Tar)?.blob;
    for (what, bytes) in
        [("nothing", vec![]), ("noise", vec![0x5a; 4096]), ("half", half), ("no index", empty)]
    {
        fs::write(&archive, bytes)?;
        let Err(error) = node.orlop(&["image", "import", &archive.to_string_lossy()]) else {
            bail!("an archive of {what} was accepted");
        };
        assert!(!format!("{error:#}").contains("panicked"), "{what}: {error:#}");
    }
    let mut cri = node.connect().await?;
    assert_eq!(cri.image(DEMO).await?, None);
    node.import_demo()?;
    assert!(cri.image(DEMO).await?.is_some());
    Ok(())
}

/// A tar archive whose one file has a name that no ordinary writer would give it.
fn escaping_layer(name: &str, through: Option<(&str, &str)>) -> Result<e2e::layer::Layer> {
    let mut archive = tar::Builder::new(Vec::new());
    if let Some((link, target)) = through {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, link, target)?;
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(7);
    header.set_mode(0o644);
    let field = header.as_old_mut().name.get_mut(..name.len()).context("the name is too long")?;
    field.copy_from_slice(name.as_bytes());
    header.set_cksum();
    archive.append(&header, b"escaped".as_slice())?;
    let blob = archive.into_inner()?;
    Ok(e2e::layer::Layer {
        media_type: "application/vnd.oci.image.layer.v1.tar",
        diff_id: digest(&blob),
        blob,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_layer_cannot_write_outside_its_root() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let outside = tempfile::tempdir()?;
    let victim = outside.path().join("victim");
    let absolute = victim.to_string_lossy().into_owned();
    let up = format!("../../../../../../../../../../../..{absolute}");
    let folder = outside.path().to_string_lossy().into_owned();
    let hostile = [
        escaping_layer(&up, None)?,
        escaping_layer(&absolute, None)?,
        escaping_layer("link/victim", Some(("link", &folder)))?,
        escaping_layer(
            "link/victim",
            Some(("link", &format!("../../../../../../../../../..{folder}"))),
        )?,
    ];
    for (number, layer) in hostile.into_iter().enumerate() {
        let archive = node.directory().join("hostile.tar");
        let name = format!("{OWN_REGISTRY}/hostile:{number}");
        Image::new(vec![layer], &json!({}))?.write_archive(&archive, &name)?;
        // Refusing it and confining it are both right.
        let _refused_or_confined = node.orlop(&["image", "import", &archive.to_string_lossy()]);
        assert!(!victim.exists(), "layer {number} wrote outside");
    }
    node.connect().await?.pods().await?;
    Ok(())
}

/// A CNI configuration of one plugin, whose program is `script` if there is one.
async fn with_plugin(directory: &Path, script: Option<&str>) -> Result<Node> {
    host::require_root()?;
    let (conf, plugins) = (directory.join("conf"), directory.join("plugins"));
    fs::create_dir_all(&conf)?;
    fs::create_dir_all(&plugins)?;
    if let Some(script) = script {
        fs::write(plugins.join("odd"), script)?;
        fs::set_permissions(plugins.join("odd"), fs::Permissions::from_mode(0o755))?;
    }
    let list = json!({ "cniVersion": "1.0.0", "name": "odd", "plugins": [{ "type": "odd" }] });
    fs::write(conf.join("10-odd.conflist"), serde_json::to_vec(&list)?)?;
    let settings =
        Settings { conf_dir: Some(conf), plugin_dir: Some(plugins), ..Settings::default() };
    Node::start(settings).await
}

async fn pod_fails(node: &Node, words: &[&str]) -> Result<()> {
    let before = node.holdings()?;
    let mut cri = node.connect().await?;
    let status =
        refusal(cri.run_pod(node.pod("pod"), "").await).context("the network cannot be set up")?;
    says(status.message(), words);
    // Once failed, the pod is gone or can be removed.
    cri.remove_all().await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_missing_cni_plugin_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = with_plugin(directory.path(), None).await?;
    pod_fails(&node, &["odd"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_failing_cni_plugin_is_quoted() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let script = r#"#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","code":101,"msg":"the cable is unplugged"}'
exit 1
"#;
    let node = with_plugin(directory.path(), Some(script)).await?;
    pod_fails(&node, &["the cable is unplugged"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_cni_plugin_that_speaks_nonsense_is_an_error() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let script = "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\necho nonsense\n";
    let node = with_plugin(directory.path(), Some(script)).await?;
    pod_fails(&node, &["odd"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_full_disk_fails_the_import_and_nothing_else() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("full");
    fs::create_dir_all(&path)?;
    let root = path.join("root");
    let _disk = host::SmallDisk::mount(&root, "6m")?;
    let mut node = Node::at(&path, Settings::default())?;
    node.begin().await?;
    let noise: Vec<u8> =
        (0..8u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let big =
        Image::new(vec![Tree::new().file("big", 0o644, noise).pack(Packing::Tar)?], &json!({}))?;
    let archive = path.join("big.tar");
    big.write_archive(&archive, &format!("{OWN_REGISTRY}/big:1"))?;
    let Err(error) = node.orlop(&["image", "import", &archive.to_string_lossy()]) else {
        bail!("8 MiB went into a disk of 6 MiB");
    };
    says(&format!("{error:#}").to_lowercase(), &["no space left"]);
    let mut cri = node.connect().await?;
    assert_eq!(cri.image(&format!("{OWN_REGISTRY}/big:1")).await?, None);
    // What the attempt wrote is given back, so that a smaller image fits.
    node.import_demo()?;
    assert!(cri.image(DEMO).await?.is_some());
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &container("c", DEMO, &["true"])).await?;
    assert_eq!(cri.wait_exited(&id).await?.exit_code, 0);
    cri.remove_all().await?;
    Ok(())
}
