//! Answers that are documents: read whole, with an end to their length and to the wait.
//!
//! Invariant: nothing is kept beyond the limit, whatever the answer's headers say.

use std::time::Duration;

use reqwest::Response;
use tokio::time::{Instant, timeout_at};

use super::error::RequestError;
use crate::transfer::config::Config;

/// Most bytes of an error's text that are read.
const MAX_ERROR_BYTES: u64 = 16 * 1024;
/// Longest wait for an error's text; the status says enough without it.
const ERROR_WAIT: Duration = Duration::from_secs(5);
/// Most characters of the registry's words that are repeated.
const MAX_DETAIL: usize = 300;

/// Reads the whole body.
///
/// # Errors
/// [`RequestError`]: too large, broken or stalled. All of a document must come within
/// [`Config::no_progress_timeout`].
pub(super) async fn read(
    mut response: Response,
    limit: u64,
    config: &Config,
) -> Result<Vec<u8>, RequestError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(RequestError::TooLarge { limit });
    }
    let end = Instant::now() + config.no_progress_timeout;
    let mut bytes = Vec::new();
    loop {
        let received = bytes.len() as u64;
        let wait = (Instant::now() + config.stall_timeout).min(end);
        let chunk = timeout_at(wait, response.chunk()).await;
        let chunk = chunk
            .map_err(|_elapsed| RequestError::Stalled { received, after: config.stall_timeout })?;
        let chunk = chunk.map_err(|source| RequestError::Body {
            received,
            source: Some(source.without_url()),
        })?;
        let Some(chunk) = chunk else { return Ok(bytes) };
        if received + chunk.len() as u64 > limit {
            return Err(RequestError::TooLarge { limit });
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// The registry's own words about an error, made fit for a log line; empty when it has none.
pub(super) async fn detail(response: Response, config: &Config) -> String {
    let config =
        Config { stall_timeout: ERROR_WAIT, no_progress_timeout: ERROR_WAIT, ..config.clone() };
    match read(response, MAX_ERROR_BYTES, &config).await {
        Ok(bytes) => words(&bytes),
        Err(_the_status_is_the_error) => String::new(),
    }
}

/// The messages of an error document of the distribution specification.
fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(document) = serde_json::from_slice::<Document>(body) else { return String::new() };
    let entries = document.errors.iter().map(|entry| format!("{} {}", entry.code, entry.message));
    let text = entries.collect::<Vec<_>>().join(", ");
    text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect::<String>().trim().to_owned()
}
