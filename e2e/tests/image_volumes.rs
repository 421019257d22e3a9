//! Images mounted in containers: read-only, in whole or in part, kept while they are in
//! use, and never a way to the host.

use std::path::Path;

use anyhow::{Context, Result};
use cri_api::v1::{ContainerConfig, ImageSpec, Mount, RemoveImageRequest};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Packing, Tree};
use e2e::node::{Node, Settings};
use e2e::programs::oci_runtime;
use serde_json::json;
use tonic::Code;

/// An image that is only good for being mounted.
const MODELS: &str = "registry.invalid/data/models:1";

async fn node(more: String) -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let lower = Tree::new()
        .dir("models", 0o755)
        .file("models/one", 0o644, "one, lower")
        .file("models/two", 0o644, "two")
        .dir("bin", 0o755)
        .file("bin/hello", 0o755, "#!/bin/sh\necho hello\n")
        .symlink("link", "models")
        .symlink("out", "/etc")
        .pack(Packing::Gzip)?;
    let upper = Tree::new().dir("models", 0o755).file("models/one", 0o644, "one");
    let image = Image::new(vec![lower, upper.pack(Packing::Gzip)?], &json!({}))?;
    let archive = node.directory().join("models.tar");
    image.write_archive(&archive, MODELS)?;
    node.orlop(&["image", "import", &archive.to_string_lossy()])?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

fn mount(container_path: &str, image: &str, image_sub_path: &str) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
        image_sub_path: image_sub_path.to_owned(),
        readonly: true,
        ..Default::default()
    }
}

fn with(mounts: Vec<Mount>) -> ContainerConfig {
    ContainerConfig { mounts, ..container("mounts", DEMO, &["sleep", "1000"]) }
}

