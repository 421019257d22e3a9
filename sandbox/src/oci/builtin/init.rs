//! A container's first process, from clone to program.
//!
//! ```text
//! shim ── clone3(NEWPID) ──▶ init
//!                            │ joins the cgroup
//!                            │ opens what it needs of the host, as descriptors
//!                            │ enters the pod's user namespace, if it has one
//!                            │ unshare(NEWNS | NEWCGROUP)
//!                            │ pivots into the overlay; the host's tree is gone
//!                            │ mounts, devices, masks
//!         ◀── Ready ─────────┤
//!         ─── start ────────▶│ confines itself (`process`)
//!                            ▼ execve: the channel closes
//! ```
//!
//! The process is not dumpable until its exec, so nothing in the container can trace it
//! or read its descriptors while it still has privileges.

mod staging;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;

use super::bound_devices::{BindError, BoundDevices};
use super::channel::ChildChannel;
use super::devices::{self, DeviceError};
use super::labels::LabelError;
use super::mounts::{self, MountError, Prepared};
use super::paths::{self, PathError};
use super::process::{Program, RunError};
use super::rootfs::{self, RootfsError};
use super::target::{self, TargetKind};
use super::terminal::{self, TerminalError};
use super::user_namespace::{self, EnterError, UserNamespace};
use super::{Stdio, cgroup_mount, mapped_overlay};
use crate::cgroup::{Cgroup, CgroupError};
use crate::protocol::{ImageMount, Rootfs};
use crate::sys::mount::{Depth, MountAttr, mount_setattr};
use crate::sys::spawn::{self, StdioNumber};
pub use staging::Staged;

