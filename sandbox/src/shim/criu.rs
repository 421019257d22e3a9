//! Calls of criu, which dumps the processes of containers, and restores them.
//!
//! criu is a child of the shim and so in the pod's network, IPC and UTS namespaces: to it
//! those are its own, and not a part of what it dumps. What a container's mounts stand on
//! is the business of whoever makes it again; every mount but the root and `/proc` is
//! external to the dump. The shim's ends of pipes and terminals are not in it either.
//!
//! To restore, a child of the shim makes the container's root and mounts anew, joins its cgroup
//! and becomes criu. That takes pipes of the shim for those that descriptors 0 to 2 led to.
//!
//! Established TCP connections are not kept (`--tcp-close`): a checkpoint of a container
//! that runs on must not block its traffic, and nobody can go on with both ends.
//!
//! # References
//! - [criu(8)](https://criu.org/CLI)

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::FdFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};

use crate::cgroup::Cgroup;
use crate::oci::builtin::Staged;
use crate::sys::mount::{self, MountPoint};
use crate::sys::spawn;

/// The directory of images, in that of a dump.
const IMAGES: &str = "checkpoint";

/// What criu writes of its doings.
const LOG: &str = "dump.log";

/// The same, when it restores.
const RESTORE_LOG: &str = "restore.log";

/// Where criu writes which process is the first.
const FIRST: &str = "restored.pid";

/// Where criu finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where descriptors 0 to 2 lead to, beside the images: whoever restores the processes gives
/// them others instead.
const DESCRIPTORS: &str = "descriptors.json";

/// What the PID namespace is called that a container shares with others.
const SHARED: &str = "pod";

/// Errors that criu goes on after: it would like a higher limit of files, and devices that it
/// makes only to see that it could.
const DOES_WITHOUT: [&str; 2] = ["rlimit:", "tun: Unable to create tun"];

/// One call in progress.
#[derive(Debug)]
pub(super) struct CriuJob {
    pub(super) pid: Pid,
}

/// Whose processes are dumped.
pub(super) struct Dumped<'a> {
    /// The first one, all of them frozen.
    pub(super) first: Pid,
    pub(super) cgroup: &'a Cgroup,
    /// The number of its PID namespace, if others have it too.
    pub(super) shared_pid_namespace: Option<u64>,
}

/// Whose processes are restored.
pub(super) struct Restored<'a> {
    /// The criu program.
    pub(super) program: &'a Path,
    /// What a dump wrote.
    pub(super) directory: &'a Path,
    /// Their PID namespace, if others have it too.
    pub(super) shared_pid_namespace: Option<BorrowedFd<'a>>,
}

