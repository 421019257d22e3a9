//! The composition root: build the components, recover, serve, drain.
//!
//! ```text
//! configuration is valid, we are root, nobody else has our directories or our socket
//!   -> components are built      nothing on the host changes but our own directories
//!   -> pods are recovered        no RPC is answered before this is complete
//!   -> the socket is bound       READY=1
//!   -> SIGTERM or SIGINT         STOPPING=1; no new connection, RPCs in flight are awaited
//!   -> exit                      pods go on without us
//! ```

mod components;
mod directories;
mod limits;
mod log;
mod predecessor;
mod requests;
mod serve;
mod settled;
mod socket;
mod supervisor;
mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use components::BuildError;
pub use directories::ClaimError;
pub use log::{LogConfig, LogFormat, StartLogError};
pub use serve::ServeError;
pub use settled::SettledError;
pub use socket::ListenError;

use crate::{images, network, pods, snapshots, streaming, transfer};

/// Threads that serve; more do not help, since nothing on them blocks.
const THREADS_MAX: usize = 4;

/// What the daemon is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of what must outlive a reboot.
    pub root: PathBuf,
    /// Directory of what need not.
    pub state: PathBuf,
    /// The socket that serves CRI.
    pub listen: PathBuf,
    /// The daemon's own log.
    pub log: LogConfig,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where images come from.
    pub transfer: transfer::Config,
    /// What is kept of images.
    pub images: images::Config,
    /// How containers get their root file systems.
    pub snapshots: snapshots::Config,
    /// Pod networks.
    pub network: network::Config,
    /// Pods.
    pub pods: pods::Config,
    /// Exec, attach and port-forward.
    pub streaming: streaming::Config,
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Namespaces, mounts and cgroups need root.
    #[error("the daemon must run as root (user id is {uid})")]
    NotRoot {
        /// Who we are.
        uid: u32,
    },
    /// The log cannot be written.
    #[error(transparent)]
    Log(#[from] StartLogError),
    /// The state directory is another daemon's, or cannot be made.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The socket is another daemon's, or cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No threads.
    #[error("cannot start the threads that serve")]
    StartThreads {
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A component does not start.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Serving ended otherwise than by a signal.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`] with what to do about it; nothing is left but directories.
pub fn run(config: Config) -> Result<(), RunError> {
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(RunError::NotRoot { uid: user.as_raw() });
    }
    log::start(config.log)?;
    predecessor::outlast(
        || socket::clear(&config.listen),
        |error| matches!(error, ListenError::InUse { .. }),
    )?;
    let _claimed = predecessor::outlast(
        || directories::claim(&config.state),
        |error| matches!(error, ClaimError::Taken { .. }),
    )?;
    limits::raise_open_files();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(THREADS_MAX))
        .thread_name("orlop")
        .enable_all()
        .build()
        .map_err(|source| RunError::StartThreads { source })?;
    let ended = threads.block_on(async {
        let components = components::build(&config).await?;
        Ok(serve::serve(&config, components).await?)
    });
    // What still blocks is a system call on somebody's dead volume; nobody waits for it.
    threads.shutdown_background();
    ended
}
