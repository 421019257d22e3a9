//! orlop's own OCI runtime: namespaces, mounts, confinement, exec.
//!
//! One clone per container and one per exec, made by the single-threaded shim; what
//! happens in the new process reads top to bottom in `init.rs` and `exec.rs`. Nothing is
//! executed but the container's own program, and no state is kept outside the shim.
//!
//! # References
//! - [OCI runtime spec](https://github.com/opencontainers/runtime-spec)

/// On which processors an exec runs.
pub mod affinity;
mod bound_devices;
/// Capability sets of a process.
pub mod capabilities;
mod cgroup_mount;
/// The socket between the shim and a new process.
pub mod channel;
/// Device rules and device nodes.
pub mod devices;
mod exec;
/// Programs of others at points of a container's life.
pub mod hooks;
mod images;
mod init;
mod labels;
mod mapped_overlay;
mod mounts;
mod options;
mod paths;
/// A process, ready to become its program.
pub mod process;
/// Resource limits of a process.
pub mod rlimits;
mod rootfs;
/// OCI seccomp profiles compiled to classic BPF.
pub mod seccomp;
mod target;
mod terminal;
/// User namespaces.
pub mod user_namespace;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Uid};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use channel::{Channel, ChildChannel};
pub use init::Staged;
use process::Program;
use user_namespace::UserNamespace;

use crate::cgroup::{Cgroup, CgroupError, Entered, Mode};
use crate::protocol::{ImageMount, Rootfs};
use crate::sys::spawn::{self, Cloned};

/// What a process begins with as descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// These three.
    Descriptors {
        /// 0
        stdin: OwnedFd,
        /// 1
        stdout: OwnedFd,
        /// 2
        stderr: OwnedFd,
    },
    /// A terminal of the container's own, made by the process itself.
    Terminal,
}

impl Stdio {
    /// The same once more.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Descriptors { stdin, stdout, stderr } => Ok(Self::Descriptors {
                stdin: stdin.try_clone()?,
                stdout: stdout.try_clone()?,
                stderr: stderr.try_clone()?,
            }),
            Self::Terminal => Ok(Self::Terminal),
        }
    }
}

impl Stdio {
    /// Gives pipes to the user of the program, who may want to open them by name
    /// (`/dev/stdout`). Nothing else changes its owner: it may be of the host.
    fn give_to(&self, uid: u32) -> Result<(), Errno> {
        let Self::Descriptors { stdin, stdout, stderr } = self else { return Ok(()) };
        for descriptor in [stdin, stdout, stderr] {
            let stat = rustix::fs::fstat(descriptor)?;
            let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
            if is_pipe && stat.st_uid != uid {
                rustix::fs::fchown(descriptor, Some(Uid::from_raw(uid)), None)?;
            }
        }
        Ok(())
    }
}

/// The PID namespace that a new container's processes live in.
#[derive(Debug, Clone, Copy)]
pub enum PidPlace<'a> {
    /// A new one.
    Own,
    /// That of the process behind a pidfd.
    Of(BorrowedFd<'a>),
    /// The host's.
    Host,
}

/// A process on its way to its program.
#[derive(Debug)]
pub struct Spawned {
    /// Its id in the shim's PID namespace.
    pub pid: Pid,
    /// It, and no later process of that id.
    pub pidfd: OwnedFd,
    /// What it says of its progress.
    pub channel: Channel,
}

/// The step of starting a process that failed in the shim.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No socket pair.
    #[error("make a channel to the new process")]
    Channel(#[source] io::Error),
    /// The cgroup is gone.
    #[error("open the cgroup")]
    Cgroup(#[source] CgroupError),
    /// The namespace is gone, and so is the container.
    #[error("enter the PID namespace")]
    PidNamespace(#[source] rustix::io::Errno),
    /// The processors of an exec's making.
    #[error("go to the initial processors of an exec")]
    Affinity(#[source] rustix::io::Errno),
    /// No new process.
    #[error("clone a process")]
    Clone(#[source] io::Error),
}

/// A container to be set up by [`create`].
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// Its spec.
    pub spec: &'a Spec,
    /// Its root.
    pub rootfs: &'a Rootfs,
    /// Images that its mounts have as sources.
    pub images: &'a [ImageMount],
    /// A directory of the host at which layers and images are attached for an instant, in a
    /// mount namespace of its own.
    pub attach_at: &'a Path,
    /// Its cgroup, which exists.
    pub cgroup: &'a Cgroup,
    /// Its program.
    pub program: &'a Program,
    /// Its PID namespace.
    pub pid_place: PidPlace<'a>,
    /// The pod's user namespace, if it has one.
    pub user_namespace: Option<&'a UserNamespace>,
}

/// Clones the first process of a container. It reports on its channel when it is set up
/// and runs its program when it is told to.
///
/// # Errors
/// Nothing was started.
pub fn create(
    container: &NewContainer<'_>,
    stdio: Stdio,
    own_pid_namespace: BorrowedFd<'_>,
) -> Result<Spawned, SpawnError> {
    let into = container.cgroup.unified_directory().map_err(SpawnError::Cgroup)?;
    clone(container.pid_place, into, own_pid_namespace, |channel| {
        init_of(container, stdio, channel).run()
    })
}

/// Clones a process of the shim's own PID namespace that makes all that a container's
/// processes find, as [`create`] does, and then becomes the program that restores these: by
/// `run`, which returns only if that fails. It reports on its channel why it did not.
///
/// # Errors
/// Nothing was started.
pub fn stage(
    container: &NewContainer<'_>,
    stdio: Stdio,
    own_pid_namespace: BorrowedFd<'_>,
    run: impl FnOnce(&Staged) -> io::Error,
) -> Result<Spawned, SpawnError> {
    let into = container.cgroup.unified_directory().map_err(SpawnError::Cgroup)?;
    clone(PidPlace::Host, into, own_pid_namespace, |channel| {
        init_of(container, stdio, channel).stage(run)
    })
}

fn init_of<'a>(
    container: &NewContainer<'a>,
    stdio: Stdio,
    channel: ChildChannel,
) -> init::Init<'a> {
    init::Init {
        spec: container.spec,
        rootfs: container.rootfs,
        images: container.images,
        attach_at: container.attach_at,
        cgroup: container.cgroup,
        program: container.program,
        user_namespace: container.user_namespace,
        stdio,
        channel,
    }
}

/// A further process for a running container.
#[derive(Debug)]
pub struct NewProcess<'a> {
    /// The container's first process.
    pub init: BorrowedFd<'a>,
    /// The same, by its id.
    pub init_pid: Pid,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// The program.
    pub program: &'a Program,
    /// As the container's first process has it.
    pub oom_score_adj: Option<i32>,
    /// The pod's user namespace, if it has one.
    pub user_namespace: Option<&'a UserNamespace>,
}

