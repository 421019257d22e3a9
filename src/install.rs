//! orlop installs itself on a node: `orlop install`, which the Helm chart's pods run.
//!
//! ```text
//! /usr/local/bin/orlop                    this very program
//! /etc/systemd/system/orlop.service       the unit and the directories that it carries
//! /etc/tmpfiles.d/orlop.conf
//! /etc/orlop/config.toml.d/50-installed.toml
//! /etc/orlop/certs.d/HOST/hosts.toml
//! /etc/orlop/installed.json               which of these are ours
//! ```
//! All paths are below a root directory, that of a node mounted into a pod for instance; the
//! node's systemd and orlop are asked through their sockets there.
//!
//! Invariants: nothing is touched before everything that can be known to fail is checked. A
//! file is recorded before it is written, replaced as a whole, and a file that somebody else
//! wrote is never replaced. What was interrupted is completed by the next run: the record says
//! that a restart is due until it is done. Pods live on through all of it.

/// Replacing files so that nobody sees half of one.
mod files;
/// What a node must have.
mod node;
/// Which files are ours.
mod record;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use files::FileError;
pub use node::Unsupported;
pub use record::RecordError;

use crate::admin::{Client, ClientError};
use crate::config::{DEFAULT_PATH, Invalid, Settings, load_with};
use crate::systemd::{UnitError, Units, Verb};
use files::{Wanted, below};
use record::Record;

const UNIT: &str = "orlop.service";
const UNIT_TEXT: &str = include_str!("../contrib/systemd/orlop.service");
const TMPFILES_TEXT: &str = include_str!("../contrib/systemd/orlop.conf");

const PROGRAM_PATH: &str = "/usr/local/bin/orlop";
const UNIT_PATH: &str = "/etc/systemd/system/orlop.service";
const TMPFILES_PATH: &str = "/etc/tmpfiles.d/orlop.conf";
const DROP_IN: &str = "50-installed.toml";
const DROP_IN_PATH: &str = "/etc/orlop/config.toml.d/50-installed.toml";
const HOSTS_DIR: &str = "/etc/orlop/certs.d";
const BUS: &str = "/run/dbus/system_bus_socket";

/// How long a daemon that runs may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be installed, and where.
#[derive(Debug, Clone)]
pub struct Request {
    /// The node's root directory.
    pub root: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// A drop-in of the configuration.
    pub config: Option<PathBuf>,
    /// A directory with `HOST/hosts.toml` for each registry.
    pub hosts_dir: Option<PathBuf>,
}

