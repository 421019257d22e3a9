//! Checkpoints by the kubelet's own API, which the API server passes on to it.
//!
//! # References
//! - [Kubelet Checkpoint API](https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/)

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::node::with_orlop;
use super::{Check, pod, shell};
use crate::cluster::NODE;
use crate::cluster::kubectl::{Kubectl, PATIENCE};

pub(super) const CHECKS: [Check; 2] =
    [("checkpoint of a container", checkpoint), ("checkpoint without criu", without_criu)];

/// What an archive has at least.
const MEMBERS: [&str; 4] =
    ["config.dump", "spec.dump", "rootfs-diff.tar", "checkpoint/inventory.img"];

/// Starts a pod that counts into its log.
fn counting(kubectl: &Kubectl) -> Result<()> {
    let line = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    kubectl.create(&pod("counter", json!({ "containers": [shell("main", line)] })))?;
    kubectl.wait_ready("counter")
}

fn ask(kubectl: &Kubectl) -> Result<String> {
    let namespace = kubectl.field("pod", "counter", ".metadata.namespace")?;
    let path = format!("/api/v1/nodes/{NODE}/proxy/checkpoint/{namespace}/counter/main");
    kubectl.run_with(&["create", "--raw", &path, "-f", "-"], "")
}

/// Waits until the container counts on, and has never begun again.
fn expect_counting(kubectl: &Kubectl) -> Result<()> {
    let logged = || -> Result<usize> {
        let log = kubectl.run(&["logs", "counter"])?;
        ensure!(log.lines().zip(1..).all(|(line, number)| line == number.to_string()), "{log}");
        Ok(log.lines().count())
    };
    let before = logged()?;
    kubectl.until(PATIENCE, || {
        let now = logged()?;
        if now > before + 2 { Ok(()) } else { bail!("{before} lines, then {now}") }
    })
}

fn checkpoint(kubectl: &Kubectl) -> Result<()> {
    counting(kubectl)?;
    let said: Value = serde_json::from_str(&ask(kubectl)?)?;
    let archive = said["items"][0].as_str().with_context(|| format!("no path in {said}"))?;
    let listed = kubectl.inside("tar").args(["--list", "--file", archive]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let members: BTreeSet<&str> = listed.lines().collect();
    for name in MEMBERS {
        ensure!(members.contains(name), "no {name} in {archive}: {members:?}");
    }
    expect_counting(kubectl)?;
    let restarts = kubectl.field("pod", "counter", ".status.containerStatuses[0].restartCount")?;
    ensure!(restarts == "0", "{restarts} restarts");
    ensure!(kubectl.inside("rm").arg(archive).status()?.success(), "{archive} stays");
    Ok(())
}

fn without_criu(kubectl: &Kubectl) -> Result<()> {
    counting(kubectl)?;
    for (criu, words) in [
        ("", "checkpoint/restore support not available"),
        ("/nowhere/criu", "CRIU binary not found or too old (<31600). Failed to checkpoint"),
    ] {
        let change = |configuration: &str| {
            let lines = configuration.lines().filter(|line| !line.starts_with("criu = "));
            let rest: String = lines.map(|line| format!("{line}\n")).collect();
            rest.replace("[pods]\n", &format!("[pods]\ncriu = \"{criu}\"\n"))
        };
        with_orlop(kubectl, change, || {
            let Err(error) = ask(kubectl) else { bail!("there is a checkpoint without criu") };
            let said = format!("{error:#}");
            ensure!(said.contains(words), "{said}");
            expect_counting(kubectl)
        })?;
    }
    Ok(())
}
