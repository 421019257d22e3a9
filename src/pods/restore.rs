//! Pods from checkpoints: a new pod, whose containers go on where those of the checkpoint were
//! once they are started.
//!
//! ```text
//! checked: criu, the checkpoint, that the request fits
//! a pod of its own, on record as unfinished
//!   each container: what was written, unpacked; criu's images, copied; made, as any other
//! on record as finished
//! later, StartContainer: the shim has criu restore the processes
//! ```
//!
//! The checkpoint is only read, and not needed any more when this returns. criu's images decide
//! what a process may do, so they are taken from root's own files alone, and what a container's
//! configuration says otherwise than its checkpoint is refused, not overlooked.
//!
//! **Invariants.** There is the whole pod or none: whatever fails, and whoever stops waiting,
//! what was made goes again; so does what a daemon that ended left on record as unfinished.

mod agreement;
mod error;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandbox::controller::SandboxError;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(super) use agreement::check_spec;
pub use error::RestoreError;
pub(super) use source::{Source, remove_images};

use super::checkpoint::Purpose;
use super::driver::{Command, Driver};
use super::error::PodsError;
use super::making;
use super::node::Node;
use super::record::{ContainerRequest, PodRequest, Unfinished};
use super::registry::PodHandle;
use super::{Pods, ask, check_container, gone_is_done, new_id};
use source::Checkpoint;

/// What a restored container takes, besides its configuration.
#[derive(Debug, Clone)]
pub(super) struct Restoration {
    pub(super) source: Arc<Source>,
    /// The criu program.
    pub(super) criu: PathBuf,
}

/// A pod that was restored.
#[derive(Debug, Default)]
pub struct Restored {
    /// Its id.
    pub pod: String,
    /// Names and ids of its containers, which are created and not started.
    pub containers: Vec<(String, String)>,
}

/// A restored pod that nobody has been told of; dropped, it is removed.
struct Made {
    restored: Restored,
    unclaimed: Option<(Pods, Arc<PodHandle>, Handle)>,
}

impl Made {
    fn deliver(mut self) -> Restored {
        self.unclaimed = None;
        std::mem::take(&mut self.restored)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some((pods, handle, runtime)) = self.unclaimed.take() {
            drop(pods.drivers.spawn_on(async move { remove(&handle).await }, &runtime));
        }
    }
}

/// Removes a pod that nobody knows of.
pub(super) async fn remove(handle: &PodHandle) {
    if let Err(error) = gone_is_done(ask(handle, Command::Remove).await) {
        tracing::warn!(pod.id = %handle.id, error = &error as &dyn std::error::Error, "a pod that was not restored stays");
    }
}

/// What is asked for, once it is known to fit.
struct Job {
    pod: Arc<PodRequest>,
    containers: Vec<(Arc<ContainerRequest>, Restoration)>,
    given_up: CancellationToken,
}

impl Pods {
    /// Makes a pod and its containers from a checkpoint that [`Pods::checkpoint_pod`] wrote into
    /// the directory `from`. The containers' processes go on when they are started.
    ///
    /// # Errors
    /// Nothing is left, or (if giving back failed) a pod that is not ready is listed.
    ///
    /// # Cancel safety
    /// Dropping the future gives it up: what was made is removed.
    ///
    /// # Crash safety
    /// The next daemon removes what is not finished.
    pub async fn restore_pod(
        &self,
        request: PodRequest,
        from: &Path,
        containers: Vec<ContainerRequest>,
        options: impl IntoIterator<Item = String>,
    ) -> Result<Restored, PodsError> {
        if let Some(name) = options.into_iter().next() {
            return Err(RestoreError::UnknownOption { name }.into());
        }
        self.check_pod(&request).await?;
        for container in &containers {
            check_container(&request, container)?;
        }
        self.check_restorable(&request, &containers)?;
        let name = request.unique_name();
        let criu = self.node.criu.find(Purpose::Restore, &name).await?.to_owned();
        let from = from.to_owned();
        let read = move |_: &Node| Ok(Checkpoint::open(&from)?);
        let checkpoint = self.node.blocking("reading the checkpoint", &name, read).await?;
        let given_up = CancellationToken::new();
        let _given_up_when_dropped = given_up.clone().drop_guard();
        let containers = self.matched(checkpoint, containers, &criu)?;
        let job = Job { pod: Arc::new(request), containers, given_up };
        let pods = self.clone();
        let work = self.drivers.spawn(async move { pods.restore(job).await });
        let interrupted = |_| Err(PodsError::Interrupted { what: "restoring", id: name });
        work.await.unwrap_or_else(interrupted).map(Made::deliver)
    }

