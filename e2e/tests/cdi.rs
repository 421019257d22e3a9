//! Devices of CDI in containers.

use std::fs;

use anyhow::{Context, Result};
use cri_api::v1::{CdiDevice, ContainerConfig};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::oci_runtime;
use tonic::Code;

async fn node() -> Result<(Node, Cri, tempfile::TempDir)> {
    host::require_root()?;
    let place = tempfile::tempdir()?;
    let (etc, run) = (place.path().join("etc"), place.path().join("run"));
    fs::create_dir_all(&etc)?;
    fs::create_dir_all(&run)?;
    let mut more = format!("[pods]\ncdi_dirs = [{etc:?}, {run:?}]\n");
    if let Some(crun) = oci_runtime("crun") {
        more += &format!("[runtimes.crun]\npath = \"{}\"\n", crun.display());
    }
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri, place))
}

fn zero(host: &str) -> String {
    format!(
        "cdiVersion: 0.7.0\nkind: e2e.test/zero\ndevices:\n- name: one\n  containerEdits:\n    \
         env: [DEVICE=one]\n    additionalGids: [4242]\n    deviceNodes:\n    - {{path: /dev/e2e, \
         hostPath: /dev/zero}}\ncontainerEdits:\n  mounts:\n  - hostPath: {host}\n    \
         containerPath: /driver\n    options: [ro, bind]\n"
    )
}

fn asking(field: &[&str], annotation: &str) -> ContainerConfig {
    let mut config = container("asking", DEMO, &["sleep", "1000"]);
    config.cdi_devices = field.iter().map(|&name| CdiDevice { name: name.to_owned() }).collect();
    if !annotation.is_empty() {
        config.annotations.insert("cdi.k8s.io/test".to_owned(), annotation.to_owned());
    }
    config
}

