//! ExecSync: a program in a running container, its output in memory, with bounds.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use sandbox::controller::{ExecEnd, Sandbox};
use sandbox::protocol::Exec;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::error::{PodsError, RequestError};
use super::view::ContainerView;

/// What both outputs may have together, in bytes. The kubelet accepts messages of 16 MiB
/// and framing needs some of that; what a program writes beyond is read and dropped, so
/// that neither it nor this process suffers (CVE-2022-1708, CVE-2022-31030).
const OUTPUT_LIMIT: usize = (16 << 20) - (64 << 10);

/// How long the output may still come once the program is over. What it wrote itself is
/// in the pipe by then; only children that it left behind can hold the pipe open.
const DRAIN: Duration = Duration::from_millis(100);

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + signal number when a signal ended it.
    pub exit_code: i32,
}

/// Runs `argv` in `container`.
///
/// # Cancel safety
/// Dropping the future kills the program.
pub(super) async fn exec_sync(
    sandbox: Arc<Sandbox>,
    container: &ContainerView,
    argv: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, PodsError> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(RequestError::NoCommand.into());
    }
    let null = File::open("/dev/null").map_err(PodsError::ExecPipes)?;
    let (stdout, out) = output_pipe()?;
    let (stderr, err) = output_pipe()?;
    let exec = Exec { container: container.id.clone(), process: vec![], argv };
    let ended = async {
        // Given away: the reading ends see the end when the program's are closed.
        sandbox.exec(exec, [null.into(), out, err], timeout).await
    };
    let mut collected =
        Collected { stdout, stderr, out: Vec::new(), err: Vec::new(), room: OUTPUT_LIMIT };
    let end = {
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                biased;
                end = &mut ended => break end?,
                () = collected.read_some() => {}
            }
        }
    };
    collected.drain().await;
    match end {
        ExecEnd::Exited(exit_code) => {
            Ok(ExecOutput { stdout: collected.out, stderr: collected.err, exit_code })
        }
        ExecEnd::TimedOut => Err(PodsError::ExecTimeout {
            seconds: timeout.map(|timeout| timeout.as_secs()).unwrap_or_default(),
        }),
    }
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), PodsError> {
    let (read, write) = rustix::pipe::pipe_with(
        rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
    )
    .map_err(|errno| PodsError::ExecPipes(errno.into()))?;
    rustix::io::ioctl_fionbio(&write, false).map_err(|errno| PodsError::ExecPipes(errno.into()))?;
    let receiver = pipe::Receiver::from_owned_fd(read).map_err(PodsError::ExecPipes)?;
    Ok((receiver, write))
}

struct Collected {
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    out: Vec<u8>,
    err: Vec<u8>,
    room: usize,
}

impl Collected {
    /// Reads from whichever output has something; sleeps for ever once both are closed.
    async fn read_some(&mut self) {
        let mut first = [0_u8; 16 << 10];
        let mut second = [0_u8; 16 << 10];
        tokio::select! {
            Ok(n @ 1..) = self.stdout.read(&mut first) => keep(&mut self.out, &first[..n], &mut self.room),
            Ok(n @ 1..) = self.stderr.read(&mut second) => keep(&mut self.err, &second[..n], &mut self.room),
            else => std::future::pending().await,
        }
    }

    /// Reads what is left once the program is over.
    async fn drain(&mut self) {
        let rest = async {
            let mut buffer = vec![0_u8; 64 << 10];
            while let Ok(n @ 1..) = self.stdout.read(&mut buffer).await {
                keep(&mut self.out, &buffer[..n], &mut self.room);
            }
            while let Ok(n @ 1..) = self.stderr.read(&mut buffer).await {
                keep(&mut self.err, &buffer[..n], &mut self.room);
            }
        };
        // Somebody the program left behind holds a pipe; what is in it now is enough.
        if tokio::time::timeout(DRAIN, rest).await.is_err() {
            let mut buffer = vec![0_u8; 64 << 10];
            while let Ok(n @ 1..) = self.stderr.try_read(&mut buffer) {
                keep(&mut self.err, &buffer[..n], &mut self.room);
            }
        }
    }
}

fn keep(into: &mut Vec<u8>, bytes: &[u8], room: &mut usize) {
    let kept = bytes.len().min(*room);
    into.extend_from_slice(&bytes[..kept]);
    *room -= kept;
}
