//! critest against a daemon of its own, or against a runtime that runs already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use e2e::cni::Cni;
use e2e::fixtures::{self, PINNED_DIGEST, REGISTRIES};
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::process::{Owned, output};
use e2e::registry::Registry;
use e2e::verdict::{List, Verdict, judge, read_report, totals};

/// Upper bound of one run; critest needs one to three minutes.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Which network the pods get.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    /// The one built into orlop.
    Builtin,
    /// The distribution's CNI plugins.
    Cni,
}

/// Options of `rig critest`.
#[derive(Args)]
pub(crate) struct Options {
    /// The critest program.
    #[arg(long, hide = true)]
    critest: PathBuf,
    /// The ginkgo program, which runs it in parallel.
    #[arg(long, hide = true)]
    ginkgo: PathBuf,
    /// Where packages, programs and the last run's logs are kept.
    #[arg(long, hide = true)]
    cache: PathBuf,
    /// A directory that `rig images` has filled; else the images are made now.
    #[arg(long, hide = true)]
    images: Option<PathBuf>,
    /// Runtime handler of the pods.
    #[arg(long, default_value = "")]
    handler: String,
    /// Path of the handler's OCI runtime; crun's and runc's default to what is installed.
    #[arg(long)]
    runtime: Option<PathBuf>,
    /// Only specs whose name matches this regular expression; the lists are then not checked for leftovers.
    #[arg(long)]
    focus: Option<String>,
    /// Number of specs to run at once.
    #[arg(long, default_value_t = 4)]
    parallel: u8,
    /// Network of the pods.
    #[arg(long, value_enum, default_value = "builtin")]
    network: Network,
    /// Stream over WebSocket instead of SPDY.
    #[arg(long)]
    websocket: bool,
    /// Test the runtime that listens here instead of starting orlop; needs --hosts-dir.
    #[arg(long, requires = "hosts_dir")]
    socket: Option<PathBuf>,
    /// Write hosts.toml files here, where the runtime of --socket looks for them.
    #[arg(long)]
    hosts_dir: Option<PathBuf>,
    /// What listens at --socket is orlop: what it does not pass yet may fail.
    #[arg(long, requires = "socket")]
    orlop: bool,
    /// More arguments for critest.
    #[arg(last = true)]
    more: Vec<String>,
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    host::require_root()?;
    let logs = options.cache.join("critest");
    fs::create_dir_all(&logs)?;
    let temporary = tempfile::Builder::new().prefix("orlop-critest-").tempdir()?;
    let began = Instant::now();
    let registry = match &options.images {
        Some(filled) => Registry::start(filled)?,
        None => filled(&temporary.path().join("registry"), &options.cache)?,
    };
    let hosts = options.hosts_dir.clone().unwrap_or_else(|| temporary.path().join("hosts"));
    registry.write_hosts(&hosts, &REGISTRIES)?;
    println!("registry on {} filled in {:.1} s", registry.address(), began.elapsed().as_secs_f64());

    let cni = match options.network {
        Network::Cni => {
            Some(Cni::write(temporary.path(), u8::try_from(std::process::id() % 250)?)?)
        }
        Network::Builtin => None,
    };
    let mut node = None;
    let socket = match &options.socket {
        Some(socket) => socket.clone(),
        None => {
            let settings = settings(&options, hosts, cni.as_ref())?;
            let mut started = Node::at(&temporary.path().join("orlop-critest"), settings)?;
            started.begin().await?;
            node.insert(started).socket()
        }
    };
    let segments = host::shared_memory()?;
    let ran = critest(&options, &socket, &logs).await;
    for segment in host::shared_memory()?.difference(&segments) {
        // One spec makes a segment on the host and leaves it.
        let _gone_already = output("ipcrm", &["-m", segment]);
    }
    if let Some(mut node) = node {
        fs::copy(node.log(), logs.join("daemon.log"))?;
        let _ended_already = node.stop();
    }
    ran?;
    report(&options, &logs)
}

