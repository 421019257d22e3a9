//! `orlop daemon`.

use std::path::PathBuf;

use crate::config::Overrides;

use super::{ConfigFile, Failure};

/// What must be known before, or instead of, the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Directory of images, snapshots and the database [default: /var/lib/orlop]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of what a reboot may take [default: /run/orlop]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket that serves CRI [default: STATE/orlop.sock]
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
}

/// Reads the configuration, puts the flags over it, and serves.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { file, root, state, listen } = arguments;
    let settings = file.load(&Overrides { root, state, listen })?;
    Ok(crate::daemon::run(settings.daemon())?)
}