    /// What criu cannot restore here.
    fn check_restorable(
        &self,
        request: &PodRequest,
        containers: &[ContainerRequest],
    ) -> Result<(), RestoreError> {
        if self.node.external_name(&request.runtime_handler).is_some() {
            return Err(RestoreError::Unsupported { what: "pod of an external runtime" });
        }
        if request.user_namespace().is_some() {
            return Err(RestoreError::Unsupported { what: "pod with a user namespace" });
        }
        if self.node.facts.selinux.is_some() {
            return Err(RestoreError::Unsupported { what: "pod on a node with SELinux" });
        }
        for container in containers {
            if container.config.tty {
                return Err(RestoreError::Unsupported { what: "container with a terminal" });
            }
            if !container.is_within_pod() {
                let what = "container with processes of the node or of another container";
                return Err(RestoreError::Unsupported { what });
            }
        }
        Ok(())
    }

    /// Each container of the request with what the checkpoint has of it.
    fn matched(
        &self,
        checkpoint: Checkpoint,
        containers: Vec<ContainerRequest>,
        criu: &Path,
    ) -> Result<Vec<(Arc<ContainerRequest>, Restoration)>, PodsError> {
        let mut sources = checkpoint.containers;
        let names: BTreeSet<String> = sources.keys().cloned().collect();
        let mut matched = Vec::new();
        for container in containers {
            let name = container.name().to_owned();
            let Some(source) = sources.remove(&name) else {
                return Err(match names.contains(&name) {
                    true => RestoreError::Twice { name },
                    false => RestoreError::NoSuchContainer { name, names: list(&names) },
                }
                .into());
            };
            agreement::check_request(&container, &source)?;
            let image = making::find_image(&self.node, container.image())?;
            if image.id.to_string() != source.described.image {
                return Err(RestoreError::Differs { name, what: "image".to_owned() }.into());
            }
            let source = Arc::new(source);
            let restoration = Restoration { source, criu: criu.to_owned() };
            matched.push((Arc::new(container), restoration));
        }
        if let Some(name) = sources.into_keys().next() {
            return Err(RestoreError::Unnamed { name }.into());
        }
        Ok(matched)
    }

    async fn restore(&self, job: Job) -> Result<Made, PodsError> {
        let mut view = self.new_pod(Arc::clone(&job.pod));
        view.record.unfinished = Some(Unfinished::Restore);
        let beginning = self.begin(view);
        let (handle, name) = (Arc::clone(&beginning.handle), job.pod.unique_name());
        if let Err(other) = self.node.registry.reserve(&name, &handle) {
            return Err(PodsError::NameTaken { kind: "pod", name, id: other.id.clone() });
        }
        self.node.registry.insert(std::slice::from_ref(&handle));
        let (reply, answer) = oneshot::channel();
        self.drivers.spawn(Driver::new(beginning).run_new(reply));
        let ready = answer.await.unwrap_or_else(|_closed| Err(SandboxError::Lost.into()));
        // Without it nothing is left.
        let parcel = ready?;
        match fill(&handle, &job).await {
            Ok(containers) => Ok(Made {
                restored: Restored { pod: parcel.deliver(), containers },
                unclaimed: Some((self.clone(), handle, Handle::current())),
            }),
            Err(error) => {
                remove(&handle).await;
                Err(error)
            }
        }
    }
}

/// Makes the containers of a pod that is up.
async fn fill(handle: &PodHandle, job: &Job) -> Result<Vec<(String, String)>, PodsError> {
    let mut made = Vec::new();
    for (request, restoration) in &job.containers {
        check_wanted(handle, job)?;
        let (id, request) = (new_id(), Arc::clone(request));
        let (name, restoration) = (request.name().to_owned(), Some(restoration.clone()));
        let create = |reply| Command::Create { id, request, restoration, reply };
        made.push((name, ask(handle, create).await?.deliver()));
    }
    check_wanted(handle, job)?;
    ask(handle, Command::Finish).await?;
    Ok(made)
}

fn check_wanted(handle: &PodHandle, job: &Job) -> Result<(), RestoreError> {
    if job.given_up.is_cancelled() {
        return Err(RestoreError::GivenUp { pod: handle.id.clone() });
    }
    Ok(())
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
