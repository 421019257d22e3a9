//! One request, sent once: redirects followed, secrets kept at home.
//!
//! Invariants (CVE-2020-15157): the `Authorization` header, the operator's headers and a client
//! certificate go to the host they are for; after the first redirect away from it none of them
//! is sent again, not even when a later redirect leads back. An encrypted exchange does not
//! become a plain one.

use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response};
use tokio::time::timeout;
use url::Url;

use super::client::Clients;
use super::endpoint::Upload;
use super::error::{RequestError, from_send};
use super::trace::{Shown, Trace};
use super::{body, header};
use crate::transfer::config::Config;

/// Most redirects of one request; registries need one or two.
const MAX_REDIRECTS: u32 = 10;

/// What to send, and where to begin.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// HTTP method.
    pub(super) method: Method,
    /// First URL.
    pub(super) url: Url,
    /// Headers for whoever answers.
    pub(super) headers: HeaderMap,
    /// Secret for the host of `url` alone.
    pub(super) authorization: Option<HeaderValue>,
    /// Form to post; a request with one is not redirected.
    pub(super) form: Option<String>,
}

/// An answer of any status.
#[derive(Debug)]
pub(super) struct Answer {
    /// Status, headers and the body to be read.
    pub(super) response: Response,
    /// Whether it comes from the host that was asked, so that its challenge may be answered.
    pub(super) origin: Origin,
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The host that was asked.
    Home,
    /// A host that it redirected to.
    Redirected,
}

impl Answer {
    /// A success as it is, anything else as an error with the host's own words; `refused` says
    /// what a 401 means.
    ///
    /// # Errors
    /// [`RequestError`] for every status that is not 2xx.
    pub(super) async fn accepted(
        self,
        refused: &'static str,
        config: &Config,
    ) -> Result<Response, RequestError> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self.response);
        }
        let retry_after = header::retry_after(self.response.headers(), SystemTime::now());
        let detail = body::detail(self.response, config).await;
        let status = status.as_u16();
        Err(match (status, self.origin) {
            (404, _) => RequestError::NotFound { detail },
            (401 | 403, Origin::Home) => {
                let reason = if status == 403 { "access is denied" } else { refused };
                RequestError::Unauthorized { status, reason, detail }
            }
            _ => RequestError::Status { status, detail, retry_after },
        })
    }
}

/// What a host's requests have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange<'a> {
    /// Clients for the host and for others.
    pub(super) clients: &'a Clients,
    /// Root URL of the host.
    pub(super) home: &'a Url,
    /// The operator's headers, for the host alone.
    pub(super) header: &'a HeaderMap,
    /// Limits of waiting.
    pub(super) config: &'a Config,
    /// Where each request is written down, if somebody wants to know.
    pub(super) trace: Option<&'a Trace>,
}

impl Exchange<'_> {
    /// Sends `target` and follows redirects.
    ///
    /// # Errors
    /// [`RequestError`] when no answer came, or the redirects lead nowhere.
    pub(super) async fn send(&self, target: Target) -> Result<Answer, RequestError> {
        let start = target.url.clone();
        let mut url = target.url.clone();
        let mut origin = Origin::Home;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&target, &url, origin).await?;
            if !is_redirect(&response) {
                return Ok(Answer { response, origin });
            }
            if target.form.is_some() {
                return Err(RequestError::Protocol { what: "a token server must not redirect" });
            }
            let next = location(&url, response.headers())?;
            if url.scheme() == "https" && next.scheme() != "https" {
                let what = "redirected from an encrypted to a plain address";
                return Err(RequestError::Protocol { what });
            }
            if !same_origin(&start, &next) {
                origin = Origin::Redirected;
            }
            url = next;
        }
        Err(RequestError::Protocol { what: "too many redirects" })
    }

    /// Sends a body. Secrets go along only to the host itself; a redirect is an error, because
    /// the body cannot be sent again.
    ///
    /// # Errors
    /// [`RequestError`] when no answer came.
    pub(super) async fn upload(
        &self,
        upload: Upload<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, RequestError> {
        let at_home = same_origin(self.home, &upload.url);
        let (client, origin) = if at_home {
            (&self.clients.own, Origin::Home)
        } else {
            (&self.clients.other, Origin::Redirected)
        };
        let mut headers = HeaderMap::new();
        if at_home {
            headers.extend(self.header.clone());
            headers.extend(authorization.map(|secret| (AUTHORIZATION, secret)));
        }
        let media_type = HeaderValue::from_str(upload.media_type)
            .map_err(|_not_a_value| RequestError::Protocol { what: "no such media type" })?;
        headers.insert(CONTENT_TYPE, media_type);
        let request = client.request(upload.method, upload.url).headers(headers).body(upload.body);
        let response = request.send().await.map_err(from_send)?;
        Ok(Answer { response, origin })
    }

    async fn send_once(
        &self,
        target: &Target,
        url: &Url,
        origin: Origin,
    ) -> Result<Response, RequestError> {
        let at_home = origin == Origin::Home && same_origin(self.home, url);
        let client = if at_home { &self.clients.own } else { &self.clients.other };
        let mut headers = target.headers.clone();
        if at_home {
            headers.extend(self.header.clone());
        }
        if let (Origin::Home, Some(secret)) = (origin, &target.authorization) {
            headers.insert(AUTHORIZATION, secret.clone());
        }
        let mut request = client.request(target.method.clone(), url.clone());
        if let Some(form) = &target.form {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
            request = request.body(form.clone());
        }
        let wait = self.wait_for_answer();
        let shown = headers.get(AUTHORIZATION).map(Shown::of);
        let sent = timeout(wait, request.headers(headers).send()).await;
        let stalled = |_elapsed| RequestError::Stalled { received: 0, after: wait };
        let answer = sent.map_err(stalled).and_then(|sent| sent.map_err(from_send));
        if let Some(trace) = self.trace {
            trace.add(&target.method, url, shown, &answer);
        }
        answer
    }

    /// Connecting has its own limit inside this one.
    fn wait_for_answer(&self) -> Duration {
        self.config.connect_timeout.saturating_add(self.config.stall_timeout)
    }
}

fn is_redirect(response: &Response) -> bool {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where the answer sends us. A user name or password in it is dropped: the HTTP client would
/// turn them into a header.
pub(super) fn location(from: &Url, headers: &HeaderMap) -> Result<Url, RequestError> {
    let bad = || RequestError::Protocol { what: "redirected to no valid address" };
    let text = headers.get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(bad)?;
    let mut url = from.join(text).map_err(|_not_a_url| bad())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad());
    }
    url.set_username("").map_err(|()| bad())?;
    url.set_password(None).map_err(|()| bad())?;
    Ok(url)
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}
