//! Programs run in a container for somebody: for a client that stays, or with the output
//! collected in memory, with bounds (ExecSync).

use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sandbox::controller::{ExecEnd, Sandbox};
use sandbox::protocol::Exec;
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::error::{PodsError, RequestError};
use super::streams::{self, Input, Output, Session, Streams, Terminal};
use super::view::ContainerView;

/// What both outputs may have together, in bytes. The kubelet accepts messages of 16 MiB
/// and framing needs some of that; what a program writes beyond is read and dropped, so
/// that neither it nor this process suffers (CVE-2022-1708, CVE-2022-31030).
const OUTPUT_LIMIT: usize = (16 << 20) - (64 << 10);

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

/// Runs `argv` in `container` and collects what it writes.
///
/// # Cancel safety
/// Dropping the future kills the program.
pub(super) async fn exec_sync(
    sandbox: Arc<Sandbox>,
    container: &ContainerView,
    argv: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, PodsError> {
    let streams = Streams { tty: false, stdin: false, stdout: true, stderr: true };
    let session = with_pipes(sandbox, order(container, argv)?, streams, timeout)?;
    let room = AtomicUsize::new(OUTPUT_LIMIT);
    let (exit_code, stdout, stderr) =
        tokio::join!(session.ended, collect(session.stdout, &room), collect(session.stderr, &room));
    Ok(ExecOutput { stdout, stderr, exit_code: exit_code? })
}

async fn collect(output: Option<Output>, room: &AtomicUsize) -> Vec<u8> {
    let (mut all, mut chunk) = (Vec::new(), vec![0_u8; 16 << 10]);
    let Some(mut output) = output else { return all };
    while let Ok(n @ 1..) = output.read(&mut chunk).await {
        // Both outputs are read by one task, so nobody comes between.
        let kept = n.min(room.load(Ordering::Relaxed));
        room.fetch_sub(kept, Ordering::Relaxed);
        all.extend_from_slice(&chunk[..kept]);
    }
    all
}

/// Runs `argv` in `container` for a client. With a terminal it runs when this returns;
/// else it begins when the session's end is awaited.
///
/// # Cancel safety
/// Dropping the future, or the session's end, kills the program.
pub(super) async fn exec_streaming(
    sandbox: Arc<Sandbox>,
    container: &ContainerView,
    argv: Vec<String>,
    streams: Streams,
) -> Result<Session, PodsError> {
    let exec = order(container, argv)?;
    if streams.tty {
        on_terminal(sandbox, exec, streams).await
    } else {
        with_pipes(sandbox, exec, streams, None)
    }
}

fn order(container: &ContainerView, argv: Vec<String>) -> Result<Exec, PodsError> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(RequestError::NoCommand.into());
    }
    Ok(Exec { container: container.id.clone(), process: vec![], argv, terminal: false })
}

fn with_pipes(
    sandbox: Arc<Sandbox>,
    exec: Exec,
    streams: Streams,
    timeout: Option<Duration>,
) -> Result<Session, PodsError> {
    let over = CancellationToken::new();
    let (stdin, input) = input(streams.stdin)?;
    let output = || {
        let (ours, theirs) = streams::output_pipe().map_err(PodsError::ExecPipes)?;
        Ok::<_, PodsError>((Output::pipe(ours, &over), theirs))
    };
    let ((stdout, out), (stderr, err)) = (output()?, output()?);
    let (stdout, unread_out) = wanted(stdout, streams.stdout);
    let (stderr, unread_err) = wanted(stderr, streams.stderr);
    let run = async move {
        // Given away: the reading ends see the end when the program's are closed.
        match sandbox.exec(exec, [input, out, err], timeout).await? {
            ExecEnd::Exited(code) => Ok(code),
            ExecEnd::TimedOut => {
                let seconds = timeout.map(|timeout| timeout.as_secs()).unwrap_or_default();
                Err(PodsError::ExecTimeout { seconds })
            }
        }
    };
    let ended =
        async move { tokio::join!(telling(run, over), discard(unread_out), discard(unread_err)).0 };
    Ok(Session { stdin, stdout, stderr, terminal: None, ended: Box::pin(ended) })
}

fn input(wanted: bool) -> Result<(Option<Input>, OwnedFd), PodsError> {
    if wanted {
        let (ours, theirs) = streams::input_pipe().map_err(PodsError::ExecPipes)?;
        return Ok((Some(Input::pipe(ours)), theirs));
    }
    let null = File::open("/dev/null").map_err(PodsError::ExecPipes)?;
    Ok((None, null.into()))
}

/// An output for the client, or to be discarded.
fn wanted(output: Output, wanted: bool) -> (Option<Output>, Option<Output>) {
    if wanted { (Some(output), None) } else { (None, Some(output)) }
}

/// Reads what nobody wants. The program gets no device to write to, because runtimes give
/// what it writes to to its user.
async fn discard(output: Option<Output>) {
    if let Some(mut output) = output {
        // It cannot be read any more: that is the end, too.
        let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    }
}

async fn on_terminal(
    sandbox: Arc<Sandbox>,
    exec: Exec,
    streams: Streams,
) -> Result<Session, PodsError> {
    let over = CancellationToken::new();
    let (sender, terminal) = oneshot::channel();
    let ended = async move { Ok(sandbox.exec_on_terminal(exec, sender).await?) };
    let mut ended = Box::pin(telling(ended, over.clone()));
    let Some(master) = begun(terminal, ended.as_mut()).await? else {
        return Err(sandbox::controller::SandboxError::Confused.into());
    };
    let parts = || {
        let terminal = Terminal::new(master)?;
        let (stdin, stdout) = (terminal.input()?, terminal.output(&over)?);
        Ok((terminal, stdin, stdout))
    };
    let (terminal, stdin, stdout) = parts().map_err(PodsError::ExecPipes)?;
    let (stdout, unread) = wanted(stdout, streams.stdout);
    let ended = async move { tokio::join!(ended, discard(unread)).0 };
    Ok(Session {
        stdin: streams.stdin.then_some(stdin),
        stdout,
        stderr: None,
        terminal: Some(terminal),
        ended: Box::pin(ended),
    })
}

/// Waits until what goes on has begun; what was handed over with that.
///
/// # Errors
/// It ended before.
pub(super) async fn begun(
    handed: oneshot::Receiver<Option<OwnedFd>>,
    mut ended: Pin<&mut (impl Future<Output = Result<i32, PodsError>> + ?Sized)>,
) -> Result<Option<OwnedFd>, PodsError> {
    tokio::select! {
        biased;
        Ok(descriptor) = handed => Ok(descriptor),
        end = &mut ended => {
            end?;
            Err(sandbox::controller::SandboxError::Confused.into())
        }
    }
}

/// The same future, which cancels `over` when it is done.
pub(super) async fn telling<T>(ended: impl Future<Output = T>, over: CancellationToken) -> T {
    let end = ended.await;
    over.cancel();
    end
}
