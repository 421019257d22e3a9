//! Project quotas: a file system that keeps them counts what the files of each project take,
//! and a directory of a project gives it to all that is made in it.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// What is made in the directory is of its project: `FS_XFLAG_PROJINHERIT`.
const INHERIT: u32 = 0x200;
/// `FS_IOC_FSGETXATTR`.
const GET: u32 = rustix::ioctl::opcode::read::<Attributes>(b'X', 31);
/// `FS_IOC_FSSETXATTR`.
const SET: u32 = rustix::ioctl::opcode::write::<Attributes>(b'X', 32);
/// `QCMD(Q_GETQUOTA, PRJQUOTA)`.
const GET_QUOTA: u32 = (0x80_0007 << 8) | 2;

/// What the files of a project take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProjectUsage {
    /// Disk space in bytes, with what is not written out yet.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The project of an open directory; 0: none.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` of a file system without projects.
///
/// # References
/// - [ioctl_xfs_fsgetxattr(2)](https://man7.org/linux/man-pages/man2/ioctl_xfs_fsgetxattr.2.html)
pub fn project(directory: impl AsFd) -> io::Result<u32> {
    attributes(directory).map(|attributes| attributes.project)
}

/// Makes an open directory, and what is made in it from now on, part of a project.
///
/// # Errors
/// As of [`project`]; `EPERM` without the right to.
pub fn set_project(directory: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = attributes(&directory)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`, which `Attributes` is, during the
    // call.
    let set =
        unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), SET.into(), &raw const attributes) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attributes(directory: impl AsFd) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, which `Attributes` is, during the
    // call.
    let got =
        unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), GET.into(), &raw mut attributes) };
    if got == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

/// What the files of a project take, on the file system of an open file. One that nobody has
/// used takes nothing.
///
/// # Errors
/// `ESRCH` where the file system does not count, `EOPNOTSUPP` where it cannot, `ENOSYS`
/// before Linux 5.14.
///
/// # References
/// - [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html)
pub fn project_usage(file: impl AsFd, project: u32) -> io::Result<ProjectUsage> {
    // SAFETY: a `dqblk` is numbers, for which zero is a value.
    let mut block: libc::dqblk = unsafe { mem::zeroed() };
    // SAFETY: quotactl_fd with Q_GETQUOTA writes one `struct if_dqblk`, which libc calls
    // `dqblk`, during the call.
    let got = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_fd().as_raw_fd(),
            GET_QUOTA,
            project,
            &raw mut block,
        )
    };
    if got == 0 {
        return Ok(ProjectUsage { bytes: block.dqb_curspace, inodes: block.dqb_curinodes });
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::NotFound => Ok(ProjectUsage::default()),
        error => Err(error),
    }
}
