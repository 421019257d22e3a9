//! Checkpoints: the processes of running containers with what these wrote, on disk, while
//! the containers run on.
//!
//! ```text
//! partial directory ── on record ── made
//!   the shim freezes the containers, and criu dumps each
//!   what each wrote is copied
//!   the containers go on
//! renamed to its place, whole
//! ```
//!
//! A container's checkpoint is an archive, as podman and CRI-O write it: `checkpoint/` with
//! criu's images, `spec.dump`, `config.dump`, `rootfs-diff.tar`, `dump.log`, `stats-dump`. A
//! pod's is a directory, `checkpoint`, with `pod.json` and the same for each container.
//!
//! **Invariants.** At its place there is a whole checkpoint or none. Containers are frozen no
//! longer than the one who asked waits: the shim lets them go on when the request is given up,
//! at its deadline, and when this daemon is gone.

mod archive;
mod criu;
mod description;
mod error;
mod partial;

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbox::controller::Sandbox;
use sandbox::protocol;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(super) use criu::{Criu, Purpose};
pub(super) use description::VERSION as DESCRIPTION_VERSION;
pub(super) use description::{Described, IMAGES, POD, PodDescription, ROOTFS_DIFF, SPEC};
pub use error::CheckpointError;
pub(super) use partial::unfinished;

use super::Pods;
use super::error::PodsError;
use super::making;
use super::node::{Node, text};
use super::view::{ContainerView, PodView};
use partial::Partial;

/// How long a checkpoint may take if the request does not say.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long giving up may take: to stop copying, and to remove what was copied.
const GIVING_UP: Duration = Duration::from_secs(15);

/// What a pod's checkpoint is called in the directory that it was asked for in.
pub(super) const OF_POD: &str = "checkpoint";

/// What is asked for.
struct Job {
    /// Container or pod, for messages.
    id: String,
    sandbox: Arc<Sandbox>,
    containers: Vec<Arc<ContainerView>>,
    place: Place,
    limit: Duration,
    given_up: CancellationToken,
}

/// Where it is to be.
#[derive(Clone)]
enum Place {
    /// A container's archive.
    Archive(PathBuf),
    /// A pod's directory, in this one.
    In(PathBuf, Arc<PodView>),
}

impl Pods {
    /// Writes a checkpoint of a running container into a new archive at `location`. The
    /// container runs on. `limit` is how long that may take; none: ten minutes.
    ///
    /// # Errors
    /// Nothing is at `location` that was not there before.
    ///
    /// # Cancel safety
    /// Dropping the future gives the checkpoint up.
    ///
    /// # Crash safety
    /// The next daemon removes what is not finished.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &Path,
        limit: Option<Duration>,
    ) -> Result<(), PodsError> {
        let (sandbox, container) = self.running(id, "checkpoint it")?;
        self.checkpoint(Job {
            id: container.id.clone(),
            sandbox,
            containers: vec![container],
            place: Place::Archive(location.to_owned()),
            limit: limit.unwrap_or(PATIENCE),
            given_up: CancellationToken::new(),
        })
        .await
    }

    /// Writes a checkpoint of a pod's running containers, of all of them at one instant, into
    /// the empty directory `output`. They run on.
    ///
    /// # Errors
    /// Nothing is in the directory.
    ///
    /// # Cancel safety
    /// Dropping the future gives the checkpoint up.
    ///
    /// # Crash safety
    /// The next daemon removes what is not finished.
    pub async fn checkpoint_pod(
        &self,
        id: &str,
        output: &Path,
        containers: &[String],
        options: impl IntoIterator<Item = String>,
    ) -> Result<(), PodsError> {
        let handle = self.node.registry.pod(id)?;
        let pod = handle.view.load_full();
        if let Some(name) = options.into_iter().next() {
            return Err(CheckpointError::UnknownOption { name }.into());
        }
        let named = self.named(&pod, containers)?;
        check_all_named(&pod, &named)?;
        let Some(sandbox) = handle.sandbox.load_full() else {
            let (what, kind) = ("checkpoint it", "pod");
            let (id, state) = (pod.id.clone(), "not ready");
            return Err(PodsError::WrongState { what, kind, id, state });
        };
        self.checkpoint(Job {
            id: pod.id.clone(),
            sandbox,
            containers: named,
            place: Place::In(output.to_owned(), pod),
            limit: PATIENCE,
            given_up: CancellationToken::new(),
        })
        .await
    }

    /// The running containers of these ids, all of them of the pod.
    fn named(&self, pod: &PodView, ids: &[String]) -> Result<Vec<Arc<ContainerView>>, PodsError> {
        if ids.is_empty() {
            return Err(CheckpointError::NoContainers { pod: pod.id.clone() }.into());
        }
        let mut named: Vec<Arc<ContainerView>> = Vec::new();
        for id in ids {
            let container = self.container(id)?;
            let id = container.id.clone();
            if container.pod != pod.id {
                return Err(CheckpointError::Foreign { id, pod: pod.id.clone() }.into());
            }
            if named.iter().any(|one| one.id == id) {
                return Err(CheckpointError::Twice { id }.into());
            }
            if !container.is_running() {
                let (what, kind, state) = ("checkpoint it", "container", "not running");
                return Err(PodsError::WrongState { what, kind, id, state });
            }
            named.push(container);
        }
        Ok(named)
    }

    async fn checkpoint(&self, job: Job) -> Result<(), PodsError> {
        let (id, limit, given_up) = (job.id.clone(), job.limit, job.given_up.clone());
        let _given_up_when_dropped = given_up.clone().drop_guard();
        let mut work = self.drivers.spawn(run(Arc::clone(&self.node), job));
        let interrupted = || PodsError::Interrupted { what: "checkpointing", id: id.clone() };
        if let Ok(ended) = timeout(limit, &mut work).await {
            return ended.unwrap_or_else(|_ended| Err(interrupted()));
        }
        given_up.cancel();
        // What is left goes now, unless it is on a file system that hangs.
        let _ = timeout(GIVING_UP, work).await;
        Err(CheckpointError::Late { id, limit }.into())
    }
}

