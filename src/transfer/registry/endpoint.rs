//! One host during one pull: authentication, repetition, back-off.
//!
//! Invariants: a token lives as long as the pull and belongs to this host and this caller; only
//! a challenge of the host itself is answered, never one of a host it redirects to; the number
//! of attempts and each wait between them are bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::Mutex;
use url::Url;

use super::challenge::{Challenge, challenges};
use super::client::{ClientError, Clients};
use super::error::{RequestError, speaks_no_tls};
use super::hosts::{Host, Scheme, is_same_registry};
use super::secret::HostSecret;
use super::send::{Answer, Exchange, Origin, Target};
use super::trace::Trace;
use super::{header, token};
use crate::transfer::config::Config;
use crate::transfer::credentials::Secret;

/// A host, the clients to reach it, and what it let us in with.
#[derive(Debug)]
pub(super) struct Endpoint {
    host: Host,
    clients: Result<Clients, Arc<ClientError>>,
    /// `ns=` for a host that is not the registry named in the reference.
    namespace: Option<String>,
    repository: String,
    /// What tokens are asked for.
    access: Access,
    secret: HostSecret,
    config: Arc<Config>,
    /// Where each request is written down, if somebody wants to know.
    trace: Option<Arc<Trace>>,
    /// The header that the host accepted last. Held while a token is fetched, so that many
    /// layers fetch one token.
    authorization: Mutex<Option<HeaderValue>>,
    /// Set once the host turned out not to speak TLS.
    plain: AtomicBool,
}

/// What a host is reached with.
pub(super) struct Means {
    /// Clients for it and for others.
    pub(super) clients: Result<Clients, ClientError>,
    /// What it is shown.
    pub(super) secret: HostSecret,
}

/// What a session does with its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transfer) enum Access {
    /// Reads it.
    Pull,
    /// Writes to it, and mounts blobs of these repositories of the same registry.
    Push {
        /// Paths of repositories.
        mounts: Vec<String>,
    },
}

/// One thing to ask a host for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// `GET` or `HEAD`, or a `POST` without a body.
    pub(super) method: Method,
    /// Path under the repository: `manifests/latest`.
    pub(super) path: String,
    /// Media types that are understood.
    pub(super) accept: Option<&'static str>,
    /// Which of its bytes.
    pub(super) extent: Extent,
    /// Behind the question mark.
    pub(super) query: Vec<(&'static str, String)>,
}

/// Some bytes of a thing; all of them by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first byte wanted.
    pub(super) from: u64,
    /// The first byte not wanted any more; `None` for all that follow.
    pub(super) to: Option<u64>,
}

impl Extent {
    /// What `Range` says of it; `None` for everything.
    fn range(self) -> Option<String> {
        match self {
            Self { from: 0, to: None } => None,
            Self { from, to: None } => Some(format!("bytes={from}-")),
            Self { from, to: Some(to) } => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
        }
    }
}

/// Something to send to a host.
pub(super) struct Upload<'a> {
    /// `PUT` or `PATCH`.
    pub(super) method: Method,
    /// Where to.
    pub(super) url: Url,
    /// What it is.
    pub(super) media_type: &'a str,
    /// Its bytes.
    pub(super) body: reqwest::Body,
}

impl Endpoint {
    /// Puts a host and what may be shown to it together.
    pub(super) fn new(
        host: Host,
        means: Means,
        registry: &str,
        repository: &str,
        access: Access,
        config: Arc<Config>,
    ) -> Self {
        let is_registry = is_same_registry(&host.authority, registry);
        Self {
            namespace: (!is_registry).then(|| registry.to_owned()),
            repository: repository.to_owned(),
            access,
            secret: means.secret,
            clients: means.clients.map_err(Arc::new),
            trace: None,
            authorization: Mutex::new(None),
            plain: AtomicBool::new(host.scheme == Scheme::Http),
            config,
            host,
        }
    }

    /// Writes each request down from now on.
    pub(super) fn trace(&mut self, trace: Arc<Trace>) {
        self.trace = Some(trace);
    }

    /// Where its secret is from, for the operator.
    pub(super) fn secret_origin(&self) -> String {
        self.secret.origin()
    }

    /// The address of its API, as far as that is known now.
    pub(super) fn address(&self) -> String {
        self.home().map_or_else(|_| self.host.authority.clone(), |home| home.to_string())
    }

