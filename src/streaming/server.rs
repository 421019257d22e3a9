//! The HTTP server: connections, their upgrades, and the sessions that follow.
//!
//! **Invariants.** Every connection is a task of one set, and everything of it is a future
//! in that task: when a client vanishes, or the server is dropped, its session is. Before a
//! connection shows a good token it may do little, and not for long.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::carry::{Limits, Work, carry};
use super::target::Target;
use super::tls::{self, TlsError};
use super::tokens::{Order, Tokens};
use super::upgrade::{self, Refused};
use super::{Config, Urls};

/// How long a connection may take to show a token; TLS included.
const GREETING: Duration = Duration::from_secs(10);

/// How many connections have not shown a token yet; further ones wait.
const GREETINGS_MAX: usize = 256;

/// How many sessions there are at once.
const SESSIONS_MAX: usize = 1024;

/// The longest head of a request.
const REQUEST_MAX: usize = 32 << 10;

/// How long sessions may take to end when the server stops.
const STOPPING: Duration = Duration::from_secs(3);

/// How long a silent connection lives before the kernel asks whether its peer does, and
/// how often it asks.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificate and key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound server; it serves while [`Server::run`] does.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    tokens: Arc<Tokens>,
    limits: Limits,
    urls: Urls,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// It is taken, or certificate and key are of no use.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let failed = |source| BindError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = reachable(listener.local_addr().map_err(failed)?);
        let tokens = Arc::<Tokens>::default();
        let urls = Urls::new(format!("{scheme}://{address}"), Arc::clone(&tokens));
        let limits = Limits { creation: config.creation_timeout, idle: config.idle_timeout };
        Ok(Self { listener, tls, tokens, limits, urls })
    }

    /// What gives out URLs of this server.
    #[must_use]
    pub fn urls(&self) -> Urls {
        self.urls.clone()
    }

    /// Serves until `stop`; then sessions are ended.
    ///
    /// # Cancel safety
    /// Safe: connections and sessions end with it, without farewell.
    pub async fn run(self, target: Arc<dyn Target>, stop: CancellationToken) {
        let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
        let sessions = Arc::new(Semaphore::new(SESSIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &greetings) => accepted,
                Some(_) = connections.join_next() => continue,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, greeting)) => {
                    let connection = Connection {
                        greeting,
                        tls: self.tls.clone(),
                        tokens: Arc::clone(&self.tokens),
                        sessions: Arc::clone(&sessions),
                        target: Arc::clone(&target),
                        limits: self.limits,
                        stop: stop.clone(),
                    };
                    connections.spawn(connection.serve(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a streaming connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        drop(self.listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(STOPPING, ended).await;
    }
}

/// Where clients on this machine reach a listener on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn accept(
    listener: &TcpListener,
    greetings: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(greetings).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let (idle, interval, probes) = KEEPALIVE;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, idle)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, interval)?;
    rustix::net::sockopt::set_tcp_keepcnt(&stream, probes)?;
    Ok((stream, permit))
}

/// A session that begins once its connection is upgraded.
struct Upgrade {
    on: OnUpgrade,
    work: Work,
    _session: OwnedSemaphorePermit,
}

struct Connection {
    greeting: OwnedSemaphorePermit,
    tls: Option<TlsAcceptor>,
    tokens: Arc<Tokens>,
    sessions: Arc<Semaphore>,
    target: Arc<dyn Target>,
    limits: Limits,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let upgrade = match tokio::time::timeout(GREETING, self.greet(stream)).await {
            Ok(Ok(Some(upgrade))) => upgrade,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::debug!(error = &*error, "a streaming connection broke");
                return;
            }
        };
        drop(self.greeting);
        let transport = match upgrade.on.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "not upgraded");
                return;
            }
        };
        let ended = carry(&*self.target, upgrade.work, transport, self.limits, &self.stop).await;
        if let Err(error) = ended {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "a session's connection ended early");
        }
    }

    /// Speaks HTTP until the connection is upgraded, or over.
    async fn greet(
        &self,
        stream: TcpStream,
    ) -> Result<Option<Upgrade>, Box<dyn std::error::Error + Send + Sync>> {
        match &self.tls {
            Some(tls) => self.http(tls.accept(stream).await?).await,
            None => self.http(stream).await,
        }
    }

    async fn http<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: T,
    ) -> Result<Option<Upgrade>, Box<dyn std::error::Error + Send + Sync>> {
        let upgrade = Mutex::new(None);
        let answer = service_fn(|request: Request<Incoming>| {
            let response = match self.upgrade(request) {
                Ok((begun, response)) => {
                    *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
                    response
                }
                Err(refused) => said(refused),
            };
            async move { Ok::<_, Infallible>(response) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .max_buf_size(REQUEST_MAX)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades()
            .await?;
        Ok(upgrade.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds out what a request is for. A token is used up only by a request that begins a
    /// session.
    fn upgrade(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<(Upgrade, Response<Full<Bytes>>), Refused> {
        let unknown = || Refused::new(StatusCode::NOT_FOUND, "no such session");
        let path = request.uri().path().trim_start_matches('/');
        let (kind, token) = path.split_once('/').ok_or_else(unknown)?;
        let order = self.tokens.look(token, Instant::now()).filter(|order| order.path() == kind);
        let order = order.ok_or_else(unknown)?;
        if request.method() != Method::GET && request.method() != Method::POST {
            return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"));
        }
        let (method, headers) = (request.method(), request.headers());
        let (work, headers) = match order {
            Order::Command(order) => {
                let (protocol, headers) = upgrade::negotiate(method, headers, upgrade::COMMAND)?;
                (Work::Command(order, protocol), headers)
            }
            Order::PortForward(order) => {
                let (protocol, headers) = upgrade::negotiate(method, headers, upgrade::FORWARD)?;
                (Work::PortForward(order, protocol), headers)
            }
        };
        let session = Arc::clone(&self.sessions).try_acquire_owned().map_err(|_full| {
            let mut refused =
                Refused::new(StatusCode::TOO_MANY_REQUESTS, "there are too many sessions");
            refused.headers.push((RETRY_AFTER, HeaderValue::from_static("5")));
            refused
        })?;
        if !self.tokens.take(token) {
            return Err(unknown());
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        let on = hyper::upgrade::on(&mut request);
        Ok((Upgrade { on, work, _session: session }, response))
    }
}

fn said(refused: Refused) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{}\n", refused.text)));
    *response.status_mut() = refused.code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    for (name, value) in refused.headers {
        response.headers_mut().append(name, value);
    }
    response
}
