//! What containers' programs write, and how they are stopped.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cri_api::v1::{ContainerConfig, ContainerState, ExecSyncRequest, Signal};
use e2e::client::{CALL, Cri, container};
use e2e::fixtures::{self, DEMO};
use e2e::host;
use e2e::image::Image;
use e2e::node::{Node, Settings};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

/// The largest message that a kubelet takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The longest line of a log, by default.
const LINE_BYTES_MAX: usize = 16 << 10;

async fn node_with_demo(settings: Settings) -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(settings).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_command_may_write_more_than_an_answer_holds() -> Result<()> {
    let (node, mut cri) = node_with_demo(Settings::default()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &container("c", DEMO, &["sleep", "1000"])).await?;
    // As the kubelet does.
    let mut runtime = cri.runtime.clone().max_decoding_message_size(MESSAGE_BYTES_MAX);
    let write = "dd if=/dev/zero bs=1048576 count=24 status=none";
    for (script, stdout, stderr) in [
        (write.to_owned(), true, false),
        (format!("({write}) >&2"), false, true),
        (format!("({write}) & ({write}) >&2; wait"), true, true),
    ] {
        let script = format!("{script}; touch /tmp/done; exit 3");
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", &script].map(str::to_owned).to_vec(),
            timeout: 0,
        };
        let said = runtime.exec_sync(request).await?.into_inner();
        // It went on to its end, although nobody took what it wrote.
        assert_eq!(said.exit_code, 3);
        assert_eq!(cri.exec(&id, &["rm", "/tmp/done"]).await?.exit_code, 0);
        let length = said.stdout.len() + said.stderr.len();
        assert!((15 << 20..MESSAGE_BYTES_MAX).contains(&length), "{length} bytes");
        // Of two streams one may have taken all the room.
        assert!(stdout || said.stdout.is_empty());
        assert!(stderr || said.stderr.is_empty());
    }
    Ok(())
}

