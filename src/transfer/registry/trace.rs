//! What was said to hosts and what they answered, for people who ask why.
//!
//! Invariants: nothing here is secret: headers are told by their scheme alone, and the query of an
//! address, where signed addresses have theirs, is left out.

use std::sync::{Mutex, PoisonError};

use reqwest::header::{HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response};
use url::Url;

use super::error::{Chain, RequestError};

/// The requests of a session, in order.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Trace(Mutex<Vec<String>>);

/// What a request proves itself with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shown {
    /// User name and password.
    Basic,
    /// A token.
    Bearer,
}

impl Shown {
    /// What a header is.
    pub(super) fn of(header: &HeaderValue) -> Self {
        if header.as_bytes().starts_with(b"Basic ") { Self::Basic } else { Self::Bearer }
    }
}

impl Trace {
    /// Writes down a request and its answer.
    pub(super) fn add(
        &self,
        method: &Method,
        url: &Url,
        shown: Option<Shown>,
        answer: &Result<Response, RequestError>,
    ) {
        let with = match shown {
            None => "",
            Some(Shown::Basic) => " with user and password",
            Some(Shown::Bearer) => " with a token",
        };
        let said = match answer {
            Ok(response) => told(url, response),
            Err(error) => Chain(error).to_string(),
        };
        let line = format!("{method} {}{with}: {said}", without_query(url));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Takes what was written down so far.
    pub(in crate::transfer) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The status, and what it asks for.
fn told(url: &Url, response: &Response) -> String {
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if let (401, Some(challenge)) = (status.as_u16(), header(WWW_AUTHENTICATE)) {
        return format!("{status}, asks for {challenge}");
    }
    match header(LOCATION).filter(|_| status.is_redirection()) {
        Some(location) => {
            let to = url.join(location);
            format!(
                "{status}, to {}",
                to.map_or_else(|_| "nowhere".to_owned(), |to| without_query(&to))
            )
        }
        None => status.to_string(),
    }
}

/// An address that can be shown to anybody.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // An address that cannot have them has none.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.to_string()
}
