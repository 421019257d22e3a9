//! From `orlop shim` to the event loop: read what to be, become it, say so.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::event_loop::Shim;
use super::namespaces::{self, NamespaceError};
use crate::cgroup::{DetectError, Hierarchies};
use crate::oci::builtin::channel::chain;
use crate::oci::builtin::user_namespace::UserNamespace;
use crate::protocol::{
    self, Body, Boot, Failed, FailedKind, FrameError, Message, Outcome, Reply, VERSION, Welcome,
};
use crate::sys::spawn::{self, StdioNumber};

/// Where the daemon connects, in the pod's directory.
const SOCKET: &str = "shim.sock";

/// The step of becoming a pod's shim that failed.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("read the order from standard input")]
    Read(#[source] io::Error),
    #[error("understand the order")]
    Frame(#[source] FrameError),
    #[error("the order is incomplete")]
    Incomplete,
    #[error("change to the root directory")]
    Root(#[source] rustix::io::Errno),
    #[error("become a subreaper")]
    Subreaper(#[source] rustix::io::Errno),
    #[error("begin a session")]
    Session(#[source] rustix::io::Errno),
    #[error("take signals as a descriptor")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    #[error("open the own PID namespace")]
    PidNamespace(#[source] io::Error),
    #[error("understand the cgroup hierarchies")]
    Cgroups(#[source] DetectError),
    #[error("make {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    #[error("listen on {}", .0.display())]
    Listen(PathBuf, #[source] io::Error),
    #[error("begin the event loop")]
    Loop(#[source] io::Error),
    #[error("answer on standard output")]
    Answer(#[source] io::Error),
}

/// The whole life of a shim.
#[must_use]
pub fn main() -> ExitCode {
    let (outcome, shim) = match boot() {
        Ok(shim) => {
            let pid = std::process::id();
            (Outcome::Welcome(Welcome { version: VERSION, pid, containers: vec![] }), Some(shim))
        }
        Err(error) => (Outcome::Failed(Failed::new(FailedKind::Step, chain(&error))), None),
    };
    if let Err(error) = answer(outcome) {
        eprintln!("orlop shim: {}", chain(&error));
        return ExitCode::FAILURE;
    }
    match shim.map(Shim::run) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("orlop shim: the event loop: {error}");
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    }
}

fn boot() -> Result<Shim, BootError> {
    let mut order = Vec::new();
    io::stdin()
        .lock()
        .take(protocol::MAX_FRAME as u64)
        .read_to_end(&mut order)
        .map_err(BootError::Read)?;
    let order = protocol::take_frame::<Boot>(&mut order)
        .map_err(BootError::Frame)?
        .ok_or(BootError::Incomplete)?;
    rustix::process::chdir("/").map_err(BootError::Root)?;
    rustix::process::setsid().map_err(BootError::Session)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(BootError::Subreaper)?;
    let signals = spawn::signals_as_descriptor().map_err(BootError::Signals)?;
    let own_pid_namespace =
        File::open("/proc/self/ns/pid").map_err(BootError::PidNamespace)?.into();
    let namespaces = namespaces::enter(&order)?;
    let directory = PathBuf::from(&order.directory);
    for name in ["exits", "c"] {
        let path = directory.join(name);
        make_directory(&path, namespaces.user.as_ref())
            .map_err(|error| BootError::Directory(path, error))?;
    }
    let socket = directory.join(SOCKET);
    let listener = listen(&directory, SOCKET).map_err(|error| BootError::Listen(socket, error))?;
    let cgroups = Hierarchies::told(&order.hierarchies).map_err(BootError::Cgroups)?;
    Shim::new(directory, cgroups, listener, signals, own_pid_namespace, namespaces)
        .map_err(BootError::Loop)
}

/// Makes a directory that the root of the pod's user namespace, if it has one, can pass
/// through: an external runtime becomes it before it enters the container's root.
pub(super) fn make_directory(path: &Path, user: Option<&UserNamespace>) -> io::Result<()> {
    let mode = if user.is_some() { 0o711 } else { 0o700 };
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Listens as `name` in a directory, through a descriptor of it: socket addresses are
/// limited to 107 bytes and state directories are not.
pub(super) fn listen(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let dir = open_directory(directory)?;
    let name = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(name)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Answers the order and lets go of the daemon's pipes.
fn answer(outcome: Outcome) -> Result<(), BootError> {
    let reply = Body::Reply(Reply { id: 0, outcome: Some(outcome) });
    let message = Message { body: Some(reply), descriptors: 0 };
    let frame = protocol::encode(&message).map_err(BootError::Frame)?;
    io::stdout()
        .lock()
        .write_all(&frame)
        .and_then(|()| io::stdout().flush())
        .map_err(BootError::Answer)?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(BootError::Answer)?;
    for number in [StdioNumber::Stdin, StdioNumber::Stdout] {
        spawn::set_stdio(null.as_fd(), number).map_err(BootError::Answer)?;
    }
    Ok(())
}
