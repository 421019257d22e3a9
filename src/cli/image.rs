//! `orlop image`: images of a running daemon, and their way in and out.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::admin::{
    Client, End, ImageDetails, Level, ListedImage, RegistryAuth, Repair, Start, Transferred,
    VerifiedObject, credentials,
};

use super::connection::Daemon;
use super::progress::Choice;
use super::streams::{Output, open};
use super::table::{columns, short, size};
use super::{Failure, print};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch images from their registries.
    Pull {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        progress: Choice,
        /// os/architecture[/variant] [default: this machine's]
        #[arg(long, value_name = "PLATFORM", default_value = "", hide_default_value = true)]
        platform: String,
        /// References
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Send an image to a registry.
    Push {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        progress: Choice,
        /// A reference or an id
        image: String,
        /// What it is called there [default: IMAGE]
        destination: Option<String>,
    },
    /// Take over the images of an archive: OCI layout or docker save.
    Import {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        progress: Choice,
        /// The archive, a tar, plain or compressed; - for standard input
        #[arg(value_name = "FILE")]
        archive: PathBuf,
    },
    /// Write an image to an archive.
    Export {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        progress: Choice,
        /// What the archive looks like
        #[arg(long, value_enum, default_value = "oci")]
        format: Format,
        /// A reference or an id
        image: String,
        /// The archive; - for standard output
        #[arg(value_name = "FILE")]
        archive: PathBuf,
    },
    /// Give an image another tag.
    Tag {
        #[command(flatten)]
        daemon: Daemon,
        /// A reference or an id
        image: String,
        /// The new reference
        name: String,
    },
    /// Copy an image from registry to registry, all its platforms, without storing it.
    Mirror {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        keys: TwoKeys,
        #[command(flatten)]
        progress: Choice,
        /// os/architecture[/variant], if only one is wanted
        #[arg(long, value_name = "PLATFORM", default_value = "", hide_default_value = true)]
        platform: String,
        /// Where it is
        from: String,
        /// Where it is to be
        to: String,
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
    /// Print all about an image, as JSON.
    Inspect {
        #[command(flatten)]
        daemon: Daemon,
        /// A reference or an id
        image: String,
    },
    /// Prove what is on disk of images: every blob, every file of every layer.
    Verify {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        keys: Keys,
        /// Fetch damaged layers again, they and nothing else, and verify once more
        #[arg(long)]
        repair: bool,
        /// References or ids
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
}

/// What an archive looks like.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// An OCI image layout
    Oci,
    /// What docker save writes
    Docker,
}

/// What is shown to a registry.
#[derive(Debug, clap::Args)]
pub(super) struct Keys {
    #[command(flatten)]
    file: KeyFile,
    /// Credentials for the registry
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
}

/// What is shown to two registries.
#[derive(Debug, clap::Args)]
pub(super) struct TwoKeys {
    #[command(flatten)]
    file: KeyFile,
    /// Credentials for the registry that the image is in
    #[arg(long, value_name = "USER:PASSWORD")]
    src_creds: Option<String>,
    /// Credentials for the registry that it goes to
    #[arg(long, value_name = "USER:PASSWORD")]
    dest_creds: Option<String>,
}

/// Where credentials are kept.
#[derive(Debug, clap::Args)]
struct KeyFile {
    /// Credentials as docker keeps them [default: $REGISTRY_AUTH_FILE,
    /// $DOCKER_CONFIG/config.json, ~/.docker/config.json]
    #[arg(long = "authfile", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl Keys {
    /// The repair of an image. One that is named by its id has no registry to show anything to.
    fn repair_of(&self, image: &str) -> Result<Repair, Failure> {
        let is_id = image.starts_with("sha256:");
        Ok(Repair(if is_id { None } else { self.for_registry_of(image)? }))
    }

    /// What is shown to the registry of `reference`.
    pub(super) fn for_registry_of(&self, reference: &str) -> Result<Option<RegistryAuth>, Failure> {
        Ok(credentials(reference, self.creds.as_deref(), self.file.path.as_deref())?)
    }
}

impl KeyFile {
    fn start(&self, reference: &str, given: Option<&str>) -> Result<Start, Failure> {
        let auth = credentials(reference, given, self.path.as_deref())?;
        Ok(Start::Registry { reference: reference.to_owned(), auth })
    }

    fn end(&self, reference: &str, given: Option<&str>) -> Result<End, Failure> {
        let auth = credentials(reference, given, self.path.as_deref())?;
        Ok(End::Registry { reference: reference.to_owned(), auth })
    }
}

/// Asks the daemon and prints what it says.
pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Pull { daemon, keys, progress, platform, images } => {
            let client = daemon.connect().await?;
            for image in images {
                let from = keys.file.start(&image, keys.creds.as_deref())?;
                let pulled = transfer(&client, &progress, from, End::Store, &platform).await?;
                print_images(&pulled)?;
            }
            Ok(())
        }
        Command::Push { daemon, keys, progress, image, destination } => {
            let name = destination.as_deref().unwrap_or(&image);
            let to = keys.file.end(name, keys.creds.as_deref())?;
            let client = daemon.connect().await?;
            let pushed = transfer(&client, &progress, Start::Image(image.clone()), to, "").await?;
            warn_of(&pushed);
            print(&format!("{name} {}\n", pushed.digest))
        }
        Command::Import { daemon, progress, archive } => {
            let from = Start::Archive(open(&archive)?);
            let client = daemon.connect().await?;
            print_images(&transfer(&client, &progress, from, End::Store, "").await?)
        }
        Command::Export { daemon, progress, format, image, archive } => {
            let to = match format {
                Format::Oci => End::OciArchive,
                Format::Docker => End::DockerArchive,
            };
            let client = daemon.connect().await?;
            export(&client, &progress, Start::Image(image), to, &archive).await
        }
        Command::Tag { daemon, image, name } => {
            let client = daemon.connect().await?;
            let mut nothing = io::sink();
            client
                .transfer(Start::Image(image), End::Name(name), "", &mut nothing, &mut |_| {})
                .await?;
            Ok(())
        }
        Command::Mirror { daemon, keys, progress, platform, from, to } => {
            let start = keys.file.start(&from, keys.src_creds.as_deref())?;
            let end = keys.file.end(&to, keys.dest_creds.as_deref())?;
            let client = daemon.connect().await?;
            let mirrored = transfer(&client, &progress, start, end, &platform).await?;
            print(&format!("{to} {}\n", mirrored.digest))
        }
        Command::Ls { daemon } => print(&table(&daemon.connect().await?.images().await?)),
        Command::Rm { daemon, images } => {
            let client = daemon.connect().await?;
            for image in images {
                client.remove_image(&image).await?;
            }
            Ok(())
        }
        Command::Inspect { daemon, image } => {
            let details = daemon.connect().await?.inspect(&image).await?;
            print(&format!("{:#}\n", described(&details)))
        }
        Command::Verify { daemon, keys, repair, images } => {
            let client = daemon.connect().await?;
            let mut damaged = 0;
            for image in images {
                let repair = repair.then(|| keys.repair_of(&image)).transpose()?;
                let objects = client.verify(&image, repair).await?;
                damaged += objects.iter().filter(|it| it.level == Level::Damaged).count();
                print(&verdicts(&image, &objects))?;
            }
            if damaged > 0 { Err(Failure::Damaged { objects: damaged }) } else { Ok(()) }
        }
    }
}