/// Begins to dump a container's processes into `directory`.
///
/// # Errors
/// Nothing was started.
pub(super) fn dump(program: &Path, dumped: &Dumped<'_>, directory: &Path) -> io::Result<CriuJob> {
    let process = dumped.first.as_raw_nonzero();
    let images = directory.join(IMAGES);
    std::fs::DirBuilder::new().create(&images)?;
    let stdio = descriptors(dumped.first)?;
    std::fs::write(images.join(DESCRIPTORS), serde_json::to_vec(&stdio)?)?;
    let freezer = dumped.cgroup.freezer_directory().map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .args(["dump", "--no-default-config", "--leave-running", "--manage-cgroups=ignore"])
        .args(["--tcp-close", "--network-lock", "skip", "--ext-unix-sk", "--file-locks"])
        .args(["--link-remap", "--log-file", LOG])
        .arg("--tree")
        .arg(process.to_string())
        .arg("--images-dir")
        .arg(&images)
        .arg("--work-dir")
        .arg(directory)
        .arg("--freeze-cgroup")
        .arg(freezer);
    for place in external_mounts(&std::fs::read_to_string(format!("/proc/{process}/mountinfo"))?) {
        command.args(["--external", &format!("mnt[{place}]:{place}")]);
    }
    if stdio.iter().any(|name| name.starts_with("/dev/pts/")) {
        // Its other side is the shim's. Not said to be external: shells open it as `/dev/tty`
        // too, for which criu then finds no terminal.
        command.arg("--shell-job");
    }
    if let Some(namespace) = dumped.shared_pid_namespace {
        command.args(["--external", &format!("pid[{namespace}]:{SHARED}")]);
    }
    // A group of its own, so that what a wrapper starts ends with it.
    command.process_group(0).current_dir(directory);
    spawn::end_with_parent(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process id out of range"))?;
    Ok(CriuJob { pid })
}

impl CriuJob {
    /// Has it fail at the next thing that it writes, as on a full disk, so that it lets the
    /// processes go and ends. Killed at some moments it would leave one of them with code of
    /// its own, to die of that.
    pub(super) fn fail(&self) {
        let nothing = Rlimit { current: Some(0), maximum: Some(0) };
        // It may have ended.
        let _ = rustix::process::prlimit(Some(self.pid), Resource::Fsize, nothing);
    }

    /// Ends it with everything that it started. Not buried yet, so its id is its own.
    pub(super) fn kill(&self) {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

/// Ends what a call that is buried has left: a criu that was killed leaves children, of which
/// the shim has become the parent. As long as one of these is not buried, the group's id is
/// its own.
pub(super) fn kill_rest(group: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if rustix::process::waitid(WaitId::Pgid(Some(group)), options).is_ok() {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Becomes a criu that restores what is in `directory`. It ends when the processes run, in the
/// cgroup of this process; the shim is their nearest subreaper, and so the parent of the first.
/// Returns if that fails.
///
/// Not with `--restore-sibling`, by which that would be the shim's child from the beginning:
/// criu is to hear of it when that dies before it runs.
pub(super) fn become_restorer(restored: &Restored<'_>, staged: &Staged) -> io::Error {
    match restorer(restored, staged) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    }
}

fn restorer(restored: &Restored<'_>, staged: &Staged) -> io::Result<Command> {
    let &Restored { program, directory, shared_pid_namespace } = restored;
    let images = directory.join(IMAGES);
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .args(["restore", "--no-default-config", "--restore-detached"])
        .args(["--manage-cgroups=ignore", "--tcp-close", "--ext-unix-sk", "--file-locks"])
        .args(["--log-file", RESTORE_LOG, "--pidfile", FIRST])
        .arg("--images-dir")
        .arg(&images)
        .arg("--work-dir")
        .arg(directory)
        .arg("--root")
        .arg(&staged.root);
    for (point, at) in &staged.mounts {
        if is_external(point) {
            command.args(["--external", &format!("mnt[{}]:{}", point.place, at.display())]);
        }
    }
    if let Some(namespace) = shared_pid_namespace {
        rustix::io::fcntl_setfd(namespace, FdFlags::empty())?;
        command.args(["--inherit-fd", &format!("fd[{}]:{SHARED}", namespace.as_raw_fd())]);
    }
    let stdio: Vec<String> = serde_json::from_slice(&std::fs::read(images.join(DESCRIPTORS))?)?;
    let mut given = BTreeSet::new();
    for (name, fd) in stdio.iter().zip(&staged.stdio) {
        // Of one that was both, all that was written goes to the first.
        if name.starts_with("pipe:[") && given.insert(name) {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            command.args(["--inherit-fd", &format!("fd[{}]:{name}", fd.as_raw_fd())]);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir(directory);
    Ok(command)
}

/// The first process of those that were restored.
pub(super) fn first_restored(directory: &Path) -> io::Result<Pid> {
    let text = std::fs::read_to_string(directory.join(FIRST))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("criu names no process"))
}

/// Why nothing was restored, likewise.
pub(super) fn restore_failure(directory: &Path, code: i32) -> String {
    first_error(&directory.join(RESTORE_LOG), code)
}

/// Why a call failed: the first error in its log, which the others follow from.
pub(super) fn failure(directory: &Path, code: i32) -> String {
    first_error(&directory.join(LOG), code)
}

fn first_error(log: &Path, code: i32) -> String {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let mut errors =
        log.lines().filter_map(|line| line.split_once("Error (")).map(|(_, said)| said);
    let said = errors
        .find(|said| !DOES_WITHOUT.iter().any(|what| said.contains(what)))
        .and_then(|said| said.split_once("): "));
    let said = said.map_or("it gave no reason", |(_, what)| what);
    format!("criu ended with code {code}: {said}")
}

/// Where descriptors 0 to 2 lead to; nowhere: closed.
fn descriptors(process: Pid) -> io::Result<Vec<String>> {
    let link = |number: i32| match std::fs::read_link(format!(
        "/proc/{}/fd/{number}",
        process.as_raw_nonzero()
    )) {
        Ok(path) => Ok(path.to_string_lossy().into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    };
    (0..3).map(link).collect()
}

/// The mount points of a `mountinfo` but the root and those of the proc file system, which
/// belongs to the dumped PID namespace.
fn external_mounts(mountinfo: &str) -> Vec<String> {
    let all = mount::mount_points(mountinfo).into_iter();
    all.filter(is_external).map(|point| point.place).collect()
}

fn is_external(point: &MountPoint) -> bool {
    point.place != "/" && point.file_system != "proc"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_but_the_root_and_proc_are_external() {
        let mountinfo = "\
            60 59 0:50 / / rw,relatime - overlay overlay rw\n\
            61 60 0:51 / /proc rw,nosuid - proc proc rw\n\
            62 61 0:51 /bus /proc/bus ro,nosuid - proc proc rw\n\
            63 60 0:52 / /dev rw,nosuid - tmpfs tmpfs rw\n\
            64 60 254:1 /v /with\\040space\\134 rw,master:1 - ext4 /dev/vda1 rw\n\
            65 61 0:52 /null /proc/kcore rw - tmpfs tmpfs rw\n";
        assert_eq!(external_mounts(mountinfo), ["/dev", "/with space\\", "/proc/kcore"]);
    }

    #[test]
    fn the_first_error_is_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(failure(directory.path(), 1), "criu ended with code 1: it gave no reason");
        let log = "(00.03) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE\n\
                   (00.04) Error (criu/tun.c:85): tun: Unable to create tun: Not permitted\n\
                   (00.05) Error (criu/files-reg.c:1790): Can't lookup mount=27 for fd=2\n\
                   (00.13) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        std::fs::write(directory.path().join(LOG), log).unwrap();
        let said = failure(directory.path(), 1);
        assert_eq!(said, "criu ended with code 1: Can't lookup mount=27 for fd=2");
    }
}
