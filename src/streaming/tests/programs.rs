//! A target whose containers are this machine: programs are its processes, ports its own.

use std::io::Write as _;
use std::process::Stdio;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::streaming::{
    AttachOrder, ExecOrder, Process, Resize, Socket, Streams, Target, TargetError,
};

pub(super) struct Programs;

fn stdio(wanted: bool) -> Stdio {
    if wanted { Stdio::piped() } else { Stdio::null() }
}

fn run(argv: &[String], streams: Streams) -> Result<Process, TargetError> {
    let (program, arguments) = argv.split_first().ok_or_else(|| TargetError::new("no command"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(stdio(streams.stdin))
        .stdout(stdio(streams.stdout))
        .stderr(stdio(streams.stderr))
        .kill_on_drop(true)
        .spawn()
        .map_err(TargetError::new)?;
    // In a terminal's place: its sizes are appended to the file that the last argument names.
    let sizes = argv.last().cloned().unwrap_or_default();
    let terminal: Resize = Box::new(move |columns, rows| {
        let file = std::fs::OpenOptions::new().append(true).open(&sizes);
        let written = file.and_then(|mut file| writeln!(file, "{columns} {rows}"));
        assert!(written.is_ok(), "{written:?}");
    });
    Ok(Process {
        stdin: child.stdin.take().map(|to| Box::new(to) as Box<dyn AsyncWrite + Send + Unpin>),
        stdout: child.stdout.take().map(|from| Box::new(from) as Box<dyn AsyncRead + Send + Unpin>),
        stderr: child.stderr.take().map(|from| Box::new(from) as Box<dyn AsyncRead + Send + Unpin>),
        terminal: streams.tty.then_some(terminal),
        ended: async move {
            let status = child.wait().await.map_err(TargetError::new)?;
            status.code().ok_or_else(|| TargetError::new("killed"))
        }
        .boxed(),
    })
}

impl Target for Programs {
    fn exec(&self, order: ExecOrder) -> BoxFuture<'_, Result<Process, TargetError>> {
        async move { run(&order.argv, order.streams) }.boxed()
    }

    fn attach(&self, order: AttachOrder) -> BoxFuture<'_, Result<Process, TargetError>> {
        async move { run(&["cat".to_owned()], order.streams) }.boxed()
    }

    fn port_forward(
        &self,
        _pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Socket>, TargetError>> {
        async move {
            let socket = TcpStream::connect(("127.0.0.1", port)).await.map_err(TargetError::new)?;
            Ok(Box::new(socket) as Box<dyn Socket>)
        }
        .boxed()
    }
}