/// A line of a log, without its time.
fn entry(line: &str) -> Result<(&str, &str, &str)> {
    let mut words = line.splitn(4, ' ').skip(1);
    let mut word = || words.next().with_context(|| format!("not a line of a log: {line:.80}"));
    Ok((word()?, word()?, word()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn root_long_lines_and_last_words_are_marked_as_partial() -> Result<()> {
    let (node, mut cri) = node_with_demo(Settings::default()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    // Two and a half lines in one, on either stream; then a whole one, and one without end.
    let long = LINE_BYTES_MAX * 5 / 2;
    let script = format!(
        "head -c {long} /dev/zero | tr '\\0' a; echo; \
         head -c {long} /dev/zero | tr '\\0' b >&2; echo >&2; \
         echo whole; printf last"
    );
    let config = container("c", DEMO, &["sh", "-c", &script]);
    let id = cri.launch(&pod, &config).await?;
    cri.wait_exited(&id).await?;
    let log = fs::read_to_string(pod.log_path(&config))?;
    let entries: Vec<_> = log.lines().map(entry).collect::<Result<_>>()?;
    for (stream, letter) in [("stdout", "a"), ("stderr", "b")] {
        let pieces: Vec<_> = entries
            .iter()
            .filter(|(of, _, content)| *of == stream && content.starts_with(letter))
            .map(|(_, tag, content)| (*tag, content.len()))
            .collect();
        let half = LINE_BYTES_MAX / 2;
        assert_eq!(pieces, [("P", LINE_BYTES_MAX), ("P", LINE_BYTES_MAX), ("F", half)], "{stream}");
    }
    let rest: Vec<_> = entries.iter().filter(|(.., content)| content.len() < 100).collect();
    assert_eq!(rest, [&("stdout", "F", "whole"), &("stdout", "P", "last")]);
    Ok(())
}

/// A program that says by its exit code which signal it got.
fn listener(name: &str, image: &str) -> ContainerConfig {
    let traps = [("TERM", 15), ("USR1", 10), ("QUIT", 3), ("RTMIN+3", 37)]
        .map(|(signal, code)| format!("trap 'exit {code}' {}", number(signal, code)))
        .join("; ");
    let script = format!("{traps}; touch /tmp/ready; while :; do sleep 0.1; done");
    container(name, image, &["sh", "-c", &script])
}

/// busybox does not know real-time signals by name.
fn number(name: &str, code: i32) -> String {
    if name.starts_with("RT") { code.to_string() } else { name.to_owned() }
}

async fn until_ready(cri: &mut Cri, id: &str) -> Result<()> {
    let deadline = Instant::now() + CALL;
    while cri.exec(id, &["test", "-e", "/tmp/ready"]).await?.exit_code != 0 {
        anyhow::ensure!(Instant::now() < deadline, "the program does not begin");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_stop_signal_is_the_requests_else_the_images() -> Result<()> {
    let (node, mut cri) = node_with_demo(Settings::default()).await?;
    let quits = "registry.invalid/demo/quits:1";
    let busybox = fixtures::busybox()?;
    let settings = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"], "StopSignal": "SIGQUIT" });
    let archive = node.directory().join("quits.tar");
    Image::new(busybox.layers.clone(), &settings)?.write_archive(&archive, quits)?;
    node.orlop(&["image", "import", &archive.to_string_lossy()])?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    for (name, image, requested, effective, code) in [
        ("neither", DEMO, Signal::RuntimeDefault, Signal::Sigterm, 15),
        ("image", quits, Signal::RuntimeDefault, Signal::Sigquit, 3),
        ("request", DEMO, Signal::Sigusr1, Signal::Sigusr1, 10),
        ("both", quits, Signal::Sigusr1, Signal::Sigusr1, 10),
        ("real time", DEMO, Signal::Sigrtminplus3, Signal::Sigrtminplus3, 37),
    ] {
        let mut config = listener(name, image);
        config.stop_signal = requested.into();
        let id = cri.launch(&pod, &config).await.context(name)?;
        until_ready(&mut cri, &id).await?;
        assert_eq!(cri.status(&id).await?.stop_signal(), effective, "{name}");
        cri.stop(&id, 50).await?;
        let status = cri.status(&id).await?;
        assert_eq!(
            (status.state(), status.exit_code),
            (ContainerState::ContainerExited, code),
            "{name}"
        );
    }
    Ok(())
}

/// A shell has what it starts in the background ignore SIGINT and SIGQUIT.
#[tokio::test(flavor = "multi_thread")]
async fn root_what_the_daemon_ignores_containers_do_not() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let mut node = Node::at(directory.path(), Settings::default())?;
    let command = node.command()?;
    let mut ignoring = Command::new("env");
    ignoring.arg("--ignore-signal=INT,QUIT,TSTP,USR2");
    ignoring.arg(command.get_program()).args(command.get_args());
    ignoring.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    node.begin_as(ignoring).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &container("main", DEMO, &["sleep", "1000"])).await?;
    for process in ["$(pidof sleep)", "self"] {
        let script =
            format!("exec sed -n 's/^SigIgn:.*\\(.\\{{8\\}}\\)$/\\1/p' /proc/{process}/status");
        let said = cri.exec(&id, &["sh", "-c", &script]).await?;
        // Of the first 31 signals: the next two are the C library's own.
        let ignored = u32::from_str_radix(String::from_utf8_lossy(&said.stdout).trim(), 16)?;
        assert_eq!(ignored & !(1 << 31), 0, "{process}: {ignored:x}");
    }
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_second_stop_with_less_patience_shortens_the_first() -> Result<()> {
    let (node, mut cri) = node_with_demo(Settings::default()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let script = "trap '' TERM; touch /tmp/ready; while :; do sleep 0.1; done";
    let id = cri.launch(&pod, &container("deaf", DEMO, &["sh", "-c", script])).await?;
    until_ready(&mut cri, &id).await?;
    let (mut patient, stopped) = (cri.clone(), id.clone());
    // Longer than a call may take here: only the second stop can end it.
    let first = tokio::spawn(async move { patient.stop(&stopped, 3600).await });
    sleep(Duration::from_millis(100)).await;
    cri.stop(&id, 1).await?;
    assert_eq!(cri.status(&id).await?.exit_code, 137);
    first.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pinned_images_are_told_as_pinned() -> Result<()> {
    let more = "[images]\npinned = [\"registry.invalid/demo/*\"]\n".to_owned();
    let (_node, mut cri) = node_with_demo(Settings { more, ..Settings::default() }).await?;
    assert!(cri.image(DEMO).await?.context("the image is here")?.pinned);
    let (_node, mut cri) = node_with_demo(Settings::default()).await?;
    assert!(!cri.image(DEMO).await?.context("the image is here")?.pinned);
    Ok(())
}
