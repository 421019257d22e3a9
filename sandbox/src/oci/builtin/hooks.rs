//! Hooks: programs of others that run at points of a container's life.
//!
//! The hooks of one stage run one after the other, as children of a process of their own,
//! so that the shim goes on meanwhile; that process says on its channel how they ended.
//!
//! | stage | hooks | where |
//! |---|---|---|
//! | set up | `prestart`, `createRuntime` | on the host |
//! | set up | `createContainer` | on the host, with the container's root in the bundle |
//! | started | `poststart` | on the host |
//! | stopped | `poststop` | on the host |
//!
//! The root in the bundle is a copy of the container's mount tree in a mount namespace
//! that only the hook sees: what it writes to files and links is in the container, what it
//! mounts is not. It has to be so: when mounts are made, nothing of the host is in the
//! container's mount namespace any more.
//!
//! `startContainer` is a program of the container, which would have to be confined as the
//! container is; it is refused until it can be.
//!
//! **Invariants.** Each hook has a deadline. One that fails, is killed, or is too late is an
//! error of its stage; after the container runs, one that is logged.
//!
//! # References
//! - [OCI runtime spec, hooks](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks)
//! - [state](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state)

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use super::channel::ChildChannel;
use super::rootfs::{self, RootfsError};
use super::{PidPlace, SpawnError, Spawned};
use crate::sys::spawn;

/// How long a hook may take that does not say.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a hook is asked whether it ended.
const PAUSE: Duration = Duration::from_millis(2);

/// How much of what a hook wrote to standard error is told, in bytes.
const SAID_MAX: u64 = 512;

/// A point of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is set up, its program waits.
    SetUp,
    /// Its program runs.
    Started,
    /// It is gone.
    Stopped,
}

/// The hooks of one container, and what they are told of it.
#[derive(Debug)]
pub struct ContainerHooks {
    hooks: Hooks,
    state: serde_json::Value,
    bundle: PathBuf,
}

/// Where a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    HostWithRoot,
}

