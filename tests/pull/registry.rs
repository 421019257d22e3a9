//! A registry inside the test process, which misbehaves as told and remembers what it was asked.
//!
//! It serves manifests and blobs from memory, with ranges, basic and token authentication, in
//! plain text or TLS. A [`Fault`] is played to the next requests whose path contains a text.

#[path = "play.rs"]
mod play;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, RANGE};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub(crate) use play::Fault;
use play::{Body, Reply, play};

use crate::signer::Signer;

type Answer = Result<Response<Body>, Infallible>;

/// What a caller must prove.
#[derive(Debug, Clone, Default)]
pub(crate) enum Auth {
    /// Nothing.
    #[default]
    None,
    /// User name and password with each request.
    Basic(&'static str, &'static str),
    /// A token from `/token` of this registry or another.
    Token(TokenServer),
    /// This bearer token.
    Bearer(&'static str),
}

/// What the token server gives tokens for.
#[derive(Debug, Clone)]
pub(crate) struct TokenServer {
    /// URL of the token server; `None` for this registry's own.
    pub(crate) realm: Option<String>,
    /// User name and password.
    pub(crate) user: Option<(&'static str, &'static str)>,
    /// Identity token.
    pub(crate) identity: Option<&'static str>,
    /// Requests after which a token is no longer taken.
    pub(crate) uses: usize,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Default)]
struct State {
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    faults: Vec<(String, usize, Fault)>,
    auth: Auth,
    tokens: HashMap<String, usize>,
    signer: Option<Signer>,
    issued: usize,
    seen: Vec<Seen>,
}

