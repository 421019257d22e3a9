//! From init containers to the end: order, hooks, probes, crashes.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::{AGNHOST, BUSYBOX, Check, pod, shell, with};
use crate::cluster::kubectl::Kubectl;

pub(super) const CHECKS: [Check; 6] = [
    ("init and sidecar containers in order", order),
    ("probes: exec, http, tcp, grpc", probes),
    ("postStart and preStop", hooks),
    ("CrashLoopBackOff tells why", crash_loop),
    ("OOMKilled", out_of_memory),
    ("restart on failed liveness", liveness),
];

fn order(kubectl: &Kubectl) -> Result<()> {
    let mounts = json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] });
    let note = |name: &str, line: &str| with(shell(name, line), mounts.clone());
    let sidecar = with(
        note(
            "sidecar",
            "echo sidecar >> /shared/order; trap 'echo sidecar ends; exit 0' TERM; while :; do sleep 0.1; done",
        ),
        json!({ "restartPolicy": "Always", "startupProbe": { "exec": { "command": ["test", "-s", "/shared/order"] }, "periodSeconds": 1 } }),
    );
    kubectl.create(&pod("ordered", json!({
        "restartPolicy": "Never",
        "volumes": [{ "name": "shared", "emptyDir": {} }],
        "initContainers": [note("first", "echo first >> /shared/order"), sidecar, note("second", "sleep 1; echo second >> /shared/order")],
        "containers": [note("main", "echo main >> /shared/order; cat /shared/order")],
    })))?;
    kubectl.wait_field("pod", "ordered", ".status.phase", "Succeeded")?;
    let log = kubectl.run(&["logs", "ordered", "-c", "main"])?;
    ensure!(log == "first\nsidecar\nsecond\nmain\n", "the order was {log:?}");
    let log = kubectl.run(&["logs", "ordered", "-c", "sidecar"])?;
    ensure!(log == "sidecar ends\n", "the sidecar's end: {log:?}");
    Ok(())
}

fn probes(kubectl: &Kubectl) -> Result<()> {
    let probe =
        |what: serde_json::Value| with(what, json!({ "periodSeconds": 1, "failureThreshold": 1 }));
    let container = |name: &str, arguments: &[&str], what: serde_json::Value| {
        json!({ "name": name, "image": AGNHOST, "args": arguments, "readinessProbe": probe(what.clone()),
                "startupProbe": with(what, json!({ "periodSeconds": 1, "failureThreshold": 60 })) })
    };
    kubectl.create(&pod("probed", json!({ "containers": [
        container("http", &["netexec", "--http-port=8080", "--udp-port=9080"], json!({ "httpGet": { "path": "/healthz", "port": 8080 } })),
        container("tcp", &["netexec", "--http-port=8081", "--udp-port=9081"], json!({ "tcpSocket": { "port": 8081 } })),
        container("grpc", &["grpc-health-checking", "--port=8082", "--http-port=8083"], json!({ "grpc": { "port": 8082 } })),
        with(shell("exec", "touch /ready; exec sleep 3600"),
             json!({ "readinessProbe": probe(json!({ "exec": { "command": ["test", "-e", "/ready"] } })) })),
    ] })))?;
    kubectl.wait_ready("probed")?;
    kubectl.run(&["exec", "probed", "-c", "exec", "--", "rm", "/ready"])?;
    let ready = ".status.containerStatuses[?(@.name==\"exec\")].ready";
    kubectl.wait_field("pod", "probed", ready, "false")?;
    kubectl.run(&["exec", "probed", "-c", "exec", "--", "touch", "/ready"])?;
    kubectl.wait_field("pod", "probed", ready, "true")
}

fn liveness(kubectl: &Kubectl) -> Result<()> {
    let probe = json!({ "livenessProbe": { "periodSeconds": 1, "failureThreshold": 1, "exec": { "command": ["test", "-e", "/alive"] } } });
    let main = with(shell("main", "touch /alive; sleep 4; rm /alive; exec sleep 3600"), probe);
    kubectl.create(&pod("alive", json!({ "containers": [main] })))?;
    kubectl.until(Duration::from_secs(60), || {
        let restarts =
            kubectl.field("pod", "alive", ".status.containerStatuses[0].restartCount")?;
        if restarts.parse::<u32>().unwrap_or_default() >= 1 {
            Ok(())
        } else {
            bail!("{restarts} restarts")
        }
    })?;
    let code = kubectl.field(
        "pod",
        "alive",
        ".status.containerStatuses[0].lastState.terminated.exitCode",
    )?;
    ensure!(code == "137" || code == "143", "it ended with {code}");
    Ok(())
}

