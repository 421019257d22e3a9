//! What a pod and an exec cost, in counts that are the same in each run: who makes one of them
//! larger does it knowingly, and here. How long things take is for `hack/bench`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{Cri, Pod, container};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::process::Owned;
use rustix::process::Signal;
use tokio::time::sleep;

/// How long strace may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls of the daemon and of all that it starts.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    forks: usize,
    execs: usize,
    syncs: usize,
    mounts: usize,
    unmounts: usize,
    /// Moves of whole processes into cgroups: the kernel holds up all forks and ends of the
    /// host for one, and waits for a grace period of RCU before.
    moves: usize,
}

impl Cost {
    /// What is in strace's output. A call that another one interrupts has two lines.
    fn of(trace: &str) -> Self {
        let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
        let mut moves = 0;
        for line in trace.lines() {
            let call = line.split_once(' ').map_or("", |(_process, call)| call.trim_start());
            let Some((name, arguments)) = call.split_once('(') else { continue };
            // Threads are nobody's cost.
            if !arguments.contains("CLONE_THREAD") {
                let is_move =
                    arguments.contains("/cgroup.procs\"") && arguments.contains("O_WRONLY");
                moves += usize::from(is_move);
                *calls.entry(name).or_default() += 1;
            }
        }
        let sum = |names: &[&str]| names.iter().filter_map(|name| calls.get(name)).sum();
        Self {
            forks: sum(&["clone", "clone3", "fork", "vfork"]),
            execs: sum(&["execve", "execveat"]),
            syncs: sum(&["fsync", "fdatasync", "syncfs", "sync"]),
            mounts: sum(&["mount", "move_mount"]),
            unmounts: sum(&["umount2"]),
            moves,
        }
    }
}

/// strace, attached to a daemon and to all that it starts.
struct Traced {
    strace: Owned,
    output: PathBuf,
}

impl Traced {
    async fn attach(daemon: u32, output: PathBuf) -> Result<Self> {
        let calls = "trace=clone,clone3,fork,vfork,execve,execveat,fsync,fdatasync,syncfs,sync,\
                     mount,move_mount,umount2,openat";
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", calls, "-e", "signal=none", "-o"]).arg(&output);
        command.args(["-p", &daemon.to_string()]);
        let log = output.with_extension("log");
        let strace = Owned::start(command, &log).context("start strace")?;
        let traced = Self { strace, output };
        let deadline = Instant::now() + PATIENCE;
        while !are_traced(daemon)? {
            let said = fs::read_to_string(&log).unwrap_or_default();
            ensure!(Instant::now() < deadline, "strace does not attach: {said}");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(traced)
    }

    fn end(mut self) -> Result<Cost> {
        self.strace.signal(Signal::INT);
        self.strace.wait(PATIENCE)?;
        Ok(Cost::of(&fs::read_to_string(&self.output)?))
    }
}

/// Whether somebody traces all threads of the process.
fn are_traced(process: u32) -> Result<bool> {
    for thread in fs::read_dir(Path::new("/proc").join(process.to_string()).join("task"))? {
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A pod with a container that runs.
async fn launch(node: &Node, cri: &mut Cri, name: &str) -> Result<(Pod, String)> {
    let pod = cri.run_pod(node.pod(name), "").await?;
    let id = cri.launch(&pod, &container("main", DEMO, &["sleep", "1000"])).await?;
    Ok((pod, id))
}

async fn life(node: &Node, cri: &mut Cri, name: &str) -> Result<()> {
    let (pod, id) = launch(node, cri, name).await?;
    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(())
}

#[tokio::test]
async fn root_a_pod_and_an_exec_cost_what_they_did() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    // What is done once is not counted.
    life(&node, &mut cri, "first").await?;
    let daemon = node.daemon().context("the daemon does not run")?;

    let traced = Traced::attach(daemon, node.directory().join("pod.trace")).await?;
    life(&node, &mut cri, "second").await?;
    let mut pod = traced.end()?;
    // A container has each of the host's hierarchies, on a tmpfs if there are several.
    let hierarchies = host::cgroup_roots()?.len();
    pod.mounts -= hierarchies + usize::from(hierarchies > 1);
    // The shim, the first process of the pod's PID namespace, which goes on as it was forked,
    // and the container. What is durable is how the container ended, with its directory.
    let expected = Cost { forks: 3, execs: 2, syncs: 2, mounts: 25, unmounts: 6, moves: 0 };
    assert_eq!(pod, expected, "a pod's life");

    // The shim is traced from its beginning, so a pod without execs is counted beside it.
    let traced = Traced::attach(daemon, node.directory().join("none.trace")).await?;
    let (running, id) = launch(&node, &mut cri, "third").await?;
    let before = traced.end()?;
    let traced = Traced::attach(daemon, node.directory().join("ten.trace")).await?;
    let (other, id2) = launch(&node, &mut cri, "fourth").await?;
    for _exec in 0..10 {
        assert_eq!(cri.exec(&id2, &["true"]).await?.exit_code, 0);
    }
    let with_ten = traced.end()?;
    let expected = Cost { forks: 10, execs: 10, syncs: 0, mounts: 0, unmounts: 0, moves: 0 };
    let ten = Cost {
        forks: with_ten.forks - before.forks,
        execs: with_ten.execs - before.execs,
        syncs: with_ten.syncs - before.syncs,
        mounts: with_ten.mounts - before.mounts,
        unmounts: with_ten.unmounts - before.unmounts,
        moves: with_ten.moves - before.moves,
    };
    assert_eq!(ten, expected, "ten execs");
    for (pod, id) in [(running, id), (other, id2)] {
        cri.stop(&id, 0).await?;
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
    }
    Ok(())
}