/// A running registry; it stops when dropped.
pub(crate) struct Registry {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    /// Starts one in plain text.
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// Starts one with TLS.
    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::serve(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let realm = format!("{scheme}://{address}/token");
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (shared, realm, tls) = (Arc::clone(&shared), realm.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => connection(socket, shared, realm).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                connection(socket, shared, realm).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, state, server }
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// `scheme://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Stores a blob; gives its descriptor.
    pub(crate) fn put_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.state().blobs.insert(digest.clone(), Bytes::copy_from_slice(bytes));
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Stores a manifest by digest, and by `tag` where one is given; gives its descriptor.
    pub(crate) fn put_manifest(
        &self,
        tag: Option<&str>,
        media_type: &str,
        document: &[u8],
    ) -> Value {
        let digest = digest(document);
        let entry = (media_type.to_owned(), Bytes::copy_from_slice(document));
        let mut state = self.state();
        if let Some(tag) = tag {
            state.manifests.insert(tag.to_owned(), entry.clone());
        }
        state.manifests.insert(digest.clone(), entry);
        json!({"mediaType": media_type, "digest": digest, "size": document.len()})
    }

    /// Everything the other registry has.
    pub(crate) fn copy_from(&self, other: &Self) {
        let (manifests, blobs) = {
            let other = other.state();
            (other.manifests.clone(), other.blobs.clone())
        };
        let mut state = self.state();
        state.manifests.extend(manifests);
        state.blobs.extend(blobs);
    }

    /// Asks for proof from now on.
    pub(crate) fn require(&self, auth: Auth) {
        self.state().auth = auth;
    }

    /// Gives tokens that another registry can verify from now on.
    pub(crate) fn sign_with(&self, signer: Signer) {
        self.state().signer = Some(signer);
    }

    /// Plays `fault` to the next `times` requests whose method and path contain `part`.
    pub(crate) fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.state().faults.push((part.to_owned(), times, fault));
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many requests had `part` in their method and path.
    pub(crate) fn count(&self, part: &str) -> usize {
        let matches = |seen: &&Seen| format!("{} {}", seen.method, seen.path).contains(part);
        self.state().seen.iter().filter(matches).count()
    }

    /// Different values of `Authorization` seen.
    pub(crate) fn authorizations(&self) -> HashSet<String> {
        let state = self.state();
        state
            .seen
            .iter()
            .filter_map(|seen| seen.header("authorization"))
            .map(str::to_owned)
            .collect()
    }
}

/// The digest of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

async fn connection(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    state: Arc<Mutex<State>>,
    realm: String,
) {
    let service = hyper::service::service_fn(move |request| {
        answer(request, Arc::clone(&state), realm.clone())
    });
    let served = hyper::server::conn::http1::Builder::new();
    // A client that goes away is part of the tests.
    served.serve_connection(TokioIo::new(socket), service).await.ok();
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>, own_realm: String) -> Answer {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
    let seen = Seen {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let authorization = parts.headers.get(AUTHORIZATION).map(text);
    let range = parts.headers.get(RANGE).map(text);
    let (fault, reply) = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        let fault = take_fault(&mut state.faults, &format!("{} {}", seen.method, seen.path));
        let reply = if seen.path == "/token" {
            token(&mut state, &seen, authorization.as_deref())
        } else if let Some(challenge) = refuse(&mut state, authorization.as_deref(), &own_realm) {
            Reply::status(401).with("www-authenticate", challenge)
        } else {
            find(&state, &seen.path)
        };
        (fault, reply)
    };
    Ok(play(reply, fault, range.as_deref(), &seen).await)
}

fn take_fault(faults: &mut Vec<(String, usize, Fault)>, line: &str) -> Option<Fault> {
    let at = faults.iter().position(|(part, _, _)| line.contains(part.as_str()))?;
    let fault = faults[at].2.clone();
    faults[at].1 -= 1;
    if faults[at].1 == 0 {
        faults.remove(at);
    }
    Some(fault)
}

/// `/v2/<name>/manifests/<reference>`, `/v2/<name>/blobs/<digest>`, and what was put as the tag
/// `referrers/<digest>`.
fn find(state: &State, path: &str) -> Reply {
    let mut parts = path.rsplit('/');
    let (reference, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let found = match kind {
        "manifests" => state.manifests.get(reference).cloned(),
        "referrers" => state.manifests.get(&format!("referrers/{reference}")).cloned(),
        "blobs" => {
            let blob = state.blobs.get(reference).cloned();
            blob.map(|blob| ("application/octet-stream".to_owned(), blob))
        }
        _ => None,
    };
    let Some((media_type, body)) = found else {
        let errors = json!({"errors": [{"code": "NAME_UNKNOWN", "message": "no such thing"}]});
        return Reply { body: errors.to_string().into(), ..Reply::status(404) };
    };
    let digest = digest(&body);
    Reply { body, ..Reply::status(200) }
        .with("content-type", media_type)
        .with("docker-content-digest", digest)
}

/// The challenge for a request without the right proof.
fn refuse(state: &mut State, authorization: Option<&str>, own_realm: &str) -> Option<String> {
    match &state.auth {
        Auth::None => None,
        Auth::Basic(user, password) => {
            let right = authorization == Some(basic(user, password).as_str());
            (!right).then(|| r#"Basic realm="test""#.to_owned())
        }
        Auth::Bearer(token) => {
            let right = authorization == Some(format!("Bearer {token}").as_str());
            (!right).then(|| r#"Bearer error="invalid_token""#.to_owned())
        }
        Auth::Token(server) => {
            let realm = server.realm.as_deref().unwrap_or(own_realm).to_owned();
            let token = authorization.and_then(|it| it.strip_prefix("Bearer "));
            let uses = token.and_then(|token| state.tokens.get_mut(token));
            if let Some(uses) = uses.filter(|uses| **uses > 0) {
                *uses -= 1;
                return None;
            }
            Some(format!(
                r#"Bearer realm="{realm}",service="test",scope="repository:team/app:pull""#
            ))
        }
    }
}

/// The token server.
fn token(state: &mut State, seen: &Seen, authorization: Option<&str>) -> Reply {
    let Auth::Token(server) = state.auth.clone() else { return Reply::status(404) };
    let granted = match (&server.identity, &server.user) {
        (Some(identity), _) => {
            seen.method == Method::POST
                && seen.body.contains("grant_type=refresh_token")
                && seen.body.contains(&format!("refresh_token={identity}"))
        }
        (None, Some((user, password))) => authorization == Some(basic(user, password).as_str()),
        (None, None) => authorization.is_none(),
    };
    if !granted {
        return Reply::status(401);
    }
    state.issued += 1;
    let token = match &state.signer {
        Some(signer) => signer.token(&["pull"]),
        None => format!("token-{}", state.issued),
    };
    state.tokens.insert(token.clone(), server.uses);
    // The two flows have a name for it each.
    let name = if seen.method == Method::POST { "access_token" } else { "token" };
    Reply { body: json!({ name: token }).to_string().into(), ..Reply::status(200) }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}