/// Runs a transfer whose destination is not a stream.
pub(super) async fn transfer(
    client: &Client,
    progress: &Choice,
    from: Start,
    to: End,
    platform: &str,
) -> Result<Transferred, Failure> {
    let mut display = progress.begin();
    let mut show = |shown| display.show(shown);
    Ok(client.transfer(from, to, platform, &mut io::sink(), &mut show).await?)
}

/// Runs a transfer into a file.
pub(super) async fn export(
    client: &Client,
    progress: &Choice,
    from: Start,
    to: End,
    path: &Path,
) -> Result<(), Failure> {
    let mut output = Output::create(path)?;
    let exported = {
        let mut display = progress.begin();
        let mut show = |shown| display.show(shown);
        client.transfer(from, to, "", &mut output, &mut show).await?
    };
    output.finish()?;
    warn_of(&exported);
    Ok(())
}

fn print_images(transferred: &Transferred) -> Result<(), Failure> {
    for (id, references) in &transferred.images {
        if references.is_empty() {
            print(&format!("{id}\n"))?;
        }
        for reference in references {
            print(&format!("{reference} {id}\n"))?;
        }
    }
    Ok(())
}

/// Says that the digest is another one than the image had.
fn warn_of(transferred: &Transferred) {
    for (was, is) in &transferred.recompressed {
        eprintln!("orlop: the blob of layer {was} was dropped; in its place goes {is}");
    }
    if !transferred.recompressed.is_empty() {
        eprintln!(
            "orlop: so the manifest's digest is a new one; with `keep_blobs = true` in [images] \
             images that are pulled keep theirs"
        );
    }
}

fn verdicts(image: &str, objects: &[VerifiedObject]) -> String {
    let mut text = format!("{image}\n");
    for object in objects {
        let word = match object.level {
            Level::Intact => "intact",
            Level::Damaged => "DAMAGED",
            Level::Unproven => "unproven",
        };
        text += &format!("  {word}  {}\n", object.digest);
        for (path, what) in &object.faults {
            let path = if path.is_empty() { String::new() } else { format!("/{path} ") };
            text += &format!("    {path}{what}\n");
        }
    }
    text
}

fn described(details: &ImageDetails) -> serde_json::Value {
    let config: serde_json::Value = serde_json::from_slice(&details.config).unwrap_or_default();
    json!({
        "id": details.id,
        "references": details.references,
        "manifest": details.manifest,
        "layers": details.layers,
        "blobs": details.blobs,
        "sizeBytes": details.size_bytes,
        "pinned": details.pinned,
        "config": config,
    })
}

/// One line for each reference, under a heading.
fn table(images: &[ListedImage]) -> String {
    let mut rows = Vec::new();
    for image in images {
        let (id, size) = (short(&image.id), size(image.size_bytes));
        let names = image.references.iter().map(String::as_str);
        let names: Vec<_> = if image.references.is_empty() { vec!["-"] } else { names.collect() };
        rows.extend(names.into_iter().map(|name| [name.to_owned(), id.clone(), size.clone()]));
    }
    columns(["IMAGE", "ID", "SIZE"], &rows)
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
    fn a_verdict_names_the_file() {
        let object = |digest: &str, level, faults: &[(&str, &str)]| VerifiedObject {
            digest: digest.to_owned(),
            level,
            faults: faults.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        };
        let objects = [
            object("sha256:1", Level::Intact, &[]),
            object("sha256:2", Level::Damaged, &[("etc/passwd", "has another content")]),
            object("sha256:3", Level::Unproven, &[("", "it was unpacked before")]),
        ];
        assert_eq!(
            verdicts("demo", &objects),
            "demo\n  intact  sha256:1\n  DAMAGED  sha256:2\n    /etc/passwd has another content\n  \
             unproven  sha256:3\n    it was unpacked before\n"
        );
    }
}
