//! Clients of a running container's first process.
//!
//! The shim copies the container's output into a client's pipes; what the client writes
//! goes straight to the container's input, whose end the shim hands over. A client that is
//! more than [`BACKLOG`] behind is let go of: what it had until then is whole, and its
//! session ends with an error that says so.
//!
//! As with other runtimes, a client whose input ends is detached, because it has nothing
//! more to say, unless that was to end the container's input (`stdin_once`): then it stays
//! to read what comes of it. Input for a container that takes none is dropped.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sandbox::controller::Sandbox;
use sandbox::protocol::Attach;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::error::{PodsError, RequestError};
use super::exec::{begun, telling};
use super::streams::{CAPACITY as BACKLOG, Input, Output, Session, Streams, Terminal, output_pipe};
use super::view::ContainerView;

/// Says whether `streams` fit the container: with a terminal if it has one.
pub(super) fn check(container: &ContainerView, streams: Streams) -> Result<(), RequestError> {
    let (asked, has_one) = (streams.tty, container.request.config.tty);
    if asked == has_one {
        return Ok(());
    }
    Err(RequestError::AttachTerminal { id: container.id.clone(), asked, has_one })
}

/// Attaches to a running container.
///
/// # Cancel safety
/// Dropping the future, or the session's end, detaches.
pub(super) async fn attach(
    sandbox: Arc<Sandbox>,
    container: &ContainerView,
    streams: Streams,
) -> Result<Session, PodsError> {
    check(container, streams)?;
    let config = &container.request.config;
    let over = CancellationToken::new();
    let stdin_once = config.stdin_once && !config.tty;
    let attach = Attach {
        container: container.id.clone(),
        stdin: streams.stdin && config.stdin,
        stdin_once,
        stdout: streams.stdout,
        stderr: streams.stderr && !config.tty,
    };
    let mut pipes = Vec::new();
    let mut output = |wanted: bool| {
        let pipe = wanted.then(backlog_pipe).transpose().map_err(PodsError::ExecPipes)?;
        Ok::<_, PodsError>(pipe.map(|(ours, theirs)| {
            pipes.push(theirs);
            Output::pipe(ours, &over)
        }))
    };
    let (stdout, stderr) = (output(attach.stdout)?, output(attach.stderr)?);
    let (sender, handed) = oneshot::channel();
    let (wants_input, input_ended) = (attach.stdin, CancellationToken::new());
    let detached = input_ended.clone();
    let ended = async move {
        tokio::select! {
            code = sandbox.attach(attach, pipes, sender) => Ok(code?),
            () = detached.cancelled() => Ok(0),
        }
    };
    let mut ended = Box::pin(telling(ended, over.clone()));
    let handed = begun(handed, ended.as_mut()).await?;
    let (terminal, stdin) = match handed {
        Some(master) if config.tty => {
            let terminal = Terminal::new(master).map_err(PodsError::ExecPipes)?;
            let stdin = terminal.input().map_err(PodsError::ExecPipes)?;
            (Some(terminal), Some(stdin))
        }
        Some(pipe) => {
            let pipe = pipe::Sender::from_owned_fd(pipe).map_err(PodsError::ExecPipes)?;
            (None, Some(Input::pipe(pipe)))
        }
        None => (None, None),
    };
    let stdin = stdin.filter(|_| wants_input);
    let stdin = stdin.map(|input| if stdin_once { input } else { input.telling(input_ended) });
    let stdin = streams.stdin.then(|| stdin.unwrap_or_else(Input::nothing));
    Ok(Session { stdin, stdout, stderr, terminal, ended })
}

fn backlog_pipe() -> std::io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = output_pipe()?;
    // Where the system allows less, clients may lag less.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, BACKLOG);
    Ok((read, write))
}
