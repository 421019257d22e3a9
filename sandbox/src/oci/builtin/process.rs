//! The last steps of every process, the container's first and each exec alike: confine
//! itself exactly as the spec says, then become the program.
//!
//! There is one function for both, [`Program::run`], so that an exec cannot be confined
//! less than the container it enters. The order matters:
//!
//! 1. signals, descriptors, limits, umask: need no privilege, or all of it;
//! 2. the bounding set, while the process may still drop from it;
//! 3. seccomp here when new privileges are allowed (loading then needs CAP_SYS_ADMIN);
//! 4. ids, with the capabilities kept over the change;
//! 5. working directory, as the user who must be able to enter it;
//! 6. capability sets, `no_new_privs`;
//! 7. seccomp here otherwise: as late as possible;
//! 8. execve.
//!
//! # References
//! - [OCI runtime spec, process](https://github.com/opencontainers/runtime-spec/blob/main/config.md#process)

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Box as ConsoleSize, PosixRlimit, Process, Spec};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::termios::Winsize;

use super::affinity::{Affinity, AffinityError};
use super::capabilities::{self, CredentialError, ProcessCapabilities};
use super::labels::{LabelError, Labels};
use super::rlimits::{self, LimitError};
use super::seccomp::{Filter, SeccompError};
use crate::sys::spawn;