    /// The host and its settings.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Sends `request` until it succeeds, fails for good, or was tried often enough.
    ///
    /// # Errors
    /// [`RequestError`] of the last attempt. An answer other than 2xx is an error.
    pub(super) async fn request(&self, request: &Request) -> Result<Response, RequestError> {
        let mut attempt = 1;
        loop {
            let error = match self.authenticated(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let wait = backoff(&self.config, attempt, error.retry_after());
            match wait.filter(|_| attempt < self.config.attempts_per_host && error.is_transient()) {
                None => return Err(error),
                Some(wait) => tokio::time::sleep(wait).await,
            }
            attempt += 1;
        }
    }

    /// Sends with what the host accepted before; when it wants something else, gets that.
    async fn authenticated(&self, request: &Request) -> Result<Response, RequestError> {
        let known = self.known_authorization().await?;
        let answer = self.send(request, known.clone()).await?;
        let refused = answer.response.status() == StatusCode::UNAUTHORIZED;
        if !refused || answer.origin == Origin::Redirected {
            return answer.accepted("access is refused", &self.config).await;
        }
        let offered = challenges(answer.response.headers());
        let Some(fresh) = self.authorize(&offered, known.as_ref()).await? else {
            let reason = if self.secret()?.is_some() {
                "the credentials are refused"
            } else {
                "credentials are needed and none are given for this host"
            };
            return answer.accepted(reason, &self.config).await;
        };
        let answer = self.send(request, Some(fresh)).await?;
        let reason = if self.secret()?.is_some() {
            "the credentials are refused"
        } else {
            "anonymous access is refused"
        };
        answer.accepted(reason, &self.config).await
    }

    /// What to send first.
    async fn known_authorization(&self) -> Result<Option<HeaderValue>, RequestError> {
        if let Some(Secret::Registry(token)) = self.secret()? {
            return header::bearer(token).map(Some);
        }
        Ok(self.authorization.lock().await.clone())
    }

    /// Answers the first challenge that can be answered; `None` when there is no answer, or
    /// `refused` was it already.
    async fn authorize(
        &self,
        offered: &[Challenge],
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RequestError> {
        let secret = self.secret()?;
        if matches!(secret, Some(Secret::Registry(_))) {
            return Ok(None);
        }
        let mut known = self.authorization.lock().await;
        if known.is_some() && known.as_ref() != refused {
            return Ok(known.clone());
        }
        for challenge in offered {
            let fresh = match (challenge, secret) {
                (Challenge::Bearer(source), secret) => {
                    let scope = self.scope();
                    let mut source = source.clone();
                    if self.access != Access::Pull {
                        // One token for all that a push asks: the registry names what a
                        // single request needs.
                        source.scope = Some(scope.clone());
                    }
                    let clients = self.clients()?;
                    let home = self.home()?;
                    let exchange = self.exchange(clients, &home);
                    Some(token::fetch(&exchange, &source, &scope, secret).await?)
                }
                (Challenge::Basic, Some(Secret::Basic { username, password })) => {
                    Some(header::basic(username, password)?)
                }
                (Challenge::Basic, _) => None,
            };
            if fresh.is_some() && fresh.as_ref() != refused {
                known.clone_from(&fresh);
                return Ok(fresh);
            }
        }
        Ok(None)
    }

    /// Sends once; finds out whether the host speaks TLS where that is not known.
    async fn send(
        &self,
        request: &Request,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, RequestError> {
        let clients = self.clients()?;
        let was_plain = self.plain.load(Ordering::Relaxed);
        let home = self.home()?;
        let target = self.target(&home, request, authorization.clone())?;
        let answer = self.exchange(clients, &home).send(target).await;
        match answer {
            Err(error)
                if self.host.scheme == Scheme::HttpsElseHttp
                    && !was_plain
                    && speaks_no_tls(&error) =>
            {
                self.plain.store(true, Ordering::Relaxed);
                let home = self.home()?;
                let target = self.target(&home, request, authorization)?;
                self.exchange(clients, &home).send(target).await
            }
            other => other,
        }
    }

    /// Sends a body once: it cannot be sent again. Waits without end; the caller watches the
    /// body go.
    ///
    /// # Errors
    /// [`RequestError`]; an answer other than 2xx is one.
    pub(super) async fn upload(&self, upload: Upload<'_>) -> Result<Response, RequestError> {
        let home = self.home()?;
        if home.scheme() == "https" && upload.url.scheme() != "https" {
            let what = "told to upload to a plain address";
            return Err(RequestError::Protocol { what });
        }
        let authorization = self.known_authorization().await?;
        let exchange = self.exchange(self.clients()?, &home);
        let answer = exchange.upload(upload, authorization).await?;
        answer.accepted("the credentials are refused", &self.config).await
    }

    /// Sends a small document until it is taken, answering a challenge.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub(super) async fn put(
        &self,
        path: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Response, RequestError> {
        let request = Request {
            method: Method::PUT,
            path: path.to_owned(),
            accept: None,
            extent: Extent::default(),
            query: Vec::new(),
        };
        let mut attempt = 1;
        loop {
            let url = self.target(&self.home()?, &request, None)?.url;
            let body = reqwest::Body::from(bytes.to_vec());
            let upload = Upload { method: Method::PUT, url, media_type, body };
            let home = self.home()?;
            let exchange = self.exchange(self.clients()?, &home);
            let known = self.known_authorization().await?;
            let wait = self.config.connect_timeout.saturating_add(self.config.stall_timeout);
            let sent = tokio::time::timeout(wait, exchange.upload(upload, known.clone())).await;
            let sent = sent.unwrap_or(Err(RequestError::Stalled { received: 0, after: wait }));
            let error = match sent {
                Ok(answer) if answer.response.status() == StatusCode::UNAUTHORIZED => {
                    let offered = challenges(answer.response.headers());
                    if attempt < self.config.attempts_per_host
                        && self.authorize(&offered, known.as_ref()).await?.is_some()
                    {
                        attempt += 1;
                        continue;
                    }
                    return answer.accepted("the credentials are refused", &self.config).await;
                }
                Ok(answer) => match answer.accepted("access is refused", &self.config).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let wait = backoff(&self.config, attempt, error.retry_after());
            match wait.filter(|_| attempt < self.config.attempts_per_host && error.is_transient()) {
                None => return Err(error),
                Some(wait) => tokio::time::sleep(wait).await,
            }
            attempt += 1;
        }
    }

    /// Where an answer to `request` sends us.
    ///
    /// # Errors
    /// When it does not say.
    pub(super) fn location(&self, response: &Response) -> Result<Url, RequestError> {
        super::send::location(response.url(), response.headers())
    }

    fn scope(&self) -> String {
        match &self.access {
            Access::Pull => format!("repository:{}:pull", self.repository),
            Access::Push { mounts } => {
                let own = format!("repository:{}:pull,push", self.repository);
                mounts.iter().fold(own, |scope, from| format!("{scope} repository:{from}:pull"))
            }
        }
    }

    fn secret(&self) -> Result<Option<&Secret>, RequestError> {
        match &self.secret {
            HostSecret::Nothing => Ok(None),
            HostSecret::OfPull(secret) | HostSecret::OfNode(secret, _) => Ok(Some(secret)),
            HostSecret::Lost(error, _) => Err(RequestError::Secret(Arc::clone(error))),
        }
    }

    fn clients(&self) -> Result<&Clients, RequestError> {
        self.clients.as_ref().map_err(|error| RequestError::Client(Arc::clone(error)))
    }

    fn exchange<'a>(&'a self, clients: &'a Clients, home: &'a Url) -> Exchange<'a> {
        Exchange {
            clients,
            home,
            header: &self.host.header,
            config: &self.config,
            trace: self.trace.as_deref(),
        }
    }

    /// Root URL of the API, without a slash at the end.
    fn home(&self) -> Result<Url, RequestError> {
        let scheme = if self.plain.load(Ordering::Relaxed) { "http" } else { "https" };
        let text = format!("{scheme}://{}{}", self.host.authority, self.host.root);
        Url::parse(&text)
            .map_err(|_not_a_url| RequestError::Protocol { what: "the host name is not valid" })
    }

    fn target(
        &self,
        home: &Url,
        request: &Request,
        authorization: Option<HeaderValue>,
    ) -> Result<Target, RequestError> {
        let mut url = home.clone();
        let root = home.path().trim_end_matches('/');
        url.set_path(&format!("{root}/{}/{}", self.repository, request.path));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        for (name, value) in &request.query {
            url.query_pairs_mut().append_pair(name, value);
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = request.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(range) = request.extent.range() {
            let range = HeaderValue::try_from(range);
            let range =
                range.map_err(|_not_a_value| RequestError::Protocol { what: "no such range" })?;
            headers.insert(RANGE, range);
        }
        Ok(Target { method: request.method.clone(), url, headers, authorization, form: None })
    }
}

/// How long to wait after attempt number `attempt`; `None` when the host asks for too long.
pub(super) fn backoff(
    config: &Config,
    attempt: u32,
    retry_after: Option<Duration>,
) -> Option<Duration> {
    if let Some(asked) = retry_after {
        return (asked <= config.max_retry_after).then_some(asked);
    }
    let doubled = config.initial_backoff.saturating_mul(2_u32.saturating_pow(attempt - 1));
    let wait = doubled.min(config.max_backoff);
    // Nodes that fail together shall not come back together.
    let jitter = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    Some(wait.mul_f64(0.5 + jitter / 2.0))
}