fn filled(directory: &Path, cache: &Path) -> Result<Registry> {
    let mut registry = Registry::start(directory)?;
    fixtures::push_critest_images(&mut registry, cache)?;
    Ok(registry)
}

/// Options of `rig images`.
#[derive(Args)]
pub(crate) struct Images {
    /// Where packages and programs are kept.
    #[arg(long, hide = true)]
    cache: PathBuf,
    /// The directory of a registry for `rig critest --images`, on this machine or another.
    into: PathBuf,
}

pub(crate) fn images(options: &Images) -> Result<ExitCode> {
    filled(&options.into, &options.cache)?;
    Ok(ExitCode::SUCCESS)
}

fn settings(options: &Options, hosts: PathBuf, cni: Option<&Cni>) -> Result<Settings> {
    let mut more = String::new();
    if !options.handler.is_empty() {
        let found =
            options.runtime.clone().or_else(|| e2e::programs::oci_runtime(&options.handler));
        let path =
            found.with_context(|| format!("no program for the handler {}", options.handler))?;
        more = format!("[runtimes.{}]\npath = \"{}\"\n", options.handler, path.display());
    }
    Ok(Settings {
        hosts_dir: Some(hosts),
        conf_dir: cni.map(|cni| cni.conf_dir.clone()),
        more,
        ..Settings::default()
    })
}

async fn critest(options: &Options, socket: &Path, logs: &Path) -> Result<()> {
    let endpoint = format!("unix://{}", socket.display());
    let report = logs.join("report.json");
    let log = logs.join("critest.log");
    for old in [&report, &log] {
        if old.exists() {
            fs::remove_file(old)?;
        }
    }
    let mut command = Command::new(&options.ginkgo);
    command.args(["--randomize-all", "--no-color", "--skip=benchmark", "--timeout=20m"]);
    command.arg(format!("--nodes={}", options.parallel)).arg("--json-report=report.json");
    command.arg(format!("--output-dir={}", logs.display()));
    if let Some(focus) = &options.focus {
        command.arg(format!("--focus={focus}"));
    }
    command.arg(&options.critest).arg("--");
    command.arg(format!("-runtime-endpoint={endpoint}")).arg(format!("-image-endpoint={endpoint}"));
    if !options.handler.is_empty() {
        command.arg(format!("-runtime-handler={}", options.handler));
    }
    if options.websocket {
        command.args(["-websocket-exec", "-websocket-attach", "-websocket-portforward"]);
    }
    command.args(&options.more);
    println!("critest runs, {} at once; its log: {}", options.parallel, log.display());
    let mut process = Owned::start(command, &log)?;
    let began = Instant::now();
    while process.ended()?.is_none() {
        if began.elapsed() > PATIENCE {
            bail!("critest still runs after {PATIENCE:?}");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    }
    println!("critest ended after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// What this machine, or the version of the runtime handler, cannot do.
fn skips(options: &Options, lists: &Path) -> Result<List> {
    let mut text = fs::read_to_string(lists.join("skip.txt"))?;
    let of_handler = lists.join(format!("skip-{}.txt", options.handler));
    if of_handler.exists() {
        text.push_str(&fs::read_to_string(of_handler)?);
    }
    List::read(&text).context("the lists of specs to skip")
}

fn report(options: &Options, logs: &Path) -> Result<ExitCode> {
    let path = logs.join("report.json");
    let json = fs::read_to_string(&path).with_context(|| {
        format!("critest left no report: see {}", logs.join("critest.log").display())
    })?;
    let specs = read_report(&json)?;
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("critest");
    let list = |name: &str| -> Result<List> {
        List::read(&fs::read_to_string(lists.join(name))?).with_context(|| name.to_owned())
    };
    let foreign = options.socket.is_some() && !options.orlop;
    let not_yet = if foreign { List::default() } else { list("not-yet.txt")? };
    let verdict = judge(&specs, &not_yet, &skips(options, &lists)?, |line| println!("{line}"));
    println!("critest was built with its test image's digest replaced by {}", PINNED_DIGEST.trim());
    println!("{}", totals(&specs));
    Ok(if verdict == Verdict::AsExpected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