/// Whether all running containers of a pod are among these.
fn check_all_named(pod: &PodView, named: &[Arc<ContainerView>]) -> Result<(), CheckpointError> {
    let named: BTreeSet<&str> = named.iter().map(|one| one.id.as_str()).collect();
    let mut running = pod.containers.values().filter(|one| one.is_running());
    match running.find(|one| !named.contains(one.id.as_str())) {
        Some(one) => Err(CheckpointError::Unnamed { id: one.id.clone(), pod: pod.id.clone() }),
        None => Ok(()),
    }
}

/// Whether a checkpoint can be there.
fn check_place(place: &Place) -> Result<(), CheckpointError> {
    match place {
        Place::Archive(location) => {
            if location.is_absolute() && location.file_name().is_some() && !location.is_dir() {
                return Ok(());
            }
            Err(CheckpointError::Location { location: location.clone() })
        }
        Place::In(output, _) => {
            let entries = std::fs::read_dir(output).ok().filter(|_| output.is_absolute());
            if entries.is_some_and(|mut entries| entries.next().is_none()) {
                return Ok(());
            }
            Err(CheckpointError::Output { path: output.clone() })
        }
    }
}

async fn run(node: Arc<Node>, job: Job) -> Result<(), PodsError> {
    let job = Arc::new(job);
    let place = job.place.clone();
    node.blocking("checkpointing", &job.id, move |_| Ok(check_place(&place)?)).await?;
    let criu = node.criu.find(Purpose::Checkpoint, &job.id).await?;
    let of = Arc::clone(&job);
    let begin = move |node: &Node| Ok(Arc::new(begin(node, &of)?));
    let partial = node.blocking("checkpointing", &job.id, begin).await?;
    let made = make(&node, &job, criu, &partial).await;
    let remove = move |_: &Node| {
        drop(partial);
        Ok(())
    };
    let removed = node.blocking("checkpointing", &job.id, remove).await;
    made.and(removed)
}

