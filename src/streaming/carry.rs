//! A session and its carrier, side by side, until one of them ends the other.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::client::CarrierError;
use super::session::{self, Client};
use super::status::Report;
use super::target::{Process, Target, TargetError};
use super::tokens::{CommandOrder, PortForwardOrder};
use super::upgrade::{CommandProtocol, ForwardProtocol};
use super::websocket::{Channels, Tunnel};
use super::{forward, spdy, websocket};

/// How long a client is given to read the rest when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// How patient sessions are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long a client may take to open its streams.
    pub(super) creation: Duration,
    /// How long nothing may be sent either way.
    pub(super) idle: Duration,
}

/// What to do, and how the client speaks.
#[derive(Debug)]
pub(super) enum Work {
    Command(CommandOrder, CommandProtocol),
    PortForward(PortForwardOrder, ForwardProtocol),
}

/// Does `work` for the client behind `transport`, until the client goes away, the work is
/// done, or `stop`.
pub(super) async fn carry<T: AsyncRead + AsyncWrite + Unpin>(
    target: &dyn Target,
    work: Work,
    transport: T,
    limits: Limits,
    stop: &CancellationToken,
) -> Result<(), CarrierError> {
    let with = Surroundings { target, limits, stop };
    match work {
        Work::Command(order, CommandProtocol::Spdy { report, resizes }) => {
            with.command_over_spdy(transport, order, report, resizes).await
        }
        Work::Command(order, CommandProtocol::WebSocket { encoding, report, closes }) => {
            let socket = websocket::accept(transport).await;
            with.command_over_channels(Channels::new(socket, encoding, closes), order, report).await
        }
        Work::PortForward(order, ForwardProtocol::Spdy) => {
            with.forward_over_spdy(transport, &order.pod).await
        }
        Work::PortForward(order, ForwardProtocol::Tunnel) => {
            let tunnel = Tunnel::new(websocket::accept(transport).await);
            with.forward_over_spdy(tunnel, &order.pod).await
        }
        Work::PortForward(order, ForwardProtocol::Channels(encoding)) => {
            let socket = websocket::accept(transport).await;
            with.forward_over_channels(Channels::new(socket, encoding, false), order).await
        }
    }
}

struct Surroundings<'a> {
    target: &'a dyn Target,
    limits: Limits,
    stop: &'a CancellationToken,
}

impl Surroundings<'_> {
    async fn command_over_spdy<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        transport: T,
        order: CommandOrder,
        report: Report,
        resizes: bool,
    ) -> Result<(), CarrierError> {
        let (connection, opened) = spdy::Connection::new(transport);
        let asked = order.streams();
        let patience = self.limits.creation;
        let work = async {
            let client = Client::of_spdy(opened, asked, report, resizes, patience).await;
            if let Some(client) = client {
                session::run(self.begin(order), client).await;
            }
        };
        let finish = CancellationToken::new();
        self.side_by_side(connection.run(finish.clone(), self.limits.idle), work, finish).await
    }

    async fn command_over_channels<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut channels: Channels<T>,
        order: CommandOrder,
        report: Report,
    ) -> Result<(), CarrierError> {
        let client = Client::of_channels(&mut channels, order.streams(), report);
        let work = async {
            client.greet().await;
            session::run(self.begin(order), client).await;
        };
        let finish = CancellationToken::new();
        self.side_by_side(channels.run(finish.clone(), self.limits.idle), work, finish).await
    }

    async fn begin(&self, order: CommandOrder) -> Result<Process, TargetError> {
        match order {
            CommandOrder::Exec(order) => self.target.exec(order).await,
            CommandOrder::Attach(order) => {
                let mut process = self.target.attach(order).await?;
                // How the container ended is for its status to say; attaching to it went well.
                process.ended = process.ended.map_ok(|_exit_code| 0).boxed();
                Ok(process)
            }
        }
    }

    async fn forward_over_spdy<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        transport: T,
        pod: &str,
    ) -> Result<(), CarrierError> {
        let (connection, opened) = spdy::Connection::new(transport);
        let work = forward::run(self.target, pod, opened, self.limits.creation);
        let finish = CancellationToken::new();
        self.side_by_side(connection.run(finish.clone(), self.limits.idle), work, finish).await
    }

    async fn forward_over_channels<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut channels: Channels<T>,
        order: PortForwardOrder,
    ) -> Result<(), CarrierError> {
        let pairs = forward::pairs_of_channels(&mut channels, &order.ports);
        let work = async {
            let connections = pairs.into_iter().map(|pair| async {
                let Some(pair) = pair.greet().await else { return };
                forward::forward(self.target, &order.pod, pair).await;
            });
            connections.collect::<FuturesUnordered<_>>().collect::<()>().await;
        };
        let finish = CancellationToken::new();
        self.side_by_side(channels.run(finish.clone(), self.limits.idle), work, finish).await
    }

    /// Runs `carrier` and `work` until the carrier ends (the client is gone, and the work
    /// with it), or the work does, or the server stops; then the carrier says farewell.
    async fn side_by_side(
        &self,
        carrier: impl Future<Output = Result<(), CarrierError>>,
        work: impl Future<Output = ()>,
        finish: CancellationToken,
    ) -> Result<(), CarrierError> {
        let mut carrier = pin!(carrier);
        {
            let work = pin!(work);
            tokio::select! {
                ended = &mut carrier => return ended,
                () = work => {}
                () = self.stop.cancelled() => {}
            }
        }
        finish.cancel();
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            ended = carrier => ended,
            () = stopped => Ok(()),
        }
    }
}
