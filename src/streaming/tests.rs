//! Whole sessions: a client over TCP, local processes and sockets in the pods' place.

mod commands;
mod forwarding;
mod programs;
mod requests;
mod spdy_client;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// No test needs so long; one that hangs shall say where.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server, and what stops it.
struct Running {
    urls: Urls,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start() -> Result<Self, BindError> {
        Self::start_with(|_config| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Result<Self, BindError> {
        let mut config = Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            idle_timeout: Duration::from_secs(600),
            creation_timeout: Duration::from_secs(30),
        };
        change(&mut config);
        let server = Server::bind(config).await?;
        let (urls, stop) = (server.urls(), CancellationToken::new());
        let task = tokio::spawn(server.run(Arc::new(programs::Programs), stop.clone()));
        Ok(Self { urls, stop, task })
    }

    /// The URL of a program with these streams.
    fn exec(&self, streams: Streams, argv: &[&str]) -> Result<String, TokenError> {
        let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
        self.urls.exec(ExecOrder { container: "c".to_owned(), argv, streams })
    }

    fn port_forward(&self, ports: &[u16]) -> Result<String, TokenError> {
        self.urls.port_forward(PortForwardOrder { pod: "p".to_owned(), ports: ports.to_vec() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Input, output and errors; no terminal.
const ALL: Streams = Streams { tty: false, stdin: true, stdout: true, stderr: true };

/// Output and errors.
const OUTPUT: Streams = Streams { tty: false, stdin: false, stdout: true, stderr: true };

/// Host and path of a URL.
fn split(url: &str) -> Result<(&str, String), Box<dyn Error + Send + Sync>> {
    let (_, rest) = url.split_once("://").ok_or("no scheme")?;
    let (host, path) = rest.split_once('/').ok_or("no path")?;
    Ok((host, format!("/{path}")))
}

/// Waits until `is` says so.
async fn until(what: &str, mut is: impl FnMut() -> bool) -> Outcome {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is() {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{what} did not happen").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
