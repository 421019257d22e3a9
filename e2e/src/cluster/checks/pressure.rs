//! A disk that fills up: what the kubelet reclaims then, and whom it evicts, by the numbers
//! that orlop tells it.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::{Value, json};

use super::node::restart;
use super::{Check, pod, shell, with};
use crate::cluster::NODE;
use crate::cluster::components::LOW_BYTES;
use crate::cluster::kubectl::{Kubectl, PATIENCE};
use crate::fixtures::SPARE_BYTES;

pub(super) const CHECKS: [Check; 3] = [
    ("unused images go when the disk fills up", garbage),
    ("eviction from a full disk", full),
    ("eviction over a limit of ephemeral storage", over_limit),
];

const MEBIBYTE: u64 = 1 << 20;
const SPARE: &str = "registry.invalid/cluster/spare:1";

/// A file of nobody that leaves little space on the node's disk; its end gives it back.
struct Ballast(PathBuf);

impl Ballast {
    /// Leaves `bytes` above the point where the kubelet evicts; below it, if negative.
    fn leaving(kubectl: &Kubectl, bytes: i64) -> Result<Self> {
        let ballast = Self(kubectl.path("disk/ballast"));
        // The disk is mounted in the cluster's mount namespace alone.
        let path = PathBuf::from(format!("/proc/{}/root", kubectl.process_one()));
        let path = path.join(ballast.0.strip_prefix("/")?);
        let free = statvfs(path.parent().unwrap_or(&path))?;
        let free = free.f_bavail * free.f_frsize;
        let Some(size) = free.checked_sub(LOW_BYTES.saturating_add_signed(bytes)) else {
            bail!("the node's disk has only {free} bytes left");
        };
        let ballast = Self(path);
        fallocate(File::create(&ballast.0)?, FallocateFlags::empty(), 0, size)?;
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

/// What images take, as the kubelet tells it.
fn image_bytes(kubectl: &Kubectl) -> Result<u64> {
    let path = format!("/api/v1/nodes/{NODE}/proxy/stats/summary");
    let summary: Value = serde_json::from_str(&kubectl.run(&["get", "--raw", &path])?)?;
    let used = summary.pointer("/node/runtime/imageFs/usedBytes").and_then(Value::as_u64);
    used.ok_or_else(|| anyhow::anyhow!("no use of images in {summary}"))
}

fn wait_image_bytes(kubectl: &Kubectl, wanted: std::ops::RangeInclusive<u64>) -> Result<()> {
    kubectl.until(2 * PATIENCE, || {
        let used = image_bytes(kubectl)?;
        ensure!(wanted.contains(&used), "images take {used} bytes, not {wanted:?}");
        Ok(())
    })
}

fn wait_pressure(kubectl: &Kubectl, status: &str) -> Result<()> {
    let path = ".status.conditions[?(@.type==\"DiskPressure\")].status";
    kubectl.until(2 * PATIENCE, || {
        let now = kubectl.field("node", NODE, path)?;
        ensure!(now == status, "DiskPressure is {now:?}, not {status:?}");
        Ok(())
    })
}

/// Somebody who must not suffer.
fn bystander(kubectl: &Kubectl) -> Result<()> {
    kubectl
        .create(&pod("bystander", json!({ "containers": [shell("main", "exec sleep 3600")] })))?;
    kubectl.wait_ready("bystander")
}

fn bystander_is_well(kubectl: &Kubectl) -> Result<()> {
    let phase = kubectl.field("pod", "bystander", ".status.phase")?;
    let restarts =
        kubectl.field("pod", "bystander", ".status.containerStatuses[0].restartCount")?;
    ensure!(
        (phase.as_str(), restarts.as_str()) == ("Running", "0"),
        "{phase}, {restarts} restarts"
    );
    Ok(())
}

fn garbage(kubectl: &Kubectl) -> Result<()> {
    bystander(kubectl)?;
    let before = image_bytes(kubectl)?;
    let main = with(shell("main", "true"), json!({ "image": SPARE }));
    kubectl.create(&pod("spare", json!({ "restartPolicy": "Never", "containers": [main] })))?;
    kubectl.wait_field("pod", "spare", ".status.phase", "Succeeded")?;
    // What else the image has is a shell, which is there already.
    let (least, most) = (SPARE_BYTES - MEBIBYTE, SPARE_BYTES + 8 * MEBIBYTE);
    wait_image_bytes(kubectl, before + least..=before + most)?;
    kubectl.run(&["delete", "pod", "spare", "--timeout=60s"])?;
    // The kubelet spares images that it saw for the first time just now, unless it just started.
    restart(kubectl, "kubelet", "-TERM")?;

    let ballast = Ballast::leaving(kubectl, -i64::try_from(32 * MEBIBYTE)?)?;
    // The images of others may go too.
    wait_image_bytes(kubectl, 0..=before + 8 * MEBIBYTE)?;
    wait_pressure(kubectl, "False")?;
    bystander_is_well(kubectl)?;
    drop(ballast);
    Ok(())
}

fn full(kubectl: &Kubectl) -> Result<()> {
    bystander(kubectl)?;
    let line = "while [ ! -e /go ]; do sleep 0.2; done; \
        dd if=/dev/zero of=/big bs=1M count=160; exec sleep 3600";
    kubectl.create(&pod("greedy", json!({ "containers": [shell("main", line)] })))?;
    kubectl.wait_ready("greedy")?;
    let ballast = Ballast::leaving(kubectl, i64::try_from(96 * MEBIBYTE)?)?;
    kubectl.exec("greedy", "touch /go")?;
    evicted(
        kubectl,
        "greedy",
        &["low on resource: ephemeral-storage", "Container main was using"],
    )?;
    bystander_is_well(kubectl)?;
    drop(ballast);
    wait_pressure(kubectl, "False")
}

fn over_limit(kubectl: &Kubectl) -> Result<()> {
    bystander(kubectl)?;
    let limits = json!({ "resources": { "limits": { "ephemeral-storage": "20Mi" } } });
    let line = "dd if=/dev/zero of=/big bs=1M count=40; exec sleep 3600";
    let main = with(shell("main", line), limits);
    kubectl.create(&pod("greedy", json!({ "containers": [main] })))?;
    evicted(kubectl, "greedy", &["ephemeral local storage", "20Mi"])?;
    bystander_is_well(kubectl)
}

fn evicted(kubectl: &Kubectl, name: &str, words: &[&str]) -> Result<()> {
    kubectl.until(2 * PATIENCE, || {
        let said = kubectl.field("pod", name, ".status")?;
        let status: Value = serde_json::from_str(&said)?;
        let field = |name| status.get(name).and_then(Value::as_str).unwrap_or_default();
        ensure!(field("reason") == "Evicted", "not evicted: {said}");
        for word in words {
            ensure!(field("message").contains(word), "no {word:?} in {:?}", field("message"));
        }
        Ok(())
    })
}
