//! `hack/cluster`, twice in a row: every point passes, and each time the machine is afterwards
//! what it was before. Built with the feature `cluster` alone: it takes many minutes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::host;
use e2e::process::output;

/// What of the whole machine the cluster could change.
fn machine() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut tell = |what: &str, text: String| {
        found.extend(text.lines().map(|line| format!("{what} {line}")));
    };
    tell("mount", fs::read_to_string("/proc/self/mounts")?);
    tell("link", output("ip", &["-oneline", "-brief", "link"])?);
    tell("rule", output("nft", &["list", "ruleset"])?);
    tell("loop", output("losetup", &["--all"])?);
    for root in host::cgroup_roots()? {
        let groups = host::paths_below(&root)?.into_iter().filter(|path| path.is_dir());
        tell("cgroup", groups.map(|path| format!("{}\n", path.display())).collect());
    }
    for setting in
        ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"]
    {
        tell(setting, fs::read_to_string(Path::new("/proc/sys").join(setting))?);
    }
    for place in [
        "/var/lib/kubelet",
        "/run/cdi",
        "/run/netns",
        "/var/lib/cni",
        "/var/log/pods",
        "/run/orlop",
    ] {
        tell(place, format!("there: {}", Path::new(place).exists()));
    }
    Ok(found)
}

#[test]
fn root_every_point_twice_and_the_machine_is_as_before() -> Result<()> {
    host::require_root()?;
    let programs = std::env::var("ORLOP_KUBERNETES").context("run `hack/cluster test`")?;
    let directory = "/tmp/orlop-cluster-test";
    let rig = |action: &str| -> Result<()> {
        let arguments = ["cluster", action, "--directory", directory, "--programs", &programs];
        let status = Command::new(env!("CARGO_BIN_EXE_rig")).args(arguments).status()?;
        ensure!(status.success(), "rig cluster {action}: {status}");
        Ok(())
    };
    for _ in 0..2 {
        let before = machine()?;
        let done = rig("up").and_then(|()| rig("check"));
        if done.is_err() {
            // For a look at what went wrong.
            let logs = Path::new(directory).join("log");
            let _nothing_written = output("cp", &[&logs, Path::new("/tmp/orlop-cluster-test.log")]);
        }
        let ended = rig("down");
        done?;
        ended?;
        let after = machine()?;
        let changes: Vec<_> = before.symmetric_difference(&after).collect();
        ensure!(changes.is_empty(), "changed: {changes:#?}");
        ensure!(host::processes_marked(&[directory])?.is_empty(), "processes are left");
    }
    Ok(())
}