/// Why a node is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// orlop cannot run there.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// orlop would not start with this configuration.
    #[error(transparent)]
    Configuration(#[from] Invalid),
    /// What is to be installed, or what is there, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The daemon would not look where we put them.
    #[error("`registry.hosts_dir` is {}: hosts.toml files in {HOSTS_DIR} would not be read", path.display())]
    HostsElsewhere {
        /// What the configuration says.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("{} is there, and not from `orlop install`: remove it first", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be replaced or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The record cannot be understood.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// systemd does not do its part.
    #[error(transparent)]
    Systemd(#[from] UnitError),
    /// The daemon does not answer.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// The daemon is there and says nothing.
    #[error("the daemon has not answered within {} s", PATIENCE.as_secs())]
    Silent,
    /// A former installation was not completed.
    #[error("an installation was begun and not completed: run `orlop install` again")]
    Unfinished,
    /// There is nothing that `orlop install` did.
    #[error("nothing is installed: there is no {}", path.display())]
    Absent {
        /// The record.
        path: PathBuf,
    },
    /// Containers run.
    #[error("{count} pods are still there: drain the node, then `crictl rmp --all --force`")]
    Pods {
        /// How many.
        count: usize,
    },
}

/// Puts the files into their places; returns what was done, a line for each change. The node's
/// orlop is as before until [`start`].
///
/// # Errors
/// [`InstallError`]; but for [`InstallError::File`] nothing was touched.
///
/// # Crash safety
/// Run again, it completes what it began.
pub fn lay(request: &Request) -> Result<Vec<String>, InstallError> {
    let root = &request.root;
    node::check(&node::Kernel::running()?, root)?;
    let settings = settings(root, request.config.as_deref())?;
    let wanted = wanted(request)?;
    let hosts = wanted.iter().any(|file| file.path.starts_with(HOSTS_DIR));
    if hosts && settings.registry.hosts_dir != Path::new(HOSTS_DIR) {
        return Err(InstallError::HostsElsewhere { path: settings.registry.hosts_dir });
    }
    // What we have not installed is not known to run, even where its files are the same.
    let record =
        Record::read(root)?.unwrap_or(Record { files: BTreeSet::new(), restart_due: true });
    let now = wanted.iter().map(|file| file.path.clone()).collect();
    let mut changed = Vec::new();
    for file in wanted {
        if file.is_in_place(root)? {
            continue;
        }
        let path = below(root, &file.path);
        if !record.files.contains(&file.path) && path.symlink_metadata().is_ok() {
            return Err(InstallError::Foreign { path });
        }
        changed.push(file);
    }
    replace(root, &record, now, &changed)
}

/// Replaces what is `changed` and removes what is recorded and not among those of `now`.
fn replace(
    root: &Path,
    record: &Record,
    now: BTreeSet<PathBuf>,
    changed: &[Wanted],
) -> Result<Vec<String>, InstallError> {
    let stale: Vec<_> = record.files.difference(&now).collect();
    // hosts.toml files are read anew for each pull.
    let of_daemon = |path: &Path| !path.starts_with(HOSTS_DIR);
    let due = changed.iter().any(|file| of_daemon(&file.path))
        || stale.iter().any(|path| of_daemon(path));
    let restart_due = record.restart_due || due;
    let both = record.files.union(&now).cloned().collect();
    Record { files: both, restart_due }.write(root)?;
    let mut said = Vec::new();
    for file in changed {
        file.put(root)?;
        said.push(format!("wrote {}", file.path.display()));
    }
    for path in stale {
        files::remove(root, path)?;
        said.push(format!("removed {}", path.display()));
    }
    Record { files: now, restart_due }.write(root)?;
    Ok(said)
}

/// Has the node's systemd run what [`lay`] has put there, if it does not yet, and waits for
/// the daemon; returns what was done.
///
/// # Errors
/// [`InstallError`].
pub async fn start(root: &Path) -> Result<Vec<String>, InstallError> {
    let record = recorded(root)?;
    let units = Units::connect(&below(root, Path::new(BUS))).await?;
    let mut said = Vec::new();
    if record.restart_due {
        units.enable(UNIT).await?;
        units.run(Verb::Restart, UNIT).await?;
        Record { restart_due: false, ..record }.write(root)?;
        said.push(format!("restarted {UNIT}; pods live on"));
    } else {
        units.run(Verb::Start, UNIT).await?;
    }
    said.push(installed(root).await?);
    Ok(said)
}

/// Says which orlop answers on the node.
///
/// # Errors
/// [`InstallError`] when an installation is absent or not complete, or its daemon silent.
pub async fn installed(root: &Path) -> Result<String, InstallError> {
    if recorded(root)?.restart_due {
        return Err(InstallError::Unfinished);
    }
    let configured = load_with_installed(root)?.socket();
    let socket = below(root, &configured);
    let asking = async { Client::connect(&socket).await?.version().await };
    let version =
        tokio::time::timeout(PATIENCE, asking).await.map_err(|_elapsed| InstallError::Silent)??;
    Ok(format!("orlop {version} answers on {}", configured.display()))
}

/// Stops the daemon and removes what [`lay`] has put there, if anything; returns what was done.
/// Images and snapshots stay.
///
/// # Errors
/// [`InstallError`]; while there are pods nothing is touched.
///
/// # Crash safety
/// Run again, it completes what it began.
pub async fn remove(root: &Path) -> Result<Vec<String>, InstallError> {
    let Some(record) = Record::read(root)? else {
        return Ok(vec!["nothing is installed".to_owned()]);
    };
    let settings = load_with_installed(root)?;
    let count = pods(&below(root, &settings.state.join("pods")))?;
    if count > 0 {
        return Err(InstallError::Pods { count });
    }
    let units = Units::connect(&below(root, Path::new(BUS))).await?;
    let mut said = Vec::new();
    // If this is interrupted, an installation has to start all over.
    let record = Record { restart_due: true, ..record };
    record.write(root)?;
    // The file goes only after the unit has been stopped; systemd knows no unit without one.
    if below(root, Path::new(UNIT_PATH)).exists() {
        units.run(Verb::Stop, UNIT).await?;
        units.disable(UNIT).await?;
        said.push(format!("stopped {UNIT}"));
    }
    said.extend(remove_files(root, &record)?);
    units.reload(UNIT).await?;
    said.push(format!("left {} as it is", settings.root.display()));
    Ok(said)
}

/// How many pods have a directory there.
fn pods(directory: &Path) -> Result<usize, InstallError> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.count()),
        Err(absent) if absent.kind() == ErrorKind::NotFound => Ok(0),
        Err(source) => Err(InstallError::Read { path: directory.to_owned(), source }),
    }
}

