//! `orlop install`, `orlop installed`, `orlop uninstall`: orlop on a node, which may be another
//! root directory than ours.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::install::{self, Request};

use super::{Failure, print};

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// The root directory of the machine
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Which node, and how long.
#[derive(Debug, clap::Args)]
pub(super) struct Removal {
    #[command(flatten)]
    node: Node,
    /// Stay until SIGTERM when all is done
    #[arg(long)]
    stay: bool,
}

/// What is installed, and where.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    node: Node,
    /// A file that becomes a drop-in of the configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A directory with HOST/hosts.toml for each registry
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// Stay until SIGTERM when all is done
    #[arg(long)]
    stay: bool,
}

/// Installs this program.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { node: Node { root }, config, hosts_dir, stay } = arguments;
    let program = PathBuf::from("/proc/self/exe");
    let request = Request { root, program, config, hosts_dir };
    let done = install::lay(&request)?;
    print_lines(&done)?;
    if done.is_empty() {
        print("all files are in place\n")?;
    }
    block_on(async {
        print_lines(&install::start(&request.root).await?)?;
        if stay { terminated().await } else { Ok(()) }
    })
}

/// Says what is installed.
pub(super) fn check(node: &Node) -> Result<(), Failure> {
    block_on(async { print(&format!("{}\n", install::installed(&node.root).await?)) })
}

/// Removes what `run` has installed.
pub(super) fn remove(arguments: &Removal) -> Result<(), Failure> {
    block_on(async {
        print_lines(&install::remove(&arguments.node.root).await?)?;
        if arguments.stay { terminated().await } else { Ok(()) }
    })
}

/// Waits to be ended; as process 1 of a pod nobody else takes these signals.
async fn terminated() -> Result<(), Failure> {
    let watch = |kind| signal(kind).map_err(|source| Failure::WatchSignals { source });
    let (mut terminate, mut interrupt) =
        (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn block_on(what: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::StartThreads { source })?
        .block_on(what)
}

fn print_lines(lines: &[String]) -> Result<(), Failure> {
    lines.iter().try_for_each(|line| print(&format!("{line}\n")))
}