async fn make(
    node: &Arc<Node>,
    job: &Arc<Job>,
    criu: &Path,
    partial: &Arc<Partial>,
) -> Result<(), PodsError> {
    let dumps = job.containers.iter().enumerate().map(|(index, container)| protocol::Dump {
        container: container.id.clone(),
        directory: text(&directory_of(job, partial.path(), index)),
    });
    let checkpoint = protocol::Checkpoint {
        dumps: dumps.collect(),
        criu: text(criu),
        deadline_ms: u64::try_from(job.limit.as_millis()).unwrap_or(u64::MAX),
    };
    let frozen = job.sandbox.checkpoint(checkpoint, job.given_up.cancelled()).await?;
    if let Place::In(_, pod) = &job.place {
        // Others may have been started before these were frozen.
        check_all_named(&node.registry.pod(&pod.id)?.view.load(), &job.containers)?;
    }
    let (of, at) = (Arc::clone(job), Arc::clone(partial));
    node.blocking("checkpointing", &job.id, move |node| copy_diffs(node, &of, &at)).await?;
    frozen.thaw().await?;
    let (of, at) = (Arc::clone(job), Arc::clone(partial));
    node.blocking("checkpointing", &job.id, move |node| Ok(finish(node, &of, &at)?)).await
}

/// The directory of one container's checkpoint.
fn directory_of(job: &Job, partial: &Path, index: usize) -> PathBuf {
    match job.place {
        Place::Archive(_) => partial.to_owned(),
        Place::In(..) => partial.join(index.to_string()),
    }
}

fn begin(node: &Node, job: &Job) -> Result<Partial, CheckpointError> {
    let parent = match &job.place {
        Place::Archive(location) => location.parent().unwrap_or(location),
        Place::In(output, _) => output,
    };
    let partial = Partial::begin(&node.checkpoints_directory(), parent)?;
    if let Place::In(..) = job.place {
        for index in 0..job.containers.len() {
            let directory = directory_of(job, partial.path(), index);
            let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
            made.map_err(partial::failed("make", &directory))?;
        }
    }
    Ok(partial)
}

/// Copies what the frozen containers wrote.
fn copy_diffs(node: &Node, job: &Job, partial: &Partial) -> Result<(), PodsError> {
    for (index, container) in job.containers.iter().enumerate() {
        let path = directory_of(job, partial.path(), index).join(description::ROOTFS_DIFF);
        let file = archive::Revocable::create(&path, &job.given_up)
            .map_err(partial::failed("make", &path))?;
        node.snapshots
            .write_diff(&making::key(&container.id)?, std::io::BufWriter::new(file))
            .map_err(|source| {
                given_up_or(job, CheckpointError::Diff { id: container.id.clone(), source })
            })?;
    }
    Ok(())
}

/// What is copied for nobody fails, and that is not why.
fn given_up_or(job: &Job, error: CheckpointError) -> CheckpointError {
    if job.given_up.is_cancelled() {
        CheckpointError::GivenUp { id: job.id.clone() }
    } else {
        error
    }
}

/// Describes the containers, and puts the whole in its place.
fn finish(node: &Node, job: &Job, partial: &Partial) -> Result<(), CheckpointError> {
    for (index, container) in job.containers.iter().enumerate() {
        let directory = directory_of(job, partial.path(), index);
        let shims = node.pod_directory(&container.pod).join("c").join(&container.id);
        description::write(&directory, &shims.join("config.json"), container)?;
    }
    let (from, to) = match &job.place {
        Place::Archive(location) => {
            let archive = partial.path().join("archive.tar");
            archive::pack(partial.path(), &archive, &job.given_up)
                .map_err(partial::failed("write", &archive))
                .map_err(|error| given_up_or(job, error))?;
            (archive, location.clone())
        }
        Place::In(output, pod) => {
            let indexes = 0..job.containers.len();
            let directories: Vec<PathBuf> =
                indexes.map(|index| directory_of(job, partial.path(), index)).collect();
            PodDescription::of(pod, &job.containers, &directories)?.write(partial.path())?;
            archive::sync(partial.path()).map_err(partial::failed("write", partial.path()))?;
            (partial.path().to_owned(), output.join(OF_POD))
        }
    };
    if job.given_up.is_cancelled() {
        return Err(CheckpointError::GivenUp { id: job.id.clone() });
    }
    std::fs::rename(&from, &to).map_err(partial::failed("move the checkpoint to", &to))?;
    let parent = to.parent().unwrap_or(&to);
    std::fs::File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(partial::failed("write", parent))
}
