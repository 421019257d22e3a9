//! A demo pod, from nothing to nothing: daemon, image, pod, container, log, removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// How long the demo container may take until its log has its last line.
const LOG: Duration = Duration::from_secs(20);

/// What the demo container does.
const SCRIPT: &str = r#"echo "hello from $(hostname), process $$"
echo "address: $(ip -4 -o addr show eth0 | awk '{print $4}')"
echo "kernel: $(uname -r)"
echo "that is all; sleeping"
exec sleep 86400"#;

/// Options of `rig demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// The crictl program.
    #[arg(long, hide = true)]
    crictl: PathBuf,
    /// Clean up and end as soon as the log is shown.
    #[arg(long)]
    once: bool,
    /// Pull this image instead of importing the machine's busybox; it must have a shell.
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// Directory of hosts.toml files for the pull.
    #[arg(long, value_name = "DIRECTORY")]
    hosts_dir: Option<PathBuf>,
}

/// crictl with the endpoint of one daemon.
struct Crictl<'a> {
    program: &'a Path,
    endpoint: String,
}

impl Crictl<'_> {
    /// Shows the command, runs it, and returns what it printed.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        println!("$ crictl {}", arguments.join(" "));
        let mut command = Command::new(self.program);
        command.args(["--config", "/dev/null", "--runtime-endpoint", &self.endpoint]);
        command.args(["--image-endpoint", &self.endpoint]).args(arguments);
        let output =
            command.output().with_context(|| format!("start {}", self.program.display()))?;
        if !output.status.success() {
            bail!(
                "crictl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("{}", self.run(arguments)?);
        Ok(())
    }
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    host::require_root()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let directory = tempfile::Builder::new().prefix("orlop-run-").tempdir()?;
    let settings = Settings { hosts_dir: options.hosts_dir.clone(), ..Settings::default() };
    let mut node = Node::at(directory.path(), settings)?;
    let untouched = node.holdings()?;
    node.begin().await?;
    println!(
        "orlop runs as process {} in {}",
        node.daemon().unwrap_or_default(),
        directory.path().display()
    );
    let idle = node.holdings()?;

    let crictl = Crictl {
        program: &options.crictl,
        endpoint: format!("unix://{}", node.socket().display()),
    };
    let shown = tokio::select! {
        shown = show_pod(&options, &node, &crictl) => shown,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    let (pod, container) =
        shown.with_context(|| format!("the daemon's log ends with:\n{}", node.end_of_log()))?;
    if !options.once {
        tell_how_to_go_on(&crictl, &pod, &container);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        println!();
    }
    clean_up(&mut node, &crictl).await?;
    let left_by_pods = node.expect_no_more_than(&idle).await;
    let status = node.stop()?;
    left_by_pods?;
    if !status.success() {
        bail!("the daemon ended with {status}:\n{}", node.end_of_log());
    }
    host::remove_cgroups(&node.cgroup_parent())?;
    let mut left = node.holdings()?.beyond(&untouched);
    left.retain(|thing| !thing.starts_with("file "));
    left.extend(node.network()?);
    if !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    println!("nothing is left: mounts, network, cgroups, processes and state files are as before");
    Ok(ExitCode::SUCCESS)
}

async fn show_pod(options: &Options, node: &Node, crictl: &Crictl<'_>) -> Result<(String, String)> {
    let image = match &options.image {
        Some(image) => {
            crictl.show(&["pull", image])?;
            image.clone()
        }
        None => {
            println!("importing an image made of this machine's busybox (no registry is asked)");
            node.import_demo()?;
            DEMO.to_owned()
        }
    };
    crictl.show(&["images"])?;
    let (pod_file, container_file) = write_configurations(node, &image)?;
    let pod = crictl.run(&["runp", &pod_file])?;
    println!("{pod}");
    let container = crictl.run(&["create", &pod, &container_file, &pod_file])?;
    println!("{container}");
    crictl.show(&["start", &container])?;
    let log = node.directory().join("logs/demo/demo.log");
    let deadline = Instant::now() + LOG;
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("that is all")) {
        if Instant::now() > deadline {
            bail!("the container's log is not complete after {LOG:?}");
        }
        sleep(Duration::from_millis(20)).await;
    }
    crictl.show(&["logs", &container])?;
    Ok((pod, container))
}

fn write_configurations(node: &Node, image: &str) -> Result<(String, String)> {
    let directory = node.directory();
    let pod = json!({
        "metadata": { "name": "demo", "namespace": "default", "uid": "demo", "attempt": 0 },
        "hostname": "demo",
        "log_directory": directory.join("logs/demo"),
        "linux": { "cgroup_parent": format!("/{}", node.cgroup_parent()) },
    });
    let container = json!({
        "metadata": { "name": "demo", "attempt": 0 },
        "image": { "image": image },
        "command": ["sh", "-c", SCRIPT],
        "log_path": "demo.log",
        "linux": {},
    });
    let write = |name: &str, value: &serde_json::Value| -> Result<String> {
        let path = directory.join(name);
        fs::write(&path, serde_json::to_vec_pretty(value)?)?;
        Ok(path.to_string_lossy().into_owned())
    };
    Ok((write("pod.json", &pod)?, write("container.json", &container)?))
}

fn tell_how_to_go_on(crictl: &Crictl<'_>, pod: &str, container: &str) {
    let short = |id: &str| id.get(..13).unwrap_or(id).to_owned();
    let (pod, container) = (short(pod), short(container));
    println!("\nThe pod stays up until Ctrl-C. In another shell:\n");
    println!("  export CONTAINER_RUNTIME_ENDPOINT={}", crictl.endpoint);
    println!("  alias crictl={}", crictl.program.display());
    for line in ["pods".to_owned(), "ps".to_owned(), "images".to_owned(), "info".to_owned()] {
        println!("  crictl {line}");
    }
    println!("  crictl inspectp {pod}");
    println!("  crictl inspect {container}");
    println!("  crictl logs {container}");
    println!("  crictl exec -s {container} ps");
    println!("  crictl stop {container}");
    println!("  crictl rm {container}");
}

async fn clean_up(node: &mut Node, crictl: &Crictl<'_>) -> Result<()> {
    let mut cri = node.connect().await?;
    for pod in cri.pods().await? {
        crictl.show(&["stopp", &pod.id])?;
        crictl.show(&["rmp", &pod.id])?;
    }
    Ok(())
}
