//! The facts about this node that specs depend on, and the devices it has.
//!
//! This is the only file of the module that looks at the machine; what it finds is handed
//! to the rules as [`Node`].
//!
//! # References
//! - [AppArmor's files](https://gitlab.com/apparmor/apparmor/-/wikis/AppArmorInterfaces)
//! - [hugetlbpage](https://docs.kernel.org/admin-guide/mm/hugetlbpage.html)

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use oci_spec::{
    OciSpecError,
    runtime::{Capability, PosixRlimit, PosixRlimitBuilder, PosixRlimitType},
};
use rustix::{fs as device, process};
use sandbox::{
    cgroup::{Hierarchies, Mode},
    oci::builtin::capabilities,
};

use super::{
    AppArmor, CgroupVersion, DeviceKind, HostDevice, Node, RecursiveReadOnly, SeLinux, SwapLimit,
};

/// The soft limit on open files that programs expect; those that need more raise it
/// themselves, and `select` breaks above it.
const OPEN_FILES: u64 = 1024;

/// What is in `/dev` but differs for each container: terminals and mounts of its own.
const NOT_DEVICES: [&str; 7] = ["pts", "ptmx", "shm", "fd", "mqueue", "console", ".udev"];

/// A fact that cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The bounding set.
    #[error("read the bounding set")]
    Capabilities(#[source] capabilities::CredentialError),
    /// The cgroup hierarchies.
    #[error("read the cgroup hierarchies")]
    Cgroups(#[source] sandbox::cgroup::DetectError),
    /// The limit on open files does not build.
    #[error("make the limit on open files")]
    OpenFiles(#[source] OciSpecError),
    /// The own out-of-memory score is no number.
    #[error("{text:?} in /proc/self/oom_score_adj is no number")]
    OomScore {
        /// What is there.
        text: String,
        /// Why it is none.
        #[source]
        source: std::num::ParseIntError,
    },
    /// A file or a directory.
    #[error("read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Node {
    /// Looks at this machine; blocks for a few file reads.
    ///
    /// # Errors
    /// [`DetectError`] for what every machine has and this one does not show. Optional
    /// parts that cannot be read count as absent.
    pub fn detect() -> Result<Self, DetectError> {
        let mut capabilities: Vec<Capability> =
            capabilities::bounding_set().map_err(DetectError::Capabilities)?.into_iter().collect();
        capabilities.sort_by_key(|capability| capabilities::number(*capability));
        let hierarchies = Hierarchies::detect().map_err(DetectError::Cgroups)?;
        let may_lower = capabilities.contains(&Capability::SysResource);
        Ok(Self {
            capabilities,
            cgroups: match hierarchies.mode() {
                Mode::V2 => CgroupVersion::V2,
                Mode::V1 | Mode::Hybrid => CgroupVersion::V1,
            },
            swap: match hierarchies.swap_accounting() {
                true => SwapLimit::Available,
                false => SwapLimit::Absent,
            },
            apparmor: apparmor(),
            selinux: selinux(),
            recursive_read_only: recursive_read_only(
                &rustix::system::uname().release().to_string_lossy(),
            ),
            hugepage_sizes: hugepage_sizes(),
            rlimits: vec![open_files()?],
            oom_score_adj_floor: match may_lower {
                true => None,
                false => Some(own_oom_score_adj()?),
            },
        })
    }
}

/// What the policy in force says of containers. One that knows nothing of them labels nothing
/// of them.
fn selinux() -> Option<SeLinux> {
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return None;
    }
    let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let policy = policy.unwrap_or("targeted").trim();
    let contexts = Path::new("/etc/selinux").join(policy).join("contexts/lxc_contexts");
    let found =
        fs::read_to_string(&contexts).ok().and_then(|text| SeLinux::parse(&text, is_selinux_label));
    if found.is_none() {
        let file = contexts.display();
        tracing::warn!(%file, "SELinux is on and its policy says nothing of containers");
    }
    found
}

fn is_selinux_label(label: &str) -> bool {
    fs::write("/sys/fs/selinux/context", label).is_ok()
}

/// The device at `path`, or every device below it when it is a directory. A symlink is
/// followed at the top only.
///
/// # Errors
/// `path`, or a directory below it, cannot be read.
pub fn host_devices(path: &Path) -> io::Result<Vec<HostDevice>> {
    let top = fs::metadata(path)?;
    if !top.is_dir() {
        return Ok(host_device(path, &top).into_iter().collect());
    }
    let mut found = Vec::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // A device that is unplugged meanwhile is no device.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if NOT_DEVICES.iter().any(|name| entry.file_name() == *name) {
                continue;
            } else if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                found.extend(host_device(&entry.path(), &metadata));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn host_device(path: &Path, metadata: &fs::Metadata) -> Option<HostDevice> {
    let kind = metadata.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => DeviceKind::Char,
        (_, true) => DeviceKind::Block,
        _ => return None,
    };
    Some(HostDevice {
        path: path.to_owned(),
        kind,
        major: device::major(metadata.rdev()),
        minor: device::minor(metadata.rdev()),
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn apparmor() -> AppArmor {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|enabled| enabled.starts_with('Y')) {
        return AppArmor::Off;
    }
    AppArmor::On
}

/// The names of the AppArmor profiles that are loaded now; none where they cannot be read.
pub fn loaded_profiles() -> Vec<String> {
    let profiles = fs::read_to_string("/sys/kernel/security/apparmor/profiles");
    profile_names(&profiles.unwrap_or_default())
}

/// `name (mode)` on each line; a name may have spaces.
fn profile_names(profiles: &str) -> Vec<String> {
    profiles
        .lines()
        .filter_map(|line| line.rsplit_once(" (").map(|(name, _mode)| name.to_owned()))
        .collect()
}

/// `mount_setattr` came with Linux 5.12.
fn recursive_read_only(release: &str) -> RecursiveReadOnly {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    if (next(), next()) >= (5, 12) {
        RecursiveReadOnly::Supported
    } else {
        RecursiveReadOnly::Unsupported
    }
}

fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut sizes: Vec<String> = names.filter_map(|name| hugepage_size(&name)).collect();
    sizes.sort();
    sizes
}

/// `hugepages-2048kB` is the directory of what cgroups call `2MB`.
fn hugepage_size(directory: &str) -> Option<String> {
    let digits = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    let mut size: u64 = digits.parse().ok()?;
    let mut units = ["KB", "MB", "GB"].into_iter();
    let mut unit = units.next()?;
    while size >= 1024 && size.is_multiple_of(1024) {
        let Some(next) = units.next() else { break };
        (size, unit) = (size / 1024, next);
    }
    Some(format!("{size}{unit}"))
}

fn open_files() -> Result<PosixRlimit, DetectError> {
    // No limit is the largest number.
    let hard = process::getrlimit(process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES.min(hard))
        .hard(hard)
        .build()
        .map_err(DetectError::OpenFiles)
}

fn own_oom_score_adj() -> Result<i32, DetectError> {
    let path = "/proc/self/oom_score_adj";
    let text = fs::read_to_string(path).map_err(read_error(path))?;
    text.trim().parse().map_err(|source| DetectError::OomScore { text, source })
}

fn read_error(path: &'static str) -> impl Fn(io::Error) -> DetectError {
    move |source| DetectError::Read { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        let node = Node::detect().unwrap();
        let devices = host_devices(Path::new("/dev")).unwrap();
        let null = devices.iter().find(|device| device.path == Path::new("/dev/null"));
        let null = null.unwrap();
        assert_eq!((null.kind, null.major, null.minor), (DeviceKind::Char, 1, 3));
        assert!(!devices.iter().any(|device| device.path.starts_with("/dev/pts")));
        let limit = node.rlimits[0];
        assert!(limit.soft() <= limit.hard() && limit.soft() <= OPEN_FILES);
        assert!(!node.capabilities.is_empty());
    }

    #[test]
    fn devices_of_a_path() {
        let null = host_devices(Path::new("/dev/null")).unwrap();
        assert_eq!(null.len(), 1);
        assert_eq!(null[0].path, Path::new("/dev/null"));
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("link")).unwrap();
        assert_eq!(host_devices(directory.path()).unwrap(), []);
        let link = directory.path().join("link");
        assert_eq!(host_devices(&link).unwrap()[0].path, link);
        assert!(host_devices(&directory.path().join("none")).is_err());
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(
            profile_names("orlop-default (enforce)\n/usr/bin/a b (complain)\nx\n"),
            ["orlop-default", "/usr/bin/a b"]
        );
        for (release, expected) in [
            ("6.18.0-rc1", RecursiveReadOnly::Supported),
            ("5.12.0", RecursiveReadOnly::Supported),
            ("5.11.22-generic", RecursiveReadOnly::Unsupported),
            ("4.19", RecursiveReadOnly::Unsupported),
        ] {
            assert_eq!(recursive_read_only(release), expected, "{release}");
        }
        for (directory, expected) in [
            ("hugepages-2048kB", Some("2MB")),
            ("hugepages-1048576kB", Some("1GB")),
            ("hugepages-64kB", Some("64KB")),
            ("hugepages-16777216kB", Some("16GB")),
            ("nr_hugepages", None),
        ] {
            assert_eq!(hugepage_size(directory).as_deref(), expected);
        }
    }
}