/// Clones a process that enters a container and runs a program there.
///
/// # Errors
/// Nothing was started.
pub fn exec(
    process: &NewProcess<'_>,
    stdio: Stdio,
    own_pid_namespace: BorrowedFd<'_>,
) -> Result<Spawned, SpawnError> {
    let into = process.cgroup.unified_directory_beside(process.init_pid);
    let into = into.map_err(SpawnError::Cgroup)?;
    let _elsewhere = process.program.exec_affinity().begin().map_err(SpawnError::Affinity)?;
    clone(PidPlace::Of(process.init), into, own_pid_namespace, |channel| {
        exec::Exec {
            init: process.init,
            cgroup: process.cgroup,
            program: process.program,
            oom_score_adj: process.oom_score_adj,
            user_namespace: process.user_namespace,
            stdio,
            channel,
        }
        .run()
    })
}

/// The overlay of a container's root, attached to nothing; for external runtimes. `attach_at`
/// is any directory of the host.
///
/// # Errors
/// The step that failed.
pub(crate) fn root_overlay(
    rootfs: &Rootfs,
    user_namespace: Option<&UserNamespace>,
    attach_at: &Path,
) -> Result<OwnedFd, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match user_namespace {
        Some(user_namespace) => {
            mapped_overlay::overlay_by_child(rootfs, user_namespace, attach_at)?
        }
        None => rootfs::overlay(rootfs)?,
    })
}

/// Mounts an image at its place on the host, for external runtimes. Returns the path of
/// the part that is meant.
///
/// # Errors
/// The step that failed; the image may be mounted.
pub(crate) fn attach_image(
    image: &ImageMount,
    user_namespace: Option<&UserNamespace>,
    attach_at: &Path,
) -> Result<PathBuf, Box<dyn std::error::Error + Send + Sync>> {
    let whole = root_overlay(&images::layers_of(image), user_namespace, attach_at)?;
    Ok(images::attach(image, &whole)?)
}

/// Makes `root` the root of this process's fresh mount namespace; for the process 1 of
/// a shared PID namespace.
///
/// # Errors
/// The step that failed.
pub(crate) fn enter_root(root: &OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    rootfs::make_private()?;
    Ok(rootfs::enter(root)?)
}

/// Puts this new process into the hierarchies of `cgroup` that the clone did not: all of
/// v1. (Every host with a unified hierarchy had it cloned into that one.)
fn join(cgroup: &Cgroup) -> Result<(), CgroupError> {
    let entered = match cgroup.hierarchies().mode() {
        Mode::V1 => Entered::None,
        Mode::Hybrid | Mode::V2 => Entered::Unified,
    };
    cgroup.add_self(entered)
}

fn clone(
    place: PidPlace<'_>,
    into: Option<OwnedFd>,
    own_pid_namespace: BorrowedFd<'_>,
    in_child: impl FnOnce(ChildChannel),
) -> Result<Spawned, SpawnError> {
    let (channel, child_channel) = channel::pair().map_err(SpawnError::Channel)?;
    let into = into.as_ref().map(|fd| fd.as_fd());
    let (flags, elsewhere) = match place {
        PidPlace::Own => (UnshareFlags::NEWPID, None),
        PidPlace::Host => (UnshareFlags::empty(), None),
        PidPlace::Of(process) => (UnshareFlags::empty(), Some(process)),
    };
    let step_into = |fd| {
        rustix::thread::move_into_thread_name_spaces(fd, ThreadNameSpaceType::PROCESS_ID)
            .map_err(SpawnError::PidNamespace)
    };
    if let Some(process) = elsewhere {
        step_into(process)?;
    }
    let cloned = spawn::clone_child(flags, into);
    if let Ok(Cloned::Child) = cloned {
        in_child(child_channel);
        spawn::exit_now(127);
    }
    if elsewhere.is_some() {
        step_into(own_pid_namespace)?;
    }
    match cloned.map_err(SpawnError::Clone)? {
        Cloned::Parent { pid, pidfd } => Ok(Spawned { pid, pidfd, channel }),
        Cloned::Child => spawn::exit_now(127),
    }
}
