//! Why something could not be done with a pod or a container.

use std::io;
use std::path::PathBuf;

use sandbox::controller::SandboxError;
pub use sandbox::protocol::FailedKind as Refusal;

use super::checkpoint::CheckpointError;
use super::record::RecordError;
use super::registry::FindError;
use super::restore::RestoreError;
use super::selinux::RelabelError;
use super::spec::{
    FileError, LogPathError, NamespaceError, SpecError, StopSignalError, SysctlError, UserError,
};
use crate::cdi::CdiError;
use crate::images;
use crate::metadata::MetadataError;
use crate::network;
use crate::snapshots::{ActiveError, ReadError, ViewError};

/// What is wrong with a request, before anything is touched.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Names cannot be made without it.
    #[error("the {kind} has no metadata with a name")]
    NoMetadata {
        /// "pod" or "container".
        kind: &'static str,
    },
    /// The node does not have it.
    #[error("no runtime handler {name:?}; there are {known}")]
    UnknownHandler {
        /// As asked.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Neither does the status say that it can.
    #[error("pods of the runtime handler {handler:?} cannot have user namespaces on this node")]
    NoUserNamespaces {
        /// The handler.
        handler: String,
    },
    /// The pod's parent is of another cgroup driver.
    #[error(
        "cgroup_parent {parent:?}: this node's cgroup driver is {driver}, which needs {needed}"
    )]
    CgroupParent {
        /// As asked.
        parent: String,
        /// The driver in use.
        driver: &'static str,
        /// What it needs.
        needed: &'static str,
    },
    /// The pod's or container's namespaces.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The pod's kernel settings.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Files that the runtime makes for the pod.
    #[error(transparent)]
    File(#[from] FileError),
    /// The container's log.
    #[error(transparent)]
    LogPath(#[from] LogPathError),
    /// The container's stop signal.
    #[error(transparent)]
    StopSignal(#[from] StopSignalError),
    /// The container's user.
    #[error(transparent)]
    User(#[from] UserError),
    /// The pod's bandwidth annotations.
    #[error(transparent)]
    Bandwidth(#[from] network::BandwidthError),
    /// Anything else in the container's configuration.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Devices of CDI.
    #[error(transparent)]
    Cdi(#[from] CdiError),
    /// The seccomp profile cannot be read.
    #[error("read the seccomp profile {}", .path.display())]
    SeccompProfile {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image is not on this node.
    #[error("no image {name:?} on this node")]
    NoImage {
        /// As asked.
        name: String,
    },
    /// The image's name names several.
    #[error(transparent)]
    Image(#[from] images::FindError),
    /// Processes are shared within a pod.
    #[error("the target container {id} is in another pod, {pod}")]
    TargetElsewhere {
        /// The target.
        id: String,
        /// Where it is.
        pod: String,
    },
    /// An exec without a program.
    #[error("the command is empty")]
    NoCommand,
    /// An attachment with a terminal to a container without one, or the other way.
    #[error("tty is {asked}, but container {id} was made with tty {has_one}")]
    AttachTerminal {
        /// Container id.
        id: String,
        /// What was asked for.
        asked: bool,
        /// What it has.
        has_one: bool,
    },
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no such pod or container, or several.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Another one has the name.
    #[error("the name {name} is taken by {kind} {id}")]
    NameTaken {
        /// "pod" or "container".
        kind: &'static str,
        /// The unique name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// It is not in a state for this.
    #[error("cannot {what}: {kind} {id} is {state}")]
    WrongState {
        /// What was asked.
        what: &'static str,
        /// "pod" or "container".
        kind: &'static str,
        /// Its id.
        id: String,
        /// The state it is in.
        state: &'static str,
    },
    /// A directory or file of the pod.
    #[error("prepare {}", .path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pod's network namespace.
    #[error(transparent)]
    CreateNetns(#[from] network::CreateNetnsError),
    /// It could not be given back.
    #[error(transparent)]
    RemoveNetns(#[from] network::RemoveNetnsError),
    /// The pod's network.
    #[error("attach the pod to the network")]
    Attach(#[source] network::AddError),
    /// It could not be given back.
    #[error("detach the pod from the network")]
    Detach(#[source] network::DelError),
    /// The shim, or something that it does.
    #[error(transparent)]
    Sandbox(SandboxError),
    /// The shim gave up at a deadline.
    #[error(transparent)]
    Late(SandboxError),
    /// The shim does not answer.
    #[error(transparent)]
    ShimHangs(SandboxError),
    /// The shim did not do it in time.
    #[error("{what} of {id} took longer than {seconds} s")]
    TooLong {
        /// Which step.
        what: &'static str,
        /// Pod or container id.
        id: String,
        /// The bound.
        seconds: u64,
    },
    /// The container's writable layer.
    #[error(transparent)]
    Snapshot(#[from] ActiveError),
    /// The image's files.
    #[error("look into the image")]
    View(#[source] ViewError),
    /// A file of the image.
    #[error("read {path} of the image")]
    ReadImage {
        /// Which.
        path: &'static str,
        /// Why.
        source: ReadError,
    },
    /// The container's program ran longer than it may.
    #[error("the command ran longer than {seconds} s and was killed")]
    ExecTimeout {
        /// The bound.
        seconds: u64,
    },
    /// The pipes or the terminal of an exec or an attachment.
    #[error("make pipes to the program")]
    ExecPipes(#[source] io::Error),
    /// Nobody listens in the pod.
    #[error("connect to port {port} of pod {pod}")]
    PortForward {
        /// Pod id.
        pod: String,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The record could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The database.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// An image's volume could not be filled.
    #[error("fill the volume {}", .path.display())]
    Volume {
        /// Its path in the container.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The limits of a running container.
    #[error("change the resources of container {id}")]
    Resources {
        /// Its id.
        id: String,
        /// Why not.
        source: sandbox::cgroup::ResourceError,
    },
    /// The cgroup.
    #[error("remove the cgroup of {id}")]
    Cgroup {
        /// Pod or container id.
        id: String,
        /// Why.
        source: sandbox::cgroup::CgroupError,
    },
    /// The scope.
    #[error("end the scope of {id}")]
    Scope {
        /// Pod id.
        id: String,
        /// Why.
        source: Box<crate::systemd::SystemdError>,
    },
    /// The SELinux labels of a volume.
    #[error(transparent)]
    Relabel(#[from] RelabelError),
    /// A thread for blocking work ended early.
    #[error("{what} of {id} was interrupted")]
    Interrupted {
        /// Which step.
        what: &'static str,
        /// Pod or container id.
        id: String,
    },
    /// The pod went away while this waited.
    #[error("pod {id} was removed meanwhile")]
    Gone {
        /// Its id.
        id: String,
    },
    /// There is no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Nothing is restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A pod's earlier failure, told to each who waited for it.
    #[error(transparent)]
    Shared(std::sync::Arc<PodsError>),
}

impl From<SandboxError> for PodsError {
    fn from(error: SandboxError) -> Self {
        match &error {
            SandboxError::Hung { .. } => Self::ShimHangs(error),
            SandboxError::Refused(failed) if failed.kind() == Refusal::Deadline => {
                Self::Late(error)
            }
            _ => Self::Sandbox(error),
        }
    }
}

impl PodsError {
    /// What kind of refusal it is, if the pod's shim refused.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Sandbox(SandboxError::Refused(failed)) => Some(failed.kind()),
            _ => None,
        }
    }
}