/// The step of setting a container up that failed.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("become undumpable")]
    Dumpable(#[source] Errno),
    #[error("begin a session")]
    Session(#[source] Errno),
    #[error("join the cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("set oom_score_adj")]
    OomScore(#[source] super::rlimits::LimitError),
    #[error("unshare namespaces")]
    Unshare(#[source] io::Error),
    #[error("move to the processors of the cgroup")]
    Affinity(#[source] Errno),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("mount the cgroup file system")]
    CgroupMount(#[source] cgroup_mount::CgroupMountError),
    #[error("make devices")]
    Devices(#[source] DeviceError),
    #[error("make devices")]
    BoundDevices(#[from] BindError),
    #[error("give the pipes to the user of the program")]
    Owner(#[source] Errno),
    #[error(transparent)]
    UserNamespace(#[from] EnterError),
    #[error("open the root for devices")]
    OpenRoot(#[source] Errno),
    #[error("make the link /dev/{0}")]
    DeviceLink(&'static str, #[source] Errno),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error("attach the terminal to /dev/console")]
    Console(#[source] Errno),
    #[error("attach standard input, output and error")]
    Stdio(#[source] io::Error),
    #[error("make the working directory {}", .0.display())]
    WorkingDirectory(PathBuf, #[source] Errno),
    #[error("make the root read-only")]
    ReadOnlyRoot(#[source] io::Error),
    #[error("tell the shim")]
    Channel(#[source] io::Error),
    #[error("close the shim's descriptors")]
    Close(#[source] io::Error),
    #[error(transparent)]
    Label(#[from] LabelError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Everything a container's first process needs; a copy of the shim's memory has it.
pub(super) struct Init<'a> {
    pub(super) spec: &'a Spec,
    pub(super) rootfs: &'a Rootfs,
    pub(super) images: &'a [ImageMount],
    /// A directory of the host at which layers and images are attached for an instant.
    pub(super) attach_at: &'a Path,
    pub(super) cgroup: &'a Cgroup,
    pub(super) program: &'a Program,
    pub(super) user_namespace: Option<&'a UserNamespace>,
    pub(super) stdio: Stdio,
    pub(super) channel: ChildChannel,
}

impl Init<'_> {
    /// Runs in the new process and never returns.
    pub(super) fn run(self) -> ! {
        let error = match self.set_up() {
            Ok(Some(())) => InitError::Run(self.program.run()),
            // The shim went away before it gave the word; nobody wants this container.
            Ok(None) => spawn::exit_now(0),
            Err(error) => error,
        };
        self.channel.failed(&error);
        spawn::exit_now(127)
    }

    fn set_up(&self) -> Result<Option<()>, InitError> {
        self.begin()?;
        self.program.set_labels()?;
        if let Some(adj) = self.spec.process().as_ref().and_then(|p| p.oom_score_adj()) {
            super::rlimits::set_oom_score_adj(None, adj).map_err(InitError::OomScore)?;
        }
        let root = self.enter_root(self.mount_namespace())?;
        let terminal = self.attach_stdio()?;
        self.finish_root(&root)?;
        drop(root);
        self.channel.ready(terminal).map_err(InitError::Channel)?;
        // It may wait for long, and copies of the shim's would keep open what the shim
        // closes: other containers' inputs, clients' pipes, connections.
        spawn::close_all_but(&[self.channel.as_fd()]).map_err(InitError::Close)?;
        Ok(self.channel.wait_for_start().then_some(()))
    }

    /// Nobody traces it from here on, its session is its own, and so is the cgroup.
    fn begin(&self) -> Result<(), InitError> {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(InitError::Dumpable)?;
        rustix::process::setsid().map_err(InitError::Session)?;
        super::join(self.cgroup).map_err(InitError::Cgroup)?;
        super::affinity::settle_anywhere().map_err(InitError::Affinity)
    }

    /// Makes the root with its mounts and devices, and enters it.
    fn enter_root(&self, mount_namespace: UnshareFlags) -> Result<OwnedFd, InitError> {
        let mut prepared = self.open_sources()?;
        let cgroups = cgroup_mount::open(self.spec, self.cgroup).map_err(InitError::CgroupMount)?;
        let uid = user_namespace::host_uid(self.user_namespace, self.program.uid());
        self.stdio.give_to(uid).map_err(InitError::Owner)?;
        let root = self.make_overlays(&mut prepared)?;
        let bound_devices = self.prepare_devices()?;
        if let Some(user_namespace) = self.user_namespace {
            user_namespace.enter()?;
        }
        let namespaces = mount_namespace | self.cgroup_namespace();
        spawn::unshare(namespaces).map_err(InitError::Unshare)?;
        rootfs::make_private()?;
        rootfs::enter(&root)?;
        for mount in &prepared {
            match cgroups.as_ref().filter(|_| mount.is_cgroup()) {
                Some(cgroups) => cgroups.attach(mount).map_err(InitError::CgroupMount)?,
                None => mounts::attach(mount)?,
            }
        }
        self.make_devices(bound_devices.as_ref())?;
        Ok(root)
    }

    /// What is done when everything is in its place.
    fn finish_root(&self, root: &OwnedFd) -> Result<(), InitError> {
        self.protect_paths()?;
        self.make_working_directory()?;
        if self.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
            let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            mount_setattr(root.as_fd(), c"", Depth::One, attr).map_err(InitError::ReadOnlyRoot)?;
        }
        Ok(())
    }

    fn open_sources(&self) -> Result<Vec<Prepared>, MountError> {
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        let label = self.mount_label();
        mounts
            .iter()
            .map(|mount| mounts::open_source(mount, self.images, self.user_namespace, label))
            .collect()
    }

    /// The SELinux context of the container's files.
    fn mount_label(&self) -> Option<&str> {
        self.spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref())
    }

    /// Makes the root and the images that are mounts, in a mount namespace that is cut off
    /// from the host's and has all of its files still.
    fn make_overlays(&self, prepared: &mut [Prepared]) -> Result<OwnedFd, InitError> {
        spawn::unshare(UnshareFlags::NEWNS).map_err(InitError::Unshare)?;
        rootfs::make_private()?;
        for mount in prepared {
            mount.open_image(self.attach_at, self.user_namespace)?;
        }
        let root = match self.user_namespace {
            Some(user_namespace) => {
                mapped_overlay::overlay(self.rootfs, user_namespace, self.attach_at)?
            }
            None => rootfs::overlay(self.rootfs)?,
        };
        Ok(root)
    }

    /// PID was made by the clone; network, IPC and UTS are the pod's, where the shim is. In a
    /// user namespace the mount namespace has to be another one, which belongs to it.
    fn mount_namespace(&self) -> UnshareFlags {
        let mut flags = UnshareFlags::empty();
        flags.set(UnshareFlags::NEWNS, self.user_namespace.is_some());
        flags
    }

    fn cgroup_namespace(&self) -> UnshareFlags {
        let listed = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let is_own = listed.is_some_and(|namespaces| {
            namespaces
                .iter()
                .any(|ns| ns.typ() == LinuxNamespaceType::Cgroup && ns.path().is_none())
        });
        let mut flags = UnshareFlags::empty();
        flags.set(UnshareFlags::NEWCGROUP, is_own);
        flags
    }

    /// Gives the process its descriptors 0 to 2; returns the master side of a terminal.
    fn attach_stdio(&self) -> Result<Option<OwnedFd>, InitError> {
        match &self.stdio {
            Stdio::Descriptors { stdin, stdout, stderr } => {
                // The host's null device is on a mount that the container does not have, and
                // its processes could not be checkpointed.
                let null = if paths::is_null(stdin) { paths::open_null() } else { None };
                for (fd, number) in [
                    (null.as_ref().unwrap_or(stdin), StdioNumber::Stdin),
                    (stdout, StdioNumber::Stdout),
                    (stderr, StdioNumber::Stderr),
                ] {
                    spawn::set_stdio(fd.as_fd(), number).map_err(InitError::Stdio)?;
                }
                Ok(None)
            }
            Stdio::Terminal => self.open_terminal().map(Some),
        }
    }

    /// A terminal of the container's own devpts, which becomes its controlling terminal
    /// and its `/dev/console`.
    fn open_terminal(&self) -> Result<OwnedFd, InitError> {
        let terminal = terminal::open(self.program)?;
        terminal.take()?;
        attach_console(&terminal.peer).map_err(InitError::Console)?;
        Ok(terminal.master)
    }

    /// Whether the spec binds another directory to `/dev`, which is then taken as it is.
    fn has_foreign_dev(&self) -> bool {
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        mounts.iter().any(|mount| {
            mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("bind")
        })
    }

    fn listed_devices(&self) -> &[LinuxDevice] {
        let listed = self.spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
        listed.unwrap_or_default()
    }

    /// The nodes that can only be made before the user namespace is entered.
    fn prepare_devices(&self) -> Result<Option<BoundDevices>, InitError> {
        match self.user_namespace {
            Some(user_namespace) if !self.has_foreign_dev() => {
                let (listed, label) = (self.listed_devices(), self.mount_label());
                Ok(Some(BoundDevices::make(listed, user_namespace, self.attach_at, label)?))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Fills `/dev`.
    fn make_devices(&self, bound: Option<&BoundDevices>) -> Result<(), InitError> {
        if self.has_foreign_dev() {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(CWD, "/", flags, Mode::empty()).map_err(InitError::OpenRoot)?;
        if let Some(bound) = bound {
            bound.bind()?;
        } else {
            for node in devices::nodes(self.listed_devices()).map_err(InitError::Devices)? {
                devices::create(root.as_fd(), &node).map_err(InitError::Devices)?;
            }
        }
        for (name, target) in devices::DEFAULT_LINKS {
            match rustix::fs::symlinkat(target, &root, Path::new("dev").join(name)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(InitError::DeviceLink(name, errno)),
            }
        }
        Ok(())
    }

    fn protect_paths(&self) -> Result<(), PathError> {
        let Some(linux) = self.spec.linux() else { return Ok(()) };
        for path in linux.readonly_paths().iter().flatten() {
            paths::make_read_only(Path::new(path))?;
        }
        let masked = linux.masked_paths().as_deref().unwrap_or_default();
        if masked.is_empty() {
            return Ok(());
        }
        let null = paths::null_device()?;
        masked.iter().try_for_each(|path| paths::mask(Path::new(path), &null, self.mount_label()))
    }

    fn make_working_directory(&self) -> Result<(), InitError> {
        let directory = self.program.working_directory();
        match target::open_or_make(directory, TargetKind::Directory) {
            // Whether its user may enter is found out when that user tries.
            Ok(_) | Err(Errno::ACCESS) => Ok(()),
            Err(errno) => Err(InitError::WorkingDirectory(directory.to_owned(), errno)),
        }
    }
}

/// Binds the terminal over `/dev/console`, a file of the `/dev` that was just made.
fn attach_console(peer: &OwnedFd) -> Result<(), Errno> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags};
    let target = target::open_or_make(Path::new("/dev/console"), TargetKind::File)?;
    let tree = rustix::mount::open_tree(
        peer.as_fd(),
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )?;
    rustix::mount::move_mount(
        tree.as_fd(),
        "",
        target.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}
