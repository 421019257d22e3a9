//! Everything that a container's processes find, made for another program to put them there.
//!
//! A program that restores processes makes their mount namespace itself, and wants each mount
//! at a path of its own one. So the mounts are made as for any container, after the pivot into
//! its root, where no path leads to anything of the host. Each is then copied by itself, the
//! copies are taken along into the mount namespace from before the pivot, and attached there.
//!
//! ```text
//! unshare(NEWNS)              the staging namespace: the host's tree, cut off
//!   unshare(NEWNS), pivot     the container's root, its mounts, devices, masks
//!     open_tree               a copy of each
//!   setns                     back
//! <directory>/root, /0, /1 …  the copies, on a tmpfs that only this process sees
//! exec
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{Init, InitError};
use crate::oci::builtin::Stdio;
use crate::sys::mount::{MountPoint, mount_points};
use crate::sys::spawn;

/// The root of a container and its mounts, each by itself.
#[derive(Debug)]
pub struct Staged {
    /// Where the root is mounted, without what is mounted in it.
    pub root: PathBuf,
    /// The other mounts, and where each is mounted now.
    pub mounts: Vec<(MountPoint, PathBuf)>,
    /// Descriptors 0 to 2, open at whatever numbers; none with a terminal.
    pub stdio: Vec<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
enum StagingError {
    #[error(transparent)]
    Init(#[from] InitError),
    #[error("end with the shim")]
    EndWithParent(#[source] Errno),
    #[error("open the mount namespace")]
    Namespace(#[source] io::Error),
    #[error("read which mounts there are")]
    List(#[source] io::Error),
    #[error("copy the mount at {place}")]
    Copy { place: String, source: Errno },
    #[error("return to the mount namespace")]
    Return(#[source] Errno),
    #[error("make {}", .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("attach the mount of {place}")]
    Attach { place: String, source: Errno },
    #[error("take the outputs along")]
    Stdio(#[source] io::Error),
    #[error("run the program that restores")]
    Run(#[source] io::Error),
}

impl Init<'_> {
    /// Runs in the new process and never returns.
    pub(in crate::oci::builtin) fn stage(self, run: impl FnOnce(&Staged) -> io::Error) -> ! {
        let error = match self.make_stage() {
            Ok(staged) => StagingError::Run(run(&staged)),
            Err(error) => error,
        };
        self.channel.failed(&error);
        spawn::exit_now(127)
    }

    fn make_stage(&self) -> Result<Staged, StagingError> {
        // If that has happened already, so has the end of the channel, which nobody reads then.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(StagingError::EndWithParent)?;
        self.begin()?;
        spawn::unshare(UnshareFlags::NEWNS).map_err(InitError::Unshare)?;
        let staging = File::open("/proc/self/ns/mnt").map_err(StagingError::Namespace)?;
        let root = self.enter_root(UnshareFlags::NEWNS)?;
        self.finish_root(&root)?;
        let table =
            std::fs::read_to_string("/proc/thread-self/mountinfo").map_err(StagingError::List)?;
        let points = mount_points(&table).into_iter().filter(|point| point.place != "/");
        let copies = points
            .map(|point| Ok((copy(&point.place)?, point)))
            .collect::<Result<Vec<_>, StagingError>>()?;
        let root = copy("/")?;
        rustix::thread::move_into_link_name_space(staging.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(StagingError::Return)?;
        super::rootfs::make_private().map_err(InitError::from)?;
        let stage = self.attach_at;
        rustix::mount::mount("tmpfs", stage, "tmpfs", MountFlags::empty(), c"mode=0700")
            .map_err(|errno| StagingError::Make { path: stage.to_owned(), source: errno.into() })?;
        let at = stage.join("root");
        attach(&root, "/", &at)?;
        let mut mounts = Vec::new();
        for (number, (copy, point)) in copies.into_iter().enumerate() {
            let at = stage.join(number.to_string());
            attach(&copy, &point.place, &at)?;
            mounts.push((point, at));
        }
        spawn::reset_signals().map_err(StagingError::Stdio)?;
        let stdio = match self.stdio.try_clone().map_err(StagingError::Stdio)? {
            Stdio::Descriptors { stdin, stdout, stderr } => vec![stdin, stdout, stderr],
            Stdio::Terminal => vec![],
        };
        Ok(Staged { root: at, mounts, stdio })
    }
}

/// A mount by itself, as it is at `place` of this mount namespace, attached to nothing.
fn copy(place: &str) -> Result<OwnedFd, StagingError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, place, flags)
        .map_err(|source| StagingError::Copy { place: place.to_owned(), source })
}

/// Attaches a mount at a new file or directory.
fn attach(mount: &OwnedFd, place: &str, at: &Path) -> Result<(), StagingError> {
    let failed = |source| StagingError::Attach { place: place.to_owned(), source };
    let stat = rustix::fs::fstat(mount).map_err(failed)?;
    let made = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => std::fs::create_dir(at),
        _ => File::create_new(at).map(drop),
    };
    made.map_err(|source| StagingError::Make { path: at.to_owned(), source })?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", CWD, at, flags).map_err(failed)
}
