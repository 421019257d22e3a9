//! Every command of crictl that people type, against the binary.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::crictl::Crictl;
use e2e::fixtures::{self, DEMO, OWN_REGISTRY};
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::registry::Registry;
use serde_json::{Value, json};

fn write(directory: &Path, name: &str, value: &Value) -> Result<String> {
    let path = directory.join(name);
    fs::write(&path, serde_json::to_vec(value)?)?;
    Ok(path.to_string_lossy().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pod_lives_and_dies_by_crictl() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let crictl = Crictl::new(&node)?;
    let before = node.holdings()?;

    assert!(crictl.run("version")?.contains("RuntimeName:  orlop"));
    let info = crictl.json("info")?;
    let conditions =
        info.pointer("/status/conditions").and_then(Value::as_array).context("no conditions")?;
    let ready = conditions.iter().filter(|one| one.pointer("/status") == Some(&json!(true)));
    assert!(ready.count() >= 2, "{conditions:?}");

    node.import_demo()?;
    let pod_file = write(
        node.directory(),
        "pod.json",
        &json!({
            "metadata": { "name": "pod", "namespace": "e2e", "uid": "u", "attempt": 0 },
            "hostname": "pod", "log_directory": node.directory().join("logs/pod"),
            "labels": { "app": "demo" },
            "linux": { "cgroup_parent": format!("/{}", node.cgroup_parent()) },
        }),
    )?;
    let script = "echo to stdout; echo to stderr >&2; exec sleep 1000";
    let container_file = write(
        node.directory(),
        "container.json",
        &json!({
            "metadata": { "name": "c", "attempt": 0 }, "image": { "image": DEMO },
            "command": ["sh", "-c", script], "log_path": "c.log", "linux": {},
        }),
    )?;
    let pod = crictl.run(&format!("runp {pod_file}"))?;
    assert_eq!(pod.len(), 64);
    let short = pod.get(..13).context("a short id")?;
    assert_eq!(crictl.run("pods -q")?, pod);
    assert_eq!(crictl.run(&format!("pods -q --id {short}"))?, pod);
    assert_eq!(crictl.run("pods -q --label app=other")?, "");
    let status = crictl.json(&format!("inspectp {short}"))?;
    assert_eq!(status.pointer("/status/state"), Some(&json!("SANDBOX_READY")));
    assert!(
        status
            .pointer("/status/network/ip")
            .and_then(Value::as_str)
            .is_some_and(|ip| !ip.is_empty())
    );

    let id = crictl.run(&format!("create {short} {container_file} {pod_file}"))?;
    let short_id = id.get(..13).context("a short id")?;
    assert_eq!(crictl.run("ps -q --state created")?, id);
    crictl.run(&format!("start {short_id}"))?;
    assert_eq!(crictl.run("ps -q")?, id);
    assert_eq!(crictl.run(&format!("ps -q --pod {short}"))?, id);
    let status = crictl.json(&format!("inspect {short_id}"))?;
    assert_eq!(status.pointer("/status/state"), Some(&json!("CONTAINER_RUNNING")));
    assert!(status.pointer("/info/pid").and_then(Value::as_u64).is_some_and(|pid| pid > 1));
    assert_eq!(crictl.run(&format!("exec -s {short_id} hostname"))?, "pod");
    assert!(crictl.run(&format!("logs {short_id}"))?.contains("to stdout"));

    crictl.run(&format!("stop --timeout 0 {short_id}"))?;
    assert_eq!(crictl.run("ps -q")?, "");
    assert_eq!(crictl.run("ps -a -q --state exited")?, id);
    let status = crictl.json(&format!("inspect {short_id}"))?;
    assert_eq!(status.pointer("/status/exitCode"), Some(&json!(137)));
    crictl.run(&format!("rm {short_id}"))?;
    crictl.run(&format!("stopp {short}"))?;
    assert_eq!(crictl.run("pods -q --state notready")?, pod);
    crictl.run(&format!("rmp {short}"))?;
    assert_eq!(crictl.run("pods -q")?, "");
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_images_come_and_go_by_crictl() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    let image = fixtures::busybox()?;
    registry.push("library/busybox", &["1", "2"], &image)?;
    let hosts = directory.path().join("hosts");
    registry.write_hosts(&hosts, &[OWN_REGISTRY])?;
    let node = Node::start(Settings { hosts_dir: Some(hosts), ..Settings::default() }).await?;
    let crictl = Crictl::new(&node)?;

    assert_eq!(crictl.run("images -q")?, "");
    let name = format!("{OWN_REGISTRY}/library/busybox");
    assert!(crictl.run(&format!("pull {name}:1"))?.contains(&image.id()));
    crictl.run(&format!("pull {name}:2"))?;
    assert_eq!(crictl.run("images -q")?, image.id());
    assert_eq!(crictl.run(&format!("images -q {name}:2"))?, image.id());
    assert_eq!(crictl.run(&format!("images -q {OWN_REGISTRY}/other"))?, "");
    let status = crictl.json(&format!("inspecti {name}:1"))?;
    assert_eq!(
        status.pointer("/status/repoTags"),
        Some(&json!([format!("{name}:1"), format!("{name}:2")]))
    );
    assert_eq!(
        status.pointer("/status/repoDigests"),
        Some(&json!([format!("{name}@{}", image.digest())]))
    );
    let usage = crictl.json("imagefsinfo")?;
    let bytes = usage.pointer("/status/imageFilesystems/0/usedBytes/value").and_then(Value::as_str);
    assert!(
        bytes.and_then(|text| text.parse::<u64>().ok()).is_some_and(|bytes| bytes > 500_000),
        "{usage}"
    );
    let short = image
        .id()
        .trim_start_matches("sha256:")
        .get(..12)
        .map(str::to_owned)
        .context("a short id")?;
    crictl.run(&format!("rmi {short}"))?;
    assert_eq!(crictl.run("images -q")?, "");
    Ok(())
}
