//! `orlop image import|ls|rm`: images of a running daemon.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::admin::{Client, ListedImage};
use crate::config::Overrides;

use super::{ConfigFile, Failure, print};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take over the images of an archive: OCI layout or docker save.
    Import {
        #[command(flatten)]
        daemon: Daemon,
        /// The archive, a tar, plain or compressed; - for standard input
        #[arg(value_name = "FILE")]
        archive: PathBuf,
    },
    /// List images.
    Ls {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Remove images with all their references.
    Rm {
        #[command(flatten)]
        daemon: Daemon,
        /// References or ids
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
}

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
    async fn connect(&self) -> Result<Client, Failure> {
        let socket = match &self.address {
            Some(socket) => socket.clone(),
            None => self.file.load(&Overrides::default())?.socket(),
        };
        Ok(Client::connect(&socket).await?)
    }
}

/// Asks the daemon and prints what it says.
pub(super) fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::StartThreads { source })?;
    let outcome = runtime.block_on(ask(command));
    // Standard input may never end; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

async fn ask(command: Command) -> Result<(), Failure> {
    match command {
        Command::Import { daemon, archive } => import(&daemon, &archive).await,
        Command::Ls { daemon } => print(&table(&daemon.connect().await?.images().await?)),
        Command::Rm { daemon, images } => {
            let client = daemon.connect().await?;
            for image in images {
                client.remove_image(&image).await?;
            }
            Ok(())
        }
    }
}

async fn import(daemon: &Daemon, archive: &Path) -> Result<(), Failure> {
    let bytes: Box<dyn Read + Send> = if archive == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let path = archive.to_owned();
        Box::new(File::open(archive).map_err(|source| Failure::OpenArchive { path, source })?)
    };
    for image in daemon.connect().await?.import(bytes).await? {
        if image.references.is_empty() {
            print(&format!("{}\n", image.id))?;
        }
        for reference in &image.references {
            print(&format!("{reference} {}\n", image.id))?;
        }
    }
    Ok(())
}

/// One line for each reference, under a heading.
fn table(images: &[ListedImage]) -> String {
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        let (id, size) = (short(&image.id), size(image.size_bytes));
        let names = image.references.iter().map(String::as_str);
        let names: Vec<_> = if image.references.is_empty() { vec!["-"] } else { names.collect() };
        rows.extend(names.into_iter().map(|name| [name.to_owned(), id.clone(), size.clone()]));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (names, ids) = (width(0), width(1));
    rows.iter().map(|[name, id, size]| format!("{name:names$}  {id:ids$}  {size}\n")).collect()
}

/// As much of an id as people compare.
fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

/// A size with one decimal.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => {
            let tenths = bytes.saturating_mul(10) / factor;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_a_table() {
        let image = |references: &[&str]| ListedImage {
            id: format!("sha256:{}", "ab".repeat(32)),
            references: references.iter().map(|name| (*name).to_owned()).collect(),
            size_bytes: 1_600_000,
        };
        assert_eq!(
            table(&[image(&["localhost/demo:1", "x:2"]), image(&[])]),
            "IMAGE             ID            SIZE\n\
             localhost/demo:1  abababababab  1.5 MiB\n\
             x:2               abababababab  1.5 MiB\n\
             -                 abababababab  1.5 MiB\n"
        );
    }

    #[test]
    fn sizes_are_rounded_down() {
        let written = [0, 1023, 1024, 1 << 30].map(size);
        assert_eq!(written, ["0 B", "1023 B", "1.0 KiB", "1.0 GiB"]);
    }
}