async fn has_device(cri: &mut Cri, pod: &Pod, config: &ContainerConfig) -> Result<()> {
    let id = cri.launch(pod, config).await?;
    for (command, expected) in [
        ("echo $DEVICE", "one\n"),
        ("cat /driver/version", "5\n"),
        ("head -c 3 /dev/e2e | wc -c", "3\n"),
        ("id -G", "0 4242\n"),
        ("touch /driver/x 2>/dev/null || echo no", "no\n"),
    ] {
        let said = cri.exec(&id, &["sh", "-c", command]).await?;
        let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert_eq!(said, expected, "{command}");
    }
    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_devices_come_by_field_and_by_annotation() -> Result<()> {
    let (node, mut cri, place) = node().await?;
    fs::write(place.path().join("version"), "5\n")?;
    fs::write(place.path().join("run/zero.yaml"), zero(&place.path().to_string_lossy()))?;
    let mut handlers = vec![""];
    handlers.extend(oci_runtime("crun").map(|_| "crun"));
    for handler in handlers {
        let pod = cri.run_pod(node.pod(&format!("pod-{handler}")), handler).await?;
        let name = "e2e.test/zero=one";
        for config in [asking(&[name], ""), asking(&[], name), asking(&[name, name], name)] {
            has_device(&mut cri, &pod, &config).await.with_context(|| handler.to_owned())?;
        }
    }
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_devices_that_are_not_there_are_refused_by_name() -> Result<()> {
    let (node, mut cri, place) = node().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let before = node.holdings()?;
    let etc = place.path().join("etc").to_string_lossy().into_owned();
    for (names, words) in [
        (vec!["e2e.test/zero=one"], vec!["e2e.test/zero=one", etc.as_str()]),
        (vec!["zero"], vec!["\"zero\"", "VENDOR/CLASS=DEVICE"]),
    ] {
        let status = refusal(cri.create(&pod, &asking(&names, "")).await)?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        for word in words {
            assert!(status.message().contains(word), "{status:?}");
        }
        node.expect_no_more_than(&before).await?;
    }
    // A plugin may come later than its pod.
    fs::write(place.path().join("version"), "5\n")?;
    fs::write(place.path().join("etc/zero.yaml"), zero(&place.path().to_string_lossy()))?;
    has_device(&mut cri, &pod, &asking(&["e2e.test/zero=one"], "")).await?;
    fs::write(place.path().join("etc/again.yaml"), zero("/tmp"))?;
    let status = refusal(cri.create(&pod, &asking(&["e2e.test/zero=one"], "")).await)?;
    assert!(status.message().contains("again.yaml"), "{status:?}");
    cri.remove_all().await?;
    Ok(())
}

/// A spec of one device that says `word`.
fn saying(word: &str) -> String {
    format!(
        "cdiVersion: 0.6.0\nkind: e2e.test/word\ndevices:\n- name: one\n  containerEdits:\n    \
         env: [WORD={word}]\n"
    )
}

/// Files are read for each container, so nothing that happens to them is seen late.
#[tokio::test(flavor = "multi_thread")]
async fn root_files_count_as_they_are_at_each_creation() -> Result<()> {
    let (node, mut cri, place) = node().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let (etc, run) = (place.path().join("etc"), place.path().join("run"));
    let config = asking(&["e2e.test/word=one"], "");
    let has = async |cri: &mut Cri, step: &str, wanted: Option<&str>| -> Result<()> {
        let created = cri.create(&pod, &config).await;
        let Some(word) = wanted else {
            let status = refusal(created).context(step.to_owned())?;
            assert_eq!(status.code(), Code::InvalidArgument, "{step}: {status:?}");
            return Ok(());
        };
        let id = created.with_context(|| step.to_owned())?;
        cri.start(&id).await?;
        let said = cri.exec(&id, &["sh", "-c", "echo $WORD"]).await?;
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{word}\n"), "{step}");
        cri.remove(&id).await?;
        Ok(())
    };
    has(&mut cri, "nothing", None).await?;
    fs::write(etc.join("word.yaml"), saying("added"))?;
    has(&mut cri, "added", Some("added")).await?;
    fs::write(etc.join("word.yaml"), saying("changed"))?;
    has(&mut cri, "changed", Some("changed")).await?;
    fs::write(etc.join("new.tmp"), saying("renamed"))?;
    has(&mut cri, "no spec yet", Some("changed")).await?;
    fs::rename(etc.join("new.tmp"), etc.join("word.yaml"))?;
    has(&mut cri, "renamed in", Some("renamed")).await?;
    fs::write(etc.join("word.yaml"), "{")?;
    has(&mut cri, "broken", None).await?;
    fs::write(etc.join("word.yaml"), saying("mended"))?;
    has(&mut cri, "mended", Some("mended")).await?;
    fs::remove_file(etc.join("word.yaml"))?;
    has(&mut cri, "removed", None).await?;
    // A directory that goes, and comes as another one.
    fs::remove_dir(&run)?;
    has(&mut cri, "no directory", None).await?;
    fs::create_dir(place.path().join("other"))?;
    fs::write(
        place.path().join("other/word.json"),
        r#"{"cdiVersion": "0.6.0", "kind": "e2e.test/word",
        "devices": [{"name": "one", "containerEdits": {"env": ["WORD=moved"]}}]}"#,
    )?;
    fs::rename(place.path().join("other"), &run)?;
    has(&mut cri, "a new directory", Some("moved")).await?;
    cri.remove_all().await?;
    Ok(())
}

/// What hangs or is broken beside a spec hides only itself.
#[tokio::test(flavor = "multi_thread")]
async fn root_what_is_no_spec_file_holds_nobody_up() -> Result<()> {
    let (node, mut cri, place) = node().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let etc = place.path().join("etc");
    rustix::fs::mkfifoat(rustix::fs::CWD, etc.join("pipe.json"), rustix::fs::Mode::RWXU)?;
    fs::write(etc.join("broken.json"), "{")?;
    let status = refusal(cri.create(&pod, &asking(&["e2e.test/word=one"], "")).await)?;
    for word in ["pipe.json is left out: it is no regular file", "broken.json is left out"] {
        assert!(status.message().contains(word), "{status:?}");
    }
    fs::write(place.path().join("run/word.yaml"), saying("here"))?;
    cri.launch(&pod, &asking(&["e2e.test/word=one"], "")).await?;
    cri.remove_all().await?;
    Ok(())
}

/// A spec whose only edits are hooks, each `NAME PATH [ARGUMENT]...`.
fn hooks(list: &[(&str, &str, &[&str])], timeout: u32) -> String {
    let mut text = "cdiVersion: 0.3.0\nkind: e2e.test/hooks\ndevices:\n- name: a\n  \
                    containerEdits:\n    hooks:\n"
        .to_owned();
    for (name, path, arguments) in list {
        let words: Vec<_> = std::iter::once(path).chain(*arguments).collect();
        text += &format!(
            "    - {{hookName: {name}, path: {path}, args: {words:?}, timeout: {timeout}, env: \
             [\"PATH=/usr/bin:/bin\"]}}\n"
        );
    }
    text
}

/// A program that notes its name and its state; with the container's root in the bundle it
/// leaves a file there.
const NOTE: &str = r#"#!/bin/sh
state=$(cat)
bundle=$(echo "$state" | sed 's/.*"bundle": *"\([^"]*\)".*/\1/')
status=$(echo "$state" | sed 's/.*"status": *"\([^"]*\)".*/\1/')
echo "$2 $status" >> "$1"
[ "$2" = createContainer ] && echo noted > "$bundle/rootfs/noted"
exit 0
"#;

fn write_program(path: &std::path::Path, text: &str) -> Result<String> {
    fs::write(path, text)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(path.to_string_lossy().into_owned())
}

async fn eventually(path: &std::path::Path, word: &str) -> Result<String> {
    let deadline = std::time::Instant::now() + e2e::client::CALL;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.contains(word) || std::time::Instant::now() > deadline {
            return Ok(text);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_hooks_run_at_their_points() -> Result<()> {
    let (node, mut cri, place) = node().await?;
    let program = write_program(&place.path().join("note"), NOTE)?;
    let notes = place.path().join("notes");
    let notes_path = notes.to_string_lossy().into_owned();
    let names = ["createRuntime", "createContainer", "poststart", "poststop"];
    let arguments: Vec<[&str; 2]> = names.iter().map(|name| [notes_path.as_str(), name]).collect();
    let mut list: Vec<(&str, &str, &[&str])> = Vec::new();
    for (name, arguments) in names.iter().zip(&arguments) {
        list.push((name, &program, arguments));
    }
    fs::write(place.path().join("run/hooks.yaml"), hooks(&list, 20))?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.create(&pod, &asking(&["e2e.test/hooks=a"], "")).await?;
    let so_far = fs::read_to_string(&notes)?;
    assert_eq!(so_far, "createRuntime creating\ncreateContainer creating\n");
    cri.start(&id).await?;
    let said = cri.exec(&id, &["cat", "/noted"]).await?;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "noted\n", "{said:?}");
    assert!(eventually(&notes, "poststart").await?.ends_with("poststart running\n"));
    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    assert!(eventually(&notes, "poststop").await?.ends_with("poststop stopped\n"));
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_hooks_that_fail_are_errors_of_their_step() -> Result<()> {
    let (node, mut cri, place) = node().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let before = node.holdings()?;
    let file = place.path().join("run/hooks.yaml");
    let shell = "/bin/sh";
    for (hook, script, word) in [
        ("createRuntime", "echo no driver >&2; exit 3", "ended with code 3: no driver"),
        ("createContainer", "kill -9 $$", "was killed by signal 9"),
        ("createRuntime", "sleep 1000", "took longer than 1 s"),
        ("startContainer", "exit 0", "a startContainer hook is asked for"),
    ] {
        fs::write(&file, hooks(&[(hook, shell, &["-c", script])], 1))?;
        let created = cri.create(&pod, &asking(&["e2e.test/hooks=a"], "")).await;
        let status = refusal(created).context(script)?;
        assert!(status.message().contains(word), "{script}: {status:?}");
        node.expect_no_more_than(&before).await?;
    }
    fs::write(&file, hooks(&[("createRuntime", "/no/such/hook", &[])], 1))?;
    let status = refusal(cri.create(&pod, &asking(&["e2e.test/hooks=a"], "")).await)?;
    assert!(status.message().contains("/no/such/hook"), "{status:?}");
    node.expect_no_more_than(&before).await?;
    cri.remove_all().await?;
    Ok(())
}
