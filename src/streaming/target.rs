//! What sessions are connected to, as the streaming server sees it: this module knows no
//! pods. Whoever runs containers implements [`Target`].

use std::error::Error;
use std::fmt;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Which streams a client asked for. With a terminal there is no standard error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// A terminal stands between the client and the program.
    pub tty: bool,
    /// The client writes to the program.
    pub stdin: bool,
    /// The client reads what the program writes to standard output.
    pub stdout: bool,
    /// The client reads what the program writes to standard error.
    pub stderr: bool,
}

/// A program to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOrder {
    /// The container's whole id.
    pub container: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What the client asked for.
    pub streams: Streams,
}

/// A container to be attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachOrder {
    /// The container's whole id.
    pub container: String,
    /// What the client asked for; `tty` is what the container has.
    pub streams: Streams,
}

/// Changes the size of a terminal to columns and rows, both of them at least 1. Must not
/// block; failures are the target's to log.
pub type Resize = Box<dyn Fn(u16, u16) + Send + Sync>;

/// The ends of a program that a session holds. A stream is there exactly if it was asked
/// for; with a terminal, its output is `stdout`.
///
/// Dropping it all ends what was begun: a program run for this session is killed, with
/// everything that it started and left in its session; an attached client is detached.
pub struct Process {
    /// The program's standard input. Dropped when the client sends no more: to a program
    /// run for this session that is the end of its input. What it is to a container is for
    /// the target to say (`stdin_once`).
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// The program's standard output. The session reads no faster than its client does; a
    /// container must not wait for that, so an attached client that lags too far behind
    /// sees the end, or an error. Once the program is over, reading ends soon: whoever was
    /// left behind with the stream is not waited for.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// The program's standard error; the same holds.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// The size of the terminal, if there is one.
    pub terminal: Option<Resize>,
    /// The program's exit code (128 + signal number when a signal ended it), or why it did
    /// not begin. Outputs may still have something to read then. It is polled all the time.
    ///
    /// Dropping it kills a program run for this session, and detaches from a container.
    pub ended: BoxFuture<'static, Result<i32, TargetError>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection to a port of a pod.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Why something did not begin or did not end well; the client gets to read it.
#[derive(Debug)]
pub struct TargetError(Box<dyn Error + Send + Sync>);

impl TargetError {
    /// The error, with its causes.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Runs programs, attaches and connects. Each future is dropped when its client vanishes,
/// which must undo what was begun.
pub trait Target: Send + Sync + 'static {
    /// Runs a program in a container.
    fn exec(&self, order: ExecOrder) -> BoxFuture<'_, Result<Process, TargetError>>;

    /// Attaches to a container's first process: its output from now on.
    fn attach(&self, order: AttachOrder) -> BoxFuture<'_, Result<Process, TargetError>>;

    /// Connects to a TCP port on the loopback of the pod with the whole id `pod`: IPv4
    /// first, then IPv6. Dropping the socket closes the connection; shutting down its
    /// writing side tells the pod that there is no more.
    fn port_forward(
        &self,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Socket>, TargetError>>;
}
