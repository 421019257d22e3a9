//! The ends of a program's streams that this process holds.
//!
//! **Invariant.** Reading ends. A program's output is over when all its writers closed it,
//! or, once the program itself is over, when nobody wrote for [`DRAIN`] or what could have
//! been in the pipe has been read: children that it left behind hold nobody up.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::PodsError;

/// How long output may still come once the program is over. What it wrote itself is in the
/// pipe by then; only children that it left behind can hold the pipe open.
const DRAIN: Duration = Duration::from_millis(100);

/// The most bytes that a pipe can hold for a client, or a program leave in one.
pub(super) const CAPACITY: usize = 1 << 20;

/// Which of a program's streams are wanted. With a terminal, its output is `stdout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// On a terminal.
    pub tty: bool,
    /// To write to it.
    pub stdin: bool,
    /// To read its output.
    pub stdout: bool,
    /// To read its errors; with a terminal there are none of their own.
    pub stderr: bool,
}

/// A program with its streams: those are there that were asked for.
pub struct Session {
    /// Its input. Dropping it is the end of the input, except to a terminal.
    pub stdin: Option<Input>,
    /// Its output.
    pub stdout: Option<Output>,
    /// Its errors.
    pub stderr: Option<Output>,
    /// Its terminal.
    pub terminal: Option<Terminal>,
    /// Its exit code: 128 + signal number when a signal ended it. Does nothing, not even
    /// begin, unless polled; dropping it ends what this session began.
    pub ended: BoxFuture<'static, Result<i32, PodsError>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// A pipe for a program to write to: our end, and its end, which blocks.
pub(super) fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::io::ioctl_fionbio(&write, false)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

/// A pipe for a program to read from: our end, and its end, which blocks.
pub(super) fn input_pipe() -> io::Result<(pipe::Sender, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::io::ioctl_fionbio(&read, false)?;
    Ok((pipe::Sender::from_owned_fd(write)?, read))
}

/// The master side of a terminal.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self(master))
    }

    /// Tells the program how large its terminal is. A size without columns or rows is none.
    ///
    /// # Errors
    /// The program is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        if columns == 0 || rows == 0 {
            return Ok(());
        }
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.0, size)?)
    }

    /// What the program reads from it.
    pub(super) fn input(&self) -> io::Result<Input> {
        // A terminal is no pipe, and is written to as if it were one.
        Ok(Input::pipe(pipe::Sender::from_owned_fd_unchecked(self.0.try_clone()?)?))
    }

    /// What the program, over when `over` is cancelled, writes to it.
    pub(super) fn output(&self, over: &CancellationToken) -> io::Result<Output> {
        let master = self.0.try_clone()?;
        Ok(Output::pipe(pipe::Receiver::from_owned_fd_unchecked(master)?, over))
    }
}

/// Where a program reads from.
#[derive(Debug)]
pub struct Input {
    /// None: the program does not read.
    pipe: Option<pipe::Sender>,
    /// Tells that the writer has no more.
    _closed: Option<DropGuard>,
}

impl Input {
    pub(super) fn pipe(sender: pipe::Sender) -> Self {
        Self { pipe: Some(sender), _closed: None }
    }

    pub(super) fn nothing() -> Self {
        Self { pipe: None, _closed: None }
    }

    /// The same, and `token` is cancelled when it is dropped.
    pub(super) fn telling(self, token: CancellationToken) -> Self {
        Self { _closed: Some(token.drop_guard()), ..self }
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            None => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a program writes.
pub struct Output {
    pipe: pipe::Receiver,
    /// Until [`DRAIN`] after the program's end.
    grace: BoxFuture<'static, ()>,
    /// After that: how much may be left.
    rest: Option<usize>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("pipe", &self.pipe).finish_non_exhaustive()
    }
}

impl Output {
    /// The output of a program that is over when `over` is cancelled.
    pub(super) fn pipe(pipe: pipe::Receiver, over: &CancellationToken) -> Self {
        let over = over.clone();
        let grace = async move {
            over.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        Self { pipe, grace: Box::pin(grace), rest: None }
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.pipe).poll_read(cx, into)) {
            // The last user of a terminal is gone: the end.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_none() && self.grace.as_mut().poll(cx).is_ready() {
            self.rest = Some(CAPACITY);
        }
        let Some(rest) = self.rest else { return self.poll_pipe(cx, into) };
        let most = rest.min(into.remaining());
        let mut some = ReadBuf::new(into.initialize_unfilled_to(most));
        let polled = self.poll_pipe(cx, &mut some);
        let n = some.filled().len();
        into.advance(n);
        self.rest = Some(rest - n);
        match polled {
            Poll::Pending => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn all(output: &mut Output) -> Vec<u8> {
        let mut all = Vec::new();
        output.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn who_holds_the_pipe_after_the_end_holds_nobody_up() {
        let (ours, theirs) = output_pipe().unwrap();
        let over = CancellationToken::new();
        let mut output = Output::pipe(ours, &over);
        let mut holder = File::from(theirs);
        holder.write_all(b"last words").unwrap();
        over.cancel();
        assert_eq!(all(&mut output).await, b"last words");
        drop(holder);
    }

    #[tokio::test]
    async fn who_writes_for_ever_after_the_end_does_not_either() {
        let (ours, theirs) = output_pipe().unwrap();
        let over = CancellationToken::new();
        let mut output = Output::pipe(ours, &over);
        let writer = std::thread::spawn(move || {
            let mut pipe = File::from(theirs);
            while pipe.write_all(&[b'y'; 4096]).is_ok() {}
        });
        over.cancel();
        let read = all(&mut output).await.len();
        assert!(read >= CAPACITY, "{read}");
        drop(output);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn until_the_end_a_silent_program_is_waited_for() {
        let (ours, theirs) = output_pipe().unwrap();
        let over = CancellationToken::new();
        let mut output = Output::pipe(ours, &over);
        let silence = tokio::time::timeout(3 * DRAIN, output.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
        drop(theirs);
        assert_eq!(all(&mut output).await, b"");
    }

    #[tokio::test]
    async fn a_terminal_is_written_read_and_sized_until_its_last_user_is_gone() {
        use rustix::pty::OpenptFlags;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let terminal = Terminal::new(master).unwrap();
        let mut output = terminal.output(&CancellationToken::new()).unwrap();
        terminal.resize(90, 30).unwrap();
        terminal.resize(0, 31).unwrap();
        let size = rustix::termios::tcgetwinsize(&peer).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (90, 30));
        let mut input = terminal.input().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut input, b"typed\n").await.unwrap();
        let mut echo = [0_u8; 7];
        output.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"typed\r\n");
        File::from(peer).write_all(b"said").unwrap();
        assert_eq!(all(&mut output).await, b"said");
    }
}
