//! The values of the headers that a registry client sends and reads.
//!
//! Invariant: a header with a secret is marked sensitive, so no log shows it.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};

use super::error::RequestError;
use crate::content::Digest;

/// What registries call the digest of the manifest they answer with.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// `Authorization: Basic`.
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, RequestError> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// `Authorization: Bearer`.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, RequestError> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, RequestError> {
    let mut value = HeaderValue::from_str(text).map_err(|_not_a_value| RequestError::Protocol {
        what: "a token has characters that no header may have",
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// How long the server asks to wait, as seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_no_number) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        }
    }
}

/// The media type without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (!media_type.is_empty()).then_some(media_type)
}

/// The digest that the registry gives for its answer; `Ok(None)` without one.
pub(super) fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, RequestError> {
    let Some(value) = headers.get(CONTENT_DIGEST) else { return Ok(None) };
    value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(Some)
        .ok_or(RequestError::Protocol { what: "the answer's Docker-Content-Digest is no digest" })
}

/// The first byte of a partial answer and the length of the whole, where that is told: the `5`
/// and the `10` of `bytes 5-9/10`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (start, rest) = text.trim().strip_prefix("bytes")?.trim_start().split_once('-')?;
    let whole = rest.split_once('/').and_then(|(_, whole)| whole.trim().parse().ok());
    Some((start.parse().ok()?, whole))
}

#[cfg(test)]
mod tests;
