//! What a daemon holds on the host, told apart from what belongs to others.
//!
//! Everything of a node carries its directory or its mark: mounts and files by path,
//! cgroups by the parent that its pods ask for, processes by a variable in their
//! environment, by their command line, by where they write their errors (a shim has a
//! clean environment and outlives its daemon), or as descendants of such a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::output;

/// How long who was killed may take to leave its cgroup.
const DYING: Duration = Duration::from_secs(2);

/// Fails unless the caller is root.
///
/// # Errors
/// If it is not.
pub fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("must run as root: it makes namespaces, mounts and cgroups");
    }
    Ok(())
}

/// What one node holds; two of these are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Mount points below its directory, pinned network namespaces among them.
    pub mounts: BTreeSet<String>,
    /// Network links attached to its bridge.
    pub links: BTreeSet<String>,
    /// Cgroups below its parent, in every hierarchy.
    pub cgroups: BTreeSet<PathBuf>,
    /// Its processes but the daemon: id and command line.
    pub processes: BTreeMap<i32, String>,
    /// Files and directories below its state directory.
    pub files: BTreeSet<PathBuf>,
}

impl Holdings {
    /// What is here and was not there in `before`, in words; empty if nothing.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.mounts.difference(&before.mounts).map(|mount| format!("mount {mount}")));
        found.extend(
            self.links.difference(&before.links).map(|link| format!("network link {link}")),
        );
        found.extend(
            self.cgroups
                .difference(&before.cgroups)
                .map(|path| format!("cgroup {}", path.display())),
        );
        found.extend(
            self.files.difference(&before.files).map(|path| format!("file {}", path.display())),
        );
        let new = self.processes.iter().filter(|(id, _)| !before.processes.contains_key(id));
        found.extend(new.map(|(id, line)| format!("process {id}: {line}")));
        found
    }
}

/// Mount points below `directory` in this mount namespace.
///
/// # Errors
/// If mountinfo cannot be read.
pub fn mounts_below(directory: &Path) -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect())
}

/// Every path below `directory`, itself excluded; none if it does not exist.
///
/// # Errors
/// If a directory cannot be listed.
pub fn paths_below(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(folder) = queue.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
        };
        for entry in entries {
            let Ok(entry) = entry else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                queue.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    Ok(found)
}

/// A tmpfs that is unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts one of this size (`6m`) on a directory, which is made if need be.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn mount(path: &'a Path, size: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let options = std::ffi::CString::new(format!("size={size}"))?;
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        Ok(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _gone_already = unmount(self.0, UnmountFlags::DETACH);
    }
}

/// The places where cgroup hierarchies are mounted.
///
/// # Errors
/// If the mount table cannot be read.
pub fn cgroup_roots() -> Result<BTreeSet<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts").context("read mounts")?;
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(fields
        .filter(|fields| matches!(fields.get(2), Some(&"cgroup" | &"cgroup2")))
        .filter_map(|fields| fields.get(1).map(PathBuf::from))
        .collect())
}

/// Cgroup directories below `parent` (without leading slash) in every hierarchy.
///
/// # Errors
/// If a hierarchy cannot be listed.
pub fn cgroups_below(parent: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for root in cgroup_roots()? {
        let below = paths_below(&root.join(parent))?;
        found.extend(below.into_iter().filter(|path| path.is_dir()));
    }
    Ok(found)
}

/// Makes `name` in every hierarchy.
///
/// # Errors
/// If a hierarchy refuses it.
pub fn make_cgroup(name: &str) -> Result<()> {
    for root in cgroup_roots()? {
        let path = root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

/// Removes `parent` and what is below it from every hierarchy, deepest first.
///
/// Cgroups stay whose processes do not end.
///
/// # Errors
/// If a hierarchy cannot be listed.
pub fn remove_cgroups(parent: &str) -> Result<()> {
    for root in cgroup_roots()? {
        let top = root.join(parent);
        let below = paths_below(&top)?;
        for path in below.iter().rev().filter(|path| path.is_dir()).chain([&top]) {
            let deadline = Instant::now() + DYING;
            while fs::remove_dir(path).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
                && Instant::now() < deadline
            {
                sleep(Duration::from_millis(5));
            }
        }
    }
    Ok(())
}

/// Names of the host's network links that are attached to `bridge`.
///
/// # Errors
/// If links cannot be listed.
pub fn links_of(bridge: &str) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir("/sys/class/net").context("list network links")?;
    let attached = entries.flatten().filter(|entry| {
        fs::read_link(entry.path().join("master")).is_ok_and(|master| master.ends_with(bridge))
    });
    Ok(attached.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The nftables tables called `name`, each as `table FAMILY NAME`.
///
/// # Errors
/// If `nft` cannot list them.
pub fn tables_named(name: &str) -> Result<BTreeSet<String>> {
    let tables = output("nft", &["list", "tables"])?;
    Ok(tables
        .lines()
        .filter(|line| line.ends_with(&format!(" {name}")))
        .map(str::to_owned)
        .collect())
}

/// Processes that carry one of `marks` in environment, command line or the name of the
/// file that they write errors to, with all their descendants.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn processes_marked(marks: &[&str]) -> Result<BTreeMap<i32, String>> {
    let mut parents = BTreeMap::new();
    let mut marked = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The second field is the name in parentheses and may hold blanks.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if let Some(parent) =
            after_name.split(' ').nth(1).and_then(|field| field.parse::<i32>().ok())
        {
            parents.insert(id, parent);
        }
        let carries = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            marks.iter().any(|mark| text.contains(mark))
        };
        let writes_below = || {
            fs::read_link(entry.path().join("fd/2"))
                .is_ok_and(|file| marks.iter().any(|mark| file.to_string_lossy().contains(mark)))
        };
        let own = u32::try_from(id) == Ok(std::process::id());
        if !own && (carries("environ") || carries("cmdline") || writes_below()) {
            marked.insert(id);
        }
    }
    let mut found = BTreeMap::new();
    for &id in parents.keys() {
        let mut line =
            std::iter::successors(Some(id), |id| parents.get(id).copied()).take(parents.len());
        if line.any(|ancestor| marked.contains(&ancestor)) {
            found.insert(id, command_line(id));
        }
    }
    Ok(found)
}

fn command_line(id: i32) -> String {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    if line.is_empty() {
        // A zombie or a kernel thread has a name and a state at least.
        return fs::read_to_string(format!("/proc/{id}/stat"))
            .unwrap_or_default()
            .chars()
            .take(40)
            .collect();
    }
    line.trim_end().to_owned()
}

/// Kills processes by their ids; those that are gone already are no error.
pub fn kill_all(processes: &BTreeMap<i32, String>) {
    for pid in processes.keys().copied().filter_map(Pid::from_raw) {
        let _gone_already = kill_process(pid, Signal::KILL);
    }
}

/// Number of open descriptors of a process.
///
/// # Errors
/// If the process is gone.
pub fn descriptors(id: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{id}/fd"))
        .with_context(|| format!("list descriptors of {id}"))?
        .count())
}

/// Ids of the System V shared memory segments of this IPC namespace.
///
/// # Errors
/// If they cannot be listed.
pub fn shared_memory() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/sysvipc/shm").context("list shared memory")?;
    Ok(table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(str::to_owned)
        .collect())
}
