//! The namespaces of a pod, in which its shim lives: network, IPC, UTS.
//!
//! Without a user namespace the network namespace is there already, and the others are made
//! here. With one, all of them are made inside of it, since a namespace belongs for ever to
//! the user namespace in which it was made: one process is cloned into all of them at once.
//! It sets what only their own root may set, and ends; or it stays as process 1 of the
//! namespace of processes that the pod's containers share. The shim enters them, but not the
//! user namespace: it keeps a descriptor of that, for its children, and the rights of the host.
//!
//! # References
//! - [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::pause;
use crate::oci::builtin::channel::chain;
use crate::oci::builtin::user_namespace::{EnterError, UserNamespace, become_root};
use crate::protocol::{self, Boot};
use crate::sys::ns::{self, CreateNetnsError};
use crate::sys::spawn::{self, Cloned};

/// The step of making or entering a pod's namespaces that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NamespaceError {
    #[error("enter the network namespace {path}")]
    Netns { path: String, source: io::Error },
    #[error("make the pod's own namespaces")]
    Unshare(#[source] io::Error),
    #[error("start the pod's process 1")]
    Pause(#[source] io::Error),
    #[error("set the host name {name}")]
    Hostname { name: String, source: rustix::io::Errno },
    #[error("set {name} to {value}")]
    Sysctl { name: String, value: String, source: io::Error },
    #[error("talk to the first process of the user namespace")]
    Talk(#[source] io::Error),
    #[error("write {path}")]
    MapIds { path: String, source: io::Error },
    #[error("open {path}")]
    Open { path: String, source: io::Error },
    #[error(transparent)]
    Pin(CreateNetnsError),
    #[error("enter the pod's namespaces")]
    Enter(#[source] rustix::io::Errno),
    #[error(transparent)]
    Root(#[from] EnterError),
    #[error("bring up the loopback interface")]
    Loopback(#[source] rustix::io::Errno),
    #[error("in the user namespace: {0}")]
    Inside(String),
}

/// What the shim keeps of them.
#[derive(Debug)]
pub(super) struct Namespaces {
    pub(super) user: Option<UserNamespace>,
    /// Process 1 of the namespace of processes that containers share.
    pub(super) pause: Option<(Pid, OwnedFd)>,
}

/// Makes what is to be made, and enters it.
pub(super) fn enter(order: &Boot) -> Result<Namespaces, NamespaceError> {
    if let Some(ids) = order.user_namespace {
        return make_in_user_namespace(order, ids);
    }
    if !order.netns.is_empty() {
        let path = order.netns.clone();
        let failed = |source| NamespaceError::Netns { path, source };
        File::open(&order.netns)
            .and_then(|netns| {
                Ok(rustix::thread::move_into_thread_name_spaces(
                    netns.as_fd(),
                    ThreadNameSpaceType::NETWORK,
                )?)
            })
            .map_err(failed)?;
    }
    let mut own = UnshareFlags::empty();
    own.set(UnshareFlags::NEWIPC, order.own_ipc);
    own.set(UnshareFlags::NEWUTS, order.hostname.is_some());
    if !own.is_empty() {
        spawn::unshare(own).map_err(NamespaceError::Unshare)?;
    }
    furnish(order)?;
    let pause = order
        .shared_pid
        .then(|| pause::start(&order.context))
        .transpose()
        .map_err(NamespaceError::Pause)?;
    Ok(Namespaces { user: None, pause })
}

/// Sets host name and kernel settings of the namespaces that this process is in.
fn furnish(order: &Boot) -> Result<(), NamespaceError> {
    if let Some(name) = &order.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|source| NamespaceError::Hostname { name: name.clone(), source })?;
    }
    order.sysctls.iter().try_for_each(|setting| set_sysctl(&setting.name, &setting.value))
}

/// `/proc/sys` shows each reader its own network, IPC and UTS namespaces: the pod's.
fn set_sysctl(name: &str, value: &str) -> Result<(), NamespaceError> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(path, value).map_err(|source| NamespaceError::Sysctl {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn make_in_user_namespace(
    order: &Boot,
    ids: protocol::UserNamespace,
) -> Result<Namespaces, NamespaceError> {
    let mut flags = UnshareFlags::NEWUSER;
    flags.set(UnshareFlags::NEWNET, !order.netns.is_empty());
    flags.set(UnshareFlags::NEWIPC, order.own_ipc);
    flags.set(UnshareFlags::NEWUTS, order.hostname.is_some());
    flags.set(UnshareFlags::NEWPID, order.shared_pid);
    let (ours, theirs) = UnixStream::pair().map_err(NamespaceError::Talk)?;
    let shim = pause::this_process().map_err(NamespaceError::Pause)?;
    match spawn::clone_child(flags, None).map_err(NamespaceError::Unshare)? {
        Cloned::Child => {
            drop(ours);
            be_first(order, theirs, &shim)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let made = settle(order, ids, pid, &pidfd, ours);
            if made.is_ok() && order.shared_pid {
                return made.map(|user| Namespaces { user: Some(user), pause: Some((pid, pidfd)) });
            }
            // It may have ended by itself; in both cases it is buried here.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            made.map(|user| Namespaces { user: Some(user), pause: None })
        }
    }
}

/// Gives the user namespace of `first` its ids, has it furnish the namespaces, and enters
/// all but the user namespace.
fn settle(
    order: &Boot,
    ids: protocol::UserNamespace,
    first: Pid,
    pidfd: &OwnedFd,
    mut talk: UnixStream,
) -> Result<UserNamespace, NamespaceError> {
    let of_first = |name: &str| format!("/proc/{}/{name}", first.as_raw_nonzero());
    for (name, host, length) in
        [("uid_map", ids.host_uid, ids.uids), ("gid_map", ids.host_gid, ids.gids)]
    {
        let path = of_first(name);
        std::fs::write(&path, format!("0 {host} {length}\n"))
            .map_err(|source| NamespaceError::MapIds { path, source })?;
    }
    let path = of_first("ns/user");
    let user = File::open(&path).map_err(|source| NamespaceError::Open { path, source })?;
    let mut entered = ThreadNameSpaceType::empty();
    if !order.netns.is_empty() {
        ns::pin_netns_of(first, Path::new(&order.netns)).map_err(NamespaceError::Pin)?;
        entered |= ThreadNameSpaceType::NETWORK;
    }
    entered.set(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, order.own_ipc);
    entered.set(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, order.hostname.is_some());
    if !entered.is_empty() {
        rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), entered)
            .map_err(NamespaceError::Enter)?;
    }
    let mut answer = String::new();
    talk.write_all(b".")
        .and_then(|()| talk.shutdown(Shutdown::Write))
        .and_then(|()| talk.read_to_string(&mut answer))
        .map_err(NamespaceError::Talk)?;
    match answer.as_str() {
        DONE => Ok(UserNamespace::new(user.into(), ids)),
        "" => Err(NamespaceError::Inside("its first process ended early".to_owned())),
        why => Err(NamespaceError::Inside(why.to_owned())),
    }
}

/// What the first process says when all is set; else it says what is not.
const DONE: &str = "done";

/// The first process of a user namespace: waits for its ids, sets what only its root may set.
fn be_first(order: &Boot, mut talk: UnixStream, shim: &OwnedFd) -> ! {
    let mut word = [0_u8; 1];
    if talk.read_exact(&mut word).is_err() {
        spawn::exit_now(1);
    }
    let answer = match furnish_as_root(order) {
        Ok(()) => DONE.to_owned(),
        Err(error) => chain(&error),
    };
    // Without a reader there is no shim, and no pod.
    if talk.write_all(answer.as_bytes()).is_err() || answer != DONE || !order.shared_pid {
        spawn::exit_now(0);
    }
    pause::run(&order.context, shim)
}

fn furnish_as_root(order: &Boot) -> Result<(), NamespaceError> {
    become_root()?;
    if !order.netns.is_empty() {
        ns::loopback_up().map_err(NamespaceError::Loopback)?;
    }
    furnish(order)
}
