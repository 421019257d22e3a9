//! `orlop layer unpack|diff`: a layer's tar to a snapshot, and a snapshot to a layer's tar.

use std::path::PathBuf;

use clap::Subcommand;

use crate::admin::{End, Start};

use super::connection::Daemon;
use super::image::{export, transfer};
use super::progress::Choice;
use super::streams::open;
use super::{Failure, print};

/// What to do with layers.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Unpack a layer into a new writable snapshot, and print its diffID.
    Unpack {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        progress: Choice,
        /// The image that the snapshot stands on
        #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
        base: String,
        /// The layer, a tar, plain or compressed; - for standard input
        #[arg(value_name = "FILE")]
        layer: PathBuf,
        /// The snapshot's key
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
    },
    /// Write what a snapshot changes, or the tar that a layer was unpacked from.
    Diff {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        progress: Choice,
        /// A snapshot's key (a container's is its id), or a layer's diffID
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
        /// The tar; - for standard output
        #[arg(value_name = "FILE")]
        layer: PathBuf,
    },
}

/// Asks the daemon and prints what it says.
pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Unpack { daemon, progress, base, layer, snapshot } => {
            let from = Start::Layer(open(&layer)?);
            let to = End::Snapshot { key: snapshot, base };
            let client = daemon.connect().await?;
            let unpacked = transfer(&client, &progress, from, to, "").await?;
            print(&format!("{}\n", unpacked.digest))
        }
        Command::Diff { daemon, progress, snapshot, layer } => {
            let client = daemon.connect().await?;
            export(&client, &progress, Start::Snapshot(snapshot), End::Layer, &layer).await
        }
    }
}