fn hooks(kubectl: &Kubectl) -> Result<()> {
    let say = |word: &str| json!({ "exec": { "command": ["sh", "-c", format!("echo {word} > /proc/1/fd/1")] } });
    let main = with(
        shell("main", "trap 'echo TERM; exit 0' TERM; echo main; while :; do sleep 0.1; done"),
        json!({ "lifecycle": { "postStart": say("postStart"), "preStop": say("preStop") } }),
    );
    kubectl.create(&pod(
        "hooked",
        json!({ "terminationGracePeriodSeconds": 10, "containers": [main] }),
    ))?;
    kubectl.wait_ready("hooked")?;
    let mut follow = kubectl.command(&["logs", "-f", "hooked"]);
    let follow = follow.stdout(std::process::Stdio::piped()).spawn()?;
    kubectl.wait_output(&["logs", "hooked"], "postStart")?;
    kubectl.run(&["delete", "pod", "hooked", "--timeout=30s"])?;
    let log = String::from_utf8_lossy(&follow.wait_with_output()?.stdout).into_owned();
    let place = |word: &str| log.find(word);
    ensure!(
        place("postStart").is_some()
            && place("preStop") < place("TERM")
            && place("preStop").is_some(),
        "the log is {log:?}"
    );
    Ok(())
}

fn crash_loop(kubectl: &Kubectl) -> Result<()> {
    let main = with(
        shell("main", "echo the reason > /dev/termination-log; exit 3"),
        json!({ "terminationMessagePolicy": "File" }),
    );
    kubectl.create(&pod("crashing", json!({ "containers": [main] })))?;
    let status = ".status.containerStatuses[0]";
    kubectl.wait_field(
        "pod",
        "crashing",
        &format!("{status}.state.waiting.reason"),
        "CrashLoopBackOff",
    )?;
    let last = |field: &str| {
        kubectl.field("pod", "crashing", &format!("{status}.lastState.terminated.{field}"))
    };
    ensure!(
        last("exitCode")? == "3" && last("reason")? == "Error",
        "{} {}",
        last("exitCode")?,
        last("reason")?
    );
    ensure!(last("message")?.trim() == "the reason", "the message is {:?}", last("message")?);
    kubectl.until(Duration::from_secs(90), || {
        let restarts = kubectl.field("pod", "crashing", &format!("{status}.restartCount"))?;
        if restarts.parse::<u32>().unwrap_or_default() >= 2 {
            Ok(())
        } else {
            bail!("{restarts} restarts")
        }
    })?;

    let missing = json!({ "name": "main", "image": BUSYBOX, "command": ["/no/such/program"] });
    kubectl
        .create(&pod("missing", json!({ "restartPolicy": "Never", "containers": [missing] })))?;
    kubectl.wait_field("pod", "missing", ".status.phase", "Failed")?;
    let said = kubectl.field("pod", "missing", &format!("{status}.state.terminated"))?;
    ensure!(
        said.contains("/no/such/program") && said.contains("StartError"),
        "a missing program: {said}"
    );
    Ok(())
}

fn out_of_memory(kubectl: &Kubectl) -> Result<()> {
    let main = with(
        shell("main", "exec dd if=/dev/zero of=/dev/null bs=200M"),
        json!({ "resources": { "limits": { "memory": "32Mi" } } }),
    );
    kubectl.create(&pod("hungry", json!({ "restartPolicy": "Never", "containers": [main] })))?;
    kubectl.wait_field("pod", "hungry", ".status.phase", "Failed")?;
    let state = ".status.containerStatuses[0].state.terminated";
    let reason = kubectl.field("pod", "hungry", &format!("{state}.reason"))?;
    let code = kubectl.field("pod", "hungry", &format!("{state}.exitCode"))?;
    ensure!(reason == "OOMKilled" && code == "137", "{reason}, exit code {code}");
    Ok(())
}
