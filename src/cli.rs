//! The command line: `orlop daemon`, and what people do beside it.
//!
//! Flags exist only for what must be known before the configuration is read, and for
//! running several daemons on one machine; everything else is a key of the file.

mod config;
mod connection;
mod content;
mod daemon;
mod image;
mod install;
mod layer;
mod progress;
mod registry;
mod snapshot;
mod streams;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{DEFAULT_PATH, Invalid, Named, Overrides, Settings, load};

/// The first argument of a per-pod process.
pub const SHIM: &str = "shim";

/// A Kubernetes container runtime.
#[derive(Debug, Parser)]
#[command(name = "orlop", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve CRI until SIGTERM; pods go on without it.
    Daemon(daemon::Arguments),
    /// Pull, push, import, export, tag, list, verify and remove images of a running daemon.
    #[command(subcommand)]
    Image(image::Command),
    /// Unpack a layer into a snapshot, or write a snapshot as a layer.
    #[command(subcommand)]
    Layer(layer::Command),
    /// List, read and remove blobs of a running daemon; say why one is there.
    #[command(subcommand)]
    Content(content::Command),
    /// List and remove snapshots of a running daemon; say what they take of the disk.
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Say which hosts are asked for an image, how, and what they answer.
    #[command(subcommand)]
    Registry(registry::Command),
    /// Print or check the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Install this program on a node with systemd, and start it; an upgrade if it is there.
    Install(install::Arguments),
    /// Say what `orlop install` has installed, and fail unless it answers.
    Installed(install::Node),
    /// Remove what `orlop install` has installed, but for images; refused while there are pods.
    Uninstall(install::Removal),
    /// The process of one pod; started by the daemon only.
    #[command(hide = true)]
    Shim,
    /// Print the version.
    Version,
}

/// Which file to read.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration [default: /etc/orlop/config.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self, overrides: &Overrides) -> Result<Settings, Invalid> {
        match &self.config {
            Some(file) => load(file, Named::Explicitly, overrides),
            None => load(DEFAULT_PATH.as_ref(), Named::ByDefault, overrides),
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing was touched.
    #[error(transparent)]
    Configuration(#[from] Invalid),
    /// The daemon did not start, or ended otherwise than asked.
    #[error(transparent)]
    Daemon(#[from] crate::daemon::RunError),
    /// The daemon cannot be asked, or says no.
    #[error(transparent)]
    Client(#[from] crate::admin::ClientError),
    /// A node is not as it should be.
    #[error(transparent)]
    Install(#[from] crate::install::InstallError),
    /// Signals cannot be watched for.
    #[error("cannot watch for signals")]
    WatchSignals {
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The archive cannot be opened.
    #[error("cannot open {}", path.display())]
    OpenArchive {
        /// The archive.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// What comes cannot be written.
    #[error("cannot write {}", path.display())]
    WriteArchive {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// There are no credentials to show to a registry.
    #[error(transparent)]
    Keyring(#[from] crate::admin::KeyringError),
    /// What is on disk of an image is not what was put there.
    #[error("{objects} damaged")]
    Damaged {
        /// Blobs and layers.
        objects: usize,
    },
    /// Nobody gives an image.
    #[error("no host gives {reference}")]
    NoHost {
        /// The image.
        reference: String,
    },
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
    /// No threads.
    #[error("cannot start the threads that talk to the daemon")]
    StartThreads {
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Print {
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    /// The exit code: 64 (`EX_USAGE`) when the configuration is at fault, else 1.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Configuration(_)
            | Self::Install(crate::install::InstallError::Configuration(_)) => 64,
            Self::Daemon(_)
            | Self::Client(_)
            | Self::Install(_)
            | Self::WatchSignals { .. }
            | Self::OpenArchive { .. }
            | Self::WriteArchive { .. }
            | Self::Keyring(_)
            | Self::Damaged { .. }
            | Self::NoHost { .. }
            | Self::Interrupted
            | Self::StartThreads { .. }
            | Self::Print { .. } => 1,
        }
    }
}

/// Does what the command line says.
///
/// # Errors
/// [`Failure`], to be printed with its causes.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Daemon(arguments) => daemon::run(arguments),
        Command::Image(command) => connection::run(image::run(command)),
        Command::Layer(command) => connection::run(layer::run(command)),
        Command::Content(command) => connection::run(content::run(command)),
        Command::Registry(command) => connection::run(registry::run(command)),
        Command::Snapshot(command) => connection::run(snapshot::run(command)),
        Command::Config(command) => config::run(&command),
        Command::Install(arguments) => install::run(arguments),
        Command::Installed(node) => install::check(&node),
        Command::Uninstall(arguments) => install::remove(&arguments),
        // `main` never asks for it here.
        Command::Shim => Ok(()),
        Command::Version => print(&format!("orlop {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// Becomes the shim of one pod; see `sandbox::shim`.
#[must_use]
pub fn shim() -> ExitCode {
    sandbox::shim::main()
}

fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| Failure::Print { source })
}
