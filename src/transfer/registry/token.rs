//! Tokens: what a token server gives for a secret, or for none.
//!
//! Invariants: a secret goes to the realm only over TLS, unless the registry itself is spoken
//! to in plain text; it is never sent on by a redirect to another host.
//!
//! Specification: <https://distribution.github.io/distribution/spec/auth/token/>,
//! <https://distribution.github.io/distribution/spec/auth/oauth/>

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::challenge::TokenSource;
use super::error::RequestError;
use super::send::{Exchange, Target};
use super::{body, header};
use crate::transfer::credentials::Secret;

/// Largest answer of a token server, in bytes; real ones stay under 20 KiB.
const MAX_ANSWER: u64 = 1024 * 1024;

/// Names this software to a token server.
const CLIENT_ID: &str = "orlop";

/// What a token server answers; which of the two names it uses differs.
#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

/// Gets a token from the server that `source` names.
///
/// # Errors
/// [`RequestError::Token`] with what went wrong there.
pub(super) async fn fetch(
    exchange: &Exchange<'_>,
    source: &TokenSource,
    default_scope: &str,
    secret: Option<&Secret>,
) -> Result<HeaderValue, RequestError> {
    let realm = Url::parse(&source.realm)
        .map_err(|_not_a_url| RequestError::Protocol { what: "the token realm is not a URL" })?;
    let shown = realm.host_str().unwrap_or_default().to_owned();
    let at_realm = |source| RequestError::Token { realm: shown.clone(), source: Box::new(source) };
    if secret.is_some() && realm.scheme() != "https" && exchange.home.scheme() == "https" {
        let what = "the token server is not encrypted, so it gets no credentials";
        return Err(at_realm(RequestError::Protocol { what }));
    }
    let scope = source.scope.as_deref().unwrap_or(default_scope);
    let target = match secret {
        Some(Secret::Identity(token)) => refresh(realm, source, scope, token),
        Some(Secret::Basic { username, password }) => {
            let authorization = Some(header::basic(username, password)?);
            Target { authorization, ..query(realm, source, scope, Some(username)) }
        }
        Some(Secret::Registry(_)) | None => query(realm, source, scope, None),
    };
    let answer = exchange.send(target).await.map_err(at_realm)?;
    let response =
        answer.accepted("the credentials are refused", exchange.config).await.map_err(at_realm)?;
    let bytes = body::read(response, MAX_ANSWER, exchange.config).await.map_err(at_realm)?;
    let answer: Granted = serde_json::from_slice(&bytes).map_err(|_not_json| {
        at_realm(RequestError::Protocol { what: "the answer has no token" })
    })?;
    let token = [answer.token, answer.access_token].into_iter().flatten().find(|t| !t.is_empty());
    let token = token
        .ok_or_else(|| at_realm(RequestError::Protocol { what: "the answer has no token" }))?;
    header::bearer(&token)
}

/// The token flow: a GET with the scope as query.
fn query(mut realm: Url, source: &TokenSource, scope: &str, account: Option<&str>) -> Target {
    {
        let mut pairs = realm.query_pairs_mut();
        if let Some(service) = &source.service {
            pairs.append_pair("service", service);
        }
        // Several scopes are several parameters.
        for scope in scope.split_ascii_whitespace() {
            pairs.append_pair("scope", scope);
        }
        if let Some(account) = account {
            pairs.append_pair("account", account);
        }
    }
    Target {
        method: Method::GET,
        url: realm,
        headers: HeaderMap::new(),
        authorization: None,
        form: None,
    }
}

/// The OAuth2 flow: a POST that exchanges the identity token.
fn refresh(realm: Url, source: &TokenSource, scope: &str, token: &str) -> Target {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token");
    form.append_pair("client_id", CLIENT_ID);
    form.append_pair("scope", scope);
    form.append_pair("refresh_token", token);
    if let Some(service) = &source.service {
        form.append_pair("service", service);
    }
    let form = Some(form.finish());
    Target {
        method: Method::POST,
        url: realm,
        headers: HeaderMap::new(),
        authorization: None,
        form,
    }
}
