//! Registries of others on loopback, filled with our images.
//!
//! It speaks plain HTTP on a port that was free. A runtime is sent to it by
//! `hosts.toml` files, one directory per registry name, whose `server` is our
//! registry too, so that nothing is ever asked outside the machine.
//!
//! # References
//! - [OCI distribution-spec](https://github.com/opencontainers/distribution-spec/blob/main/spec.md)

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::paths_below;
use crate::http::send;
use crate::image::{Image, MANIFEST};
use crate::layer::digest;
use crate::process::{Owned, free_address};

/// How long the registry may take until it answers.
const START: Duration = Duration::from_secs(20);

/// Whose registry it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edition {
    /// The Linux distribution's package `docker-registry`, named by `ORLOP_REGISTRY` or on the
    /// path.
    #[default]
    Packaged,
    /// The newer one that `hack/tools` builds, named by `ORLOP_DISTRIBUTION`.
    Distribution,
}

/// The only user of a registry that has one.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "correct horse";
/// Both as `htpasswd` writes them.
const HTPASSWD: &str = "alice:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

/// Who may use a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// [`USER`] alone.
    Password,
}

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    directory: PathBuf,
    pushed: HashSet<(String, String)>,
    _process: Owned,
}

impl Edition {
    /// Finds the program.
    fn program(self) -> Result<PathBuf> {
        let (variable, default) = match self {
            Self::Packaged => ("ORLOP_REGISTRY", Some("docker-registry")),
            Self::Distribution => ("ORLOP_DISTRIBUTION", None),
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        named
            .or(default.map(PathBuf::from))
            .with_context(|| format!("{variable} does not name a registry: see hack/tools"))
    }
}

impl Registry {
    /// Starts a registry that stores below `directory`.
    ///
    /// # Errors
    /// If the program is missing or does not answer in time.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::start_as(directory, Edition::Packaged, Access::Open)
    }

    /// As [`Self::start`], for any program and with a password if need be.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(directory: &Path, edition: Edition, access: Access) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let users = directory.join("htpasswd");
        fs::write(&users, HTPASSWD)?;
        let auth = match access {
            Access::Open => String::new(),
            Access::Password => {
                format!("auth:\n  htpasswd: {{realm: e2e, path: {}}}\n", users.display())
            }
        };
        let address = free_address()?;
        let storage = directory.join("storage");
        let config = directory.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  accesslog: {{disabled: true}}\n  level: warn\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n{auth}",
                storage.display()
            ),
        )?;
        let mut command = Command::new(edition.program()?);
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let mut process = Owned::start(command, &directory.join("log"))?;
        let deadline = Instant::now() + START;
        while send(address, "GET", "/v2/", "text/plain", b"").is_err() {
            if let Some(status) = process.ended()? {
                bail!("the registry ended with {status}: see {}", directory.join("log").display());
            }
            if Instant::now() > deadline {
                bail!("the registry does not answer at {address}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(Self {
            address,
            directory: directory.to_owned(),
            pushed: HashSet::new(),
            _process: process,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it stores a blob; tests damage blobs there.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let folder = hex.get(..2).unwrap_or_default();
        self.directory
            .join("storage/docker/registry/v2/blobs/sha256")
            .join(folder)
            .join(hex)
            .join("data")
    }

    /// Has all that is stored in the page cache.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_ahead(&self) -> Result<()> {
        for path in paths_below(&self.directory.join("storage"))? {
            if path.is_file() {
                std::io::copy(&mut fs::File::open(path)?, &mut std::io::sink())?;
            }
        }
        Ok(())
    }

    /// Pushes an image under each of `tags`.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push(&mut self, repository: &str, tags: &[&str], image: &Image) -> Result<()> {
        let blobs: Vec<&[u8]> = image.blobs().collect();
        self.push_parts(repository, tags, &blobs, &image.manifest)
    }

    /// Pushes a manifest under each of `tags`, and the blobs that it names.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push_parts(
        &mut self,
        repository: &str,
        tags: &[&str],
        blobs: &[&[u8]],
        manifest: &[u8],
    ) -> Result<()> {
        for blob in blobs {
            self.push_blob(repository, blob)
                .with_context(|| format!("push a blob of {repository}"))?;
        }
        for tag in tags {
            let target = format!("/v2/{repository}/manifests/{tag}");
            let answer = send(self.address, "PUT", &target, MANIFEST, manifest)?;
            if answer.status != 201 {
                bail!("push {repository}:{tag}: status {}", answer.status);
            }
        }
        Ok(())
    }

    fn push_blob(&mut self, repository: &str, blob: &[u8]) -> Result<()> {
        let digest = digest(blob);
        if !self.pushed.insert((repository.to_owned(), digest.clone())) {
            return Ok(());
        }
        let target = format!("/v2/{repository}/blobs/uploads/");
        let answer = send(self.address, "POST", &target, "application/octet-stream", b"")?;
        let location = answer
            .header("location")
            .with_context(|| format!("status {}, no location", answer.status))?;
        let location =
            location.trim_start_matches("http://").trim_start_matches(&self.address.to_string());
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={digest}");
        let answer = send(self.address, "PUT", &target, "application/octet-stream", blob)?;
        if answer.status != 201 {
            bail!("{digest}: status {}", answer.status);
        }
        Ok(())
    }

    /// Writes `hosts.toml` files that send each of `names` to this registry.
    ///
    /// # Errors
    /// If `directory` cannot be written.
    pub fn write_hosts(&self, directory: &Path, names: &[&str]) -> Result<()> {
        for name in names {
            let folder = directory.join(name);
            fs::create_dir_all(&folder)?;
            let url = format!("http://{}", self.address);
            let text = format!(
                "server = \"{url}\"\n\n[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            );
            fs::write(folder.join("hosts.toml"), text)?;
        }
        Ok(())
    }
}