/// Why the hooks of a stage did not do.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("reset signals")]
    Signals(#[source] io::Error),
    #[error("begin a session")]
    Session(#[source] Errno),
    #[error("close the shim's descriptors")]
    Close(#[source] io::Error),
    #[error("look at the container's mounts")]
    Mounts(#[source] Errno),
    #[error("make a mount namespace")]
    Unshare(#[source] io::Error),
    #[error(transparent)]
    Root(#[from] RootfsError),
    #[error("enter the container's mounts")]
    Enter(#[source] Errno),
    #[error("run the hook {}", .0.display())]
    Run(PathBuf, #[source] io::Error),
    #[error("the hook {} {how}{said}", path.display())]
    Failed { path: PathBuf, how: String, said: String },
}

impl ContainerHooks {
    /// Those of a spec, if it has any. Writes the bundle that they are told of.
    ///
    /// # Errors
    /// The bundle cannot be written.
    pub fn of(spec: &Spec, container: &str, bundle: &Path) -> io::Result<Option<Self>> {
        let Some(hooks) = spec.hooks().clone() else { return Ok(None) };
        let root = bundle.join("rootfs");
        std::fs::create_dir_all(&root)?;
        let mut written = spec.clone();
        if let Some(place) = written.root_mut() {
            place.set_path(root);
        }
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&written)?)?;
        let state = serde_json::json!({
            "ociVersion": spec.version(),
            "id": container,
            "bundle": bundle,
            "annotations": spec.annotations(),
        });
        Ok(Some(Self { hooks, state, bundle: bundle.to_owned() }))
    }

    /// Whether there are any for a stage.
    #[must_use]
    pub fn has(&self, stage: Stage) -> bool {
        !self.of_stage(stage).is_empty()
    }

    fn of_stage(&self, stage: Stage) -> Vec<(&Hook, Place)> {
        let hooks = &self.hooks;
        let lists: Vec<(&Option<Vec<Hook>>, Place)> = match stage {
            Stage::SetUp => vec![
                (hooks.prestart(), Place::Host),
                (hooks.create_runtime(), Place::Host),
                (hooks.create_container(), Place::HostWithRoot),
            ],
            Stage::Started => vec![(hooks.poststart(), Place::Host)],
            Stage::Stopped => vec![(hooks.poststop(), Place::Host)],
        };
        lists
            .into_iter()
            .flat_map(|(list, place)| list.iter().flatten().map(move |hook| (hook, place)))
            .collect()
    }
}

/// Clones the process that runs the hooks of a stage. It says [`News::Ready`] when all of
/// them did, or why not. `first` is the container's first process, while there is one.
///
/// [`News::Ready`]: super::channel::News::Ready
///
/// # Errors
/// Nothing was started.
pub fn run(
    hooks: &ContainerHooks,
    stage: Stage,
    first: Option<(Pid, BorrowedFd<'_>)>,
    own_pid_namespace: BorrowedFd<'_>,
) -> Result<Spawned, SpawnError> {
    super::clone(PidPlace::Host, None, own_pid_namespace, |channel| {
        let code = Runner { hooks, stage, first, channel }.run();
        spawn::exit_now(code)
    })
}

/// The process that runs the hooks of a stage.
struct Runner<'a> {
    hooks: &'a ContainerHooks,
    stage: Stage,
    first: Option<(Pid, BorrowedFd<'a>)>,
    channel: ChildChannel,
}

impl Runner<'_> {
    fn run(&self) -> i32 {
        match self.run_all() {
            Ok(()) => {
                // The shim is gone: nobody goes on with this container.
                let _ = self.channel.ready(None);
                0
            }
            Err(error) => {
                if matches!(self.stage, Stage::Started | Stage::Stopped) {
                    eprintln!("orlop shim: {}", super::channel::chain(&error));
                }
                self.channel.failed(&error);
                // What a hook left behind is of this process's group.
                let _ = rustix::process::kill_current_process_group(Signal::KILL);
                1
            }
        }
    }

    fn run_all(&self) -> Result<(), HookError> {
        spawn::reset_signals().map_err(HookError::Signals)?;
        rustix::process::setsid().map_err(HookError::Session)?;
        // A hook may take long, and copies of the shim's descriptors would keep open what
        // the shim closes.
        let first = self.first.iter().map(|(_, first)| *first);
        let kept: Vec<_> = first.chain([self.channel.as_fd()]).collect();
        spawn::close_all_but(&kept).map_err(HookError::Close)?;
        // When the container is gone its bundle goes too.
        let has_bundle = self.stage != Stage::Stopped;
        let log = has_bundle.then(|| hook_log(&self.hooks.bundle)).flatten();
        let mut here = Place::Host;
        for (hook, place) in self.hooks.of_stage(self.stage) {
            if place != here {
                self.go(place)?;
                here = place;
            }
            self.run_one(hook, log.as_ref())?;
        }
        Ok(())
    }

    fn go(&self, place: Place) -> Result<(), HookError> {
        let Some((_, first)) = self.first else { return Ok(()) };
        match place {
            Place::Host => Ok(()),
            Place::HostWithRoot => attach_root(first, &self.hooks.bundle.join("rootfs")),
        }
    }

    /// What a hook reads; in a file, since a hook need not read it, and may be gone before
    /// it is written to a pipe.
    fn state_file(&self) -> io::Result<File> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::memfd_create("state", flags)?);
        file.write_all(&self.state())?;
        file.rewind()?;
        Ok(file)
    }

    fn state(&self) -> Vec<u8> {
        let mut state = self.hooks.state.clone();
        let status = match self.stage {
            Stage::SetUp => "creating",
            Stage::Started => "running",
            Stage::Stopped => "stopped",
        };
        state["status"] = status.into();
        if let Some((pid, _)) = self.first {
            state["pid"] = pid.as_raw_nonzero().get().into();
        }
        state.to_string().into_bytes()
    }

    fn run_one(&self, hook: &Hook, log: Option<&File>) -> Result<(), HookError> {
        let failed = |error| HookError::Run(hook.path().clone(), error);
        let mut command = Command::new(hook.path());
        let state = self.state_file().map_err(failed)?;
        command.env_clear().current_dir("/").stdin(state).stdout(Stdio::null());
        if let Some((name, arguments)) = hook.args().as_deref().and_then(<[_]>::split_first) {
            command.arg0(name).args(arguments);
        }
        for variable in hook.env().iter().flatten() {
            command.envs(variable.split_once('='));
        }
        match log {
            Some(log) => command.stderr(log.try_clone().map_err(failed)?),
            None => command.stderr(Stdio::null()),
        };
        let mut child = command.spawn().map_err(failed)?;
        let seconds = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
        let patience = seconds.filter(|seconds| *seconds > 0).map_or(DEADLINE, Duration::from_secs);
        let deadline = Instant::now() + patience;
        let how = loop {
            match child.try_wait().map_err(failed)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => break ended(status),
                None if Instant::now() > deadline => {
                    break format!("took longer than {} s and was killed", patience.as_secs());
                }
                None => std::thread::sleep(PAUSE),
            }
        };
        Err(HookError::Failed { path: hook.path().clone(), how, said: said(log) })
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended oddly".to_owned(),
    }
}

/// Where hooks write errors to; without it they are not told.
fn hook_log(bundle: &Path) -> Option<File> {
    let path = bundle.join("hooks.log");
    File::options().read(true).append(true).create(true).open(path).ok()
}

/// The end of what was written.
fn said(log: Option<&File>) -> String {
    let mut text = Vec::new();
    let read = log.map(|mut log| {
        let length = log.metadata()?.len();
        log.seek(io::SeekFrom::Start(length.saturating_sub(SAID_MAX)))?;
        log.take(SAID_MAX).read_to_end(&mut text)
    });
    match read {
        Some(Ok(1..)) => format!(": {}", String::from_utf8_lossy(&text).trim()),
        _ => String::new(),
    }
}

/// Attaches a copy of the container's mounts at `place`, in a mount namespace of the host
/// that is this process's own.
fn attach_root(first: BorrowedFd<'_>, place: &Path) -> Result<(), HookError> {
    let host: OwnedFd = File::open("/proc/self/ns/mnt").map_err(HookError::Unshare)?.into();
    let into = |namespace: BorrowedFd<'_>| {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))
    };
    rustix::thread::move_into_thread_name_spaces(first, ThreadNameSpaceType::MOUNT)
        .map_err(HookError::Enter)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, "/", flags).map_err(HookError::Mounts)?;
    into(host.as_fd()).map_err(HookError::Mounts)?;
    spawn::unshare(UnshareFlags::NEWNS).map_err(HookError::Unshare)?;
    rootfs::make_private()?;
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", CWD, place, attach).map_err(HookError::Mounts)
}
