//! Exec and attach: a client's streams and a program's, connected, whatever carries them.
//!
//! ```text
//! client                    session                       program
//!  stdin   --------------->  input   ------------------->  stdin    (its end is its end)
//!  resize  --------------->  resizes ------------------->  terminal
//!  stdout  <---------------  output  <-------------------  stdout
//!  stderr  <---------------  output  <-------------------  stderr
//!  error   <--------------- exit code or failure <-------  ended
//! ```
//!
//! **Invariants.** The session is over when the program is, and its output was handed on.
//! A session is one future: dropping it drops the [`Process`], which ends the work.

use std::pin::pin;

use bytes::BytesMut;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::client::{Inbound, Outbound, PIECE};
use super::status::Report;
use super::target::{Process, Resize, TargetError};

/// How much of an unfinished resize message is kept.
const RESIZE_MAX: usize = 1 << 10;

/// The client's streams.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stdin: Option<Inbound>,
    pub(super) resize: Option<Inbound>,
    pub(super) stdout: Option<Outbound>,
    pub(super) stderr: Option<Outbound>,
    pub(super) error: Outbound,
    pub(super) report: Report,
}

/// Begins the program and connects it, until it is over.
pub(super) async fn run(begin: impl Future<Output = Result<Process, TargetError>>, client: Client) {
    let Client { stdin, resize, stdout, stderr, error, report } = client;
    let ended = match begin.await {
        Ok(process) => connect(process, stdin, resize, stdout, stderr).await,
        Err(failure) => {
            finish(stdout).await;
            finish(stderr).await;
            Err(failure)
        }
    };
    if let Some(status) = report.of(&ended) {
        let _gone = error.send(status).await;
    }
    error.finish().await;
}

async fn finish(stream: Option<Outbound>) {
    if let Some(stream) = stream {
        stream.finish().await;
    }
}

async fn connect(
    process: Process,
    stdin: Option<Inbound>,
    resize: Option<Inbound>,
    stdout: Option<Outbound>,
    stderr: Option<Outbound>,
) -> Result<i32, TargetError> {
    let mut ended = process.ended;
    let mut outputs = pin!(async {
        tokio::join!(output(process.stdout, stdout), output(process.stderr, stderr))
    });
    let mut inputs = pin!(async {
        tokio::join!(input(stdin, process.stdin), resizes(resize, process.terminal))
    });
    let (mut reading, mut writing) = (true, true);
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            _ = &mut outputs, if reading => reading = false,
            _ = &mut inputs, if writing => writing = false,
        }
    };
    if reading {
        outputs.await;
    }
    code
}

/// Hands the client's bytes to the program. When either of them wants no more, the rest is
/// read and dropped, so that it does not stand in the way of other streams.
async fn input(client: Option<Inbound>, program: Option<Box<dyn AsyncWrite + Send + Unpin>>) {
    let Some(mut client) = client else { return };
    if let Some(mut program) = program {
        while let Some(piece) = client.next().await {
            if program.write_all(&piece).await.is_err() || program.flush().await.is_err() {
                break;
            }
        }
        let _gone = program.shutdown().await;
    }
    while client.next().await.is_some() {}
}

/// Hands the program's bytes to the client.
async fn output(program: Option<Box<dyn AsyncRead + Send + Unpin>>, client: Option<Outbound>) {
    let Some(client) = client else { return };
    if let Some(mut program) = program {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            // An error is the end as well; the session's own result says more.
            let Ok(1..) = program.read_buf(&mut piece).await else { break };
            if client.send(piece.freeze()).await.is_err() {
                break;
            }
        }
    }
    client.finish().await;
}

/// The size of a terminal, as clients send it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

/// Changes the size of the terminal as the client asks. Sizes that are none are ignored.
async fn resizes(client: Option<Inbound>, terminal: Option<Resize>) {
    let Some(mut client) = client else { return };
    let mut unread = Vec::new();
    while let Some(piece) = client.next().await {
        unread.extend_from_slice(&piece);
        let mut sizes = serde_json::Deserializer::from_slice(&unread).into_iter::<TerminalSize>();
        while let Some(Ok(size)) = sizes.next() {
            if let (Some(resize), 1.., 1..) = (&terminal, size.width, size.height) {
                resize(size.width, size.height);
            }
        }
        let read = sizes.byte_offset();
        unread.drain(..read);
        if unread.len() > RESIZE_MAX {
            unread.clear();
        }
    }
}