async fn said(cri: &mut Cri, id: &str, command: &str) -> Result<String> {
    let output = cri.exec(id, &["sh", "-c", command]).await?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// What every runtime must do.
async fn mounts(node: &Node, cri: &mut Cri, pod: &Pod) -> Result<()> {
    // A runtime's own directory comes with the first container.
    let warm = cri.launch(pod, &container("warm", DEMO, &["true"])).await?;
    cri.wait_exited(&warm).await?;
    cri.remove(&warm).await?;
    let before = node.holdings()?;
    let noexec = Mount { mount_options: vec!["noexec".to_owned()], ..mount("/noexec", MODELS, "") };
    let config = with(vec![
        mount("/all", MODELS, ""),
        mount("/part", MODELS, "link"),
        mount("/file", MODELS, "models/two"),
        noexec,
    ]);
    let id = cri.launch(pod, &config).await?;
    for (command, expected) in [
        ("cat /all/models/one /part/one", "oneone"),
        ("cat /part/two /file", "twotwo"),
        ("ls /part", "one\ntwo"),
        ("/all/bin/hello", "hello"),
        ("readlink /all/out", "/etc"),
    ] {
        assert_eq!(said(cri, &id, command).await?, expected, "{command}");
    }
    for command in ["touch /all/x", "touch /part/x", "echo x > /file"] {
        let output = said(cri, &id, command).await?;
        assert!(output.contains("Read-only file system"), "{command}: {output}");
    }
    let output = said(cri, &id, "/noexec/bin/hello").await?;
    assert!(output.contains("ermission denied"), "{output}");

    let image = cri.image(MODELS).await?.context("the image is there")?.id;
    let told = cri.status(&id).await?.mounts;
    let refs: Vec<_> = told.iter().flat_map(|one| &one.image).map(|one| &one.image_ref).collect();
    assert_eq!(refs, [&image; 4]);
    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_images_are_mounted_in_whole_and_in_part() -> Result<()> {
    let (node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    mounts(&node, &mut cri, &pod).await?;
    let points = host::mounts_below(node.directory())?;
    let id = cri.launch(&pod, &with(vec![mount("/m", MODELS, "models")])).await?;
    assert_eq!(host::mounts_below(node.directory())?, points, "the host's mounts changed");
    cri.remove(&id).await?;
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_images_are_mounted_in_whole_and_in_part_by_crun() -> Result<()> {
    let crun = oci_runtime("crun").context("no crun: hack/test installs it")?;
    let (node, mut cri) = node(format!("[runtimes.crun]\npath = \"{}\"\n", crun.display())).await?;
    let pod = cri.run_pod(node.pod("pod"), "crun").await?;
    mounts(&node, &mut cri, &pod).await?;
    cri.remove_all().await?;
    Ok(())
}

/// Where layers are copied, nothing is different for containers; what one writes is its own.
#[tokio::test(flavor = "multi_thread")]
async fn root_copies_of_layers_serve_as_overlays_do() -> Result<()> {
    let crun = oci_runtime("crun").context("no crun: hack/test installs it")?;
    let more = format!(
        "[images]\nsnapshots = \"native\"\n[runtimes.crun]\npath = \"{}\"\n",
        crun.display()
    );
    let (mut node, mut cri) = node(more).await?;
    for handler in ["", "crun"] {
        let pod = cri.run_pod(node.pod("pod"), handler).await?;
        mounts(&node, &mut cri, &pod).await?;
        let points = host::mounts_below(node.directory())?;
        let mut containers = Vec::new();
        for name in ["one", "two"] {
            let container = container(name, DEMO, &["sleep", "1000"]);
            containers.push(cri.launch(&pod, &container).await?);
        }
        if handler.is_empty() {
            assert_eq!(host::mounts_below(node.directory())?, points, "the host's mounts changed");
        }
        let below =
            e2e::process::output("stat", &["-f", "-c", "%t", &node.root().to_string_lossy()])?;
        for (id, word) in containers.iter().zip(["one", "two"]) {
            let write = format!("echo {word} > /written; rm /etc/passwd; stat -f -c %t /");
            assert_eq!(said(&mut cri, id, &write).await?, below.trim(), "not the store's own");
        }
        node.kill()?;
        node.begin().await?;
        cri = node.connect().await?;
        for (id, word) in containers.iter().zip(["one", "two"]) {
            assert_eq!(said(&mut cri, id, "cat /written; ls /etc/passwd 2>/dev/null").await?, word);
        }
        let change = node.directory().join("change.tar");
        node.orlop(&["layer", "diff", &containers[0], &change.to_string_lossy()])?;
        let listed = e2e::process::output("tar", &["-tf", &change.to_string_lossy()])?;
        let changes: Vec<&str> = listed.lines().filter(|line| !line.ends_with('/')).collect();
        assert!(changes.contains(&"etc/.wh.passwd") && changes.contains(&"written"), "{listed}");
        assert!(changes.len() < 12, "more than what was written: {listed}");
        cri.remove_all().await?;
    }
    Ok(())
}

/// The layers stay while a container has them mounted, whoever removes the image and
/// whatever becomes of the daemon; then they go.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_mounted_image_outlives_its_removal_and_the_daemon() -> Result<()> {
    let (mut node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let config = with(vec![mount("/m", MODELS, "models")]);
    let running = cri.launch(&pod, &config).await?;
    let mut waiting = config.clone();
    waiting.metadata.get_or_insert_default().name = "waiting".to_owned();
    let waiting = cri.create(&pod, &waiting).await?;
    let layers = node.root().join("snapshots/layers");
    let count = |at: &Path| std::fs::read_dir(at).map(Iterator::count);
    let all = count(&layers)?;
    let spec = ImageSpec { image: MODELS.to_owned(), ..Default::default() };
    cri.images.remove_image(RemoveImageRequest { image: Some(spec) }).await?;
    node.kill()?;
    node.begin().await?;
    cri = node.connect().await?;
    assert_eq!(count(&layers)?, all, "layers in use are gone");
    cri.start(&waiting).await?;
    for id in [&running, &waiting] {
        assert_eq!(said(&mut cri, id, "cat /m/one").await?, "one");
        assert!(
            !cri.status(id).await?.mounts[0].image.clone().unwrap_or_default().image_ref.is_empty()
        );
    }
    let mut again = config;
    again.metadata.get_or_insert_default().name = "again".to_owned();
    let status = refusal(cri.create(&pod, &again).await).context("the image was removed")?;
    assert!(status.message().starts_with("ImageVolumeMountFailed: "), "{status:?}");
    cri.remove_all().await?;
    // What nothing needs goes at the next start at the latest.
    node.stop()?;
    node.begin().await?;
    assert!(count(&layers)? < all, "layers that nothing uses stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_image_mounts_that_cannot_be_are_refused() -> Result<()> {
    let (node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let before = node.holdings()?;
    let unknown = mount("/m", "registry.invalid/no/such:1", "");
    let both = Mount { host_path: "/tmp".to_owned(), ..mount("/m", MODELS, "") };
    let writable = Mount { readonly: false, ..mount("/m", MODELS, "") };
    for (mount, code, start, word) in [
        (unknown, Code::Unknown, "ImageVolumeMountFailed: ", "no/such"),
        (mount("/m", MODELS, "models/3"), Code::Unknown, "ImageVolumeMountFailed: ", "models/3"),
        // In the image there is no /etc, and the host's is not looked at.
        (mount("/m", MODELS, "out"), Code::Unknown, "ImageVolumeMountFailed: ", "\"out\""),
        (mount("/m", MODELS, "models/../../etc"), Code::InvalidArgument, "", "models/../../etc"),
        (mount("/m", MODELS, "/models"), Code::InvalidArgument, "", "/models"),
        (both, Code::InvalidArgument, "", "host path"),
        (writable, Code::InvalidArgument, "", "read-only"),
    ] {
        let status = refusal(cri.create(&pod, &with(vec![mount])).await).context(word)?;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(start), "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
        node.expect_no_more_than(&before).await?;
    }
    cri.remove_all().await?;
    Ok(())
}
