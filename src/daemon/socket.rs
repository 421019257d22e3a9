//! The socket that serves CRI: mode 0600, and never taken away from a living daemon.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Its directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// Somebody answers on it.
    #[error("{} is in use: another daemon serves it (choose another --listen)", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// What is there is not a socket, so it is not ours to remove.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// What a former daemon left cannot be looked at or removed.
    #[error("cannot remove the stale socket {}", path.display())]
    RemoveStale {
        /// The socket.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses the socket.
    #[error("cannot listen on {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// Makes sure that nobody serves `path`, and removes what a dead daemon left there.
///
/// # Errors
/// [`ListenError::InUse`] if somebody answers, [`ListenError::NotASocket`] and
/// [`ListenError::RemoveStale`] if the way is not free.
pub(super) fn clear(path: &Path) -> Result<(), ListenError> {
    let stale = |source| ListenError::RemoveStale { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Err(absent) if absent.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(stale(source)),
    }
    match UnixStream::connect(path) {
        Err(dead) if dead.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(stale)
        }
        // A full backlog or a missing permission is somebody, too.
        Ok(_) | Err(_) => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

/// Listens on `path` with mode 0600; a missing directory is made with mode 0700.
///
/// # Errors
/// All of [`ListenError`].
pub(super) fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    if let Some(directory) = path.parent() {
        make_directory(directory)
            .map_err(|source| ListenError::MakeDirectory { path: directory.to_owned(), source })?;
    }
    clear(path)?;
    bind(path).map_err(|source| ListenError::Bind { path: path.to_owned(), source })
}

/// Makes `path` and what is missing above it, all with mode 0700; leaves alone what exists.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file takes the mode of the unbound socket, so it is never wider than this.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_socket_is_private() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("made/orlop.sock");
        let _socket = listen(&path)?;
        let mode = |path: &Path| std::fs::metadata(path).map(|file| file.permissions().mode());
        assert_eq!(mode(&path)? & 0o777, 0o600);
        assert_eq!(mode(&directory.path().join("made"))? & 0o777, 0o700);
        Ok(())
    }

    #[test]
    fn a_living_daemon_keeps_its_socket_and_a_dead_one_loses_it()
    -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("orlop.sock");
        let living = listen(&path)?;
        assert!(matches!(listen(&path), Err(ListenError::InUse { .. })));
        drop(living);
        assert!(path.exists());
        listen(&path)?;
        Ok(())
    }

    #[test]
    fn a_file_is_not_removed() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("orlop.sock");
        std::fs::write(&path, "precious")?;
        assert!(matches!(listen(&path), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path)?, "precious");
        Ok(())
    }
}
