//! Port-forward: each connection of the client's is a pair of streams, one for its bytes
//! and one for what went wrong; each pair becomes a connection into the pod.
//!
//! **Invariants.** One connection's failure ends that connection alone. A session is one
//! future; its connections are futures in it.
//!
//! # References
//! - [Port forwarding](https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/kubelet/pkg/cri/streaming/portforward/httpstream.go)

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Inbound, Outbound, PIECE};
use super::spdy::NewStream;
use super::target::{Socket, Target};
use super::websocket::Channels;

/// How long a client may go on sending once the pod has sent its last.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// One connection of the client's.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) port: Option<u16>,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) error: Outbound,
    /// Cancelled when the client gives the connection up.
    pub(super) reset: CancellationToken,
}

/// Forwards the connections whose streams the client opens, until it opens no more and all
/// of them are over. Half a pair waits `patience` for the other.
pub(super) async fn run(
    target: &dyn Target,
    pod: &str,
    mut streams: mpsc::Receiver<NewStream>,
    patience: Duration,
) {
    let mut halves = Halves::default();
    let mut connections = FuturesUnordered::new();
    let mut look = tokio::time::interval(patience);
    loop {
        tokio::select! {
            stream = streams.recv() => {
                let Some(stream) = stream else { break };
                match halves.add(stream) {
                    Ok(Some(pair)) => connections.push(forward(target, pod, pair)),
                    Ok(None) => {}
                    Err(refused) => refused.outbound.reset().await,
                }
            }
            Some(()) = connections.next() => {}
            _ = look.tick() => {
                for lonely in halves.older_than(patience) {
                    lonely.outbound.reset().await;
                }
            }
        }
    }
    while connections.next().await.is_some() {}
}

/// The channels of a WebSocket for each of `ports`, in their order.
pub(super) fn pairs_of_channels<T: AsyncRead + AsyncWrite + Unpin>(
    channels: &mut Channels<T>,
    ports: &[u16],
) -> Vec<Pair> {
    let numbers = (0..=u8::MAX).step_by(2);
    let pair = |(port, data): (&u16, u8)| Pair {
        port: Some(*port),
        inbound: channels.inbound(data),
        outbound: channels.outbound(data),
        error: channels.outbound(data + 1),
        reset: CancellationToken::new(),
    };
    ports.iter().zip(numbers).map(pair).collect()
}

impl Pair {
    /// Tells a client of channels which port they are for; none if it is gone.
    pub(super) async fn greet(self) -> Option<Self> {
        let port = self.port.unwrap_or_default().to_le_bytes();
        for stream in [&self.outbound, &self.error] {
            stream.send(Bytes::copy_from_slice(&port)).await.ok()?;
        }
        Some(self)
    }
}

/// Streams that wait for their other half, by the number of their pair.
#[derive(Debug, Default)]
struct Halves {
    waiting: HashMap<String, (Instant, NewStream)>,
}

impl Halves {
    /// The whole pair, if it is one now.
    ///
    /// # Errors
    /// The stream itself, if it belongs to no pair.
    fn add(&mut self, stream: NewStream) -> Result<Option<Pair>, Box<NewStream>> {
        let is_error = match stream.headers.get("streamtype") {
            Some("data") => false,
            Some("error") => true,
            _ => return Err(Box::new(stream)),
        };
        let Some(number) = pair_number(&stream, is_error) else { return Err(Box::new(stream)) };
        let Some((_, other)) = self.waiting.remove(&number) else {
            self.waiting.insert(number, (Instant::now(), stream));
            return Ok(None);
        };
        if other.headers.get("streamtype") == stream.headers.get("streamtype") {
            self.waiting.insert(number, (Instant::now(), other));
            return Err(Box::new(stream));
        }
        let (data, error) = if is_error { (other, stream) } else { (stream, other) };
        Ok(Some(Pair {
            port: data.headers.get("port").and_then(|port| port.parse().ok()),
            inbound: data.inbound,
            outbound: data.outbound,
            error: error.outbound,
            reset: data.reset,
        }))
    }

    fn older_than(&mut self, age: Duration) -> Vec<NewStream> {
        let old = self.waiting.extract_if(|_, (since, _)| since.elapsed() >= age);
        old.map(|(_, (_, stream))| stream).collect()
    }
}

/// Which pair a stream belongs to. Old clients do not number pairs; they open the error
/// stream and then, as their next one, the data stream.
fn pair_number(stream: &NewStream, is_error: bool) -> Option<String> {
    match stream.headers.get("requestid") {
        Some(number) => Some(number.to_owned()),
        None if is_error => Some(stream.id.to_string()),
        None => stream.id.checked_sub(2).map(|id| id.to_string()),
    }
}

/// One connection, from its streams to its end.
pub(super) async fn forward(target: &dyn Target, pod: &str, pair: Pair) {
    let Pair { port, inbound, outbound, error, reset } = pair;
    let connected = async {
        let port =
            port.filter(|port| *port > 0).ok_or("the port is not a number from 1 to 65535")?;
        let connected = target.port_forward(pod.to_owned(), port).await;
        connected.map_err(|failure| format!("forward port {port}: {failure}"))
    };
    let connected = tokio::select! {
        connected = connected => connected,
        () = reset.cancelled() => return,
    };
    match connected {
        Ok(socket) => {
            tokio::select! {
                () = exchange(socket, inbound, outbound) => {}
                () = reset.cancelled() => {}
            }
        }
        Err(failure) => {
            outbound.finish().await;
            let _gone = error.send(Bytes::from(failure)).await;
        }
    }
    error.finish().await;
}

/// Both directions, until both have ended.
async fn exchange(socket: Box<dyn Socket>, inbound: Inbound, outbound: Outbound) {
    let (from_pod, to_pod) = tokio::io::split(socket);
    let mut down = std::pin::pin!(receive(from_pod, outbound));
    let mut up = std::pin::pin!(send(inbound, to_pod));
    tokio::select! {
        () = &mut down => {
            let _late = tokio::time::timeout(HALF_CLOSED, up).await;
        }
        // The client has sent its last; the pod answers as long as it likes.
        () = &mut up => down.await,
    }
}

async fn receive(mut pod: impl AsyncRead + Unpin, client: Outbound) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let Ok(1..) = pod.read_buf(&mut piece).await else { break };
        if client.send(piece.freeze()).await.is_err() {
            break;
        }
    }
    client.finish().await;
}

async fn send(mut client: Inbound, mut pod: impl AsyncWrite + Unpin) {
    while let Some(piece) = client.next().await {
        if pod.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _gone = pod.shutdown().await;
}