fn remove_files(root: &Path, record: &Record) -> Result<Vec<String>, InstallError> {
    let mut said = Vec::new();
    for path in &record.files {
        files::remove(root, path)?;
        said.push(format!("removed {}", path.display()));
    }
    Record::remove(root)?;
    Ok(said)
}

fn recorded(root: &Path) -> Result<Record, InstallError> {
    Record::read(root)?.ok_or_else(|| InstallError::Absent { path: Record::path(root) })
}

/// What the node's configuration says with this drop-in of ours, or none.
fn settings(root: &Path, drop_in: Option<&Path>) -> Result<Settings, Invalid> {
    load_with(&below(root, Path::new(DEFAULT_PATH)), DROP_IN, drop_in)
}

/// What it says with the drop-in that is there.
fn load_with_installed(root: &Path) -> Result<Settings, Invalid> {
    let ours = below(root, Path::new(DROP_IN_PATH));
    settings(root, ours.exists().then_some(ours.as_path()))
}

/// All files, as they should be.
fn wanted(request: &Request) -> Result<Vec<Wanted>, InstallError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| InstallError::Read { path: path.to_owned(), source })
    };
    let mut all = vec![
        Wanted::new(PROGRAM_PATH, 0o755, read(&request.program)?),
        Wanted::new(UNIT_PATH, 0o644, UNIT_TEXT.into()),
        Wanted::new(TMPFILES_PATH, 0o644, TMPFILES_TEXT.into()),
    ];
    // Headers for registries may be secrets.
    if let Some(config) = &request.config {
        all.push(Wanted::new(DROP_IN_PATH, 0o600, read(config)?));
    }
    if let Some(hosts_dir) = &request.hosts_dir {
        for (host, file) in hosts(hosts_dir)? {
            let path = Path::new(HOSTS_DIR).join(host).join("hosts.toml");
            all.push(Wanted::new(path, 0o600, read(&file)?));
        }
    }
    Ok(all)
}

/// The directories in `hosts_dir` that have a `hosts.toml`, in order. A mounted `ConfigMap` has
/// some of its own, whose names begin with two dots.
fn hosts(hosts_dir: &Path) -> Result<Vec<(String, PathBuf)>, InstallError> {
    let refused = |source| InstallError::Read { path: hosts_dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(hosts_dir).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let file = entry.path().join("hosts.toml");
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && file.is_file() {
            found.push((name, file));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
