//! `orlop content ls|get|rm|why|gc`: the blobs of the store.

use std::path::PathBuf;

use clap::Subcommand;

use super::connection::Daemon;
use super::streams::Output;
use super::table::columns;
use super::{Failure, print};
use crate::admin::Blob;

/// What to do with blobs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List blobs.
    Ls {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Write the bytes of a blob.
    Get {
        #[command(flatten)]
        daemon: Daemon,
        /// The blob
        digest: String,
        /// Where to; - for standard output
        #[arg(value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
    /// Delete blobs that nothing needs: garbage, and layers that are kept though unpacked.
    Rm {
        #[command(flatten)]
        daemon: Daemon,
        /// The blobs
        #[arg(value_name = "DIGEST", required = true)]
        digests: Vec<String>,
    },
    /// Delete the blobs and layers that nothing refers to, as is done after every removal, and
    /// say what they were.
    Gc {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Say why a blob or a layer is there.
    Why {
        #[command(flatten)]
        daemon: Daemon,
        /// A blob's digest or a layer's diffID
        digest: String,
    },
}

/// Asks the daemon and prints what it says.
pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls { daemon } => {
            let blobs = daemon.connect().await?.content().await?;
            let row = |blob: Blob| {
                let numbers = [blob.bytes, blob.images, blob.leases].map(|it| it.to_string());
                let [bytes, images, leases] = numbers;
                [blob.digest, bytes, images, leases]
            };
            let rows: Vec<_> = blobs.into_iter().map(row).collect();
            print(&columns(["DIGEST", "BYTES", "IMAGES", "LEASES"], &rows))
        }
        Command::Get { daemon, digest, file } => {
            let client = daemon.connect().await?;
            let mut output = Output::create(&file)?;
            client.read_content(&digest, &mut output).await?;
            output.finish()
        }
        Command::Rm { daemon, digests } => {
            let client = daemon.connect().await?;
            for digest in digests {
                client.remove_content(&digest).await?;
            }
            Ok(())
        }
        Command::Gc { daemon } => {
            let collected = daemon.connect().await?.collect().await?;
            let row = |(kind, name, bytes): (String, String, u64)| [kind, name, bytes.to_string()];
            let rows: Vec<_> = collected.into_iter().map(row).collect();
            print(&columns(["KIND", "NAME", "BYTES"], &rows))
        }
        Command::Why { daemon, digest } => {
            let reasons = daemon.connect().await?.why(&digest).await?;
            if reasons.is_empty() {
                return print("nothing keeps it: the next collection takes it\n");
            }
            reasons.iter().try_for_each(|reason| print(&format!("{reason}\n")))
        }
    }
}
