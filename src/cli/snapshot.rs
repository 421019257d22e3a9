//! `orlop snapshot ls|usage|rm`: unpacked layers and writable snapshots.

use clap::Subcommand;

use crate::admin::Snapshot;

use super::connection::Daemon;
use super::table::{columns, size};
use super::{Failure, print};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List layers and writable snapshots, and what each takes of the disk.
    Ls {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Sum up what layers and writable snapshots take of the disk.
    Usage {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Remove writable snapshots that no container has.
    Rm {
        #[command(flatten)]
        daemon: Daemon,
        /// Their keys
        #[arg(value_name = "SNAPSHOT", required = true)]
        snapshots: Vec<String>,
    },
}

/// Asks the daemon and prints what it says.
pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls { daemon } => {
            let snapshots = daemon.connect().await?.snapshots().await?;
            let rows: Vec<_> = snapshots
                .into_iter()
                .map(|it| [it.name, it.kind, size(it.bytes), it.inodes.to_string()])
                .collect();
            print(&columns(["SNAPSHOT", "KIND", "SIZE", "INODES"], &rows))
        }
        Command::Usage { daemon } => print(&sums(&daemon.connect().await?.snapshots().await?)),
        Command::Rm { daemon, snapshots } => {
            let client = daemon.connect().await?;
            for snapshot in snapshots {
                client.remove_snapshot(&snapshot).await?;
            }
            Ok(())
        }
    }
}

/// A line for each kind, and one for all.
fn sums(snapshots: &[Snapshot]) -> String {
    let sum = |word: &str, kind: Option<&str>| {
        let of = || snapshots.iter().filter(|it| kind.is_none_or(|kind| it.kind == kind));
        let bytes = of().map(|it| it.bytes).sum();
        let inodes: u64 = of().map(|it| it.inodes).sum();
        [word.to_owned(), of().count().to_string(), size(bytes), inodes.to_string()]
    };
    let rows = [sum("layers", Some("layer")), sum("active", Some("active")), sum("all", None)];
    columns(["KIND", "COUNT", "SIZE", "INODES"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_summed_up() {
        let one = |kind: &str, bytes| Snapshot {
            name: "x".to_owned(),
            kind: kind.to_owned(),
            bytes,
            inodes: 2,
        };
        assert_eq!(
            sums(&[one("layer", 1024), one("layer", 2048), one("active", 1)]),
            "KIND    COUNT  SIZE     INODES\n\
             layers  2      3.0 KiB  4\n\
             active  1      1 B      2\n\
             all     3      3.0 KiB  6\n"
        );
    }
}
