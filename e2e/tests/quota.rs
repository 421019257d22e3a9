//! A store on a file system that counts: what containers write is known at once, however many
//! files it is. `hack/vm test` runs these: kernels without project quotas cannot.

use std::path::Path;

use anyhow::{Context, Result};
use cri_api::v1::ContainerStatsRequest;
use e2e::client::{Cri, container};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::process::output;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A file system of its own with project quotas, as long as this lives.
struct Counted(TempDir);

impl Counted {
    fn make() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("orlop-e2e-").tempdir()?;
        let image = directory.path().join("image").display().to_string();
        let at = directory.path().join("at");
        std::fs::create_dir(&at)?;
        output("truncate", &["-s", "512M", &image])?;
        output(
            "mke2fs",
            &["-q", "-F", "-t", "ext4", "-O", "quota,project", "-E", "quotatype=prjquota", &image],
        )?;
        output("mount", &["-o", "loop,prjquota", &image, &at.display().to_string()])?;
        Ok(Self(directory))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("at")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = output("umount", &["-l", &self.path().display().to_string()]);
    }
}

/// Bytes and inodes of a container's writable layer, as they are told now.
async fn written(cri: &mut Cri, id: &str) -> Result<(u64, u64)> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let answer = cri.runtime.container_stats(request).await?.into_inner();
    let layer = answer.stats.and_then(|stats| stats.writable_layer).context("no writable layer")?;
    let bytes = layer.used_bytes.context("no bytes")?.value;
    Ok((bytes, layer.inodes_used.context("no inodes")?.value))
}

async fn says(cri: &mut Cri, id: &str, script: &str) -> Result<()> {
    let said = cri.exec(id, &["sh", "-c", script]).await?;
    anyhow::ensure!(said.exit_code == 0, "{script}: {said:?}");
    Ok(())
}

async fn begun(directory: &Path) -> Result<Node> {
    let mut node = Node::at(directory, Settings::default())?;
    node.begin().await?;
    Ok(node)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_is_written_is_known_at_once() -> Result<()> {
    host::require_root()?;
    let counted = Counted::make()?;
    let mut node = begun(&counted.path().join("quota")).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let sleeping = container("one", DEMO, &["sleep", "1000"]);
    let one = cri.launch(&pod, &sleeping).await?;
    let two = cri.launch(&pod, &container("two", DEMO, &["sleep", "1000"])).await?;
    let empty = written(&mut cri, &one).await?;
    assert!(empty.0 < MIB && empty.1 < 20, "{empty:?}");

    // No answer is an earlier one.
    for step in 1..=5 {
        says(&mut cri, &one, &format!("head -c 4194304 /dev/zero > /file-{step}")).await?;
        let now = written(&mut cri, &one).await?;
        let wanted = empty.0 + step * 4 * MIB;
        assert!((wanted..wanted + MIB).contains(&now.0), "{now:?} after {step} files");
        assert_eq!(now.1, empty.1 + step);
    }
    // Copied up, renamed from one directory to another, linked, removed.
    says(
        &mut cri,
        &one,
        "echo x >> /bin/sh; mkdir /d; mv /file-1 /d/; ln /d/file-1 /link; rm /file-2",
    )
    .await?;
    let now = written(&mut cri, &one).await?;
    assert!(now.0 < empty.0 + 20 * MIB, "{now:?}");
    assert_eq!(written(&mut cri, &two).await?.1, empty.1, "the other wrote nothing");

    // The file system remembers for the daemon.
    node.kill()?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    assert_eq!(written(&mut cri, &one).await?, now);
    cri.stop(&one, 0).await?;
    cri.remove(&one).await?;
    let again = cri.launch(&pod, &sleeping).await?;
    let fresh = written(&mut cri, &again).await?;
    assert!(fresh.0 < MIB && fresh.1 < 20, "{fresh:?}");
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    drop(node);
    Ok(())
}
