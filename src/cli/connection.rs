//! Asking a running daemon: which one, until when.
//!
//! A signal ends the asking, and with it what the daemon does for us.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::admin::Client;
use crate::config::Overrides;

use super::{ConfigFile, Failure};

/// Which daemon is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Daemon {
    #[command(flatten)]
    file: ConfigFile,
    /// The daemon's socket [default: `listen` of the configuration]
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
}

impl Daemon {
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let socket = match &self.address {
            Some(socket) => socket.clone(),
            None => self.file.load(&Overrides::default())?.socket(),
        };
        Ok(Client::connect(&socket).await?)
    }
}

/// Does `work` until it is done or a signal comes.
pub(super) fn run(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::StartThreads { source })?;
    let outcome = runtime.block_on(async {
        let watch = |kind| signal(kind).map_err(|source| Failure::StartThreads { source });
        let mut interrupt = watch(SignalKind::interrupt())?;
        let mut terminate = watch(SignalKind::terminate())?;
        tokio::select! {
            outcome = work => outcome,
            _ = interrupt.recv() => Err(Failure::Interrupted),
            _ = terminate.recv() => Err(Failure::Interrupted),
        }
    });
    // Standard input may never end; nobody waits for it.
    runtime.shutdown_background();
    outcome
}
