//! Connections into a pod's network.
//!
//! No thread of this process ever enters a pod's network namespace: the pod's shim, which
//! lives there, makes the socket, and a socket stays in the network it was made in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sandbox::controller::Sandbox;
use tokio::net::{TcpSocket, TcpStream};

use super::error::PodsError;

/// How long the pod's kernel may take to connect to itself: it refuses at once, or whoever
/// listens has a full backlog.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to `port` on the loopback of `pod`: IPv4, or else IPv6.
///
/// # Errors
/// Nobody listens there.
pub(super) async fn port_forward(
    sandbox: &Sandbox,
    pod: &str,
    port: u16,
) -> Result<TcpStream, PodsError> {
    let failed = |source| PodsError::PortForward { pod: pod.to_owned(), port, source };
    let first = match connect(sandbox, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    // The first error says more: a pod without IPv6 has no other way.
    connect(sandbox, Ipv6Addr::LOCALHOST.into(), port).await.map_err(|_second| failed(first))
}

async fn connect(sandbox: &Sandbox, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let socket = sandbox.socket(address.is_ipv6()).await.map_err(io::Error::other)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let connecting = socket.connect(SocketAddr::new(address, port));
    tokio::time::timeout(PATIENCE, connecting)
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
}
