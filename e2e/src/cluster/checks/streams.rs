//! Logs, exec, attach, port-forward, cp, debug.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{AGNHOST, BUSYBOX, Check, pod, shell, with};
use crate::cluster::kubectl::Kubectl;

pub(super) const CHECKS: [Check; 6] = [
    ("logs -f over rotation", logs),
    ("exec, exit codes, exec -it", exec),
    ("attach", attach),
    ("port-forward", port_forward),
    ("cp", copy),
    ("debug in the target's PID namespace", debug),
];

/// A pod that sleeps, ready.
fn sleeper(kubectl: &Kubectl) -> Result<()> {
    kubectl.create(&pod("sleeper", json!({ "containers": [shell("main", "exec sleep 3600")] })))?;
    kubectl.wait_ready("sleeper")
}

fn logs(kubectl: &Kubectl) -> Result<()> {
    let script = "i=0; while [ $i -lt 6000 ]; do echo \"line $i $(seq -s. 1 12)\"; i=$((i+1)); [ $((i % 500)) = 0 ] && sleep 1; done; echo last; exec sleep 3600";
    kubectl.create(&pod("chatty", json!({ "containers": [shell("main", script)] })))?;
    kubectl.wait_ready("chatty")?;
    let mut follow = kubectl.command(&["logs", "-f", "chatty"]).stdout(Stdio::piped()).spawn()?;
    let mut text = String::new();
    let mut stdout = follow.stdout.take().context("a pipe")?;
    let mut buffer = [0_u8; 8192];
    let deadline = Instant::now() + Duration::from_secs(90);
    while !text.contains("last\n") && Instant::now() < deadline {
        let n = stdout.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(buffer.get(..n).unwrap_or_default()));
    }
    end(follow);
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    ensure!(
        numbers.iter().copied().eq(0..6000),
        "{} lines, last {:?}",
        numbers.len(),
        numbers.last()
    );
    let files = kubectl
        .inside("find")
        .arg(kubectl.cluster().disk().join("pods"))
        .args(["-path", "*chatty*", "-name", "*.log.*"])
        .output()?;
    ensure!(!files.stdout.is_empty(), "the log was never rotated");
    Ok(())
}

fn exec(kubectl: &Kubectl) -> Result<()> {
    sleeper(kubectl)?;
    let output = kubectl
        .command(&["exec", "sleeper", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .output()?;
    ensure!(output.status.code() == Some(7), "exit code {:?}", output.status);
    ensure!(output.stdout == b"out\n", "stdout {:?}", String::from_utf8_lossy(&output.stdout));
    ensure!(
        output.stderr.starts_with(b"err\n"),
        "stderr {:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    let echoed = kubectl.run_with(&["exec", "-i", "sleeper", "--", "cat"], "through stdin\n")?;
    ensure!(echoed == "through stdin\n", "cat said {echoed:?}");
    // `script` gives kubectl a terminal of its own.
    let line = format!(
        "stty cols 91 rows 17; {} --kubeconfig {} -n {} exec -it sleeper -- sh -c 'tty; until stty size | grep -q .; do sleep 0.1; done; stty size; echo typed $(head -n1)'",
        kubectl.cluster().program("kubectl").display(),
        kubectl.path("pki/admin.conf").display(),
        kubectl.field("pod", "sleeper", ".metadata.namespace")?,
    );
    let mut command = kubectl.inside("script");
    command
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    sleep(Duration::from_secs(2));
    stdin.write_all(b"a word\n")?;
    sleep(Duration::from_millis(500));
    let output = finish(child, Duration::from_secs(20))?;
    ensure!(output.contains("/dev/pts/"), "no terminal: {output:?}");
    ensure!(output.contains("17 91"), "the size is not 17 91: {output:?}");
    ensure!(output.contains("typed a word"), "what was typed is not there: {output:?}");
    Ok(())
}

fn attach(kubectl: &Kubectl) -> Result<()> {
    let main = with(
        shell("main", "while read line; do echo \"got $line\"; done; echo end of input"),
        json!({ "stdin": true }),
    );
    kubectl.create(&pod("reader", json!({ "restartPolicy": "Never", "containers": [main] })))?;
    kubectl.wait_ready("reader")?;
    let mut command = kubectl.command(&["attach", "-i", "reader", "-c", "main"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(b"one\ntwo\n")?;
    kubectl.wait_output(&["logs", "reader"], "got two")?;
    drop(stdin);
    let output = finish(child, Duration::from_secs(20))?;
    ensure!(output.contains("got two"), "attach printed {output:?}");
    Ok(())
}

fn port_forward(kubectl: &Kubectl) -> Result<()> {
    let web = json!({ "name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
        "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1 } });
    kubectl.create(&pod("web", json!({ "containers": [web] })))?;
    kubectl.wait_ready("web")?;
    let forward = kubectl
        .command(&["port-forward", "pod/web", "18080:8080"])
        .stdout(Stdio::null())
        .spawn()?;
    let fetched = kubectl
        .until(Duration::from_secs(20), || kubectl.http("127.0.0.1", 18080, "/echo?msg=through"));
    end(forward);
    let fetched = fetched?;
    ensure!(fetched == "through", "the answer was {fetched:?}");
    Ok(())
}

fn copy(kubectl: &Kubectl) -> Result<()> {
    sleeper(kubectl)?;
    let (there, back) = (kubectl.path("run/copied"), kubectl.path("run/copied-back"));
    let bytes: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&there, &bytes)?;
    kubectl.run(&["cp", &there.display().to_string(), "sleeper:/tmp/copied"])?;
    kubectl.run(&["cp", "sleeper:/tmp/copied", &back.display().to_string()])?;
    ensure!(std::fs::read(&back)? == bytes, "the copy of the copy differs");
    Ok(())
}

fn debug(kubectl: &Kubectl) -> Result<()> {
    sleeper(kubectl)?;
    kubectl.run(&[
        "debug",
        "sleeper",
        "--image",
        BUSYBOX,
        "--target=main",
        "-c",
        "look",
        "--profile=general",
        "--",
        "sh",
        "-c",
        "ps -o pid,args; exec sleep 3600",
    ])?;
    kubectl.wait_output(&["logs", "sleeper", "-c", "look"], "sleep 3600").map(drop)
}

fn end(mut child: Child) {
    let _gone_already = child.kill();
    let _reaped_already = child.wait();
}

/// Waits for the end of a program and returns what it printed.
fn finish(mut child: Child, patience: Duration) -> Result<String> {
    let deadline = Instant::now() + patience;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            end(child);
            bail!("it still runs after {patience:?}");
        }
        sleep(Duration::from_millis(50));
    }
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    Ok(text)
}
