//! The socket between the shim and a process on its way to its program.
//!
//! Both ends are close-on-exec: the end of the stream without a failure message *is* the
//! news that the program runs.

use std::error::Error;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The longest failure message, in bytes; a longer one is cut.
const MAX_MESSAGE: usize = 4096;

const READY: u8 = b'R';
const FAILED: u8 = b'F';
const START: u8 = b'S';

/// The shim's end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// The new process's end.
#[derive(Debug)]
pub(super) struct ChildChannel(OwnedFd);

/// What the shim hears.
#[derive(Debug)]
pub enum News {
    /// Set up; waiting for the word to start. With a terminal: its master side.
    Ready(Option<OwnedFd>),
    /// A step failed; the process ends.
    Failed(String),
    /// The program runs, or the process died before.
    Closed,
}

/// Makes the two ends.
pub(super) fn pair() -> io::Result<(Channel, ChildChannel)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Channel(ours), ChildChannel(theirs)))
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// The next news; `None` if there is none yet.
    ///
    /// # Errors
    /// What recvmsg says.
    pub fn receive(&self) -> io::Result<Option<News>> {
        let mut bytes = [0_u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = match received {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN) => return Ok(None),
            // The peer died with our word to start unread.
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Some(match bytes[..length].split_first() {
            Some((&READY, _)) => News::Ready(descriptor),
            Some((_, text)) => News::Failed(String::from_utf8_lossy(text).into_owned()),
            None => News::Closed,
        }))
    }

    /// Gives the word to run the program.
    ///
    /// # Errors
    /// `EPIPE`: the process is gone.
    pub fn start(&self) -> io::Result<()> {
        rustix::net::send(&self.0, &[START], SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl AsFd for ChildChannel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildChannel {
    /// Says that everything is set up, and hands over the terminal's master side.
    pub(super) fn ready(&self, terminal: Option<OwnedFd>) -> io::Result<()> {
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = terminal.as_ref().map(|fd| [fd.as_fd()]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::net::sendmsg(
            &self.0,
            &[IoSlice::new(&[READY])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Waits for the word to start; `false` if the shim is gone.
    pub(super) fn wait_for_start(&self) -> bool {
        let mut byte = [0_u8; 1];
        loop {
            match rustix::net::recv(&self.0, &mut byte, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                received => return received.is_ok_and(|(n, _)| n == 1 && byte[0] == START),
            }
        }
    }

    /// Tells which step failed, with its whole chain of causes.
    pub(super) fn failed(&self, error: &dyn Error) {
        let mut message = vec![FAILED];
        message.extend_from_slice(chain(error).as_bytes());
        message.truncate(MAX_MESSAGE);
        // Nobody is left to be told when this fails.
        let _ = rustix::net::send(&self.0, &message, SendFlags::NOSIGNAL);
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