/// The search path of a program that has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is wrong with a `process` before anything is started.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// No `process` at all.
    #[error("the spec has no process")]
    NoProcess,
    /// Nothing to run.
    #[error("the process has no arguments")]
    NoArguments,
    /// A NUL byte would end the string early.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// Which string.
        what: &'static str,
        /// Where.
        source: std::ffi::NulError,
    },
    /// Processors that there cannot be.
    #[error("execCPUAffinity of the process")]
    Affinity(#[from] AffinityError),
    /// Profile that cannot be compiled.
    #[error("seccomp profile of the process")]
    Seccomp(#[source] SeccompError),
}

/// The step of becoming the program that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("reset signals")]
    Signals(#[source] std::io::Error),
    #[error("close descriptors at exec")]
    Descriptors(#[source] std::io::Error),
    #[error("set resource limits")]
    Rlimits(#[source] LimitError),
    #[error("become user {uid}, group {gid}")]
    Ids { uid: u32, gid: u32, source: CredentialError },
    #[error("change to the working directory {}", .0.display())]
    WorkingDirectory(PathBuf, #[source] Errno),
    #[error("the working directory {} is outside the container", .0.display())]
    OutsideRoot(PathBuf),
    #[error("set capabilities")]
    Capabilities(#[source] CredentialError),
    #[error("set no_new_privs")]
    NoNewPrivs(#[source] Errno),
    #[error("confine system calls")]
    Seccomp(#[source] SeccompError),
    #[error("exec {program:?}: executable file not found in $PATH")]
    NotInPath { program: String },
    #[error("exec {program:?}")]
    Exec { program: String, source: std::io::Error },
}

/// A process, ready to become its program.
#[derive(Debug, Clone)]
pub struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    working_directory: PathBuf,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: ProcessCapabilities,
    no_new_privs: bool,
    rlimits: Vec<PosixRlimit>,
    filter: Option<Filter>,
    labels: Labels,
    console_size: Option<Winsize>,
    exec_affinity: Affinity,
}

impl Program {
    /// The container's own process.
    ///
    /// # Errors
    /// Anything in the spec that could only fail later.
    pub fn of_container(spec: &Spec) -> Result<Self, ProgramError> {
        let process = spec.process().as_ref().ok_or(ProgramError::NoProcess)?;
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let filter = seccomp.map(Filter::compile).transpose().map_err(ProgramError::Seccomp)?;
        Self::new(process, filter)
    }

    /// Another process, confined by the same filter as this one.
    ///
    /// # Errors
    /// As [`Program::of_container`].
    pub fn sibling(&self, process: &Process) -> Result<Self, ProgramError> {
        Self::new(process, self.filter.clone())
    }

    /// The same process with other arguments.
    ///
    /// # Errors
    /// No arguments, or a NUL byte in one.
    pub fn with_arguments(&self, argv: &[String]) -> Result<Self, ProgramError> {
        Ok(Self { argv: arguments(argv)?, ..self.clone() })
    }

    /// Tells the program which kind of terminal it is on (`TERM=…`), unless it has been
    /// told.
    pub fn name_terminal(&mut self, variable: &str) {
        let told = self.env.iter().any(|variable| variable.to_bytes().starts_with(b"TERM="));
        if let (false, Ok(variable)) = (told, CString::new(variable)) {
            self.env.push(variable);
        }
    }

    fn new(process: &Process, filter: Option<Filter>) -> Result<Self, ProgramError> {
        let user = process.user();
        let env = process.env().as_deref().unwrap_or_default();
        Ok(Self {
            argv: arguments(process.args().as_deref().unwrap_or_default())?,
            env: strings(env, "an environment variable")?,
            working_directory: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            capabilities: ProcessCapabilities::from_oci(process.capabilities().as_ref()),
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: process.rlimits().clone().unwrap_or_default(),
            filter,
            labels: Labels::of(process),
            console_size: process.console_size().map(|size| winsize(&size)),
            exec_affinity: Affinity::from_oci(process.exec_cpu_affinity().as_ref())?,
        })
    }

    /// The terminal's size, if it is to have one from the start.
    pub(super) fn console_size(&self) -> Option<Winsize> {
        self.console_size
    }

    /// The processors of an exec of this program; a container's first process has those of
    /// its cgroup.
    pub(super) fn exec_affinity(&self) -> &Affinity {
        &self.exec_affinity
    }

    /// Who the program runs as.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// The directory the program begins in; made by the container's first process when
    /// the image lacks it.
    pub(super) fn working_directory(&self) -> &Path {
        &self.working_directory
    }

    /// Takes on the labels of security modules, from the exec on. To be called while the
    /// host's `/proc` is there, by each process that goes on to [`Program::run`].
    pub(super) fn set_labels(&self) -> Result<(), LabelError> {
        self.labels.set_for_exec()
    }

    /// Becomes the program; returns only when that failed.
    pub(super) fn run(&self) -> RunError {
        match self.confine_and_exec() {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn confine_and_exec(&self) -> Result<std::convert::Infallible, RunError> {
        spawn::reset_signals().map_err(RunError::Signals)?;
        spawn::close_on_exec_from(3).map_err(RunError::Descriptors)?;
        rlimits::apply(&self.rlimits).map_err(RunError::Rlimits)?;
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        self.capabilities.drop_bounding().map_err(RunError::Capabilities)?;
        if !self.no_new_privs {
            self.load_filter()?;
        }
        capabilities::set_ids(self.uid, self.gid, &self.groups)
            .map_err(|source| RunError::Ids { uid: self.uid, gid: self.gid, source })?;
        self.enter_working_directory()?;
        self.capabilities.apply_sets().map_err(RunError::Capabilities)?;
        if self.no_new_privs {
            rustix::thread::set_no_new_privs(true).map_err(RunError::NoNewPrivs)?;
            // The search needs system calls that the filter may refuse.
            let program = self.find()?;
            self.load_filter()?;
            return Err(self.exec(&program));
        }
        let program = self.find()?;
        Err(self.exec(&program))
    }

    fn load_filter(&self) -> Result<(), RunError> {
        self.filter.as_ref().map_or(Ok(()), |filter| filter.install().map_err(RunError::Seccomp))
    }

    fn exec(&self, program: &CStr) -> RunError {
        let source = spawn::execve(program, &self.argv, &self.env);
        RunError::Exec { program: program.to_string_lossy().into_owned(), source }
    }

    /// Changes directory, and makes sure of having arrived inside the root: a kernel that
    /// cannot express the directory from the root prefixes "(unreachable)".
    fn enter_working_directory(&self) -> Result<(), RunError> {
        let directory = &self.working_directory;
        rustix::process::chdir(directory)
            .map_err(|errno| RunError::WorkingDirectory(directory.clone(), errno))?;
        let arrived = rustix::process::getcwd(Vec::new())
            .map_err(|errno| RunError::WorkingDirectory(directory.clone(), errno))?;
        if arrived.to_bytes().starts_with(b"/") {
            Ok(())
        } else {
            Err(RunError::OutsideRoot(directory.clone()))
        }
    }

    /// The path of the program: as given if it has a slash, else the first executable
    /// file of that name in the container's own `PATH`.
    fn find(&self) -> Result<CString, RunError> {
        let Some(name) = self.argv.first() else {
            return Err(RunError::NotInPath { program: String::new() });
        };
        if name.to_bytes().contains(&b'/') {
            return Ok(name.clone());
        }
        let missing = || RunError::NotInPath { program: name.to_string_lossy().into_owned() };
        if name.is_empty() {
            return Err(missing());
        }
        let path = self
            .env
            .iter()
            .rev()
            .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
            .unwrap_or(DEFAULT_PATH.as_bytes());
        path.split(|&byte| byte == b':')
            .filter_map(|directory| {
                let directory = Path::new(std::ffi::OsStr::from_bytes(directory));
                let file = directory.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                CString::new(file.as_os_str().as_bytes()).ok()
            })
            .find(|file| is_executable(file))
            .ok_or_else(missing)
    }
}

fn winsize(size: &ConsoleSize) -> Winsize {
    let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let (ws_row, ws_col) = (clamp(size.height()), clamp(size.width()));
    Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }
}

fn is_executable(file: &CStr) -> bool {
    let is_file = rustix::fs::stat(file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    is_file && rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn arguments(argv: &[String]) -> Result<Vec<CString>, ProgramError> {
    if argv.is_empty() {
        return Err(ProgramError::NoArguments);
    }
    strings(argv, "an argument")
}

fn strings(strings: &[String], what: &'static str) -> Result<Vec<CString>, ProgramError> {
    strings
        .iter()
        .map(|string| {
            CString::new(string.as_bytes()).map_err(|source| ProgramError::Nul { what, source })
        })
        .collect()
}
