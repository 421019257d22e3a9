//! The streams of exec and attach, as each carrier names them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::client::{Inbound, Outbound};
use super::session::Client;
use super::spdy::NewStream;
use super::status::Report;
use super::target::Streams;
use super::websocket::Channels;

/// The numbers of WebSocket channels.
mod channel {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const ERROR: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
}

impl Client {
    /// The streams on a SPDY connection: the client opens the error stream and one for each
    /// that was asked for. None if it does not within `patience`, or goes away.
    pub(super) async fn of_spdy(
        mut opened: mpsc::Receiver<NewStream>,
        asked: Streams,
        report: Report,
        resizes: bool,
        patience: Duration,
    ) -> Option<Self> {
        let mut missing = vec!["error"];
        missing.extend(asked.stdin.then_some("stdin"));
        missing.extend(asked.stdout.then_some("stdout"));
        missing.extend(asked.stderr.then_some("stderr"));
        missing.extend((asked.tty && resizes).then_some("resize"));
        let mut inbound: BTreeMap<&str, Inbound> = BTreeMap::new();
        let mut outbound: BTreeMap<&str, Outbound> = BTreeMap::new();
        let collecting = async {
            while !missing.is_empty() {
                let stream = opened.recv().await?;
                let role = stream.headers.get("streamtype");
                let Some(at) = missing.iter().position(|name| Some(*name) == role) else {
                    stream.outbound.reset().await;
                    continue;
                };
                let role = missing.remove(at);
                inbound.insert(role, stream.inbound);
                outbound.insert(role, stream.outbound);
            }
            Some(())
        };
        tokio::time::timeout(patience, collecting).await.ok().flatten()?;
        Some(Self {
            stdin: inbound.remove("stdin"),
            resize: inbound.remove("resize"),
            stdout: outbound.remove("stdout"),
            stderr: outbound.remove("stderr"),
            error: outbound.remove("error")?,
            report,
        })
    }

    /// The channels of a WebSocket; they are there from the beginning.
    pub(super) fn of_channels<T: AsyncRead + AsyncWrite + Unpin>(
        channels: &mut Channels<T>,
        asked: Streams,
        report: Report,
    ) -> Self {
        Self {
            stdin: asked.stdin.then(|| channels.inbound(channel::STDIN)),
            resize: asked.tty.then(|| channels.inbound(channel::RESIZE)),
            stdout: asked.stdout.then(|| channels.outbound(channel::STDOUT)),
            stderr: asked.stderr.then(|| channels.outbound(channel::STDERR)),
            error: channels.outbound(channel::ERROR),
            report,
        }
    }

    /// Tells a client of channels that they are connected: an empty message on the lowest
    /// one that it reads.
    pub(super) async fn greet(&self) {
        let lowest = self.stdout.as_ref().or(self.stderr.as_ref()).unwrap_or(&self.error);
        let _gone = lowest.send(Bytes::new()).await;
    }
}
