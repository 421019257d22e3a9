//! A terminal of the container's own devpts, so that it has a name there.
//!
//! Opened by a process that is in the container already; what is at the path then is the
//! container's affair, since only a terminal has another side.
//!
//! # References
//! - [pts(4)](https://man7.org/linux/man-pages/man4/pts.4.html)

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::Uid;
use rustix::pty::OpenptFlags;

use super::process::Program;
use crate::sys::spawn::{self, StdioNumber};

/// The step of getting a terminal that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TerminalError {
    #[error("open a terminal")]
    Open(#[source] Errno),
    #[error("give the terminal to user {0}")]
    Owner(u32, #[source] Errno),
    #[error("set the size of the terminal")]
    Size(#[source] Errno),
    #[error("make the terminal the controlling one")]
    Control(#[source] Errno),
    #[error("attach the terminal as standard input, output and error")]
    Stdio(#[source] io::Error),
}

/// Both sides of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// For whoever watches the program.
    pub(super) master: OwnedFd,
    /// For the program.
    pub(super) peer: OwnedFd,
}

/// Opens a terminal for `program`, whose user owns it.
pub(super) fn open(program: &Program) -> Result<Terminal, TerminalError> {
    let (master, peer) = pair().map_err(TerminalError::Open)?;
    let uid = program.uid();
    rustix::fs::fchown(&peer, Some(Uid::from_raw(uid)), None)
        .map_err(|errno| TerminalError::Owner(uid, errno))?;
    if let Some(size) = program.console_size() {
        rustix::termios::tcsetwinsize(&peer, size).map_err(TerminalError::Size)?;
    }
    Ok(Terminal { master, peer })
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    let master = rustix::fs::openat2(CWD, "/dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, peer))
}

impl Terminal {
    /// Makes it this session's own, and what the program reads and writes.
    pub(super) fn take(&self) -> Result<(), TerminalError> {
        rustix::process::ioctl_tiocsctty(&self.peer).map_err(TerminalError::Control)?;
        for number in [StdioNumber::Stdin, StdioNumber::Stdout, StdioNumber::Stderr] {
            spawn::set_stdio(self.peer.as_fd(), number).map_err(TerminalError::Stdio)?;
        }
        Ok(())
    }
}
