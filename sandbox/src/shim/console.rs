//! The console socket: where an external runtime sends the terminal that it made.
//!
//! The runtime connects while it creates the container or begins the exec, and has sent
//! the master side before its call ends. So the socket is read once, when the call is
//! over, and nothing here waits.
//!
//! # References
//! - [runc, terminals](https://github.com/opencontainers/runc/blob/main/docs/terminals.md)

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags};

use super::entry::{listen, open_directory};

/// A socket that waits for one terminal; its name goes with it.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: OwnedFd,
    directory: OwnedFd,
    name: String,
}

impl ConsoleSocket {
    /// Listens as `name` in `directory`, which only root may enter.
    pub(super) fn bind(directory: &Path, name: &str) -> io::Result<Self> {
        let listener = listen(directory, name)?;
        Ok(Self { listener, directory: open_directory(directory)?, name: name.to_owned() })
    }

    /// What the runtime is to connect to: through a descriptor of this process, because
    /// socket addresses are limited to 107 bytes and a container's directory is not.
    pub(super) fn path(&self) -> PathBuf {
        let directory = format!("/proc/{}/fd/{}", std::process::id(), self.directory.as_raw_fd());
        Path::new(&directory).join(&self.name)
    }

    /// The master side of the terminal that was sent.
    ///
    /// # Errors
    /// None was: the runtime did not connect, or sent something else.
    pub(super) fn receive(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let peer = rustix::net::accept_with(&self.listener, flags)?;
        let mut name = [0_u8; 4096];
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let sent = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        sent.filter(|descriptor| rustix::termios::isatty(descriptor))
            .ok_or_else(|| io::Error::other("what was sent is no terminal"))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Gone already if the container's directory is.
        let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use rustix::pty::OpenptFlags;

    use super::*;

    fn send(path: &Path, descriptor: &OwnedFd) {
        let stream = UnixStream::connect(path).unwrap();
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let name = [IoSlice::new(b"/dev/ptmx")];
        rustix::net::sendmsg(&stream, &name, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_terminal_crosses_over_and_the_name_goes() {
        let parent = tempfile::tempdir().unwrap();
        // Longer than a socket address can be.
        let directory = parent.path().join("d".repeat(200));
        std::fs::create_dir(&directory).unwrap();
        let socket = ConsoleSocket::bind(&directory, "console.sock").unwrap();
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        send(&socket.path(), &master);
        let received = socket.receive().unwrap();
        assert_eq!(
            rustix::pty::ptsname(&received, vec![]).unwrap(),
            rustix::pty::ptsname(&master, vec![]).unwrap()
        );
        assert!(directory.join("console.sock").exists());
        drop(socket);
        assert!(!directory.join("console.sock").exists());
    }

    #[test]
    fn nothing_and_something_else_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let socket = ConsoleSocket::bind(directory.path(), "console.sock").unwrap();
        assert_eq!(socket.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&socket.path(), &std::fs::File::open("/dev/null").unwrap().into());
        assert_eq!(socket.receive().unwrap_err().to_string(), "what was sent is no terminal");
    }
}
